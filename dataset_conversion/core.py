"""What all converters share: pair files, check every voxel, report all problems at once, write atomically.

A source module contributes its folder layout and its label table. It lists its `Case`s (with `pair_files` where images
and masks lie in two folders) and hands them to `convert`, which writes `Dataset###_Name` as nnU-Net expects it: either
complete, or not at all.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

FILE_ENDING = ".nii.gz"

# How far a mask's header may differ from its image's. Together they move no voxel of a 300 mm field of view by more
# than one pixel of 0.5 mm; the mask is written with the header of the image.
SPACING_TOLERANCE = 1e-4  # relative
ORIGIN_TOLERANCE = 0.1  # mm
DIRECTION_TOLERANCE = 1e-3  # per direction cosine
INTEGRAL_TOLERANCE = 1e-3  # how far a float may lie from the label that it stands for
NIFTI_FLOATS = (16, 64)  # data type codes of float32 and float64
NIFTI_HEADER_SIZES = (348, 540)  # of NIfTI-1 and NIfTI-2; read in the wrong byte order, the number is another one

Result = TypeVar("Result")


@dataclass(frozen=True)
class Problem:
    """One finding about one file or folder."""

    path: Path
    found: str
    expected: str
    remedy: str


class ConversionError(Exception):
    """The source cannot be converted; carries all problems found, and its text is the report of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: _natural_order(problem.path))
        count = len(self.problems)
        lines = [f"{count} {'problem' if count == 1 else 'problems'} found; nothing was written."]
        for number, problem in enumerate(self.problems, 1):
            lines += [
                f"{number}. {problem.path}",
                f"   found:    {problem.found}",
                f"   expected: {problem.expected}",
                f"   to do:    {problem.remedy}",
            ]
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Case:
    """One image, with its mask where it is a training case; `identifier` is nnU-Net's name for it."""

    identifier: str
    image: Path
    mask: Path | None = None


@dataclass(frozen=True)
class DatasetDescription:
    """What `dataset.json` says about a data set. `labels` has the background as 0 and consecutive values."""

    name: str
    labels: Mapping[str, int]
    channel_names: Mapping[int, str]
    description: str
    reference: str
    licence: str
    converted_by: str


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key which puts Case9 before Case10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", str(path))]


def _files_by_number(folder: Path, pattern: re.Pattern[str]) -> tuple[dict[int, Path], list[Problem]]:
    """The NIfTI files of a folder by the number in their name (first group of `pattern`)."""
    by_number: dict[int, list[Path]] = defaultdict(list)
    problems = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith((".nii", ".nii.gz")):
            continue  # notes, and what operating systems leave in folders
        match = pattern.fullmatch(path.name)
        if match is None:
            problems.append(
                Problem(
                    path,
                    "a NIfTI file whose name has no case number that can be read",
                    f"a name that matches {pattern.pattern}",
                    "rename the file, or move it out of the folder",
                )
            )
        else:
            by_number[int(match[1])].append(path)
    for number, paths in by_number.items():
        problems += [
            Problem(
                path,
                f"case number {number} is taken by {paths[0].name} already",
                "one file per case number (leading zeros do not count)",
                "keep the right one of the two, or renumber one",
            )
            for path in paths[1:]
        ]
    return {number: paths[0] for number, paths in by_number.items()}, problems


def list_images(
    folder: Path, pattern: re.Pattern[str], identify: Callable[[int], str]
) -> tuple[list[Case], list[Problem]]:
    """List the images of a folder without masks; arguments as in `pair_files`."""
    images, problems = _files_by_number(folder, pattern)
    return [Case(identify(number), path) for number, path in sorted(images.items())], problems


