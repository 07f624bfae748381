"""Hierarchical features from the Transformer: three taps, each at its own resolution, fused at 1/4.

Paper, network section: low, mid and high level features are tapped at three intermediate layers, brought to their own
resolutions, upsampled to 1/4, concatenated and fused by a 1x1 convolution. Ours: 1/4, 1/8 and 1/16 for the first,
second and third tap, reached by transposed convolutions as in DPT and ViTDet, after a LayerNorm because the residual
stream of a pre-norm Transformer is not normalised.
"""

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.network.convolution import NUM_HALVINGS, Pyramid, upsample

FUSED_LEVEL = 2  # 1/4


class Tap(nn.Module):
    """(b, embed_dim, *tokens) -> (b, channels, *cells at `level`)."""

    def __init__(self, pyramid: Pyramid, embed_dim: int, channels: int, level: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        steps: list[nn.Module] = []
        if level == NUM_HALVINGS:
            steps.append(pyramid.conv(embed_dim, channels, 1))
        for from_level in range(NUM_HALVINGS, level, -1):
            if steps:
                steps += [pyramid.batch_norm(channels), nn.ReLU(inplace=True)]
            steps.append(upsample(pyramid, channels if steps else embed_dim, channels, from_level))
        self.to_level = nn.Sequential(*steps)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        return self.to_level(self.norm(tokens).unflatten(1, grid).movedim(-1, 1))


class FeatureHierarchy(nn.Module):
    """Three taps (b, n, embed_dim) -> one map (b, fused_channels, *cells at 1/4)."""

    def __init__(self, pyramid: Pyramid, embed_dim: int, tap_channels: int, fused_channels: int) -> None:
        super().__init__()
        self.interpolation = pyramid.interpolation
        self.taps = nn.ModuleList(
            Tap(pyramid, embed_dim, tap_channels, level) for level in range(FUSED_LEVEL, NUM_HALVINGS + 1)
        )
        self.fuse = nn.Sequential(
            pyramid.conv(len(self.taps) * tap_channels, fused_channels, 1, bias=False),
            pyramid.batch_norm(fused_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, tapped: list[torch.Tensor], grid: tuple[int, ...]) -> torch.Tensor:
        finest, *coarser = (tap(tokens, grid) for tap, tokens in zip(self.taps, tapped, strict=True))
        upsampled = [
            F.interpolate(feature, size=finest.shape[2:], mode=self.interpolation, align_corners=False)
            for feature in coarser
        ]
        return self.fuse(torch.cat([finest, *upsampled], dim=1))
