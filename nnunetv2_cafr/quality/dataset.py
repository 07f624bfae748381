"""A raw data set as nnU-Net defines it: dataset.json, which files make up which case, and what is wrong with them."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from dataset_conversion.environment import is_text
from dataset_conversion.reading import FILE_ENDINGS, PICTURE_ENDINGS, fault_of
from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.quality.description import (
    ask_label_manager,
    channels_in,
    check_description,
    reader_of,
)
from nnunetv2_cafr.quality.findings import Finding, Severity
from nnunetv2_cafr.spine import IGNORE, is_spine_table, values_of
from nnunetv2_cafr.splits import FOLDS
from nnunetv2_cafr.splits.few_cases import few_cases
from nnunetv2_cafr.voxel_order import REORIENTING_READERS

IMAGE_ENDINGS = (*FILE_ENDINGS, *PICTURE_ENDINGS, ".tiff")


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case: an image per channel, and the mask of a training case (or of a test case in labelsTs)."""

    identifier: str
    images: tuple[Path, ...]
    mask: Path | None
    training: bool


@dataclass(frozen=True)
class LabelTable:
    """Labels of dataset.json as the voxels hold them.

    Args:
        names: name of each value but background and ignore. Of a region-based table, a value that no entry has for
            itself is named after the regions that hold it.
        ignore: value of the ignore label, or None.
    """

    names: Mapping[int, str]
    ignore: int | None

    @property
    def is_spine(self) -> bool:
        """Whether they are levels of the spine, by whatever names."""
        return is_spine_table(self.names.values())

    @classmethod
    def from_json(cls, labels: Mapping[str, Any]) -> LabelTable:
        regions: dict[int, list[str]] = defaultdict(list)
        names, ignore = {}, None
        for name, value in labels.items():
            values = list(map(int, values_of(value)))
            if name == IGNORE:
                ignore = next(iter(values), None)
            elif len(values) == 1:
                names[values[0]] = name
            else:
                for v in values:
                    regions[v].append(name)
        for value, containing in regions.items():
            names.setdefault(value, f"label {value} of {' + '.join(containing)}")
        names.pop(0, None)
        return cls(dict(sorted(names.items())), ignore)


@dataclass(frozen=True)
class RawDataset:
    """A raw data set. `findings` holds what is wrong with dataset.json and the files' names and number.

    Args:
        description: content of dataset.json.
        reader: that nnU-Net reads the files with; None where it has none.
        expected_values: that nnU-Net expects in a mask; None where it refuses the labels.
    """

    folder: Path
    description: Mapping[str, Any]
    reader: type[BaseReaderWriter] | None
    expected_values: tuple[int, ...] | None
    labels: LabelTable
    channels: int
    cases: tuple[CaseFiles, ...]
    patients: Mapping[str, str]
    findings: tuple[Finding, ...]
    reorients: bool = False  # whether nnU-Net's reader turns every case to one voxel order

    def relative(self, path: Path) -> str:
        """`path` below the data set's folder, for people to read."""
        return _below(self.folder, path)


def _below(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def read_dataset(folder: Path) -> RawDataset:
    """Reads dataset.json and lists the cases; opens an image only where its name does not say what it holds.

    Raises:
        UserError: if dataset.json is not there, or lacks what the checks need.
    """
    if not is_text(str(folder)):
        raise UserError(f"{folder} has a name in another encoding than UTF-8; rename it, or what it lies in")
    description = read_json(folder / "dataset.json")
    try:
        labels = LabelTable.from_json(description["labels"])
        channels, ending = len(description["channel_names"]), str(description["file_ending"])
        wrong = check_description(description)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{folder / 'dataset.json'}: {error!r}; expected labels, channel_names and file_ending as nnU-Net v2 "
            "writes them. Correct the file, or convert an nnU-Net v1 data set with nnUNetv2_convert_old_nnUNet_dataset"
        ) from error
    listing = _Listing(folder, ending, channels)
    listing.findings += wrong
    if "dataset" in description:
        cases = listing.listed_cases(description)
        listing.reader = _reader(description, [image for case in cases for image in case.images])
    else:
        listing.reader = _reader(description, listing.files("imagesTr"))
        listing.check_pages(listing.files("imagesTr"))
        cases = listing.cases("imagesTr", "labelsTr", training=True)
    training = len(description.get("dataset", cases))
    cases += listing.cases("imagesTs", "labelsTs", training=False)
    listing.name_left_out()
    if not cases:
        raise UserError(
            f"{folder} holds no case; expected files named CASE_0000{ending} in imagesTr. Is file_ending right?"
        )
    expected = description.get("numTraining")
    if expected != training:
        listing.add(
            "",
            Severity.ERROR,
            "number of cases",
            f"numTraining is {expected}, but {training} training cases are there",
            f"numTraining: {training}",
            "add the missing files, or correct numTraining: nnU-Net refuses to plan otherwise",
            folder / "dataset.json",
        )
    patients = _patients(folder)
    _check_number(listing, folder, [case.identifier for case in cases if case.training], patients)
    values, _ = ask_label_manager(description)
    return RawDataset(
        folder,
        description,
        listing.reader,
        None if values is None else tuple(values),
        labels,
        channels,
        tuple(cases),
        patients,
        tuple(listing.findings),
        description.get("overwrite_image_reader_writer") in REORIENTING_READERS,
    )