def pair_files(
    image_folder: Path,
    image_pattern: re.Pattern[str],
    mask_folder: Path,
    mask_pattern: re.Pattern[str],
    identify: Callable[[int], str],
) -> tuple[list[Case], list[Problem]]:
    """Pair images and masks by the number in their names.

    Args:
        image_pattern, mask_pattern: match a whole file name; their first group is the case number.
        identify: makes nnU-Net's case identifier of a case number.

    Returns:
        The complete pairs, ordered by number, and what is wrong: names without a number, numbers that occur twice,
        images without a mask, masks without an image.
    """
    images, problems = _files_by_number(image_folder, image_pattern)
    masks, mask_problems = _files_by_number(mask_folder, mask_pattern)
    problems += mask_problems
    problems += [
        Problem(
            images[number],
            "an image without a mask",
            f"the mask of case {number} in {mask_folder}",
            "add the mask, or move the image out of the training images",
        )
        for number in images.keys() - masks.keys()
    ]
    problems += [
        Problem(
            masks[number],
            "a mask without an image",
            f"the image of case {number} in {image_folder}",
            "add the image, or remove the mask",
        )
        for number in masks.keys() - images.keys()
    ]
    numbers = sorted(images.keys() & masks.keys())
    return [Case(identify(number), images[number], masks[number]) for number in numbers], problems


def _read_content(path: Path) -> bytes | Problem:
    """Read and decompress a file. The end of a gzip stream proves by length and CRC-32 that it is complete."""
    remedy = "copy the file again from its source, or leave the case out"
    try:
        content = path.read_bytes()
        if not content:
            return Problem(path, "an empty file (0 bytes)", "a NIfTI volume", remedy)
        return gzip.decompress(content) if path.name.lower().endswith(".gz") else content
    except gzip.BadGzipFile as error:
        remedy += "; if it was never compressed, name it .nii"
        return Problem(path, f"no intact gzip file ({error})", "a gzip-compressed NIfTI volume", remedy)
    except EOFError:
        return Problem(path, "a truncated gzip file", "a complete gzip-compressed NIfTI volume", remedy)
    except zlib.error as error:
        return Problem(path, f"a damaged gzip file ({error})", "an intact gzip-compressed NIfTI volume", remedy)
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror or error})"
        return Problem(path, found, "a readable NIfTI volume", "check the link, the permissions and the disk")


def read_volume(path: Path) -> tuple[sitk.Image | None, list[Problem]]:
    """Read a scalar 3-D NIfTI volume completely; return it, or None, and what is wrong with the file.

    SimpleITK alone does not do. Of a truncated file it returns the missing part as zeros or noise, with no more than a
    warning on stderr; and NaN and infinity become 0 without a word. So the content is looked at here first.
    """
    content = _read_content(path)
    if isinstance(content, Problem):
        return None, [content]
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, components = reader.GetSize(), reader.GetNumberOfComponents()
        if len(size) != 3:
            found = f"{len(size)} dimensions, size {size}"
            return None, [Problem(path, found, "one 3-D volume", "export the volume alone, as 3-D")]
        if components != 1:
            found = f"{components} values per voxel (RGB, vectors or complex numbers)"
            return None, [Problem(path, found, "one grey value or label per voxel", "export it as a scalar volume")]
        offset, bits = int(float(reader.GetMetaData("vox_offset"))), int(reader.GetMetaData("bitpix"))
        voxels = int(np.prod(size, dtype=np.int64))
        expected = offset + voxels * bits // 8
        if len(content) < expected:
            found = f"truncated voxel data ({len(content)} bytes)"
            remedy = "copy the file again from its source, or leave the case out"
            return None, [Problem(path, found, f"{expected} bytes for size {size}", remedy)]
        image = reader.Execute()
        is_float = int(reader.GetMetaData("datatype")) in NIFTI_FLOATS
    except RuntimeError as error:
        found = f"a file that SimpleITK cannot read ({str(error).strip().splitlines()[-1].strip()})"
        return None, [Problem(path, found, "a NIfTI volume", "export it again, or leave the case out")]
    if is_float:
        byte_order = "<" if int.from_bytes(content[:4], "little") in NIFTI_HEADER_SIZES else ">"
        stored = np.frombuffer(content, f"{byte_order}f{bits // 8}", voxels, offset)
        not_finite = int(voxels - np.count_nonzero(np.isfinite(stored)))
        if not_finite:
            found = f"NaN or infinity in {not_finite} of {voxels} voxels"
            remedy = "replace them by a value that makes sense, or leave the case out"
            return image, [Problem(path, found, "finite values only", remedy)]
    return image, []


