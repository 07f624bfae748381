"""Any patch size for networks that take only multiples of some size."""

from collections.abc import Sequence

import torch
from torch import nn

from nnunetv2_cafr.network.convolution import crop_to, pad_to_multiple


class Padded(nn.Module):
    """Zero-pads x (b, c, *spatial) at the far ends to multiples of `multiple`, runs `network`, and crops its output."""

    def __init__(self, network: nn.Module, multiple: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.multiple = tuple(multiple)

    @property
    def size_multiple(self) -> tuple[int, ...]:
        """`multiple`, by the name that all networks of this package have it."""
        return self.multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return crop_to(self.network(pad_to_multiple(x, self.multiple)), x.shape[2:])
