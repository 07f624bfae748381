"""The training cases of a raw data set: their files, the labels that each mask holds, and their patients."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.utils import (
    get_filenames_of_train_images_and_targets,
    get_identifiers_from_splitted_dataset_folder,
)

from dataset_conversion.environment import folder_of, is_text
from dataset_conversion.reading import PICTURE_ENDINGS
from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.label_reading import read_label_file
from nnunetv2_cafr.plans_fields import channels_of
from nnunetv2_cafr.processes import in_processes
from nnunetv2_cafr.spine import BACKGROUND, IGNORE, values_of

PROBLEMS_SHOWN = 10


@dataclass(frozen=True)
class Case:
    """A training case; `labels` are the names of those that its mask holds, without background and ignore."""

    images: tuple[Path, ...]
    mask: Path
    patient: str
    labels: frozenset[str]


@dataclass(frozen=True)
class Dataset:
    """A raw data set.

    Args:
        description, provenance: contents of dataset.json and provenance.json, the latter None if there is none.
        labels: names of all labels that count, in the order of dataset.json.
        cases: by identifier.
    """

    folder: Path
    description: dict[str, Any]
    provenance: dict[str, Any] | None
    labels: tuple[str, ...]
    cases: dict[str, Case]


def require_folders(*variables: str) -> None:
    """Makes sure that nnU-Net's folders are named in the environment, from here on by their full paths.

    Relative ones would be others to a process that works in another folder, as Snakemake does.

    Raises:
        UserError: with the variable, and what is wrong with it.
    """
    for variable in variables:
        try:
            os.environ[variable] = str(folder_of(variable).absolute())
        except ValueError as error:
            raise UserError(str(error)) from error


def name_of_dataset(dataset: str) -> str:
    """Full name of a data set, where it is given by its number; nnU-Net looks in all of its folders.

    Raises:
        UserError: if there is none, or are several, of this number.
    """
    try:
        return str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error)) from error


def find_dataset(dataset: str) -> Path:
    """Folder of a raw data set.

    Raises:
        UserError: if nnUNet_raw is not set, or holds none, or several, of this id or name.
    """
    require_folders("nnUNet_raw")
    folder = Path(str(nnUNet_raw)) / name_of_dataset(dataset)
    if not (folder / "dataset.json").is_file():
        raise UserError(f"No raw data set {folder.name}: {folder / 'dataset.json'} is missing; convert the data first")
    return folder


def patients_of(dataset: str, identifiers: Sequence[str]) -> dict[str, str]:
    """Patient of each of these training cases, from the raw data set's provenance.json; without one, each its own.

    Raises:
        UserError: if the raw data set is not there, or its provenance.json lacks a case.
    """
    return patients_by_provenance(find_dataset(dataset) / "provenance.json", identifiers)


def read_dataset(folder: Path, num_processes: int) -> Dataset:
    """Reads everything that decides about a split, all masks included, in `num_processes` processes.

    Raises:
        UserError: if anything is missing, unreadable or contradictory; names every file.
    """
    description = read_json(folder / "dataset.json")
    try:
        values = {name: frozenset(map(int, values_of(value))) for name, value in description["labels"].items()}
        if not values.keys() - {BACKGROUND, IGNORE}:
            raise ValueError("labels has no structure")
        reader = determine_reader_writer_from_dataset_json(description, verbose=False)
        files = case_files(folder, description)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OSError, OverflowError) as error:
        raise UserError(
            f"{folder} is no data set that nnU-Net v2 can train on ({type(error).__name__}: {error}). Expected are "
            "dataset.json with labels, channel_names, numTraining and file_ending, and folders imagesTr and labelsTr"
        ) from error
    if not files:
        ending = description["file_ending"]
        raise UserError(f"{folder / 'imagesTr'} holds no case; expected are files named CASE_0000{ending}")
    _require_images(folder, files, description)
    provenance = folder / "provenance.json"
    patients = patients_by_provenance(provenance, list(files))
    masks = [mask for _, mask in files.values()]
    found = _read_masks(masks, reader, frozenset().union(*values.values()), num_processes)
    names = tuple(name for name in values if name not in (BACKGROUND, IGNORE))
    cases = {
        identifier: Case(images, mask, patients[identifier], frozenset(name for name in names if values[name] & held))
        for (identifier, (images, mask)), held in zip(files.items(), found, strict=True)
    }
    return Dataset(folder, description, read_json(provenance) if provenance.is_file() else None, names, cases)


def _require_images(folder: Path, files: Iterable[str], description: Mapping[str, Any]) -> None:
    """Raises UserError, which names the masks that have no image: no case is lost in silence."""
    if "dataset" in description or not (folder / "labelsTr").is_dir():
        return
    ending = description["file_ending"]
    names = sorted(path.name for path in (folder / "labelsTr").glob(f"*{ending}") if not path.name.startswith("."))
    lonely = [name for name in names if name.removesuffix(ending) not in files]
    if lonely:
        raise UserError(
            f"Nothing was written: {folder / 'labelsTr'} holds {shorten(lonely)} without an image in imagesTr. Add the "
            "images, or move the masks elsewhere"
        )


def case_files(folder: Path, description: dict[str, Any]) -> dict[str, tuple[tuple[Path, ...], Path]]:
    """Images and mask of each training case, by identifier, as nnU-Net finds them."""
    ending = description["file_ending"]
    if "dataset" in description:  # dataset.json names the files itself
        listed = get_filenames_of_train_images_and_targets(str(folder), description)
        return {
            identifier: (tuple(map(Path, listed[identifier]["images"])), Path(listed[identifier]["label"]))
            for identifier in sorted(listed)
        }
    images, masks = folder / "imagesTr", folder / "labelsTr"
    identifiers = [str(name) for name in get_identifiers_from_splitted_dataset_folder(str(images), ending)]
    channels = range(len(channels_of(description)))
    files = {}
    for identifier in identifiers:
        of_case = tuple(images / f"{identifier}_{channel:04d}{ending}" for channel in channels)
        if ending.lower() in PICTURE_ENDINGS:
            of_case = tuple(file for file in of_case if file.is_file())
        files[identifier] = of_case, masks / f"{identifier}{ending}"
    return files


def patients_by_provenance(path: Path, identifiers: Sequence[str]) -> dict[str, str]:
    """Patient of each of these cases by a provenance.json; where that is not there, each is a patient of its own.

    Raises:
        UserError: if it does not say so for every case.
    """
    if not path.is_file():
        return {identifier: identifier for identifier in identifiers}
    entries = read_json(path).get("cases")
    if not isinstance(entries, dict):
        raise UserError(f"{path} has no 'cases', expected {{'cases': {{CASE: {{'patient': ...}}}}}}; correct it")
    unknown = [name for name in identifiers if name not in entries]
    if unknown:
        others = sorted(entries.keys() - set(identifiers))
        raise UserError(
            f"{path} lacks {len(unknown)} of the {len(identifiers)} cases: {shorten(unknown)}. It has "
            f"{f'{len(others)} that are none of them: {shorten(others)}' if others else 'no other cases'}. Give "
            "each case an entry with its patient, or remove the file if each case is a patient of its own"
        )
    patients: dict[str, str] = {}
    for name in identifiers:
        patient = entries[name].get("patient") if isinstance(entries[name], dict) else None
        if isinstance(patient, str) and patient:
            patients[name] = patient
    nameless = [name for name in identifiers if name not in patients]
    if nameless:
        raise UserError(
            f"{path} has no patient for {len(nameless)} of the {len(identifiers)} cases: {shorten(nameless)}. "
            'Expected is a text that is not empty, such as "patient": "17"'
        )
    return patients


def _read_masks(
    masks: Sequence[Path], reader: type[BaseReaderWriter], allowed: frozenset[int], num_processes: int
) -> list[frozenset[int]]:
    """Label values of each mask, in order."""
    read = partial(_values_or_problem, reader=reader, allowed=allowed)
    found = dict(in_processes(read, masks, num_processes, "reading masks", "mask"))
    results = [found[mask] for mask in masks]
    values = [result for result in results if not isinstance(result, str)]
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        more = [f"... and {len(problems) - PROBLEMS_SHOWN} more"] if len(problems) > PROBLEMS_SHOWN else []
        raise UserError("\n".join(["Nothing was written:", *problems[:PROBLEMS_SHOWN], *more]))
    return values


def _values_or_problem(mask: Path, reader: type[BaseReaderWriter], allowed: frozenset[int]) -> frozenset[int] | str:
    """Label values of a mask, or what is wrong with it."""
    if not mask.is_file():
        return f"{mask} is missing: add the mask, or move the case's images out of imagesTr"
    if not is_text(mask.name):
        return f"{mask} has a name in another encoding than UTF-8: rename it, and the case's images with it"
    try:
        values = np.unique(read_label_file(mask, reader)[0])
    except ValueError as error:
        return str(error)
    foreign = [np.format_float_positional(value, trim="-") for value in values if value not in allowed]
    between = [value for value in values if np.isfinite(value) and value != np.rint(value)]
    if between:
        read = shorten([f"{np.format_float_positional(value, trim='-')} as {int(value)}" for value in between])
        return (
            f"{mask} holds {len(between)} values that are no whole numbers, which nnU-Net casts down: {read}. Round "
            "the mask and store it as integers, or export it again without interpolation"
        )
    if foreign:
        return (
            f"{mask} holds {shorten(foreign)}, but dataset.json has the labels {min(allowed)} to {max(allowed)} only: "
            "correct the mask, or add the label"
        )
    return frozenset(map(int, values))
