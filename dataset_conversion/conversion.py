"""From a collection to a data set: every case is read completely, checked and written; all problems go in one report.

`Dataset###_Name` appears complete, or not at all.
"""

from __future__ import annotations

import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from dataset_conversion import staging
from dataset_conversion.cases import Case, check_identifiers
from dataset_conversion.collection import Collection
from dataset_conversion.contrast import Acquisition, doubt_about_contrast
from dataset_conversion.dicom import find_torn
from dataset_conversion.documents import converter_version, write_dataset_json, write_provenance
from dataset_conversion.geometry import (
    check_axes,
    check_sagittal,
    check_same_grid,
    orient,
    orientation_of,
    slices_of_nnunet,
)
from dataset_conversion.labels import IGNORE, LabelTable, Structure, make_labelling, make_lookup, map_labels
from dataset_conversion.problems import ConversionError, Problem
from dataset_conversion.reading import read_volume
from dataset_conversion.writing import write_image, write_mask
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.processes import exit_on_signal, in_processes, on_signal


@dataclass(frozen=True)
class _CheckedImage:
    volume: sitk.Image  # as it is stored
    oriented: sitk.Image
    stored: bytes | None  # the file's content, where that can be copied as it is
    sha256: str
    original_orientation: str
    notes: tuple[str, ...]
    acquisition: Acquisition | None


def _check_image(path: Path) -> tuple[_CheckedImage | None, list[Problem]]:
    volume, problems = read_volume(path)
    if volume is None:
        return None, problems
    array = sitk.GetArrayViewFromImage(volume.image)
    if not problems and array.min() == array.max():
        remedy = "find the right image, or leave the case out"
        problems.append(Problem(path, f"the value {array.min():g} in every voxel", "an image", remedy))
    if bent := check_axes(path, volume.image):
        return None, problems + bent
    oriented = orient(volume.image)
    problems += check_sagittal(path, oriented)
    stored = volume.stored if oriented is volume.image else None
    order = orientation_of(volume.image)
    checked = _CheckedImage(volume.image, oriented, stored, volume.sha256, order, volume.notes, volume.acquisition)
    return checked, problems


def _check_mask(
    path: Path, image_path: Path, image: _CheckedImage | None, lookup: np.ndarray, ignored: int | None
) -> tuple[np.ndarray | None, str | None, list[str], list[Problem]]:
    """Labels to write (uint8; z, y, x), or None; SHA-256 of the file and notes on it; what is wrong."""
    volume, problems = read_volume(path)
    if volume is None:
        return None, None, [], problems
    mask = volume.image
    labels = None
    if not problems:
        labels, label_problems = map_labels(path, mask, lookup, ignored)
        problems += label_problems
    bent = check_axes(path, mask)
    problems += bent
    if image is not None and not bent:
        problems += check_same_grid(path, mask, image_path, image.volume)
    if labels is None or problems:
        return None, volume.sha256, [], problems
    written = sitk.GetImageFromArray(labels)
    written.CopyInformation(mask)
    notes = [f"mask: {note}" for note in volume.notes]
    return sitk.GetArrayFromImage(orient(written)), volume.sha256, notes, []


def process_case(
    case: Case, table: LabelTable, values: dict[str, int], channel: str, folder: Path | None
) -> tuple[Case, dict[str, Any], list[Problem]]:
    """Read a case's files completely and check them; if all is well, write them into `folder` (None: only check).

    Args:
        channel: name of the data set's, which a DICOM series may contradict.

    Returns:
        The case, what is to be known about its files, and what is wrong with them.
    """
    image, problems = _check_image(case.image)
    labels, mask_sha256 = None, None
    of_mask: list[str] = []
    if case.mask is not None:
        lookup = make_lookup(case.table or table, values)
        ignored = values.get(IGNORE.name)
        labels, mask_sha256, of_mask, mask_problems = _check_mask(case.mask, case.image, image, lookup, ignored)
        problems += mask_problems
    if image is None or problems:
        return case, {}, problems
    found = None if image.acquisition is None else doubt_about_contrast(image.acquisition, channel)
    record = {
        "sha256": {"image": image.sha256, "mask": mask_sha256},
        "original_orientation": image.original_orientation,
        "spacing": list(image.oriented.GetSpacing()),
        "notes": [*image.notes, *of_mask, *([f"{found}, and the channel is {channel}"] if found else [])],
    }
    if folder is not None:
        write_image(image.oriented, image.stored, staging.image_path(folder, case))
        if labels is not None:
            write_mask(labels, image.oriented, staging.mask_path(folder, case))
        staging.save_record(folder, case, record)
    return case, record, []


def _check_torn(cases: Sequence[Case]) -> list[Problem]:
    """A DICOM series of which two cases have a part each."""
    folders = list(dict.fromkeys(case.image for case in cases if case.image.is_dir()))
    torn = find_torn(folders) if len(folders) > 1 else None
    if torn is None:
        return []
    found, remedy = f"slices of the DICOM series that is in {torn[0]} too", "put them together, or leave both out"
    return [Problem(torn[1], found, "all slices of a series in one folder", remedy)]