def _check_geometry(case: Case, image: sitk.Image, mask: sitk.Image) -> list[Problem]:
    """Compare the mask's grid with the image's."""
    assert case.mask is not None
    remedy = f"resample the mask to the grid of {case.image.name}, or find the mask that belongs to it"
    if image.GetSize() != mask.GetSize():
        return [Problem(case.mask, f"size {mask.GetSize()}", f"size {image.GetSize()}, as the image", remedy)]
    problems = []
    for name, relative, absolute in (
        ("Spacing", SPACING_TOLERANCE, 0.0),
        ("Origin", 0.0, ORIGIN_TOLERANCE),
        ("Direction", 0.0, DIRECTION_TOLERANCE),
    ):
        of_image, of_mask = getattr(image, f"Get{name}")(), getattr(mask, f"Get{name}")()
        if not np.allclose(of_mask, of_image, rtol=relative, atol=absolute):
            found, expected = (
                f"{name.lower()} ({', '.join(f'{value:.6g}' for value in values)})" for values in (of_mask, of_image)
            )
            tolerance = f"{relative:g} relative" if relative else f"{absolute:g}"
            problems.append(Problem(case.mask, found, f"{expected}, as the image, within {tolerance}", remedy))
    return problems


def _check_labels(path: Path, values: np.ndarray, labels: Mapping[str, int]) -> list[Problem]:
    """Check that a mask holds labels of the table only, as integers, and at least one beside the background."""
    lowest, highest = min(labels.values()), max(labels.values())
    rounded = np.rint(values)
    if np.abs(values - rounded).max() <= INTEGRAL_TOLERANCE and lowest <= rounded.min() and rounded.max() <= highest:
        if rounded.any():
            return []
        remedy = "find the right mask, or leave the case out"
        return [Problem(path, "an empty mask: background only", "at least one labelled structure", remedy)]
    found, counts = np.unique(values, return_counts=True)  # slow: only to say what is wrong
    # A float is a label if it lies next to an integer; beyond that, what it is not tells what to do about it.
    fractional = np.abs(found - np.rint(found)) > INTEGRAL_TOLERANCE
    foreign = ~fractional & ((np.rint(found) < lowest) | (np.rint(found) > highest))
    problems = []
    for wrong, kind, remedy in (
        (fractional, "values that are no integers", "export the mask again without interpolation"),
        (foreign, "labels that are not in the label table", "correct these voxels, or leave the case out"),
    ):
        if wrong.any():
            shown = [f"{value:g} ({count} voxels)" for value, count in zip(found[wrong], counts[wrong], strict=True)]
            text = ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
            problems.append(Problem(path, f"{kind}: {text}", f"integers from {lowest} to {highest}", remedy))
    return problems


