"""CAFR-Net: Transformer encoder, LAFR on every skip, contrastive head.

Source: "CAFR-Net: A transformer-contrastive framework for robust spinal MRI segmentation via global-local synergy",
PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642, network section. No code was published; what the paper leaves
open is decided here and marked as ours in the docstrings.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import nn

from nnunetv2_cafr.network.convolution import ConvBlock, Pyramid, crop_to, pad_to_multiple
from nnunetv2_cafr.network.decoder import Decoder, Head
from nnunetv2_cafr.network.hierarchy import FUSED_LEVEL, FeatureHierarchy
from nnunetv2_cafr.network.projection import ProjectionHead
from nnunetv2_cafr.network.transformer import PatchEmbedding, TransformerLayer, sine_cosine_positions

Logits: TypeAlias = torch.Tensor | list[torch.Tensor]


class CAFRNet(nn.Module):
    """CAFR-Net for 2-D or 3-D patches of any size.

    Forward: x is (b, input_channels, *spatial); any spatial size works, it is zero-padded to whole tokens inside and
    cropped back. In `train()` returns `(logits, embedding)`, logits (b, num_classes, *spatial), embedding
    (b, projection_dim, *ceil(spatial / 4)) float32 of unit length; the cells of an axis across thick slices are as
    many times larger than its pixels as that axis was halved. In `eval()`, or with `use_clr=False`, returns the
    logits alone, and the contrastive head is not run. Its weights exist in both, so that checkpoints load strictly.

    With deep supervision, logits are a list of the decoder's three resolutions, finest first, as long as
    `decoder.deep_supervision` (nnU-Net sets it) is true. The paper has a single output, and so have our trainers; this
    is for nnU-Net's own, which can train this network from a plans file (with `use_clr` false: their loss takes no
    embedding).

    All arguments are JSON values, so that a plans file can hold them.

    Args:
        input_channels: channels of x.
        num_classes: channels of the logits.
        deep_supervision: the decoder returns logits at all its resolutions.
        strides: strides from the pixels to the tokens, at five levels of 2 or 3 axes. Their product is what a token
            covers: 16x16 (paper); across thick slices 1, 2, 4 or 8.
        embed_dim: token width D = 768 (paper).
        num_layers: Transformer layers; ours, 3 (the only depth that leaves room for a decoder within 5.12 GMACs).
            The layers are tapped evenly in three, so it is a multiple of 3.
        num_heads: attention heads; ours, 12.
        head_dim: width of each head; ours, 32 (see `network/transformer.py`).
        ffn_dim: FFN width; ours, 1536.
        dropout: 0.3 (paper).
        stem_channels: channels at 1/1, 1/2 and 1/4 of the stem, which feeds the skips, and of the decoder; ours.
        logit_scale: what the heads' output is multiplied by; ours (see `network/decoder.py`).
        tap_channels: channels of each tapped feature before the fusion; ours.
        projection_dim: embedding dimensions of the contrastive head; ours, 256.
        use_transformer: False leaves out the Transformer layers; the taps then read the patch embedding itself.
        use_lafr: False passes the skips on unchanged.
        use_clr: False leaves out the contrastive head.

    Raises:
        ValueError: on an unfit argument, or an input with other channels or another number of axes.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] = ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)),
        embed_dim: int = 768,
        num_layers: int = 3,
        num_heads: int = 12,
        head_dim: int = 32,
        ffn_dim: int = 1536,
        dropout: float = 0.3,
        stem_channels: Sequence[int] = (16, 32, 64),
        tap_channels: int = 64,
        projection_dim: int = 256,
        logit_scale: float = 10.0,
        use_transformer: bool = True,
        use_lafr: bool = True,
        use_clr: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 3 or num_layers % 3:
            raise ValueError(f"num_layers must be a multiple of 3, one tap after each third, got {num_layers}")
        pyramid = Pyramid(strides)
        per_token = 2 * len(pyramid.token_size)
        if embed_dim % per_token:
            raise ValueError(
                f"embed_dim must be divisible by twice the number of axes ({per_token}, sine and cosine of each), "
                f"got {embed_dim}"
            )
        if len(stem_channels) != FUSED_LEVEL + 1:
            raise ValueError(f"stem_channels needs three values, for 1/1, 1/2 and 1/4, got {list(stem_channels)}")
        self.input_channels = input_channels
        self.token_size = pyramid.token_size
        self.memory_format = torch.channels_last if len(pyramid.token_size) == 2 else torch.channels_last_3d
        self._scales = [pyramid.scale(level) for level in range(FUSED_LEVEL + 1)]
        self.embed_dim = embed_dim
        self.layers_per_tap = num_layers // 3

        self.stem = nn.ModuleList(
            ConvBlock(pyramid, in_channels, out_channels, level, downsample=level > 0)
            for level, (in_channels, out_channels) in enumerate(
                zip([input_channels, *stem_channels[:-1]], stem_channels, strict=True)
            )
        )
        self.patch_embedding = PatchEmbedding(pyramid, input_channels, embed_dim)
        self.layers = nn.ModuleList(
            TransformerLayer(embed_dim, num_heads, head_dim, ffn_dim, dropout) if use_transformer else nn.Identity()
            for _ in range(num_layers)
        )
        self.hierarchy = FeatureHierarchy(pyramid, embed_dim, tap_channels, stem_channels[FUSED_LEVEL])
        self.projection = ProjectionHead(pyramid, stem_channels[FUSED_LEVEL], projection_dim) if use_clr else None
        self.decoder = Decoder(
            pyramid,
            stem_channels,
            num_classes,
            use_lafr=use_lafr,
            logit_scale=logit_scale,
            deep_supervision=deep_supervision,
        )

    def forward(self, x: torch.Tensor) -> Logits | tuple[Logits, torch.Tensor]:
        if x.ndim != 2 + len(self.token_size) or x.shape[1] != self.input_channels:
            raise ValueError(
                f"CAFRNet was built for (b, {self.input_channels}, *spatial) with {len(self.token_size)} spatial axes, "
                f"got {tuple(x.shape)}"
            )
        spatial = x.shape[2:]
        # Channels last throughout: no feature map is reordered for a convolution, nor for the tokens.
        x = pad_to_multiple(x, self.token_size).to(memory_format=self.memory_format)

        fused = self.encode(x)
        skips = []
        features = x
        for block in self.stem:
            features = block(features)
            skips.append(features)
        per_level = [
            crop_to(logits, self._cells(spatial, level)) for level, logits in enumerate(self.decoder(fused, skips))
        ]
        logits: Logits = per_level if self.decoder.deep_supervision else per_level[0]
        if self.projection is None or not self.training:
            return logits
        return logits, self.projection(crop_to(fused, self._cells(spatial, FUSED_LEVEL)))

    def _cells(self, spatial: Sequence[int], level: int) -> list[int]:
        """Cells per axis that a patch of this size covers at `level`."""
        return [math.ceil(size / scale) for size, scale in zip(spatial, self._scales[level], strict=True)]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The fused feature map (b, c, *spatial / 4) of a patch padded to whole tokens."""
        embedded = self.patch_embedding(x)
        grid = tuple(embedded.shape[2:])
        tokens = embedded.flatten(2).transpose(1, 2)
        tokens = tokens + sine_cosine_positions(grid, self.embed_dim, x.device).to(tokens.dtype)
        tapped = []
        for index, layer in enumerate(self.layers, start=1):
            tokens = layer(tokens)
            if index % self.layers_per_tap == 0:
                tapped.append(tokens)
        return self.hierarchy(tapped, grid)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in all feature maps of one forward pass of a (c, *input_size) patch, as nnU-Net's planner asks.

        Counts what the convolutions and linear layers put out, on the meta device, so it needs no memory. Unlike
        dynamic-network-architectures it includes the token maps; attention weights are not stored and not counted.
        """
        total = 0

        def add(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            nonlocal total
            total += output[0].numel()

        hooked = [m for m in self.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd | Head)]
        handles = [module.register_forward_hook(add) for module in hooked]
        on_meta = {name: value.to("meta") for name, value in [*self.named_parameters(), *self.named_buffers()]}
        try:
            # Two samples: batch norm refuses one where a map has shrunk to a single cell.
            x = torch.empty(2, self.input_channels, *input_size, device="meta")
            torch.func.functional_call(self, on_meta, (x,))
        finally:
            for handle in handles:
                handle.remove()
        return total

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """He normal for convolutions, truncated normal for the Transformer; for `network.apply(network.initialize)`."""
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            # Stride equals kernel: each output sees in_channels values, where torch would count out_channels.
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_channels))
        elif isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, PatchEmbedding):
            # A linear projection without a ReLU behind it: unit variance in, unit variance out. `apply` visits this
            # module after its convolution, so this is the value that stays.
            nn.init.trunc_normal_(module.projection.weight, std=module.projection.weight[0].numel() ** -0.5)
        elif isinstance(module, ProjectionHead):
            # Where no hidden unit is active only the bias is left, and a zero vector has no direction.
            nn.init.normal_(module.output.bias, std=0.01)
        elif isinstance(module, Head):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5 / module.logit_scale)
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | Head) and module.bias is not None:
            nn.init.zeros_(module.bias)
