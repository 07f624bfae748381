"""Convolution blocks whose stride and kernel follow the token size of each axis, in 2-D and 3-D alike.

A token covers 16 pixels per in-plane axis, so four halvings lead from a pixel to a token. An axis across thick slices
has smaller tokens (1 to 8) and joins the halvings late, as nnU-Net's own planner pools anisotropic volumes: while its
spacing is still at least twice the in-plane one, the kernel does not look across slices either.
"""

from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_batchnorm,
    get_matching_convtransp,
)
from torch import nn

NUM_HALVINGS = 4  # 1/1 -> 1/2 -> 1/4 -> 1/8 -> 1/16, the side of the paper's 16x16 patch


class Pyramid:
    """Stride, kernel and scale of every level between the pixels (level 0) and the tokens (level 4).

    Args:
        token_size: pixels that a token covers per axis, each one of 1, 2, 4, 8, 16.

    Raises:
        ValueError: if an axis has another token size, or there are not 2 or 3 axes.
    """

    def __init__(self, token_size: Sequence[int]) -> None:
        allowed = [2**i for i in range(NUM_HALVINGS + 1)]
        if len(token_size) not in (2, 3) or any(size not in allowed for size in token_size):
            raise ValueError(f"token_size must give one of {allowed} for each of 2 or 3 axes, got {list(token_size)}")
        self.token_size = tuple(int(size) for size in token_size)
        self._halvings = [size.bit_length() - 1 for size in self.token_size]
        dimensions = len(self.token_size)
        self.conv = convert_dim_to_conv_op(dimensions)
        self.transposed_conv = get_matching_convtransp(dimension=dimensions)
        self.batch_norm = get_matching_batchnorm(dimension=dimensions)
        self.interpolation = {2: "bilinear", 3: "trilinear"}[dimensions]

    def stride(self, level: int) -> tuple[int, ...]:
        """Stride per axis from `level` - 1 to `level`."""
        return tuple(2 if level > NUM_HALVINGS - halvings else 1 for halvings in self._halvings)

    def kernel(self, level: int) -> tuple[int, ...]:
        """Kernel size per axis of a convolution at `level`: 3, or 1 across slices which are still too thick."""
        return tuple(1 if level < NUM_HALVINGS - halvings else 3 for halvings in self._halvings)

    def scale(self, level: int) -> tuple[int, ...]:
        """Pixels per cell and axis at `level`."""
        scale = [1] * len(self.token_size)
        for step in range(1, level + 1):
            scale = [s * stride for s, stride in zip(scale, self.stride(step), strict=True)]
        return tuple(scale)


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation ("after each convolutional block", paper, network section), ReLU.

    Shapes: (b, c_in, *spatial) -> (b, c_out, *spatial / stride).
    """

    def __init__(
        self, pyramid: Pyramid, in_channels: int, out_channels: int, level: int, *, downsample: bool = False
    ) -> None:
        kernel = pyramid.kernel(level)
        stride = pyramid.stride(level) if downsample else 1
        super().__init__(
            # The batch norm that follows holds the bias.
            pyramid.conv(in_channels, out_channels, kernel, stride, [k // 2 for k in kernel], bias=False),
            pyramid.batch_norm(out_channels),
            nn.ReLU(inplace=True),
        )


def upsample(pyramid: Pyramid, in_channels: int, out_channels: int, from_level: int) -> nn.Module:
    """Transposed convolution from `from_level` to the next finer level."""
    stride = pyramid.stride(from_level)
    return pyramid.transposed_conv(in_channels, out_channels, stride, stride)


def pad_to_multiple(x: torch.Tensor, multiple: Sequence[int]) -> torch.Tensor:
    """Zero-pads (b, c, *spatial) at the far end of each axis to a multiple of `multiple`."""
    padding: list[int] = []
    for size, divisor in zip(reversed(x.shape[2:]), reversed(multiple), strict=True):
        padding += [0, -size % divisor]
    return nn.functional.pad(x, padding) if any(padding) else x


def crop_to(x: torch.Tensor, spatial: Sequence[int]) -> torch.Tensor:
    """Keeps the first `spatial` cells of each axis of (b, c, *spatial)."""
    index: tuple[Any, ...] = (..., *(slice(size) for size in spatial))
    return x[index]
