"""Hierarchical features from the Transformer: three taps, each at its own resolution, and their fusion at 1/4.

Paper, network section: low, mid and high level features are tapped at three intermediate layers, brought to their own
resolutions, upsampled to 1/4, concatenated and fused by a 1x1 convolution; the fused map feeds the contrastive head.
Ours: 1/4, 1/8 and 1/16 for the first, second and third tap, reached by transposed convolutions as in DPT and ViTDet,
after a LayerNorm because the residual stream of a pre-norm Transformer is not normalised. A tap is added to the
convolutional pyramid's level of its resolution, so that the decoder reads both from one skip; what is fused are these
sums. Ours too: a tap begins at 0, as the last norm of a residual block does in Goyal et al. 2017 (arXiv 1706.02677), so
that the pyramid learns first what the Transformer is to add to (documentation/recipe.md). The fused map feeds nothing
but the contrastive head, so inference does without it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.network.convolution import NUM_HALVINGS, LevelGeometry, upsample

FUSED_LEVEL = 2  # 1/4
TAPPED_LEVELS = range(FUSED_LEVEL, NUM_HALVINGS + 1)


class Tap(nn.Module):
    """(b, n, embed_dim) tokens of a grid -> (b, out_channels, *cells at `level`), times `scale` at the start."""

    def __init__(
        self, geometry: LevelGeometry, embed_dim: int, channels: int, out_channels: int, level: int, scale: float
    ) -> None:
        super().__init__()
        self._scale = scale  # of the start only: no part of the network's identity
        self.norm = nn.LayerNorm(embed_dim)
        steps: list[nn.Module] = []
        if level == NUM_HALVINGS:
            steps.append(geometry.conv(embed_dim, out_channels, 1))
        for from_level in range(NUM_HALVINGS, level, -1):
            if steps:
                steps += [geometry.norm(channels), geometry.activation(inplace=True)]
            coming = channels if steps else embed_dim
            going = out_channels if from_level == level + 1 else channels
            steps.append(upsample(geometry, coming, going, from_level))
        self.to_level = nn.Sequential(*steps, geometry.norm(out_channels))

    def forward(self, tokens: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        return self.to_level(self.norm(tokens).unflatten(1, grid).movedim(-1, 1))


class Fusion(nn.Module):
    """Maps (b, channels[i], *cells at 1/4, 1/8, 1/16) -> one (b, out_channels, *cells at 1/4)."""

    def __init__(self, geometry: LevelGeometry, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.interpolation = geometry.interpolation
        self.fuse = nn.Sequential(
            geometry.conv(sum(channels), out_channels, 1, bias=False),
            geometry.norm(out_channels),
            geometry.activation(inplace=True),
        )

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        # As the paper's concatenation and 1x1 convolution, but without the concatenated map, a tenth of what a training
        # step keeps: without a bias, a 1x1 convolution may as well come before a linear interpolation.
        finest, *coarser = levels
        convolution, norm, activation = self.fuse
        weights: Any = convolution.weight  # Any: to mypy it may be a module
        convolve = F.conv2d if finest.ndim == 4 else F.conv3d
        own, *others = weights.split([level.shape[1] for level in levels], dim=1)
        fused = convolve(finest, own)
        for level, weight in zip(coarser, others, strict=True):
            fused = fused + F.interpolate(
                convolve(level, weight), size=finest.shape[2:], mode=self.interpolation, align_corners=False
            )
        return activation(norm(fused))