def _check_number(listing: _Listing, folder: Path, identifiers: Sequence[str], patients: Mapping[str, str]) -> None:
    """Whether nnU-Net can divide the training cases into its folds; nothing to say where a split is there already."""
    preprocessed = os.environ.get("nnUNet_preprocessed", "")
    places = [folder, *([Path(preprocessed) / folder.name] if preprocessed else [])]
    if any((place / "splits_final.json").is_file() for place in places):
        return
    number = len({patients.get(identifier, identifier) for identifier in identifiers})
    remedy = few_cases(len(identifiers), number, folder.name)
    if remedy:
        listing.add(
            "",
            Severity.NOTE,
            "few cases",
            f"{len(identifiers)} training cases of {number} patients",
            f"{FOLDS} cases of {FOLDS} patients or more, for {FOLDS} folds",
            remedy,
            folder / "imagesTr",
        )


def _reader(description: Mapping[str, Any], images: Sequence[Path]) -> type[BaseReaderWriter] | None:
    """nnU-Net's reader, or None; which of two that take an ending is decided by the first image, as nnU-Net does.

    A damaged image is not handed on: SimpleITK would read it, and may take the process along.
    """
    for example in (*(image for image in images[:1] if fault_of(image) is None), None):
        with contextlib.suppress(RuntimeError):
            return reader_of(description, example)
    return None


def _patients(folder: Path) -> dict[str, str]:
    """Patient of each case where the conversion left a provenance.json; otherwise empty."""
    path = folder / "provenance.json"
    if not path.is_file():
        return {}
    cases = read_json(path).get("cases", {})
    if not isinstance(cases, dict):
        raise UserError(
            f"{path}: 'cases' is a {type(cases).__name__}; expected {{CASE: {{\"patient\": ...}}}}. Correct it, or "
            "remove the file if each case is a patient of its own"
        )
    return {
        identifier: str(entry["patient"])
        for identifier, entry in cases.items()
        if isinstance(entry, dict) and entry.get("patient") is not None
    }


