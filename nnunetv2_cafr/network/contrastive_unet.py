"""nnU-Net's own network with CAFR-Net's contrastive head: what the contrastive loss does for a strong U-Net.

The head reads the decoder's features at 1/4, the resolution of CAFR-Net's fused map (paper). The decoder's, not the
encoder's skip there: like the fused map they have seen the whole patch, while that skip of a PlainConvUNet has seen 23
pixels, from which no two vertebrae can be told apart. All of this is ours.
"""

from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn

from nnunetv2_cafr.network.cafr_net import CAFRNet, Logits
from nnunetv2_cafr.network.convolution import LevelGeometry, strides_of_tokens
from nnunetv2_cafr.network.projection import ProjectionHead

QUARTER = 4  # pixels along the side of a cell


class ContrastiveUNet(nn.Module):
    """A PlainConvUNet or ResidualEncoderUNet and a projection head, which runs in training only.

    Forward: x (b, c, *spatial) as `network` takes it. In `eval()` returns what `network` returns; in `train()` returns
    (that, embedding), the embedding (b, embedding_dim, *cells) float32 of unit length. A cell is 4 pixels along the
    axis that is halved first, less along one that joins later.

    Encoder and decoder keep their names: nnU-Net switches deep supervision as ever, and weights of `network` fit here,
    all but those of the head.

    Raises:
        ValueError: if `network` has no UNetDecoder, or ends before 1/4.

    Examples:
        >>> import torch
        >>> from dynamic_network_architectures.architectures.unet import PlainConvUNet
        >>> unet = PlainConvUNet(1, 3, (8, 16, 32), torch.nn.Conv2d, 3, (1, 2, 2), 1, 4, 1)
        >>> logits, embedding = ContrastiveUNet(unet)(torch.zeros(2, 1, 32, 32))
        >>> logits.shape, embedding.shape
        (torch.Size([2, 4, 32, 32]), torch.Size([2, 256, 8, 8]))
    """

    def __init__(self, network: nn.Module, embedding_dim: int = 256) -> None:
        super().__init__()
        # Any: mypy takes the parts of a module that it does not know for tensors.
        unet: Any = network
        if not isinstance(getattr(unet, "decoder", None), UNetDecoder):
            raise ValueError(
                "The contrastive head needs a network with nnU-Net's UNetDecoder, as PlainConvUNet and "
                f"ResidualEncoderUNet have, got {type(network).__name__}: train with plans of nnU-Net's own planners"
            )
        self.encoder = unet.encoder
        self.decoder = unet.decoder
        scales = torch.tensor(self.encoder.strides).cumprod(dim=0).amax(dim=1).tolist()
        if scales[-1] < QUARTER:
            raise ValueError(
                f"The contrastive head reads features at 1/{QUARTER}, but the planned network ends at 1/{scales[-1]}: "
                "its patch is too small for this trainer"
            )
        level = next(index for index, scale in enumerate(scales) if scale >= QUARTER)
        self.steps_to_quarter = len(scales) - 1 - level
        dimensions = convert_conv_op_to_dim(self.encoder.conv_op)
        # Of the geometry, the head takes the number of axes.
        geometry = LevelGeometry(strides_of_tokens([16] * dimensions))
        self.projection = ProjectionHead(geometry, self.encoder.output_channels[level], embedding_dim)
        self.projection.apply(CAFRNet.initialize)

    def forward(self, x: torch.Tensor) -> Logits | tuple[Logits, torch.Tensor]:
        skips = self.encoder(x)
        if not self.training:
            return self.decoder(skips)
        features = [skips[-1]]  # from the bottleneck up, as the decoder computes them
        for upsample, stage, skip in zip(
            self.decoder.transpconvs, self.decoder.stages, reversed(skips[:-1]), strict=True
        ):
            features.append(stage(torch.cat([upsample(features[-1]), skip], dim=1)))
        heads = self.decoder.seg_layers
        logits: Logits
        if self.decoder.deep_supervision:
            logits = [head(seen) for head, seen in zip(heads, features[1:], strict=True)][::-1]
        else:
            logits = heads[-1](features[-1])
        return logits, self.projection(features[self.steps_to_quarter])
