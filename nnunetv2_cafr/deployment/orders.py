"""Predicts scans in any voxel order by a network that was trained on one: turning them to it, and label maps back.

nnU-Net's reorienting readers do this themselves. What its plain readers give is turned here, channel by channel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_conversion.problems import Problem
from nnunetv2_cafr.errors import millimetres
from nnunetv2_cafr.levels.components import Grid
from nnunetv2_cafr.levels.files import grid_of, grid_of_affine
from nnunetv2_cafr.voxel_order import (
    NO_ORDER,
    PLAIN_READERS,
    REORIENTING_READERS,
    affine_of,
    largest_shift,
    order_of,
    turned,
    turned_affine,
    turned_spacing,
)

ORDER_READ = "voxel_order_read"  # key of the properties of a scan that was turned: the order that its reader gave
SHIFT_TOLERANCE = 0.5  # voxels by which the corners of channels may lie apart without a word


def order_to_predict_in(reader: str, orders: Mapping[str, int]) -> str | None:
    """The voxel order of the arrays that a network saw in training; None where that is unknown, or more than one."""
    if reader in REORIENTING_READERS:
        return "RAS"
    return next(iter(orders)) if reader in PLAIN_READERS and len(orders) == 1 and NO_ORDER not in orders else None


def warning_of_unknown_order(reader: str, orders: Mapping[str, int]) -> str | None:
    """What a user has to know before scans are predicted as they are stored; None if they are turned, or are flat."""
    if reader not in PLAIN_READERS or len(orders) == 1:
        return None
    if orders:
        found = ", ".join(f"{order} ({count} cases)" for order, count in orders.items())
        return (
            f"WARNING: the network was trained on cases in several voxel orders, {found}: scans are predicted in the "
            "order that they are stored in. Look at the label maps before you use them"
        )
    return (
        "WARNING: it is not known in which voxel order the network was trained, so scans are predicted as they are "
        "stored; in another order than the training cases' the label maps are nonsense. Export the network again where "
        "its data set is in nnUNet_preprocessed or nnUNet_raw"
    )


class UnknownOrderError(ValueError):
    """A scan that says nothing about how its voxels lie in the patient, for a network that needs to know."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.path}: {problem.found}; expected {problem.expected}: {problem.remedy}")
        self.problem = problem


def read_in_order(reader: Any, files: Sequence[str], order: str | None) -> tuple[np.ndarray, dict]:
    """Channels (c, z, y, x) in the voxel order `order` (None: of the first channel), and their properties.

    The properties are those of the file but for the spacing, which is the array's.

    Raises:
        UnknownOrderError: if a file holds no orientation, and the network needs one.
        ValueError: if channels differ in size or spacing.
    """
    if type(reader).__name__ not in PLAIN_READERS:
        return reader.read_images(files)
    channels, all_properties = zip(*(reader.read_images([file]) for file in files), strict=True)
    orders = [order_of(properties) for properties in all_properties]
    target = order or orders[0]
    if target is None:
        return reader.read_images(files)
    turned_channels, spacings, affines = [], [], []
    for file, channel, properties, own in zip(files, channels, all_properties, orders, strict=True):
        affine = affine_of(properties)
        if own is None or affine is None:
            found, remedy = "no directions of its axes", "convert the scan again from DICOM"
            expected = f"voxel axes in patient coordinates: the network was trained on the voxel order {target}"
            raise UnknownOrderError(Problem(Path(file), found, expected, remedy))
        turned_channels.append(turned(channel, own, target))
        spacings.append(turned_spacing(properties["spacing"], own, target))
        affines.append(turned_affine(affine, channel.shape[1:], own, target))
    shape = turned_channels[0].shape[1:]
    for file, channel, spacing, affine in zip(files, turned_channels, spacings, affines, strict=True):
        if channel.shape[1:] != shape or not np.allclose(spacing, spacings[0]):
            raise ValueError(
                f"{file} has {channel.shape[1:]} voxels of {millimetres(spacing)}, {files[0]} {shape} of "
                f"{millimetres(spacings[0])} (both turned to {target}): expected are channels on one grid; resample "
                "one to the other's"
            )
        shift = largest_shift(affine, affines[0], shape)
        if shift > SHIFT_TOLERANCE * min(spacing):
            tqdm.write(f"WARNING: {file} lies up to {shift:.2g} mm from {files[0]}: are they channels of one scan?")
    return np.concatenate(turned_channels), {**all_properties[0], "spacing": spacings[0], ORDER_READ: orders[0]}


def grid_in_order(shape: Sequence[int], properties: Mapping[str, Any], order: str | None) -> Grid:
    """How an array of this shape (z, y, x) that `read_in_order` gave lies in the patient, but for its origin."""
    stored, affine = properties.get(ORDER_READ), affine_of(properties)
    if stored is None or affine is None or order is None:
        return grid_of(properties)
    # Where the corner lies does not matter, so that the turned array's shape will do for the stored one's.
    return grid_of_affine(turned_affine(affine, shape, stored, order))


def as_stored(segmentation: np.ndarray, properties: Mapping[str, Any], order: str | None) -> np.ndarray:
    """A label map (z, y, x) of voxel order `order` in the order of the file that `properties` are of."""
    own = properties.get(ORDER_READ)
    return segmentation if own is None or order is None else turned(segmentation, order, own)