def _structures_in(case: Case, table: LabelTable) -> set[Structure]:
    """The structures in a case's mask; none if the mask is in no order, which is found and said later."""
    volume, problems = (None, []) if case.mask is None else read_volume(case.mask)
    if volume is None or problems:
        return set()
    table = case.table or table
    values = np.rint(np.unique(sitk.GetArrayViewFromImage(volume.image))).astype(np.int64).tolist()
    return {table[value] for value in values if value in table}


def _labelled(collection: Collection, num_processes: int) -> list[Structure]:
    """The structures that get a value; of an open-ended collection those up to the last one that occurs."""
    structures = collection.labelled
    if not collection.open_ended:
        return structures
    seen: set[Structure] = set()
    work = partial(_structures_in, table=collection.table)
    for _, found in in_processes(work, collection.cases, num_processes, "surveying"):
        seen |= found
    while structures and structures[-1] not in seen - {IGNORE}:
        structures.pop()
    return structures + [IGNORE] * (IGNORE in seen)


def convert(
    collection: Collection,
    target: Path,
    scheme: str,
    num_processes: int,
    converter: str,
    notify: Callable[[str], object] = print,
) -> None:
    """Check all cases of a collection completely and write them as the nnU-Net data set `target`.

    SIGTERM ends it in an orderly way (`Signalled`, status 143), as Ctrl-C does: what was written is removed.

    Args:
        scheme: one of `labels.SCHEMES`.
        converter: name of the command, for the data set's documents.
        notify: is called with everything that the user should know and that is no obstacle.

    Raises:
        ConversionError: if there is any problem; nothing has been written then.
        OSError: if writing fails; what was written has been removed then.
        UserError: if the structures do not fit the scheme, or a worker process was killed; what was written has been
            removed then.
    """
    for note in collection.notes:
        notify(note)
    problems = [
        *collection.problems,
        *staging.check_target(target, collection.cases),
        *check_identifiers(collection.cases),
        *_check_torn(collection.cases),
    ]
    if not problems and not collection.num_training:
        remedy = "check the folder and the options that choose cases"
        problems.append(Problem(collection.source, "no training cases", "images with masks", remedy))
    with on_signal(signal.SIGTERM, exit_on_signal):
        structures = _labelled(collection, num_processes)
        try:
            labelling = make_labelling(structures, scheme)
        except ValueError as error:
            raise UserError(f"--labels {scheme}: {error}") from error
        work = partial(process_case, table=collection.table, values=dict(labelling.values), channel=collection.channel)
        if problems:
            check = partial(work, folder=None)
            for _, (_, _, found) in in_processes(check, collection.cases, num_processes, "checking"):
                problems += found
            raise ConversionError(problems)

        options = {**collection.options, "labels": scheme}
        settings = {
            "converter": converter,
            "version": converter_version(),
            "source": str(collection.source.resolve()),
            "options": options,
            "values": labelling.values,
        }
        with staging.staged_directory(target, settings) as (folder, notes):
            for note in notes:
                notify(note)
            for name in ("imagesTr", "labelsTr", "imagesTs"):
                (folder / name).mkdir(exist_ok=True)
            records = _process_all(collection.cases, work, folder, num_processes, notify)
            if collection.num_training == len(collection.cases):
                shutil.rmtree(folder / "imagesTs", ignore_errors=True)
            spacings = [records[case.identifier]["spacing"] for case in collection.cases if case.mask is not None]
            if spacings and (warning := slices_of_nnunet(spacings)):
                notify(warning)
            write_dataset_json(collection, labelling, converter, folder)
            write_provenance(collection, options, records, converter, folder)


def _process_all(
    cases: Sequence[Case],
    work: Callable[..., tuple[Case, dict[str, Any], list[Problem]]],
    folder: Path,
    num_processes: int,
    notify: Callable[[str], object],
) -> dict[str, dict[str, Any]]:
    """Write all cases that are not finished yet; returns the record of each case by its identifier."""
    staging.remove_others(folder, cases)
    records = {case.identifier: record for case in cases if (record := staging.load_record(folder, case))}
    if records:
        notify(f"goes on with an interrupted conversion: {len(records)} of {len(cases)} cases are finished")
    rest = [case for case in cases if case.identifier not in records]
    problems: list[Problem] = []
    for case, (_, record, found) in in_processes(partial(work, folder=folder), rest, num_processes, "converting"):
        records[case.identifier] = record
        problems += found
        for note in record.get("notes", ()):
            notify(f"{case.identifier}: {note}")
    if problems:
        raise ConversionError(problems)
    for note in _same_images(cases, records):
        notify(note)
    return records


def _same_images(cases: Sequence[Case], records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Notes on cases of several patients that have one file for an image."""
    by_content: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_content[records[case.identifier]["sha256"]["image"]].append(case)
    for same in by_content.values():
        if len({case.patient for case in same}) > 1:
            yield f"{' and '.join(case.identifier for case in same)} are of several patients, and have the same image"
