"""Where vertebrae meet their discs: the paper's "complex boundaries", as a band of voxels around each junction.

The paper shows such regions in pictures and gives no definition. The band is ours: voxels whose centre lies within 3 mm
of both a vertebra and a disc next to it, in the reference. Metrics inside it leave out everything that is easy, such as
the middle of a vertebra.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from nnunetv2_cafr.spine import disc_of

BAND_MM = 3.0


def junctions(names: Mapping[int, str]) -> list[tuple[int, int]]:
    """Labels (vertebra, disc) of all pairs that touch in a spine."""
    labels = {name: label for label, name in names.items()}
    return [
        (labels[vertebra], disc)
        for disc, name in names.items()
        for vertebra in disc_of(name) or ()
        if vertebra in labels
    ]


def junction_band(reference: np.ndarray, spacing: Sequence[float], names: Mapping[int, str]) -> np.ndarray:
    """Boolean mask of the voxels within BAND_MM of both sides of any junction.

    Args:
        reference: integer label map, 2-D or 3-D.
        spacing: mm per axis.
        names: of the labels.
    """
    band = np.zeros(reference.shape, bool)
    boxes = find_objects(reference)
    margin = [int(np.ceil(BAND_MM / step)) for step in spacing]
    for pair in junctions(names):
        # Inside the intersection of both boxes, each grown by the band; grown again to hold the nearest voxels.
        sides = [boxes[label - 1] if label <= len(boxes) else None for label in pair]
        if None in sides:
            continue
        window = tuple(
            slice(max(max(part.start for part in parts) - 2 * grow, 0), min(part.stop for part in parts) + 2 * grow)
            for parts, grow in zip(zip(*sides, strict=True), margin, strict=True)
        )
        crop = reference[window]
        if all((crop == label).any() for label in pair):
            near = [distance_transform_edt(crop != label, sampling=spacing) <= BAND_MM for label in pair]
            band[window] |= near[0] & near[1]
    return band
