"""A folder of DICOM files as one volume, or the reason why it cannot be one.

Hospitals send whole examinations: several series in nested folders, with reports, presentation states, contours and
screen shots beside them, slices twice, files without preamble. What is not an image is skipped and named, the series
with most slices is read if it stands out, and positions are checked slice by slice: gaps, duplicate positions and
slices that fan out would give a volume of wrong geometry.

The frames of an enhanced multi-frame file are slices like those of many files, each with what its functional groups
say of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import UID, MediaStorageDirectoryStorage

from dataset_conversion.contrast import GROUPS_OF_CONTRAST, TAGS, Acquisition, acquisition_of, may_be_weighted
from dataset_conversion.dicom_pixels import (
    COPY_AGAIN,
    PIXEL_TAGS,
    Pixels,
    UnreadableError,
    pixels_of,
    smallest_type,
    stored_values,
    unreadable,
    without_padding,
)
from dataset_conversion.problems import Problem
from nnunetv2_cafr.errors import counted, shorten

STEP_TOLERANCE = 0.1  # mm by which steps between slices may differ, and slices may lie beside each other
STATION = 20  # mm beside each other that no shear of a stack is
SAME_PLACE = 1e-3  # mm; slices that are no farther apart may be the same one twice
COSINE_TOLERANCE = 1e-3  # per direction cosine
ECHO_TOLERANCE = 0.01  # relative
ACQUISITION = (
    "SeriesNumber", "SeriesDescription", "FrameOfReferenceUID", "ScanningSequence", "EchoTime", "InversionTime",
)  # fmt: skip
EXAMINATION = ("PatientID", "StudyInstanceUID")
THINNED = 2  # times a slice's thickness from one slice to the next, and numbers of slices that are left out
INTERLEAVED = 0.75  # of the distance by the header: slices of another acquisition may lie between; ours
PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst")
CLEAR_MAJORITY = 2  # a series is taken among several where it has this many times the slices of any other; ours
MONOCHROME1 = (
    "MONOCHROME1, which is shown dark where values are high: values are taken as they are, and not turned round"
)
HEADER = (
    "SOPClassUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Rows", "Columns",
    "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "FrameOfReferenceUID",
    "InstanceNumber", "AcquisitionNumber", "ImagesInAcquisition", "InversionTime", *PIXEL_TAGS, *TAGS,
)  # fmt: skip
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
GROUPS = (  # in them; they hold tags of HEADER
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence",
    *GROUPS_OF_CONTRAST,
)  # fmt: skip


@dataclass(frozen=True)
class _Image:
    """An image by its header, or a frame of one.

    Args:
        place: None where it does not say where in the patient it lies.
        name: for messages.
        stored: a frame's pixels (rows, columns) as they are stored; None where they are still to be read.
    """

    path: Path
    header: Dataset
    place: _Place | None
    name: str
    stored: np.ndarray | None = None

    @property
    def series(self) -> str:
        return str(self.header.get("SeriesInstanceUID") or "")

    @property
    def frames(self) -> int:
        return int(self.header.get("NumberOfFrames") or 1)

    @property
    def size(self) -> tuple[int, int]:
        return int(self.header.Columns), int(self.header.Rows)


@dataclass(frozen=True)
class _Place:
    position: np.ndarray  # mm, of the first pixel's centre
    orientation: np.ndarray  # direction cosines of rows and columns, (2, 3)
    spacing: np.ndarray  # mm between rows, between columns


@dataclass(frozen=True)
class _NoImage:
    """A DICOM object that is no image, such as a report; `kind` in DICOM's words."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Series:
    """A volume, SHA-256 over its files in the order of their names, and what was left out or taken for granted.

    `files` are those of its slices, in their order.
    """

    image: sitk.Image
    sha256: str
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    acquisition: Acquisition


def list_dicom(folder: Path) -> list[Path]:
    """All DICOM files in a folder and below it: those with DICOM's mark, named so, or that begin as DICOM does.

    What begins with a dot is left by operating systems. Linked folders are followed, each once.
    """
    return [path for path in _files_in(folder) if is_dicom(path)]


def _files_in(folder: Path) -> Iterator[Path]:
    seen = set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))
        seen.add(real)


def _raise(error: OSError) -> NoReturn:
    raise error


