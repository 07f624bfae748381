"""The order in which a volume's voxels are stored, and turning arrays to another one without touching a value.

The same scan can be stored in 48 orders: each array axis runs along one of the patient's three axes, in one of two
directions. nnU-Net's plain readers hand arrays on as they are stored, and a network that was trained on one order takes
another one for another anatomy. An order is written as three letters, what the axes x, y and z run towards: PIR is
posterior, inferior, right. Arrays are (..., z, y, x), as nnU-Net's readers give them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

# nnU-Net's readers that turn every volume to RAS, and label maps back.
REORIENTING_READERS = ("SimpleITKIOWithReorient", "NibabelIOWithReorient")
PLAIN_READERS = ("SimpleITKIO", "NibabelIO")  # these keep directions, and turn nothing
RECOMMENDED_READER = "SimpleITKIOWithReorient"  # also where this package is not installed, as it is nnU-Net's own
NO_ORDER = "none"  # of pictures, and whatever else has no directions
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # SimpleITK's world, and nibabel's


def is_order(text: object) -> bool:
    """Whether this is a voxel order: three letters such as PIR, one of each of the patient's axes."""
    return isinstance(text, str) and sorted(text.translate(str.maketrans("LPI", "RAS"))) == ["A", "R", "S"]


def properties_of(image: sitk.Image | sitk.ImageFileReader) -> dict[str, Any]:
    """What nnU-Net's SimpleITK reader keeps of a volume; of a file, its header will do."""
    stuff = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    return {"sitk_stuff": stuff, "spacing": image.GetSpacing()[::-1]}


def directions_of(properties: Mapping[str, Any]) -> np.ndarray | None:
    """Unit vectors of the array's axes x, y and z, as columns (3, 3), towards right, front and head (RAS).

    Args:
        properties: what nnU-Net's reader keeps of a case.

    Returns:
        None where the reader keeps no direction (2-D pictures, TIFF), or none that means anything.
    """
    if "sitk_stuff" in properties:
        direction = np.asarray(properties["sitk_stuff"]["direction"], dtype=float)
        columns = LPS_TO_RAS @ direction.reshape(3, 3) if direction.size == 9 else None
    elif "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        columns = _unit_columns(stuff.get("reoriented_affine", stuff["original_affine"]))
    else:
        columns = None
    if columns is None or not np.isfinite(columns).all() or not columns.any(axis=0).all():
        return None
    return columns


def order_of(properties: Mapping[str, Any]) -> str | None:
    """The voxel order of the array that the reader gave, such as PIR; None where there is none to be known."""
    columns = directions_of(properties)
    return None if columns is None else _letters(columns)


def stored_order_of(properties: Mapping[str, Any]) -> str | None:
    """The voxel order in the file, which a reorienting reader's array no longer has."""
    if "original_orientation" in properties.get("sitk_stuff", ()):
        return str(properties["sitk_stuff"]["original_orientation"])
    if "original_affine" in properties.get("nibabel_stuff", ()):
        return _letters(_unit_columns(properties["nibabel_stuff"]["original_affine"]))
    return order_of(properties)


def affine_of(properties: Mapping[str, Any]) -> np.ndarray | None:
    """(4, 4), from the array's index (x, y, z) to mm towards right, front and head; None as `directions_of`."""
    columns = directions_of(properties)
    if columns is None:
        return None
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        return np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), dtype=float)
    affine = np.eye(4)
    affine[:3, :3] = columns * np.asarray(properties["sitk_stuff"]["spacing"], dtype=float)
    affine[:3, 3] = LPS_TO_RAS @ np.asarray(properties["sitk_stuff"]["origin"], dtype=float)
    return affine


def _unit_columns(affine: Any) -> np.ndarray:
    matrix = np.asarray(affine, dtype=float)[:3, :3]
    with np.errstate(invalid="ignore", divide="ignore"):
        return matrix / np.linalg.norm(matrix, axis=0, keepdims=True)


def _letters(columns: np.ndarray) -> str | None:
    if not np.isfinite(columns).all():
        return None
    affine = np.eye(4)
    affine[:3, :3] = columns
    letters = aff2axcodes(affine)
    return None if None in letters else "".join(letters)


def turned(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """An array (..., z, y, x) of voxel order `source` in the order `target`; contiguous."""
    return _apply(array, ornt_transform(axcodes2ornt(source), axcodes2ornt(target)))


def turned_spacing(spacing: Any, source: str, target: str) -> list[float]:
    """Spacing (z, y, x) of an array of voxel order `source` after it was turned to `target`."""
    of_axis = ornt_transform(axcodes2ornt(source), axcodes2ornt(target))[:, 0].astype(int).tolist()
    found = dict(zip(of_axis, reversed(list(spacing)), strict=True))
    return [float(found[axis]) for axis in (2, 1, 0)]


def turned_affine(affine: np.ndarray, shape: Sequence[int], source: str, target: str) -> np.ndarray:
    """The affine of an array of this shape (z, y, x) after it was turned from `source` to `target`."""
    orientation = ornt_transform(axcodes2ornt(source), axcodes2ornt(target))
    return affine @ inv_ornt_aff(orientation, tuple(shape)[::-1])


def turned_onto(array: np.ndarray, affine: np.ndarray, onto: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An array (z, y, x) and its affine with the axes that come closest to those of the affine `onto`."""
    orientation = io_orientation(np.linalg.inv(onto) @ affine)
    if np.isnan(orientation).any():  # of a flattened affine
        return array, affine
    return _apply(array, orientation), affine @ inv_ornt_aff(orientation, array.shape[::-1])


def _apply(array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    # Transposed, the first axes are x, y and z, as nibabel has them.
    return np.ascontiguousarray(apply_orientation(array.T, orientation).T)


def largest_shift(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """How far a corner of the grid `other` lies from that of `affine`, in mm; both of this shape (z, y, x)."""
    corners = np.array(list(product(*[(0, size - 1) for size in reversed(shape)], (1,))), dtype=float)
    return float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())
