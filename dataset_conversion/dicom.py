"""One DICOM series of single-frame slices as a volume, or the reason why it cannot be one.

GDCM stacks whatever it is given. Gaps, doubled positions, slices that fan out and two series in one folder then give a
volume of wrong geometry, so positions are looked at here, slice by slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion.report import Problem

STEP_TOLERANCE = 0.1  # mm by which steps between slices may differ, and slices may lie beside each other
COSINE_TOLERANCE = 1e-3  # per direction cosine

SERIES, FRAMES, SAMPLES = "0020|000e", "0028|0008", "0028|0002"
POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"


@dataclass(frozen=True)
class _Slice:
    path: Path
    series: str
    size: tuple[int, ...]
    position: np.ndarray  # mm, of the first pixel's centre
    orientation: np.ndarray  # direction cosines of rows and columns, (2, 3)
    spacing: np.ndarray  # mm between rows, between columns


def list_slices(folder: Path) -> list[Path]:
    """The DICOM files of a folder, by name: all with DICOM's mark in them, and all that are named so."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file():
            continue
        with path.open("rb") as file:
            marked = file.read(132)[128:] == b"DICM"
        if marked or path.suffix.lower() in (".dcm", ".ima"):
            found.append(path)
    return found


def read_series(folder: Path) -> tuple[sitk.Image | None, str, list[Problem]]:
    """Read the one series of a folder.

    Returns:
        The volume, or None; SHA-256 over the contents of its files in the order of their names; what is wrong.
    """
    paths = list_slices(folder)
    if len(paths) < 2:
        found = f"{len(paths)} DICOM file{'' if len(paths) == 1 else 's'}"
        if len(paths) == 1 and isinstance(problem := _read_header(paths[0]), Problem):
            return None, "", [problem]
        remedy = "give the folder that holds all slices of the one series"
        return None, "", [Problem(folder, found, "a series of single slices", remedy)]
    headers = [_read_header(path) for path in paths]
    if problems := [header for header in headers if isinstance(header, Problem)]:
        return None, "", problems
    slices = [header for header in headers if isinstance(header, _Slice)]
    if mixed := _check_uniform(folder, slices):
        return None, "", [mixed]

    rows, columns = slices[0].orientation
    normal = np.cross(rows, columns)
    slices.sort(key=lambda one: float(one.position @ normal))
    uneven, step = _check_positions(folder, slices, normal)
    if uneven:
        return None, "", [uneven]
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(one.path) for one in slices])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        found = f"slices that cannot be read ({str(error).strip().splitlines()[-1].strip()})"
        remedy = "copy the series again from its source, or leave the case out"
        return None, "", [Problem(folder, found, "intact DICOM slices", remedy)]
    image.SetOrigin(slices[0].position.tolist())
    image.SetSpacing((*slices[0].spacing[::-1].tolist(), step))
    image.SetDirection(np.stack([rows, columns, normal], axis=1).ravel().tolist())
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return image, digest.hexdigest(), []


def _read_header(path: Path) -> _Slice | Problem:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        remedy = "copy the series again from its source, or leave the case out"
        return Problem(path, "a file that cannot be read as DICOM", "an intact DICOM slice", remedy)
    tags = {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}
    if int(tags.get(FRAMES) or 1) > 1 or (len(reader.GetSize()) > 2 and reader.GetSize()[2] > 1):
        return Problem(
            path,
            f"a multi-frame DICOM file ({tags.get(FRAMES) or reader.GetSize()[2]} frames in one file)",
            "one slice per file: where each frame lies stands in tags that SimpleITK does not hand on",
            "convert the series with dcm2niix, and give the NIfTI file",
        )
    if tags.get(SAMPLES, "1") != "1":
        return Problem(path, f"{tags[SAMPLES]} values per pixel", "one grey value per pixel", "leave the case out")
    try:
        position = np.array(tags[POSITION].split("\\"), dtype=float).reshape(3)
        orientation = np.array(tags[ORIENTATION].split("\\"), dtype=float).reshape(2, 3)
        spacing = np.array(tags[PIXEL_SPACING].split("\\"), dtype=float).reshape(2)
    except (KeyError, ValueError):
        expected = "ImagePositionPatient, ImageOrientationPatient and PixelSpacing in each slice"
        return Problem(path, "a slice without its place in the patient", expected, "export the series again")
    return _Slice(path, tags.get(SERIES, ""), reader.GetSize()[:2], position, orientation, spacing)


def _check_uniform(folder: Path, slices: Sequence[_Slice]) -> Problem | None:
    """Check that slices belong to one series and have one grid but for their position."""
    first = slices[0]
    series = list(dict.fromkeys(one.series for one in slices))
    if len(series) > 1:
        found = f"{len(series)} series in one folder: {', '.join(series[:3])}"
        return Problem(folder, found, "one series per folder", "move each series to a folder of its own")
    for one in slices[1:]:
        if one.size != first.size or not np.allclose(one.spacing, first.spacing, rtol=1e-4):
            found = f"slices of size {first.size} and {one.size}, pixels {first.spacing} and {one.spacing} mm"
            return Problem(one.path, found, "one size and one pixel spacing", "leave the odd slices out")
        if not np.allclose(one.orientation, first.orientation, atol=COSINE_TOLERANCE):
            found = f"slices in several orientations, as in {first.path.name} and here"
            return Problem(one.path, found, "parallel slices", "leave localisers and reformats out of the folder")
    return None


def _check_positions(folder: Path, slices: Sequence[_Slice], normal: np.ndarray) -> tuple[Problem | None, float]:
    """Check that sorted slices are equally far from each other and lie straight above each other.

    Returns:
        A problem, or None, and the step between slices in mm.
    """
    positions = np.array([one.position for one in slices])
    steps = np.diff(positions @ normal)
    step = float(np.median(steps))
    if (close := np.flatnonzero(steps < STEP_TOLERANCE)).size:
        names = f"{slices[close[0]].path.name} and {slices[close[0] + 1].path.name}"
        found = f"{len(close)} slices at the same place as another one, such as {names}"
        remedy = "keep one echo, time point or repetition in the folder"
        return Problem(folder, found, "one slice at each place", remedy), step
    if (uneven := np.flatnonzero(np.abs(steps - step) > STEP_TOLERANCE)).size:
        at = int(uneven[0])
        names = f"{slices[at].path.name} and {slices[at + 1].path.name}"
        found = f"a step of {steps[at]:.3g} mm between {names}, where most are {step:.3g} mm"
        times = steps[at] / step
        missing = abs(times - round(times)) < STEP_TOLERANCE and round(times) > 1
        if missing:
            found += f": {round(times) - 1} missing slice{'' if round(times) == 2 else 's'}"
        remedy = "add the missing slices" if missing else "resample the series to equal steps"
        return Problem(folder, found, f"equal steps within {STEP_TOLERANCE} mm", f"{remedy}, or leave it out"), step
    beside = positions - positions[0] - np.outer((positions - positions[0]) @ normal, normal)
    if (shift := float(np.linalg.norm(beside, axis=1).max())) > STEP_TOLERANCE:
        found = f"slices that lie up to {shift:.3g} mm beside each other (a sheared stack)"
        expected = f"slices straight above each other within {STEP_TOLERANCE} mm"
        return Problem(folder, found, expected, "resample the series to a grid without shear"), step
    return None, float(steps.mean())
