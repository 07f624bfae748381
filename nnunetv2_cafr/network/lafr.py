"""Local Adaptive Feature Recalibration: F' = F + F * sigmoid(DW3x3(Conv1x1(F))) (paper, LAFR section)."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nnunetv2_cafr.network.convolution import LevelGeometry


class LAFR(nn.Module):
    """Strengthens each position by a gate computed from its neighbourhood; (b, c, *spatial) -> (b, c, *spatial)."""

    def __init__(self, geometry: LevelGeometry, channels: int, level: int) -> None:
        super().__init__()
        kernel = geometry.kernel(level)
        self.gate = nn.Sequential(
            geometry.conv(channels, channels, 1),
            geometry.conv(channels, channels, kernel, padding=[k // 2 for k in kernel], groups=channels),
            nn.Sigmoid(),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # The gate is computed again for the gradient: at full resolution that takes less time than to keep its maps.
        return checkpoint(self._recalibrate, features, use_reentrant=False, preserve_rng_state=False)

    def _recalibrate(self, features: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(features, features, self.gate(features))
