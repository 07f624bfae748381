"""Convolution blocks whose stride and kernel follow the token size of each axis, in 2-D and 3-D alike.

A token covers 16 pixels per in-plane axis, so four halvings lead from a pixel to a token. An axis across thick slices
has smaller tokens (1 to 8) and joins the halvings late, as nnU-Net's own planner pools anisotropic volumes: while its
spacing is still at least twice the in-plane one, the kernel does not look across slices either.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_batchnorm,
    get_matching_convtransp,
)
from torch import nn

from nnunetv2_cafr.network.normalization import InstanceNorm

NORMS = ("instance", "batch")
NUM_HALVINGS = 4  # 1/1 -> 1/2 -> 1/4 -> 1/8 -> 1/16, the side of the paper's 16x16 patch


def strides_of_tokens(token_size: Sequence[int]) -> list[list[int]]:
    """Strides per level and axis that lead from pixels to tokens of this size; small axes join late.

    Raises:
        ValueError: if an axis is not one of 1, 2, 4, 8, 16, or there are not 2 or 3 axes.
    """
    allowed = [2**i for i in range(NUM_HALVINGS + 1)]
    if len(token_size) not in (2, 3) or any(size not in allowed for size in token_size):
        raise ValueError(f"token_size must give one of {allowed} for each of 2 or 3 axes, got {list(token_size)}")
    halvings = [size.bit_length() - 1 for size in token_size]
    return [[2 if level > NUM_HALVINGS - count else 1 for count in halvings] for level in range(NUM_HALVINGS + 1)]


class LevelGeometry:
    """Stride, kernel and scale of every level between the pixels (level 0) and the tokens (level 4).

    Args:
        strides: 1 or 2 per level and axis, the first level all 1, as dynamic-network-architectures writes them.
        norm: of all convolutions, "instance" with LeakyReLU, as nnU-Net has them, or "batch" with ReLU.

    Raises:
        ValueError: if there are other strides, another number of levels, not 2 or 3 axes, or another norm.
    """

    def __init__(self, strides: Sequence[Sequence[int]], norm: str = "instance") -> None:
        dimensions = len(strides[0]) if len(strides) else 0
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if (
            len(strides) != NUM_HALVINGS + 1
            or dimensions not in (2, 3)
            or any(len(level) != dimensions or any(stride not in (1, 2) for stride in level) for level in strides)
            or any(stride != 1 for stride in strides[0])
        ):
            raise ValueError(
                f"strides must give 1 or 2 for each of 2 or 3 axes at {NUM_HALVINGS + 1} levels, the first all 1; got "
                f"{[list(level) for level in strides]}"
            )
        self._strides = tuple(tuple(int(stride) for stride in level) for level in strides)
        self.token_size = self.scale(NUM_HALVINGS)
        self.conv = convert_dim_to_conv_op(dimensions)
        self.transposed_conv = get_matching_convtransp(dimension=dimensions)
        if norm == "instance":
            self.norm: type[nn.Module] = InstanceNorm
            self.activation: type[nn.Module] = nn.LeakyReLU
        else:
            self.norm, self.activation = get_matching_batchnorm(dimension=dimensions), nn.ReLU
        self.interpolation = {2: "bilinear", 3: "trilinear"}[dimensions]

    def stride(self, level: int) -> tuple[int, ...]:
        """Stride per axis from `level` - 1 to `level`."""
        return self._strides[level]

    def kernel(self, level: int) -> tuple[int, ...]:
        """Kernel size per axis of a convolution at `level`: 3, or 1 across slices still too thick to halve next."""
        return tuple(1 if scale == 1 else 3 for scale in self.scale(level + 1))

    def scale(self, level: int) -> tuple[int, ...]:
        """Pixels per cell and axis at `level`."""
        return tuple(math.prod(axis) for axis in zip(*self._strides[: level + 1], strict=True))

    def cells(self, spatial: Sequence[int], level: int) -> list[int]:
        """Cells per axis that a patch of this size covers at `level`."""
        return [math.ceil(size / scale) for size, scale in zip(spatial, self.scale(level), strict=True)]


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, activation.

    The paper (network section) has "batch normalization after each convolutional block"; instance norm, the default, is
    ours.

    Shapes: (b, c_in, *spatial) -> (b, c_out, *spatial / stride).
    """

    def __init__(
        self, geometry: LevelGeometry, in_channels: int, out_channels: int, level: int, *, downsample: bool = False
    ) -> None:
        kernel = geometry.kernel(level)
        stride = geometry.stride(level) if downsample else 1
        super().__init__(
            # The norm that follows holds the bias.
            geometry.conv(in_channels, out_channels, kernel, stride, [k // 2 for k in kernel], bias=False),
            geometry.norm(out_channels),
            geometry.activation(inplace=True),
        )


def upsample(geometry: LevelGeometry, in_channels: int, out_channels: int, from_level: int) -> nn.Module:
    """Transposed convolution from `from_level` to the next finer level."""
    stride = geometry.stride(from_level)
    return geometry.transposed_conv(in_channels, out_channels, stride, stride)


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
