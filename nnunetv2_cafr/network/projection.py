"""The contrastive (CLR) head: an MLP on the fused 1/4 map, then L2 normalisation (paper, CLR section).

Ours: the MLP is two 1x1 convolutions with norm and activation between them, 256 dimensions out.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nnunetv2_cafr.network.convolution import LevelGeometry


class ProjectionHead(nn.Module):
    """(b, in_channels, *cells) -> (b, embedding_dim, *cells), float32, of unit length along the channels."""

    def __init__(self, geometry: LevelGeometry, in_channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            geometry.conv(in_channels, in_channels, 1, bias=False),
            geometry.norm(in_channels),
            geometry.activation(inplace=True),
        )
        self.output = geometry.conv(in_channels, embedding_dim, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # What is not normalised yet is computed again for the gradient, instead of kept: it is as large as the result.
        return checkpoint(self._unit_vectors, self.hidden(features), use_reentrant=False, preserve_rng_state=False)

    def _unit_vectors(self, hidden: torch.Tensor) -> torch.Tensor:
        # The squared sum of 256 half-precision values overflows or loses small ones.
        return F.normalize(self.output(hidden).float(), dim=1)
