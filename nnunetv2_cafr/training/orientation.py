"""Which axis of a preprocessed case runs up and down the patient.

The levels of the spine are told by their order, so augmentation must know this axis. It is read from the geometry
that nnU-Net's image readers keep in each case's properties, never assumed from the shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SUPERIOR = 2  # the third world axis, in SimpleITK's LPS as in nibabel's RAS


def superior_inferior_axis(properties: Mapping[str, Any], transpose_forward: Sequence[int]) -> int | None:
    """Axis of a preprocessed array (without channels) closest to the patient's superior-inferior direction.

    Args:
        properties: what the reader stored for the case, spacing and direction in (z, y, x) or (x, y, z) as it does.
        transpose_forward: the plan's axis permutation, applied to (z, y, x) before preprocessing.

    Returns:
        The axis, 0 to 2, or None where the reader keeps no direction (2-D pictures, TIFF).
    """
    if "sitk_stuff" in properties:
        direction = np.asarray(properties["sitk_stuff"]["direction"], dtype=float)
        if direction.size != 9:
            return None
        columns = direction.reshape(3, 3)
    elif "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), dtype=float)[:3, :3]
        columns = affine / np.linalg.norm(affine, axis=0, keepdims=True)
    else:
        return None
    # Column k is the direction of image axis x, y, z; both readers hand arrays on as (z, y, x).
    array_axis = 2 - int(np.argmax(np.abs(columns[SUPERIOR])))
    return list(transpose_forward).index(array_axis)
