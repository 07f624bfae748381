"""How the preprocessed cases of a training lie: in which voxel order, and which axis runs up and down the patient.

The levels of the spine are told by their order, so augmentation must know the up/down axis. It is read from the
geometry that nnU-Net's image readers keep in each case's properties, never assumed from the shape.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunetv2_cafr.voxel_order import (
    RECOMMENDED_READER,
    REORIENTING_READERS,
    directions_of,
    order_of,
    stored_order_of,
)

SUPERIOR = 2  # the third world axis


def superior_inferior_axis(properties: Mapping[str, Any], transpose_forward: Sequence[int]) -> int | None:
    """Axis of a preprocessed array (without channels) closest to the patient's superior-inferior direction.

    Args:
        properties: what the reader stored for the case, spacing and direction in (z, y, x) or (x, y, z) as it does.
        transpose_forward: the plan's axis permutation, applied to (z, y, x) before preprocessing.

    Returns:
        The axis, 0 to 2, or None where the reader keeps no direction (2-D pictures, TIFF).
    """
    columns = directions_of(properties)
    if columns is None:
        return None
    # Column k is the direction of image axis x, y, z; all readers hand arrays on as (z, y, x).
    array_axis = 2 - int(np.argmax(np.abs(columns[SUPERIOR])))
    return list(transpose_forward).index(array_axis)


class Orientation(NamedTuple):
    """How a case lies. Orders are as PIR, None where the reader keeps no direction."""

    stored: str | None  # in the file
    read: str | None  # in the array that the network sees, but for the plan's permutation of axes
    up_down: int | None  # axis of the preprocessed array


class OrientedCases:
    """Mixin before any nnUNetTrainer: knows how its preprocessed cases lie."""

    @cached_property
    def _orientations(self: Any) -> list[Orientation]:
        # Of training and validation, and of the other folds: none is to be stored in another order.
        dataset_class = self.dataset_class or infer_dataset_class(self.preprocessed_dataset_folder)
        dataset = dataset_class(self.preprocessed_dataset_folder)
        found = []
        for case in dataset.identifiers:
            properties = dataset.load_case(case)[3]
            up_down = superior_inferior_axis(properties, self.plans_manager.transpose_forward)
            found.append(Orientation(stored_order_of(properties), order_of(properties), up_down))
        return found

    def count_voxel_orders(self: Any) -> dict[str, int]:
        """How many cases are stored in which voxel order, the most frequent first; cases without one are left out."""
        return dict(Counter(one.stored for one in self._orientations if one.stored is not None).most_common())

    def describe_voxel_orders(self: Any) -> str:
        """A line for the log: in what orders the cases are stored, and what that means for scans to be predicted."""
        counts, reader = self.count_voxel_orders(), self.plans_manager.plans["image_reader_writer"]
        if not counts:
            return f"Voxel order: unknown, {reader} keeps no directions"
        orders = ", ".join(f"{order} ({count} cases)" for order, count in counts.items())
        if reader in REORIENTING_READERS:
            return f"Voxel order: {orders}, all turned to RAS by {reader}, as scans to be predicted will be"
        if len({one.read for one in self._orientations}) > 1:
            without = sum(one.stored is None for one in self._orientations)
            return (
                f"WARNING: the cases are stored in several voxel orders: {orders}"
                + (f", {without} without any" if without else "")
                + f". {reader} hands them on as they are, so the network sees patients in several positions. To mend "
                f'it, put "overwrite_image_reader_writer": "{RECOMMENDED_READER}" into dataset.json, then plan and '
                "preprocess again"
            )
        return (
            f"Voxel order: {orders}. {reader} hands scans on as they are stored: nnUNetv2_predict predicts nonsense "
            "without a word where a scan has another order; nnUNetv2_cafr predict turns it"
        )
