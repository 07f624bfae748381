"""The decoder: recalibrated skips from the pyramid join the deepest map on the way to full resolution.

The paper leaves its decoder open; all of this is ours. Each stage adds the skip (nnU-Net concatenates it) for the cost.
Every level predicts, the deepest one too: coarse logits are upsampled and refined by those of the finer stage, so that
256 channels at 1/16 say which vertebra it is, and 16 channels at 1/1 where it ends. The logits are a multiple of what
the heads put out, since Adam moves a weight by at most the learning rate a step.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.network.convolution import ConvBlock, LevelGeometry, upsample
from nnunetv2_cafr.network.lafr import LAFR


class DecoderStage(nn.Module):
    """Adds a recalibrated skip to the decoder's features and convolves: (b, c, *cells) at one level, in and out."""

    def __init__(self, geometry: LevelGeometry, channels: int, level: int, use_lafr: bool) -> None:
        super().__init__()
        self.recalibrate = LAFR(geometry, channels, level) if use_lafr else nn.Identity()
        self.conv = ConvBlock(geometry, channels, channels, level)

    def forward(self, features: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv(features + self.recalibrate(skip))


class Head(nn.Module):
    """Logits of a level, (b, c, *cells) -> (b, num_classes, *cells): a 1x1 convolution, scaled, on the coarser logits.

    One product of matrices does it all, as time at full resolution is what it takes to write maps.
    """

    def __init__(self, geometry: LevelGeometry, in_channels: int, num_classes: int, logit_scale: float) -> None:
        super().__init__()
        self.interpolation = geometry.interpolation
        self.logit_scale = logit_scale
        convolution = geometry.conv(in_channels, num_classes, 1)
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, features: torch.Tensor, coarser: torch.Tensor | None = None) -> torch.Tensor:
        cells = features.shape[2:]
        weight = (self.logit_scale * self.weight).flatten(1).expand(features.shape[0], -1, -1)
        onto = (self.logit_scale * self.bias).view(-1, *[1] * len(cells))
        if coarser is not None:
            # Interpolation leaves a constant as it is, so the bias is added where there are fewer pixels.
            onto = F.interpolate(coarser + onto, size=cells, mode=self.interpolation, align_corners=False)
        return torch.baddbmm(onto.flatten(-len(cells)), weight, features.flatten(2)).unflatten(2, cells)


class Decoder(nn.Module):
    """From the levels of the pyramid to logits at full resolution.

    Forward: one map (b, channels[level], *cells) per level, finest first; returns a list of logits
    (b, num_classes, *cells of the level), finest first: with deep supervision of all levels but the deepest, as
    nnU-Net's networks do, else of the finest alone.

    The heads are called `seg_layers` because nnU-Net leaves modules of that name out when it loads pretrained weights,
    so that a network can be fine-tuned to other classes.
    """

    def __init__(
        self,
        geometry: LevelGeometry,
        channels: Sequence[int],
        num_classes: int,
        *,
        use_lafr: bool,
        logit_scale: float,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision  # the name that nnU-Net sets
        self.stages = nn.ModuleList(
            DecoderStage(geometry, width, level, use_lafr) for level, width in enumerate(channels[:-1])
        )
        self.upsample = nn.ModuleList(
            upsample(geometry, coarse, fine, level)
            for level, (fine, coarse) in enumerate(itertools.pairwise(channels), start=1)
        )
        self.seg_layers = nn.ModuleList(Head(geometry, width, num_classes, logit_scale) for width in channels)

    def forward(self, levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        features = levels[-1]
        logits = [self.seg_layers[-1](features)]
        for level in reversed(range(len(self.stages))):
            features = self.stages[level](self.upsample[level](features), levels[level])
            logits.insert(0, self.seg_layers[level](features, logits[0]))
        return logits[:-1] if self.deep_supervision else logits[:1]
