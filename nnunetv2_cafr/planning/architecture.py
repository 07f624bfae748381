"""CAFR-Net's keyword arguments for a configuration's spacing: what our plans hold and our trainers fall back on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunetv2_cafr.network.convolution import NUM_HALVINGS, strides_of_tokens


def token_size(spacing: Sequence[float]) -> list[int]:
    """Pixels that a token covers per axis: 16, halved for each doubling of an axis' spacing over the finest one.

    Two-dimensional plans get 16x16 (paper). Across thick slices a token stays about as long in mm as it is in plane.

    Args:
        spacing: of the configuration, in mm, (y, x) or (z, y, x).
    """
    if len(spacing) == 2:
        return [16, 16]
    ratio = np.asarray(spacing, dtype=float) / min(spacing)
    halvings = np.clip(np.round(np.log2(ratio)), 0, NUM_HALVINGS).astype(int)
    return [2 ** (NUM_HALVINGS - halving) for halving in halvings.tolist()]


def cafr_architecture(spacing: Sequence[float]) -> dict[str, Any]:
    """Keyword arguments of `CAFRNet`, all JSON values, for a configuration of this spacing (as in `token_size`)."""
    return {"strides": strides_of_tokens(token_size(spacing))}
