"""From logits to labels on the grid of the image, as nnU-Net does it, but class by class.

nnU-Net resamples the logits of all classes to the image's size and takes the largest: 20 classes of 880x880x15 voxels
are gigabytes. Here one class at a time is resampled and only the largest logit so far is kept, which is the same, down
to the rounding to float16 and to the lower label where two are equal.
"""

from collections.abc import Sequence

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import (
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch.nn import functional as F

# What nnU-Net's planner writes; for this there is a fast way that gives the same numbers.
LINEAR = {"is_seg": False, "order": 1, "order_z": 0}


def label_map(
    logits: torch.Tensor,
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    configuration: ConfigurationManager,
    labels: LabelManager,
) -> torch.Tensor:
    """Labels (*shape) of logits (heads, *spatial) float16, resampled from `spacing` to `new_spacing` (mm)."""
    highest = torch.empty(0)
    found = torch.zeros(tuple(shape), dtype=torch.uint8 if len(labels.foreground_labels) < 255 else torch.int32)
    for head, of_head in enumerate(logits):
        resampled = resample(of_head, shape, spacing, new_spacing, configuration)
        if labels.has_regions:  # later regions are written over earlier ones
            found.masked_fill_(labels.apply_inference_nonlin(resampled) > 0.5, labels.regions_class_order[head])
        elif head == 0:
            highest = resampled.clone()
        else:
            found.masked_fill_(resampled > highest, head)
            torch.maximum(highest, resampled, out=highest)
    return found


def resample(
    logits: torch.Tensor,
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    configuration: ConfigurationManager,
) -> torch.Tensor:
    """Logits of one head (*spatial) float16 in the new shape, as by `resampling_fn_probabilities` of the plans."""
    if tuple(logits.shape) == tuple(shape):
        return logits
    function = configuration.resampling_fn_probabilities
    settings = dict(function.keywords)
    separate = settings.pop("force_separate_z", False)
    if function.func is not resample_data_or_seg_to_shape or settings != LINEAR:
        return torch.as_tensor(function(logits[None].numpy(), shape, spacing, new_spacing)[0])
    _, axis = determine_do_sep_z_and_axis(separate, spacing, new_spacing)
    return resample_linearly(logits.double(), tuple(shape), axis).half()


def resample_linearly(volume: torch.Tensor, shape: tuple[int, ...], axis: int | None) -> torch.Tensor:
    """Linear interpolation of a volume (d, h, w), but the nearest slice along `axis`, if given.

    The same as scikit-image's `resize` and scipy's `map_coordinates`, by which nnU-Net resamples.
    """
    if axis is None and volume.shape[0] != shape[0]:
        return F.interpolate(volume[None, None], size=shape, mode="trilinear", align_corners=False)[0, 0]
    axis = axis or 0
    slices = volume.movedim(axis, 0)
    in_plane = [size for other, size in enumerate(shape) if other != axis]
    slices = F.interpolate(slices[None], size=in_plane, mode="bilinear", align_corners=False)[0]
    if len(slices) != shape[axis]:
        centres = len(slices) / shape[axis] * (np.arange(shape[axis]) + 0.5) - 0.5
        slices = slices[np.floor(centres + 0.5).clip(0, len(slices) - 1).astype(int)]
    return slices.movedim(0, axis)