class _Listing:
    """Collects cases and, on the way, findings about their files."""

    def __init__(self, folder: Path, ending: str, channels: int) -> None:
        self.folder, self.ending, self.channels = folder, ending, channels
        self.reader: type[BaseReaderWriter] | None = None
        self.findings: list[Finding] = []

    def add(
        self, case: str, severity: Severity, check: str, found: str, expected: str, remedy: str, path: Path
    ) -> None:
        self.findings.append(Finding(case, severity, check, "", found, expected, remedy, _below(self.folder, path)))

    def files(self, name: str) -> list[Path]:
        folder = self.folder / name
        if not folder.is_dir():
            return []
        return sorted(
            p
            for p in folder.iterdir()
            if p.name.endswith(self.ending) and not p.name.startswith(".") and is_text(p.name)
        )

    def name_left_out(self) -> None:
        """Names files that are not looked at: by nnU-Net, which takes one ending in these letters, or by us alone."""
        for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            folder = self.folder / name
            there = [path.name for path in sorted(folder.iterdir())] if folder.is_dir() else []
            taken = [one for one in there if one.endswith(self.ending)]
            hidden = [one for one in taken if one.startswith(".")] if name.startswith("images") else []
            strange = [one.encode("utf-8", "backslashreplace").decode() for one in taken if not is_text(one)]
            for names, found, expected, remedy in (
                (hidden, "hidden files, which nnU-Net takes for cases", "cases only", "remove them"),
                (strange, "names in another encoding than UTF-8", "names in UTF-8", "rename them"),
            ):
                if names:
                    self.add("", Severity.ERROR, "file name", f"{found}: {shorten(names)}", expected, remedy, folder)
            others = [
                one
                for one in there
                if one not in taken and not one.startswith(".") and one.lower().endswith(IMAGE_ENDINGS)
            ]
            if others:
                self.add(
                    "",
                    Severity.WARNING,
                    "file name",
                    f"{shorten(others)}, which are left out",
                    f"files that end in {self.ending}, in these letters: nnU-Net reads no others",
                    f"rename or convert them to {self.ending}, or move them elsewhere",
                    folder,
                )

    def cases(self, image_folder: str, mask_folder: str, training: bool) -> list[CaseFiles]:
        images: dict[str, dict[int, Path]] = defaultdict(dict)
        for path in self.files(image_folder):
            match = re.fullmatch(r"(.+)_([0-9]{4})", path.name[: -len(self.ending)])
            if match:
                images[match[1]][int(match[2])] = path
            else:
                self.add(
                    "",
                    Severity.ERROR,
                    "file name",
                    "a name without a channel number",
                    f"CASE_0000{self.ending}",
                    "add the channel number to the name, or move the file elsewhere",
                    path,
                )
        masks = {path.name[: -len(self.ending)]: path for path in self.files(mask_folder)}
        for identifier in sorted(masks.keys() - images.keys()):
            self.add(
                identifier,
                Severity.ERROR,
                "missing file",
                "a mask without an image",
                f"{image_folder}/{identifier}_0000{self.ending}",
                "add the image, or remove the mask",
                masks[identifier],
            )
        if training or masks:
            for identifier in sorted(images.keys() - masks.keys()):
                self.add(
                    identifier,
                    Severity.ERROR if training else Severity.NOTE,
                    "missing file",
                    "an image without a mask",
                    f"{mask_folder}/{identifier}{self.ending}",
                    "add the mask, or move the image to imagesTs" if training else "add the mask if there is one",
                    images[identifier][min(images[identifier])],
                )
        for identifier, found in sorted(images.items()):
            self._check_channels(identifier, found)
        return [
            CaseFiles(identifier, tuple(path for _, path in sorted(found.items())), masks.get(identifier), training)
            for identifier, found in sorted(images.items())
        ]

    def check_pages(self, images: Sequence[Path]) -> None:
        """Whether nnU-Net, left to choose the reader, takes the slices of a TIFF volume for channels or colours."""
        if self.reader is not NaturalImage2DIO or not images or images[0].suffix.lower() not in (".tif", ".tiff"):
            return
        try:
            pages = tifffile.imread(images[0]).shape[0]
            channels = channels_in(list(images[:1]), self.reader)
        except (RuntimeError, OSError, ValueError, AssertionError):  # reported when all are read
            return
        if channels == pages != self.channels == 1:
            self.add(
                "",
                Severity.ERROR,
                "reader",
                f"{pages} pages in a TIFF, which nnU-Net reads as a 2-D picture with {pages} channels",
                "overwrite_image_reader_writer in dataset.json, where the pages are slices",
                'add "overwrite_image_reader_writer": "Tiff3DIO" to dataset.json, and the spacing beside each file '
                "(documentation/dataset_format.md of nnU-Net)",
                images[0],
            )

    def _check_channels(self, identifier: str, files: Mapping[int, Path]) -> None:
        """Whether the files hold the channels of dataset.json: one each, or several as a colour picture does."""
        found, expected = set(files), set(range(self.channels))
        path = files[min(files)]
        if (
            found < expected
            and found == set(range(len(found)))
            and self.reader is not None
            and not any(map(fault_of, files.values()))
        ):
            # A file that cannot be read is reported when all are.
            with contextlib.suppress(RuntimeError, OSError, ValueError, AssertionError):
                if channels_in([files[number] for number in sorted(files)], self.reader) == self.channels:
                    return
        if found != expected:
            self.add(
                identifier,
                Severity.ERROR,
                "missing file" if expected - found else "file name",
                f"channels {', '.join(f'{channel:04d}' for channel in sorted(found))}",
                f"channels {', '.join(f'{channel:04d}' for channel in sorted(expected))}, as dataset.json names them",
                "add the missing channels, or correct channel_names",
                path,
            )

    def listed_cases(self, description: Mapping[str, Any]) -> list[CaseFiles]:
        """Cases of a dataset.json that names its files, in the key `dataset`, instead of using folders.

        Raises:
            UserError: if an entry does not name its images and label.
        """
        try:
            entries = get_filenames_of_train_images_and_targets(str(self.folder), deepcopy(dict(description)))
            listed = {
                str(identifier): ([Path(path) for path in entry["images"]], Path(entry["label"]))
                for identifier, entry in sorted(entries.items())
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.folder / 'dataset.json'}: {error!r} in 'dataset'; expected "
                '{CASE: {"images": [FILE, ...], "label": FILE}} with paths, relative ones from the data set\'s folder'
            ) from error
        cases = []
        for identifier, (images, mask) in listed.items():
            for path in (*images, mask):
                if not path.is_file():
                    self.add(
                        identifier,
                        Severity.ERROR,
                        "missing file",
                        "a file that dataset.json names, and that is not there",
                        "the file",
                        "add it, or take the case out of dataset.json",
                        path,
                    )
            present = tuple(path for path in images if path.is_file())
            if present:
                cases.append(CaseFiles(identifier, present, mask if mask.is_file() else None, training=True))
        return cases
