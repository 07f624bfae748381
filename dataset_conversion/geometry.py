"""One voxel orientation for all cases, and the same grid for image and mask.

nnU-Net transposes all cases of a data set in one way, by the median of their spacings, and its plain readers look at no
direction cosines. So every volume is brought into the orientation that SpineMRI's files have: voxel axis i runs
backwards (posterior), j downwards (inferior), k to the patient's right, and slices along k are sagittal. The data set
also names a reader that turns every volume to RAS, so that scans to be predicted may have any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.problems import Problem

ORIENTATION = "PIR"  # what i, j and k run towards

# How far a mask's header may differ from its image's. Together they move no voxel of a 300 mm field of view by more
# than one pixel of 0.5 mm; the mask is written with the header of the image.
DIRECTION_TOLERANCE = 1e-3  # per direction cosine, also for being perpendicular
OBLIQUE_LIMIT = 40.0  # degrees between a voxel axis and the patient's: near 45 it could be either of two axes
GRID_TOLERANCES = {  # relative, and absolute: an origin's in mm
    "spacing": (1e-4, 0.0),
    "origin": (0.0, 0.1),
    "direction": (0.0, DIRECTION_TOLERANCE),
}
THICKNESS_TOLERANCE = 0.01  # relative; below it, spacings count as equal
AXES = {"P": "front to back", "I": "head to foot", "R": "left to right"}
PLANES = {"P": "coronal", "I": "axial"}  # planes of slices that follow each other along this axis


def orientation_of(image: sitk.Image) -> str:
    """What the voxel axes i, j and k run towards, as three letters such as PIR."""
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()))


def orient(image: sitk.Image, order: str = ORIENTATION) -> sitk.Image:
    """Permute and flip the axes to this voxel order; every voxel keeps its value and its place in the patient."""
    return image if orientation_of(image) == order else sitk.DICOMOrient(image, order)


def check_axes(path: Path, image: sitk.Image) -> list[Problem]:
    """Check that voxel axes are perpendicular, and each near one of the patient's axes."""
    direction = np.array(image.GetDirection()).reshape(3, 3)
    shear = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if not shear <= DIRECTION_TOLERANCE:
        return [
            Problem(
                path,
                f"voxel axes that are not perpendicular to each other (sheared; scalar product {shear:.3g})",
                f"perpendicular axes of unit length within {DIRECTION_TOLERANCE:g}",
                "resample the volume to a grid without shear, or correct the header",
            )
        ]
    return check_tilt(path, image)


def tilt_of(image: sitk.Image) -> float:
    """The largest angle between a voxel axis and the patient's axis next to it, in degrees."""
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return float(np.degrees(np.arccos(np.clip(np.abs(direction).max(axis=0), 0, 1))).max())


def check_tilt(path: Path, image: sitk.Image) -> list[Problem]:
    """Check that each voxel axis lies near one of the patient's axes."""
    if (angle := tilt_of(image)) <= OBLIQUE_LIMIT:
        return []
    found = f"a voxel axis {angle:.0f} degrees off the patient's axes"
    remedy = "resample the volume along the patient's axes, or leave it out"
    return [Problem(path, found, f"at most {OBLIQUE_LIMIT:.0f} degrees", remedy)]


def check_sagittal(path: Path, oriented: sitk.Image) -> list[Problem]:
    """Check that slices do not follow each other along another axis than left/right, in fewer and larger steps."""
    spacing = dict(zip(ORIENTATION, oriented.GetSpacing(), strict=True))
    number = dict(zip(ORIENTATION, oriented.GetSize(), strict=True))
    for axis, plane in PLANES.items():
        if number[axis] < number["R"] and spacing[axis] > spacing["R"] * (1 + THICKNESS_TOLERANCE):
            found = (
                f"{plane} slices: {number[axis]} steps of {spacing[axis]:.4g} mm from {AXES[axis]}, "
                f"{number['R']} of {spacing['R']:.4g} mm from {AXES['R']}"
            )
            remedy = "leave the case out, or correct its header if that is wrong"
            return [Problem(path, found, f"sagittal slices, which follow each other from {AXES['R']}", remedy)]
    return []


def slices_of_nnunet(spacings: Sequence[Sequence[float]]) -> str | None:
    """Say so if nnU-Net would not cut its 2-D slices sagittally: it cuts across the axis of the largest median spacing.

    Of equals it takes the first one of its arrays, which are (up/down, front/back, left/right) from a reader that turns
    to RAS.

    Args:
        spacings: of all oriented training images, (i, j, k) in mm.
    """
    median = dict(zip(ORIENTATION, np.median(spacings, axis=0).tolist(), strict=True))
    thickest = max("IPR", key=median.__getitem__)
    if thickest == "R":
        return None
    return (
        f"the median spacing from {AXES['R']} ({median['R']:.4g} mm) is not larger than from {AXES[thickest]} "
        f"({median[thickest]:.4g} mm): nnU-Net's 2-D slices of this data set will be {PLANES[thickest]}, not sagittal"
    )


def check_same_grid(path: Path, mask: sitk.Image, image_path: Path, image: sitk.Image) -> list[Problem]:
    """Compare the grid of the mask at `path` with its image's; the voxel order may differ, the place may not."""
    remedy = f"resample the mask to the grid of {image_path.name}, or find the mask that belongs to it"

    def differs(name: str, of_mask: tuple[float, ...], of_image: tuple[float, ...], tolerance: str) -> Problem:
        found, expected = (f"{name} ({', '.join(f'{v:.6g}' for v in values)})" for values in (of_mask, of_image))
        return Problem(path, found, f"{expected}, as the image{tolerance}", remedy)

    turned = orient(mask, orientation_of(image))
    if turned.GetSize() != image.GetSize():
        if mask.GetSize() == image.GetSize():
            # The voxels are the image's, the header is not.
            return [differs("direction", mask.GetDirection(), image.GetDirection(), "")]
        found, expected = (f"size {one.GetSize()} in voxel order {orientation_of(one)}" for one in (mask, image))
        return [Problem(path, found, f"{expected}, as the image", remedy)]
    problems = []
    for name, of_mask, of_image in grid_differences(turned, image):
        relative, absolute = GRID_TOLERANCES[name]
        tolerance = f", within {relative:g} relative" if relative else f", within {absolute:g}"
        problems.append(differs(name, of_mask, of_image, tolerance))
    return problems


def grid_differences(mask: sitk.Image, image: sitk.Image) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    """In what the grids of two images of one size differ: the name in GRID_TOLERANCES, and the values of both."""
    for name, (relative, absolute) in GRID_TOLERANCES.items():
        of_mask, of_image = (getattr(grid, f"Get{name.capitalize()}")() for grid in (mask, image))
        if not np.allclose(of_mask, of_image, rtol=relative, atol=absolute):
            yield name, of_mask, of_image
