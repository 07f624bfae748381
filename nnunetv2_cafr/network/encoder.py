"""The convolutional pyramid: five levels from 1/1 to 1/16, the detail that 16x16 patches lose.

Ours: the paper leaves the source of its skips open. Each level is strided convolution, then more at the same size, all
as `ConvBlock`. Its levels are the decoder's skips; its last one is added to the projected patches.
"""

from collections.abc import Sequence

import torch
from torch import nn

from nnunetv2_cafr.network.convolution import ConvBlock, LevelGeometry


class ConvPyramid(nn.Module):
    """(b, input_channels, *spatial) -> one map (b, channels[level], *cells) per level, finest first."""

    def __init__(
        self, geometry: LevelGeometry, input_channels: int, channels: Sequence[int], num_convs: Sequence[int]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for level, (width, convs) in enumerate(zip(channels, num_convs, strict=True)):
            coming = channels[level - 1] if level else input_channels
            self.stages.append(
                nn.Sequential(
                    ConvBlock(geometry, coming, width, level, downsample=level > 0),
                    *(ConvBlock(geometry, width, width, level) for _ in range(convs - 1)),
                )
            )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels
