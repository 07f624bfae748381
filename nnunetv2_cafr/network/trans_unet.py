"""TransUNet: a ResNet-50, a ViT-B/16 on its deepest map, and a convolutional decoder; written from the paper.

Source: Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", arXiv 2102.04306;
the encoder, R50-ViT-B/16, is timm's. With 3 input channels and 9 classes (Synapse, a grey image repeated three times)
it has exactly the 105,277,081 parameters of the authors' network; with the 1 channel and 20 classes of SpineMRI,
105,272,404.

The authors start from weights of ImageNet. No network here is pretrained: equal for all arms, and a handicap against
printed figures.
"""

import itertools
from collections.abc import Sequence

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer_hybrid import vit_base_r50_s16_224
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.network.convolution import crop_to, pad_to_multiple

PATCH = 16  # pixels along the side of a token
SKIPS = (512, 256, 64, 0)  # channels of the ResNet at 1/8, 1/4, 1/2; none at 1/1


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class CascadedUpsampler(nn.Module):
    """The decoder: four times bilinear upsampling, a skip where there is one, two convolutions (paper).

    The head is called `seg_layers` as in nnU-Net, which leaves modules of that name out when it fine-tunes to other
    classes.
    """

    def __init__(self, in_channels: int, num_classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.reduce = conv_block(in_channels, widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(conv_block(width + skip, narrower), conv_block(narrower, narrower))
            for (width, narrower), skip in zip(itertools.pairwise(widths), SKIPS, strict=True)
        )
        self.seg_layers = nn.Conv2d(widths[-1], num_classes, 3, padding=1)

    def forward(self, features: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        features = self.reduce(features)
        for stage, skip in itertools.zip_longest(self.stages, skips):
            features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
            features = stage(features if skip is None else torch.cat([features, skip], dim=1))
        return self.seg_layers(features)


class TransUNet(nn.Module):
    """TransUNet R50-ViT-B/16 with three skips; 2-D.

    Forward: x (b, input_channels, h, w) of any size, zero-padded inside to multiples of 16 and cropped back; returns
    logits (b, num_classes, h, w). The learnt positions are those of 14x14 tokens (224x224 pixels, paper), resampled
    to the grid that arrives, so no weight depends on the size.

    Args:
        input_channels: channels of x.
        num_classes: channels of the logits.
        embed_dim: width of the Transformer, 768 (ViT-B).
        num_layers: of the Transformer, 12 (ViT-B).
        num_heads: of its attention, 12 (ViT-B).
        widths: five, of the decoder from 1/16 to 1/1 (paper).
        dropout: in the Transformer, 0.1 (the authors' configuration).

    Examples:
        >>> import torch
        >>> network = TransUNet(input_channels=1, num_classes=20, embed_dim=96, num_layers=2, num_heads=4)
        >>> network(torch.zeros(2, 1, 64, 48)).shape
        torch.Size([2, 20, 64, 48])
    """

    size_multiple = (PATCH, PATCH)
    free_sizes = False  # torch.export does not come to an end with positions resampled to an unknown size

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        embed_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        widths: Sequence[int] = (512, 256, 128, 64, 16),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = vit_base_r50_s16_224(
            pretrained=False,
            in_chans=input_channels,
            num_classes=0,
            global_pool="",
            class_token=False,
            embed_dim=embed_dim,
            depth=num_layers,
            num_heads=num_heads,
            pos_drop_rate=dropout,
            proj_drop_rate=dropout,
        )
        self.decoder = CascadedUpsampler(embed_dim, num_classes, widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spatial = x.shape[2:]
        x = pad_to_multiple(x, self.size_multiple)
        resnet = self.encoder.patch_embed.backbone
        half = resnet.stem.norm(resnet.stem.conv(x))
        quarter = resnet.stages[0](resnet.stem.pool(half))
        eighth = resnet.stages[1](quarter)
        tokens = self.encoder.patch_embed.proj(resnet.stages[2](eighth))
        features = self.transform(tokens)
        return crop_to(self.decoder(features, [eighth, quarter, half]), spatial)

    def transform(self, features: torch.Tensor) -> torch.Tensor:
        """The Transformer on a map (b, embed_dim, h, w), one token per cell."""
        grid = list(features.shape[2:])
        tokens = features.flatten(2).transpose(1, 2)
        positions = resample_abs_pos_embed(self.encoder.pos_embed, grid, num_prefix_tokens=0)
        tokens = self.encoder.norm(self.encoder.blocks(self.encoder.pos_drop(tokens + positions)))
        return tokens.transpose(1, 2).unflatten(2, grid)