def check_case(case: Case, labels: Mapping[str, int]) -> list[Problem]:
    """Read a case's files completely and return everything that is wrong with them."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what ITK would warn about is checked and reported here
    image, problems = read_volume(case.image)
    if case.mask is None:
        return problems
    mask, mask_problems = read_volume(case.mask)
    problems += mask_problems
    if mask is not None:
        problems += _check_labels(case.mask, sitk.GetArrayViewFromImage(mask), labels)
        if image is not None:
            problems += _check_geometry(case, image, mask)
    return problems


def write_case(case: Case, dataset: Path) -> None:
    """Write a checked case into nnU-Net's folders: the image as it is, the mask as uint8 on the image's grid."""
    target = dataset / ("imagesTs" if case.mask is None else "imagesTr") / f"{case.identifier}_0000{FILE_ENDING}"
    if case.image.name.lower().endswith(FILE_ENDING):
        shutil.copyfile(case.image, target)
    else:
        sitk.WriteImage(sitk.ReadImage(str(case.image)), target, useCompression=True)
    if case.mask is not None:
        labels = np.rint(sitk.GetArrayFromImage(sitk.ReadImage(str(case.mask)))).astype(np.uint8)
        mask = sitk.GetImageFromArray(labels)
        grid = sitk.ImageFileReader()
        grid.SetFileName(str(target))
        grid.ReadImageInformation()
        mask.SetSpacing(grid.GetSpacing())
        mask.SetOrigin(grid.GetOrigin())
        mask.SetDirection(grid.GetDirection())
        sitk.WriteImage(mask, dataset / "labelsTr" / f"{case.identifier}{FILE_ENDING}", useCompression=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the parent alone decides what follows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _for_each_case(
    work: Callable[[Case], Result], cases: Sequence[Case], num_processes: int, description: str
) -> Iterator[Result]:
    """Apply `work` to all cases, in `num_processes` processes which hold one case each; results come in any order."""
    progress = partial(tqdm, total=len(cases), desc=description, unit="case")
    num_processes = min(num_processes, len(cases))
    if num_processes <= 1:
        yield from map(work, progress(cases))
        return
    executor = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
    try:
        for future in progress(as_completed([executor.submit(work, case) for case in cases])):
            yield future.result()
    except BrokenProcessPool as error:
        raise MemoryError(
            f"a worker process ended unexpectedly while {description}, most likely for lack of memory; "
            f"use fewer than {num_processes} processes"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _on_signal(
    number: signal.Signals, handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """Handle a signal in this way for a while. Only the main thread may do so; in others this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Give a new sibling directory that becomes `target` at the end, or disappears if an exception comes in between.

    Only an end that no program can react to (SIGKILL, power failure) leaves the hidden sibling
    `.<name>.partial-<process id>`, which nnU-Net ignores; never a part of `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.partial-{os.getpid()}"
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            raise FileExistsError(f"{target} has come into being during the conversion; it was left as it is")
        temporary.rename(target)
    finally:
        # A second Ctrl-C must not stop the removal.
        with _on_signal(signal.SIGINT, signal.SIG_IGN), _on_signal(signal.SIGTERM, signal.SIG_IGN):
            shutil.rmtree(temporary, ignore_errors=True)


def check_target(target: Path) -> list[Problem]:
    """Check that neither the data set nor another one with its number exists: nnU-Net wants numbers to be unique."""
    number = target.name.split("_")[0]
    taken = sorted(target.parent.glob(f"{number}_*")) if target.parent.is_dir() else []
    return [
        Problem(
            path,
            "an existing data set" if path == target else f"another data set with the number of {target.name}",
            "a number that is free: nothing is ever overwritten",
            "choose another number with -d, or remove the data set yourself",
        )
        for path in taken
    ]


def _check_identifiers(cases: Sequence[Case]) -> list[Problem]:
    """Check that no two cases would be written to the same file."""
    first: dict[str, Case] = {}
    return [
        Problem(
            case.image,
            f"a second case named {case.identifier}, beside {first[case.identifier].image}",
            "identifiers that are unique in the data set",
            "remove or renumber one of the two",
        )
        for case in cases
        if first.setdefault(case.identifier, case) is not case
    ]


def _write_description(description: DatasetDescription, num_training: int, path: Path) -> None:
    content = {
        "name": description.name,
        "description": description.description,
        "reference": description.reference,
        "licence": description.licence,
        "converted_by": description.converted_by,
        "channel_names": {str(channel): name for channel, name in description.channel_names.items()},
        "labels": dict(description.labels),
        "numTraining": num_training,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def convert(
    cases: Sequence[Case],
    target: Path,
    description: DatasetDescription,
    num_processes: int,
    problems: Sequence[Problem] = (),
) -> None:
    """Check all cases completely, then write them as the nnU-Net data set `target`.

    SIGTERM ends it in an orderly way (`SystemExit` with status 143), as Ctrl-C does: what was written is removed.

    Args:
        problems: what was found so far, while listing the cases; becomes part of the report.

    Raises:
        ConversionError: if there is any problem; nothing has been written then.
        OSError: if writing fails; what was written has been removed then.
        MemoryError: if a worker process was killed; what was written has been removed then.
    """
    problems = [*problems, *check_target(target), *_check_identifiers(cases)]
    with _on_signal(signal.SIGTERM, _exit_on_signal):
        check = partial(check_case, labels=description.labels)
        for found in _for_each_case(check, cases, num_processes, "checking"):
            problems += found
        if problems:
            raise ConversionError(problems)

        with atomic_directory(target) as folder:
            for name in ("imagesTr", "labelsTr"):
                (folder / name).mkdir()
            if any(case.mask is None for case in cases):
                (folder / "imagesTs").mkdir()
            for _ in _for_each_case(partial(write_case, dataset=folder), cases, num_processes, "writing"):
                pass
            num_training = sum(case.mask is not None for case in cases)
            _write_description(description, num_training, folder / "dataset.json")
