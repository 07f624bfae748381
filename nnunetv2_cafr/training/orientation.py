"""How the preprocessed cases of a training lie: in which voxel order, and which axis runs up and down the patient.

The levels of the spine are told by their order, so augmentation must know the up/down axis. It is read from the
geometry that nnU-Net's image readers keep in each case's properties, never assumed from the shape.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.paths import nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from dataset_conversion.geometry import AXES, PLANES
from dataset_conversion.reading import lacks_orientation
from nnunetv2_cafr.errors import counted, shorten
from nnunetv2_cafr.raw_dataset import case_files
from nnunetv2_cafr.spine import is_spine_table
from nnunetv2_cafr.voxel_order import (
    RECOMMENDED_READER,
    REORIENTING_READERS,
    directions_of,
    order_of,
    stored_order_of,
)

SUPERIOR = 2  # the third world axis
OPPOSITE = {"A": "P", "S": "I", "L": "R"}


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


def unoriented_cases(dataset: str, description: Mapping[str, Any]) -> frozenset[str]:
    """Training cases whose raw images do not say how they lie in the patient.

    What nnU-Net's readers keep of such a case looks like any other's, so the files have to be asked; where they are not
    there, none is named.

    Args:
        dataset: its name, as in nnUNet_raw.
        description: content of its dataset.json.
    """
    folder = Path(nnUNet_raw.get(), dataset) if nnUNet_raw.is_set() else None
    if folder is None or not ("dataset" in description or (folder / "imagesTr").is_dir()):
        return frozenset()
    files = case_files(folder, deepcopy(dict(description)))
    return frozenset(
        case
        for case, (images, _) in files.items()
        if any(lacks_orientation(image) for image in images if image.is_file())
    )


class Orientation(NamedTuple):
    """How a case lies. Orders are as PIR, None where the reader keeps no direction."""

    stored: str | None  # in the file
    read: str | None  # in the array that the network sees, but for the plan's permutation of axes
    up_down: int | None  # axis of the preprocessed array


class OrientedCases(nnUNetTrainer):
    """Mixin: knows how its preprocessed cases lie."""

    @cached_property
    def _unoriented(self) -> frozenset[str]:
        return unoriented_cases(self.plans_manager.dataset_name, self.dataset_json)

    @cached_property
    def _orientations(self) -> list[Orientation]:
        # Of training and validation, and of the other folds: none is to be stored in another order.
        dataset_class = self.dataset_class or infer_dataset_class(self.preprocessed_dataset_folder)
        dataset = dataset_class(self.preprocessed_dataset_folder)
        found = []
        for case in dataset.identifiers:
            if case in self._unoriented:
                found.append(Orientation(None, None, None))
                continue
            properties = dataset.load_case(case)[3]
            up_down = superior_inferior_axis(properties, self.plans_manager.transpose_forward)
            found.append(Orientation(stored_order_of(properties), order_of(properties), up_down))
        return found

    def count_voxel_orders(self) -> dict[str, int]:
        """How many cases are stored in which voxel order, the most frequent first; cases without one are left out."""
        return dict(Counter(one.stored for one in self._orientations if one.stored is not None).most_common())

    def describe_voxel_orders(self) -> str:
        """A line for the log: in what orders the cases are stored, and what that means for scans to be predicted."""
        counts, reader = self.count_voxel_orders(), self.plans_manager.plans["image_reader_writer"]
        if self._unoriented:
            names = sorted(self._unoriented)
            return (
                f"WARNING: the headers of {counted(len(names), 'case')} ({shorten(names)}) do not "
                f"say how their voxels lie in the patient; {reader} makes up an orientation, which is not believed "
                f"here. The others: {_listed(counts) or 'none'}. Convert the cases again from DICOM, or write the "
                "right affine into their headers, then preprocess again"
            )
        if not counts:
            return f"Voxel order: unknown, {reader} keeps no directions"
        orders = _listed(counts)
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

    def doubt_about_plane(self) -> str | None:
        """A line for the log where levels of the spine are learned from 2-D slices that are not sagittal."""
        patch_size = self.configuration_manager.patch_size
        orders = {one.read for one in self._orientations}
        if len(patch_size) != 2 or len(orders) != 1 or not is_spine_table(self.dataset_json["labels"]):
            return None
        order = orders.pop()
        if order is None:
            return None
        of_arrays = [OPPOSITE.get(letter, letter) for letter in reversed(order)]
        through = of_arrays[self.plans_manager.transpose_forward[0]]
        if through not in PLANES:
            return None
        size = " x ".join(map(str, patch_size))
        return (
            f"WARNING: these plans cut {PLANES[through]} slices (patches of {size} pixels), and the levels of the "
            "spine follow one another in sagittal ones. nnU-Net cuts across the axis of the largest spacing. If that "
            f"is not meant, plan again with the largest from {AXES['R']}; the numbers of -overwrite_target_spacing are "
            f"here those from {', '.join(AXES[letter] for letter in of_arrays)}"
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{order} ({count} cases)" for order, count in counts.items())