def is_dicom(path: Path) -> bool:
    """Whether a file is one of DICOM, by its beginning or its name; it may be damaged."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() in (".dcm", ".ima") or path.name.upper() == "DICOMDIR":
        return True
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    if head[128:] == b"DICM":
        return True
    # Without preamble: the first element is of group 0002 or 0008, and names its type or has a length below 64 KiB.
    begins = head[:1] in (b"\x02", b"\x08") and head[1:2] == head[3:4] == b"\0" and head[2:3] < b"\x40"
    return begins and (head[4:6].isalpha() or head[6:8] == b"\0\0")


def holds_images(paths: Sequence[Path]) -> bool:
    """Whether one of these DICOM files is an image, or so damaged that it might be one."""
    return any(not isinstance(_read_header(path), _NoImage) for path in paths)


def holds_slices(paths: Sequence[Path]) -> bool:
    """Whether one of these DICOM files is an image that has its place in the patient, or several frames."""
    objects = map(_read_header, paths)
    return any(isinstance(one, _Image) and (one.place is not None or one.frames > 1) for one in objects)


def find_torn(folders: Sequence[Path]) -> tuple[Path, Path] | None:
    """Two folders of which one holds slices of the series that is read of the other, and that it lacks; or None.

    Some exports put so many files into a folder, and go on in the next one: each part is a smaller volume.
    """
    read = {
        folder: [one for path in list_dicom(folder) if isinstance(one := _read_header(path), _Image)]
        for folder in folders
    }
    slices: dict[tuple[object, ...], list[tuple[Path, _Image]]] = defaultdict(list)
    placed = {folder: _placed(images) for folder, images in read.items()}
    for folder, there in placed.items():
        for one in there:
            if stack := _stack_of(one):
                slices[stack].append((folder, one))
    for folder, images in read.items():
        try:
            chosen = {image.path for image in _choose(folder, images)[0]}
            own = [one for one in placed[folder] if one.path in chosen]
        except UnreadableError:  # which reading it says
            own = []
        for other, one in slices[_stack_of(own[0])] if own else ():
            if other != folder and not _of_another_acquisition(one.header, own[0].header) and _goes_on(own, one):
                return folder, other
    return None


def _placed(images: Sequence[_Image]) -> list[_Image]:
    """The slices that say where they lie, those of multi-frame files too; by their headers alone."""
    placed = []
    for image in images:
        with contextlib.suppress(UnreadableError):
            headers = _headers_of_frames(image) if image.frames > 1 else [image.header]
            slices = [_Image(image.path, header, _read_place(header), image.name) for header in headers]
            placed += [one for one in slices if one.place is not None]
    return placed


def _stack_of(one: _Image) -> tuple[object, ...]:
    """What the slices of a series have in common, also where anonymisation took its name away.

    Nothing where it took the patient's and the examination's too.
    """
    examination = tuple(one.header.get(key) for key in EXAMINATION)
    return (one.series, *examination) if one.series or any(examination) else ()


def _goes_on(own: Sequence[_Image], further: _Image) -> bool:
    """Whether `further` is one more slice of the stack `own`: in line with it, and at a place of its own."""
    first, place = _place(own[0]), _place(further)
    normal = np.cross(*first.orientation)
    depths = np.array([(_place(one).position - first.position) @ normal for one in own])
    step = place.position - first.position
    depth = float(step @ normal)
    in_line = np.linalg.norm(step - depth * normal) <= STEP_TOLERANCE
    parallel = np.allclose(place.orientation, first.orientation, atol=COSINE_TOLERANCE)
    return bool(in_line and parallel and np.abs(depths - depth).min() > STEP_TOLERANCE)


def read_series(folder: Path) -> tuple[Series | None, list[Problem]]:
    """Read the one series of a folder, or that which has by far the most slices; folders in it are read as well.

    Returns:
        The series, or None, and what is wrong.
    """
    try:
        return _read_series(folder)
    except UnreadableError as error:
        return None, [error.problem]
    except OSError as error:
        found = f"a folder that cannot be read ({error.strerror or error})"
        return None, [Problem(Path(error.filename or folder), found, "a readable folder", COPY_AGAIN)]


def _read_series(folder: Path) -> tuple[Series | None, list[Problem]]:
    files = {path: is_dicom(path) for path in _files_in(folder)}
    objects = [_read_header(path) for path, is_of_dicom in files.items() if is_of_dicom]
    if problems := [one for one in objects if isinstance(one, Problem)]:
        return None, problems
    strangers = [path for path, is_of_dicom in files.items() if not is_of_dicom]
    if problems := list(_check_strangers(strangers, objects)):
        return None, problems
    others = [one for one in objects if isinstance(one, _NoImage)]
    images = [one for one in objects if isinstance(one, _Image)]
    notes = list(_describe_left_out(folder, others))
    notes += [f"no DICOM file, left out: {_names(folder, strangers)}"] if strangers else []
    chosen, choice = _choose(folder, images)
    if isinstance(choice, Problem):
        return None, [choice]
    notes += choice
    if len(chosen) < 2 and not any(one.frames > 1 for one in chosen):
        found = counted(len(chosen), "DICOM image")
        found += "".join(f"; {note}" for note in notes)
        remedy = "give the folder that holds all slices of the one series"
        return None, [Problem(folder, found, "a series of single slices", remedy)]
    if problems := [problem for one in chosen if (problem := _check_grey(one))]:
        return None, problems
    slices = [one for image in chosen for one in _slices_of(image)]
    if problems := [problem for one in slices if (problem := _check_place(one))]:
        return None, problems
    if problem := _check_uniform(slices):
        return None, [problem]
    return _stack(folder, slices, notes)


def _check_strangers(strangers: Sequence[Path], objects: Sequence[_Image | _NoImage | Problem]) -> Iterator[Problem]:
    """What is named as the slices beside it, but no DICOM file: a damaged slice, or one that is packed."""
    names = {_without_numbers(one.path) for one in objects if isinstance(one, _Image)}
    for path in strangers:
        unpacked = path.with_suffix("")
        packed = path.suffix.lower() in PACKED and _without_numbers(unpacked) in names and not unpacked.exists()
        if packed or _without_numbers(path) in names:
            found = "a packed file" if packed else "a file without DICOM's beginning"
            remedy = "unpack it" if packed else COPY_AGAIN
            yield Problem(path, f"{found}, named as the slices beside it", "an intact DICOM slice", remedy)


def _without_numbers(path: Path) -> tuple[Path, str]:
    return path.parent, re.sub(r"\d+", "#", path.name)


def _stack(folder: Path, images: Sequence[_Image], notes: list[str]) -> tuple[Series | None, list[Problem]]:
    first = _place(images[0])
    rows, columns = first.orientation
    normal = np.cross(rows, columns)
    slices = sorted(images, key=lambda one: float(_place(one).position @ normal))
    slices, doubles = _without_doubles(slices)
    if doubles:
        notes.append(f"the same slice again, taken once: {_names(folder, doubles)}")
    uneven, step = _check_positions(folder, slices, normal)
    if uneven:
        return None, [uneven]
    notes += _missing_slices(slices, step)
    if slices[0].header.get("PhotometricInterpretation") == "MONOCHROME1":
        notes.append(MONOCHROME1)
    numbers = dict.fromkeys(str(one.header.get("AcquisitionNumber") or "") for one in slices)
    if len(numbers) > 1:
        notes.append(f"its slices are of several acquisitions (AcquisitionNumber {shorten(list(numbers))})")
    values, padded = without_padding([_pixels(one) for one in slices])
    if padded:
        share = padded / values.size
        notes.append(f"{share:.1%} of its voxels are padding (PixelPaddingValue), taken for its darkest value")
    image = sitk.GetImageFromArray(smallest_type(values))
    image.SetOrigin(_place(slices[0]).position.tolist())
    image.SetSpacing((*first.spacing[::-1].tolist(), step))
    image.SetDirection(np.stack([rows, columns, normal], axis=1).ravel().tolist())
    files = tuple(dict.fromkeys(one.path for one in slices))
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return Series(image, digest.hexdigest(), tuple(notes), files, acquisition_of(slices[0].header)), []


def _slices_of(image: _Image) -> list[_Image]:
    """The frames of a multi-frame file as slices; the image itself, if it is one slice.

    Raises:
        UnreadableError: if the file does not describe each frame, or has no intact pixels.
    """
    if image.frames == 1:
        return [image]
    headers = _headers_of_frames(image)
    if len(headers) != image.frames:
        found = f"a multi-frame DICOM file ({image.frames} frames, of which {len(headers)} are described)"
        remedy = "convert the series with dcm2niix, look at the result, and give the NIfTI file"
        raise UnreadableError(Problem(image.path, found, "one slice per file, or a place for each frame", remedy))
    return [
        _Image(image.path, header, _read_place(header), f"frame {number} of {image.name}", pixels)
        for number, (header, pixels) in enumerate(zip(headers, stored_values(image.path), strict=True), 1)
    ]


def _headers_of_frames(image: _Image) -> list[Dataset]:
    """The header of an image for each of its frames, with what its functional groups say of all, and of this one.

    Raises:
        UnreadableError: if they cannot be read.
    """
    tags = [SHARED, PER_FRAME]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            groups = pydicom.dcmread(image.path, force=True, specific_tags=tags, stop_before_pixels=True)
            headers = []
            for own in groups.get(PER_FRAME) or ():
                header = Dataset()
                header.update(image.header)
                for one, name in itertools.product((*(groups.get(SHARED) or ()), own), GROUPS):
                    if one.get(name):
                        header.update(one[name][0])
                headers.append(header)
            return headers
    except Exception as error:  # of a damaged file, pydicom raises nearly anything
        raise unreadable(image.path, error) from error


def _read_header(path: Path) -> _Image | _NoImage | Problem:
    unreadable = Problem(path, "a file that cannot be read as DICOM", "an intact DICOM file", COPY_AGAIN)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of values that are not as the standard has them; those we need are checked
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(HEADER))
            uid = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""))
            is_image = "Rows" in header and "Columns" in header
            if uid == MediaStorageDirectoryStorage or (path.name.upper() == "DICOMDIR" and not is_image):
                return _NoImage(path, "DICOMDIR")
            if not uid and not is_image:
                return unreadable
            kind = uid.name if not uid.is_private else "an object of the manufacturer's own"
            if kind != uid and "Image Storage" not in kind and not (uid.is_private and is_image):
                return _NoImage(path, kind)
            if not is_image:
                found = f"a file that ends before its image ({kind})" if kind != uid else f"no image ({uid})"
                return Problem(path, found, "an intact DICOM slice", COPY_AGAIN)
            image = _Image(path, header, _read_place(header), path.name)
            if "Secondary Capture" in kind and image.place is None:
                return _NoImage(path, "Secondary Capture")
            if image.place is None and image.frames == 1 and len(headers := _headers_of_frames(image)) == 1:
                image = replace(image, header=headers[0], place=_read_place(headers[0]))
            _ = image.series, image.frames, image.size, int(header.get("SamplesPerPixel") or 1)  # raise if they are odd
            return image
    except Exception:  # of a damaged file, pydicom raises nearly anything
        return unreadable


def _read_place(header: Dataset) -> _Place | None:
    try:
        position = np.array(header.ImagePositionPatient, dtype=float).reshape(3)
        orientation = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
        spacing = np.array(header.PixelSpacing, dtype=float).reshape(2)
    except (AttributeError, TypeError, ValueError):
        return None
    values = np.concatenate([position, orientation.ravel(), spacing])
    return _Place(position, orientation, spacing) if np.isfinite(values).all() and (spacing > 0).all() else None


def _place(image: _Image) -> _Place:
    assert image.place is not None
    return image.place


def _choose(folder: Path, images: Sequence[_Image]) -> tuple[Sequence[_Image], list[str] | Problem]:
    """The images of the one series to read, and notes about those left out, or the choice as a problem.

    A series of slices that are not parallel (a localiser), in colour or captured of a screen is no candidate where
    another one has as many. One in another plane is no choice where one is sagittal: of the spine, axial series have
    the most slices. Nor is one of T1 and T2, however many slices it has, nor a map or a gradient echo beside one of
    them.
    """
    by_series: dict[str, list[_Image]] = {}
    for image in images:
        by_series.setdefault(image.series, []).append(image)
    if len(by_series) < 2:
        return images, []
    groups = sorted(by_series.values(), key=lambda group: (_could_be_volume(group), _count(group)), reverse=True)
    first, *others = groups
    described = [_describe(folder, group) for group in groups]
    if not _stands_out(first, others):
        found = f"{len(groups)} series in one folder: {', '.join(described)}"
        expected = (
            f"one series, or one that has {CLEAR_MAJORITY} times the slices of any other of the same examination, that "
            "is sagittal if any is, and the only weighting"
        )
        return [], Problem(
            folder, found, expected, "give the folder of one series, or move each to a folder of its own"
        )
    return first, [f"series {described[0]} is taken, left out: {', '.join(described[1:])}"]


def _stands_out(first: Sequence[_Image], others: Sequence[Sequence[_Image]]) -> bool:
    number, weighting = _count(first), _weighting(first)
    several = [group for group in others if _count(group) > 1]
    rivals = [group for group in others if _could_be_volume(group)]
    other_weightings = {found for group in several if (found := _weighting(group))} - {weighting}
    return (
        _could_be_volume(first)
        and all(_count(group) <= number for group in others)
        and all(_count(group) * CLEAR_MAJORITY <= number for group in rivals)
        and all(_same_examination(first, group) for group in rivals if _count(group) > 1)
        and (not other_weightings or (not weighting and len(other_weightings) < 2 and may_be_weighted(first[0].header)))
        and (_is_sagittal(first) or not any(map(_is_sagittal, several)))
    )


def _count(group: Sequence[_Image]) -> int:
    """Slices of a series, each place once."""
    places = {tuple(np.round(one.place.position, 2)) if one.place else one.path for one in group}
    return len(places) + sum(one.frames - 1 for one in group)


def _is_sagittal(group: Sequence[_Image]) -> bool:
    """Whether the slices of a series lie in a sagittal plane rather than another one, as far as it is known."""
    headers = [header for one in group for header in (_headers_of_frames(one) if one.frames > 1 else [one.header])]
    normals = [np.abs(np.cross(*place.orientation)) for header in headers if (place := _read_place(header))]
    return bool(normals) and all(normal.argmax() == 0 for normal in normals)  # from right to left


def _weighting(group: Sequence[_Image]) -> str:
    """T1 or T2, where a series that might be one says so; empty else."""
    return acquisition_of(group[0].header).weighting if _could_be_volume(group) else ""


def _could_be_volume(group: Sequence[_Image]) -> bool:
    """Whether a series might be one, were it whole: its slices are grey, parallel, and not captured of a screen."""
    if any(_check_grey(one) or "Secondary Capture" in UID(one.header.get("SOPClassUID") or "").name for one in group):
        return False
    if any(one.frames > 1 for one in group):
        return True
    placed = [one.place for one in group if one.place is not None]
    return bool(placed) and all(
        np.allclose(one.orientation, placed[0].orientation, atol=COSINE_TOLERANCE) for one in placed
    )


def _same_examination(one: Sequence[_Image], other: Sequence[_Image]) -> bool:
    return all(one[0].header.get(key) == other[0].header.get(key) for key in EXAMINATION)


def _describe(folder: Path, group: Sequence[_Image]) -> str:
    header = group[0].header
    words = [
        str(value) for key in ("SeriesNumber", "SeriesDescription") if (value := header.get(key)) not in (None, "")
    ]
    where = group[0].path.parent.relative_to(folder).as_posix()
    words += [] if where == "." else [f"in {where}"]
    slices = counted(_count(group), "slice")
    return f"{header.get('SeriesInstanceUID') or 'without a name'} ({', '.join([*words, slices])})"


def _describe_left_out(folder: Path, objects: Sequence[_NoImage]) -> Iterator[str]:
    for kind in dict.fromkeys(one.kind for one in objects):
        yield f"no image, left out: {_names(folder, [one.path for one in objects if one.kind == kind])} ({kind})"


def _names(folder: Path, paths: Sequence[Path]) -> str:
    names = [path.relative_to(folder).as_posix() for path in paths]
    return shorten(names)


def _check_grey(image: _Image) -> Problem | None:
    samples = int(image.header.get("SamplesPerPixel") or 1)
    if samples != 1:
        found = f"{samples} values per pixel"
    elif image.header.get("PhotometricInterpretation") == "PALETTE COLOR":
        found = "colours by a palette, whose numbers are no grey values"
    else:
        return None
    return Problem(image.path, found, "one grey value per pixel", "leave the case out, or the images in colour")


def _check_place(image: _Image) -> Problem | None:
    """Check that it is known where a slice lies."""
    if image.place is None:
        expected = "ImagePositionPatient, ImageOrientationPatient and PixelSpacing in each slice"
        return Problem(image.path, "a slice without its place in the patient", expected, "export the series again")
    skew = np.abs(image.place.orientation @ image.place.orientation.T - np.eye(2)).max()
    if not skew <= COSINE_TOLERANCE:
        found = f"ImageOrientationPatient {image.place.orientation.ravel().tolist()}"
        expected = "rows and columns of unit length that are perpendicular to each other"
        return Problem(image.path, found, expected, "export the series again")
    return None


def _check_uniform(images: Sequence[_Image]) -> Problem | None:
    """Check that slices have one grid but for their position."""
    first = _place(images[0])
    for image in images[1:]:
        place = _place(image)
        if (patient := image.header.get("PatientID")) != (other := images[0].header.get("PatientID")):
            found = f"a slice of the patient {patient!r} among those of {other!r}"
            remedy = "find out whose slices these are; if an anonymisation gave them several names, repeat it"
            return Problem(image.path, found, "slices of one patient", remedy)
        if not _same_examination([image], images):
            found = f"a slice of another examination than {images[0].path.name}, by its StudyInstanceUID"
            return Problem(image.path, found, "slices of one examination", "give the folder of one series alone")
        if differs := _of_another_acquisition(image.header, images[0].header):
            found = f"slices of two acquisitions under one name: {differs}, as in {images[0].name} and {image.name}"
            remedy = "keep the slices of one of them in the folder"
            return Problem(image.path, found, "slices of one acquisition", remedy)
        colours = [one.header.get("PhotometricInterpretation") for one in (images[0], image)]
        if (colours[0] == "MONOCHROME1") != (colours[1] == "MONOCHROME1"):
            found = f"slices of {colours[0]} and of {colours[1]}, as {images[0].name} and {image.name}"
            return Problem(image.path, found, "slices of one PhotometricInterpretation", "export the series again")
        if image.size != images[0].size or not np.allclose(place.spacing, first.spacing, rtol=1e-4):
            sizes, spacings = f"{images[0].size} and {image.size}", f"{first.spacing} and {place.spacing}"
            found = f"slices of size {sizes}, pixels {spacings} mm"
            return Problem(image.path, found, "one size and one pixel spacing", "leave the odd slices out")
        if not np.allclose(place.orientation, first.orientation, atol=COSINE_TOLERANCE):
            found = f"slices in several orientations, as in {images[0].name} and {image.name}"
            return Problem(image.path, found, "parallel slices", "leave localisers and reformats out of the folder")
    return None


def _of_another_acquisition(one: Dataset, other: Dataset) -> str:
    """What tells that two slices of one SeriesInstanceUID were not acquired together; empty where nothing does.

    Anonymisation may give several series the same.
    """
    for key in ACQUISITION:
        values = [header.get(key) for header in (other, one)]
        if None in values or "" in values or values[0] == values[1]:
            continue
        if not key.endswith("Time") or not math.isclose(*map(_number, values), rel_tol=ECHO_TOLERANCE):
            return f"{key} {values[0]} and {values[1]}"
    return ""


def _missing_slices(slices: Sequence[_Image], step: float) -> Iterator[str]:
    """Notes on slices that may not have been sent, between those that are there or at the ends, or are of two runs."""
    keys = ("SpacingBetweenSlices", "SliceThickness", "ImagesInAcquisition")
    own, thickness, acquired = (_number(slices[0].header.get(key)) for key in keys)
    jumps = {abs(jump) for jump in np.diff([_number(one.header.get("InstanceNumber")) for one in slices])}
    between = "slices between them may be missing"
    # Some scanners write the gap between slices in place of their spacing; it is smaller than a slice is thick.
    if 0 < thickness <= own:
        times = step / own
        if round(times) >= THINNED and abs(times - round(times)) <= STEP_TOLERANCE:
            yield f"its slices lie {step:.3g} mm apart, and by its header {own:.3g} mm: {between}"
        elif times < INTERLEAVED:
            yield f"its slices lie {step:.3g} mm apart, and by its header {own:.3g} mm: are they of two acquisitions?"
    elif step >= THINNED * thickness > 0:
        yield f"its slices lie {step:.3g} mm apart and are {thickness:.3g} mm thick: {between}"
    elif len(jumps) == 1 and (jump := jumps.pop()) >= THINNED:
        yield f"the numbers of its slices go up by {jump:.0f}: {between}"
    if acquired > len(slices):
        yield f"{acquired:.0f} images were acquired, by its header, and {len(slices)} are here (ImagesInAcquisition)"


def _number(value: object) -> float:
    """A header's value as a number, NaN where it is none."""
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _pixels(image: _Image) -> Pixels:
    """Values of a slice; see `pixels_of`.

    Raises:
        UnreadableError: if there are no intact pixels.
    """
    stored = stored_values(image.path)[0] if image.stored is None else image.stored
    return pixels_of(stored, image.header, image.path)


