"""nnU-Net's sliding window over a preprocessed volume, for a network that is only a function from patches to logits.

Positions, mirroring, Gaussian weights and the order and precision (float16) of the sums are those of nnU-Net's
nnUNetPredictor on a CPU, so that the logits are the same to the last digit that it keeps. A 2-D network's slices come
one by one: nothing of the size of volume times classes is ever held.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from nnunetv2_cafr.deployment.runtime import Network


def predict_logits(
    image: torch.Tensor, network: Network, patch_size: Sequence[int], mirroring_axes: Sequence[int], step_size: float
) -> Iterator[torch.Tensor]:
    """Logits (heads, *spatial) float16: for a 2-D network one slice (heads, 1, h, w) after another, else all at once.

    Args:
        image: preprocessed volume (c, d, h, w).
        mirroring_axes: axes of a patch; predictions are averaged over all their combinations.
        step_size: distance between patches as a share of the patch size, at most 1.

    Raises:
        RuntimeError: if logits are not finite.
    """
    padded, within = pad_nd_image(image, patch_size, "constant", {"value": 0}, True)
    slabs = padded.unbind(1) if len(patch_size) == 2 else (padded,)
    spatial = padded.shape[-len(patch_size) :]
    steps = compute_steps_for_sliding_window(spatial, patch_size, step_size)
    windows = [
        (slice(None), *(slice(start, start + size) for start, size in zip(starts, patch_size, strict=True)))
        for starts in itertools.product(*steps)
    ]
    flips = [
        tuple(axis + 1 for axis in axes)
        for count in range(len(mirroring_axes) + 1)
        for axes in itertools.combinations(mirroring_axes, count)
    ]
    gaussian = compute_gaussian(
        tuple(patch_size), sigma_scale=1.0 / 8, value_scaling_factor=10, device=torch.device("cpu")
    )
    weight = torch.zeros(spatial, dtype=torch.half)
    for window in windows:
        weight[window[1:]] += gaussian

    outputs = network(
        torch.flip(slab[window], axes)[None].contiguous().numpy()
        for slab, window, axes in itertools.product(slabs, windows, flips)
    )
    prediction = torch.empty(0)  # one for all windows: new memory of this size takes longer to get than to fill
    for _ in slabs:
        logits = torch.zeros(0)
        for window in windows:
            unflipped = torch.from_numpy(next(outputs)[0])
            if not len(logits):
                logits = torch.zeros(len(unflipped), *spatial, dtype=torch.half)
            prediction.resize_(unflipped.shape).copy_(unflipped)
            for axes in flips[1:]:
                np.add(prediction.numpy(), np.flip(next(outputs)[0], axes), out=prediction.numpy())
            prediction /= len(flips)
            prediction *= gaussian
            logits[window] += prediction
        logits /= weight
        if not torch.stack(logits.aminmax()).isfinite().all():  # both are NaN if any is; far faster than to ask of all
            raise RuntimeError("The network's logits are not finite, or too large for the sums of the sliding window")
        logits = logits[(slice(None), *within[-len(patch_size) :])]
        yield logits[:, None] if len(patch_size) == 2 else logits