def _without_doubles(slices: Sequence[_Image]) -> tuple[list[_Image], list[Path]]:
    """Of sorted slices each one once: those with another one's place and values are left out, and returned apart."""
    kept: list[_Image] = []
    doubles = []
    for one in slices:
        beside = itertools.takewhile(functools.partial(_same_place, one), reversed(kept))
        if any(np.array_equal(_pixels(other).values, _pixels(one).values) for other in beside):
            doubles.append(one.path)
        else:
            kept.append(one)
    return kept, list(dict.fromkeys(doubles))


def _same_place(one: _Image, other: _Image) -> bool:
    return bool(np.abs(_place(other).position - _place(one).position).max() <= SAME_PLACE)


def _check_positions(folder: Path, slices: Sequence[_Image], normal: np.ndarray) -> tuple[Problem | None, float]:
    """Check that sorted slices are equally far from each other and lie straight above each other.

    Returns:
        A problem, or None, and the step between slices in mm.
    """
    if len(slices) < 2:
        remedy = "give the folder that holds all slices of the one series"
        return Problem(folder, "one slice, several times", "a series of single slices", remedy), 0.0
    positions = np.array([_place(one).position for one in slices])
    steps = np.diff(positions @ normal)
    step = float(np.median(steps))
    if (close := np.flatnonzero(steps < STEP_TOLERANCE)).size:
        names = f"{slices[close[0]].name} and {slices[close[0] + 1].name}"
        apart = np.linalg.norm(np.diff(positions, axis=0)[close], axis=1).max()
        if apart > STATION:
            found = f"slices beside each other, up to {apart:.0f} mm apart, such as {names}: stations of a longer scan?"
            remedy = "give each station a folder of its own, or the series that is composed of them"
            return Problem(folder, found, "slices that follow each other", remedy), step
        found = f"{counted(len(close), 'slice')} at the same place as another one, such as {names}"
        remedy = "keep one echo, time point or repetition in the folder, and none with drawings in its pixels"
        return Problem(folder, found, "one slice at each place", remedy), step
    if (uneven := np.flatnonzero(np.abs(steps - step) > STEP_TOLERANCE)).size:
        at = int(uneven[0])
        names = f"{slices[at].name} and {slices[at + 1].name}"
        found = f"a step of {steps[at]:.3g} mm between {names}, where most are {step:.3g} mm"
        times = steps[at] / step
        missing = abs(times - round(times)) < STEP_TOLERANCE and round(times) > 1
        if missing:
            found += f": {counted(round(times) - 1, 'missing slice')}"
        remedy = "add the missing slices" if missing else "resample the series to equal steps"
        return Problem(folder, found, f"equal steps within {STEP_TOLERANCE} mm", f"{remedy}, or leave it out"), step
    beside = positions - positions[0] - np.outer((positions - positions[0]) @ normal, normal)
    if (shift := float(np.linalg.norm(beside, axis=1).max())) > STEP_TOLERANCE:
        found = f"slices that lie up to {shift:.3g} mm beside each other (a sheared stack)"
        expected = f"slices straight above each other within {STEP_TOLERANCE} mm"
        return Problem(folder, found, expected, "resample the series to a grid without shear"), step
    return None, float(steps.mean())
