"""Where the label maps of a call go, which of them are still to be predicted, and how each is written."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_conversion.reading import FILE_ENDINGS, PICTURE_ENDINGS
from nnunetv2_cafr.deployment.description import Description, description_file
from nnunetv2_cafr.deployment.record import RECORD_FILE, PredictionRecord, locked_record
from nnunetv2_cafr.deployment.studies import Study, fingerprint, series_of
from nnunetv2_cafr.errors import last_line, shorten
from nnunetv2_cafr.files import (
    FULL,
    check_place,
    json_or_none,
    partial_of,
    refuse_inputs,
    sha256,
    write_json,
)
from nnunetv2_cafr.levels.files import STATISTICS_FILE, TABLE_FILE, decoding_of, read_decodings
from nnunetv2_cafr.measurements import tables as measurements
from nnunetv2_cafr.preview import PAGE_FILE, PICTURES
from nnunetv2_cafr.spine import has_regions
from nnunetv2_cafr.viewers import ITKSNAP_FILE, SLICER_FILE, name_labels

if TYPE_CHECKING:
    import numpy as np
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

DOCUMENTS = {"dataset.json": "dataset_json", "plans.json": "plans"}  # where nnUNetv2_predict leaves them
SEGMENTATION = ".seg.dcm"
ROOM = 1 << 20  # bytes; with less left, a disk is full


class LabelMaps:
    """The label maps of one call: a folder of them, or one file for one study.

    Args:
        out: a folder, or a file's name with an ending that the network's writer knows.
        model: the network's ONNX file.
        settings: options that decide about the labels.
        png: whether each study gets a picture beside its label map.
        dicom_seg: whether each DICOM series gets a DICOM segmentation.
    """

    def __init__(
        self,
        out: Path,
        description: Description,
        model: Path,
        settings: Mapping[str, Any],
        png: bool = False,
        dicom_seg: bool = False,
    ) -> None:
        self.description = description
        self.model = model
        self.settings = dict(settings)
        self.png, self.dicom_seg = png, dicom_seg
        self.endings = [description.file_ending]
        if description.reads_volumes:
            self.endings += [".nii.gz", ".nii"] + [".mha", ".nrrd"] * ("SimpleITK" in description.reader)
        ending = next((ending for ending in self.endings if out.name.lower().endswith(ending)), None)
        self.file = out if ending is not None and not out.is_dir() else None
        self.folder = out.parent if self.file is not None else out
        self.ending = ending if self.file is not None and ending is not None else description.file_ending

    def target(self, study: Study) -> Path:
        return self.file or self.folder / f"{study.name}{self.ending}"

    def choose(self, studies: Sequence[Study], given: Sequence[Path], skip: bool) -> list[Study]:
        """The studies to predict: all, or with `skip` those without a label map of these images, made in this way.

        Args:
            given: the paths in which the studies were found.

        Raises:
            OSError: if an output is an input or a file that this network did not write, or nothing can be written.
        """
        images = (*FILE_ENDINGS, *PICTURE_ENDINGS)
        if self.file is None and not self.folder.exists() and self.folder.name.lower().endswith(images):
            raise FileNotFoundError(
                f"{self.folder} can be no label map of this network, which writes {' or '.join(self.endings)}: give a "
                "name that ends so, or a folder"
            )
        targets = {self.target(study): study for study in studies}
        refuse_inputs(targets, [image for study in studies for image in study.images.values()])
        if self.file is not None:
            self._check_file(studies)
            return list(studies)
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is a file; give a folder, or a new file's name for one study")
        if self.folder.exists() and any(path.is_dir() and path.samefile(self.folder) for path in given):
            raise FileExistsError(
                f"{self.folder} is read: label maps among the scans would be taken for scans. Give another folder by -o"
            )
        check_place(self.folder)
        documents = [self.folder / name for name in (*DOCUMENTS, RECORD_FILE)]
        refuse_inputs(documents, [self.model, description_file(self.model)])
        record = PredictionRecord(self.folder)
        foreign = [self.folder / name for name, key in DOCUMENTS.items() if not self._may_hold(name, key)]
        there = [target for target in targets if os.path.lexists(target)]
        foreign += [target for target in there if not record.wrote(target, self._network)]
        foreign += [self.folder / name for name in self._beside(studies) if record.is_foreign(name)]
        if foreign:
            names = shorten([str(path.relative_to(self.folder)) for path in foreign])
            raise FileExistsError(
                f"{self.folder} holds {names}, which this network did not write, or which was changed since: "
                "nothing is overwritten or skipped. Give another folder by -o, or move it away"
            )
        done = self._done({target: targets[target] for target in there}, record.label_maps) if skip else set()
        return [study for target, study in targets.items() if target not in done]

    def _done(self, there: Mapping[Path, Study], record: Mapping[str, Any]) -> set[Path]:
        """Of label maps by this network, those with these settings, their levels, and of the images as they are now."""
        done = {target for target in there if record[target.name].get("settings") == self.settings}
        if self.settings.get("levels"):
            decodings = read_decodings(self.folder)  # lacks one after which a run was killed
            done = {target for target in done if decoding_of(target, decodings.get(there[target].name)) is not None}
        return {target for target in done if self._is_of_present_images(there[target], record[target.name])}

    def _is_of_present_images(self, study: Study, entry: Mapping[str, Any]) -> bool:
        try:
            return bool(entry.get("images") == fingerprint(study))
        except OSError:  # which prediction tells of
            return False

    def _check_file(self, studies: Sequence[Study]) -> None:
        if len(studies) != 1:
            raise FileExistsError(f"-o {self.file} names one file, for {len(studies)} studies: give a folder")
        if self.png or self.dicom_seg:
            option = "--png" if self.png else "--dicom-seg"
            raise FileExistsError(f"-o {self.file} names one file, and {option} writes more: give a folder")
        assert self.file is not None
        beside = [self.file.with_suffix(".json")] * (self.description.reader == "Tiff3DIO")  # which holds the spacing
        for path in (self.file, *beside):
            if os.path.lexists(path):
                raise FileExistsError(
                    f"{path} is there, nothing is overwritten: move it away, or give another name by -o"
                )
        check_place(self.file)

    def _may_hold(self, name: str, key: str) -> bool:
        """Whether a document is not there, or is the one to be written."""
        path = self.folder / name
        return not os.path.lexists(path) or json_or_none(path) == self.description.content[key]

    @property
    def _network(self) -> str:
        return self.description.content["sha256"]

    def _beside(self, studies: Sequence[Study]) -> list[str]:
        """Names of what is written beside the label maps."""
        names = [PAGE_FILE]
        if self.has_single_labels():
            names += (SLICER_FILE, ITKSNAP_FILE)
        if self.description.spine is not None:
            names += [measurements.TABLE_FILE, measurements.JSON_FILE]
        if self.settings.get("levels"):
            names += (TABLE_FILE, STATISTICS_FILE)
        for study in studies:
            names += [f"{PICTURES}/{study.name}.png"] * self.png
            names += [f"{study.name}{SEGMENTATION}"] * (self.dicom_seg and series_of(study) is not None)
        return names

    def has_single_labels(self) -> bool:
        """Whether the labels are no regions, which have names for several values."""
        return not has_regions(self.description.dataset_json["labels"])

    def begin(self) -> None:
        """Makes the folder, with the documents that evaluation and postprocessing ask for.

        Raises:
            OSError: if that fails; what was made is removed.
        """
        made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        written: list[Path] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, key in DOCUMENTS.items() if self.file is None else ():
                if not (path := self.folder / name).exists():
                    write_json(path, self.description.content[key])
                    written.append(path)
        except OSError:
            for path in written:
                path.unlink(missing_ok=True)
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise

    def write(self, study: Study, segmentation: np.ndarray, properties: dict[str, Any]) -> None:
        """Writes a label map (z, y, x), whole or not at all.

        Raises:
            OSError: if that fails; what had its name before is then still there.
        """
        target = self.target(study)
        beside = partial_of(target)
        shutil.rmtree(beside, ignore_errors=True)  # left by a run that was killed
        try:
            beside.mkdir()
            self._write_whole(beside / f"labels{self.ending}", segmentation, properties)
            files = {target.with_name(_renamed(file.name, target, self.ending)): file for file in beside.iterdir()}
            if self.file is None:
                self._note(study, files)
            elif there := [final for final in files if os.path.lexists(final)]:
                raise FileExistsError(f"{there[0]} has come into being meanwhile; it was left as it is")
            for final, file in files.items():
                file.replace(final)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _write_whole(self, file: Path, segmentation: np.ndarray, properties: dict[str, Any]) -> None:
        """Writes and reads again: on a full disk ITK may leave a part of a file without an error."""
        io = self.description.plans.image_reader_writer_class()
        try:
            io.write_seg(segmentation, str(file), properties)
        except OSError:
            raise
        except Exception as error:  # ITK and others have errors of many kinds for what they cannot write
            raise OSError(f"The label map could not be written: {last_line(error)}") from error
        _check_whole(file, segmentation, io)
        if file.name.endswith((".nii", ".nii.gz")) and self.has_single_labels():
            name_labels(file, self.description.dataset_json["labels"])
            _check_whole(file, segmentation, io)

    def _note(self, study: Study, files: Mapping[Path, Path]) -> None:
        """Adds files to the record before they get their names, so that a kill never leaves one that is not in it."""
        images = fingerprint(study)
        with locked_record(self.folder) as record:
            for final, file in files.items():
                before = [sha256(final)] if final.exists() and record.wrote(final, self._network) else []
                if os.path.lexists(final) and not before:
                    raise FileExistsError(f"{final} is there and this network did not write it; it was left as it is")
                record.label_maps[final.name] = {
                    "model": self._network,
                    "settings": self.settings,
                    "images": images,
                    "doubts": study.doubts,
                    "sha256": list(dict.fromkeys([*before, sha256(file)])),
                }
            record.save()

    def is_full(self, error: Exception) -> bool:
        """Whether an error in writing comes from a full disk, where all studies that follow would fail as well."""
        if not isinstance(error, OSError):
            return False
        return error.errno in FULL or shutil.disk_usage(self.folder).free < ROOM


def _check_whole(file: Path, segmentation: np.ndarray, io: BaseReaderWriter) -> None:
    try:
        whole = bool((io.read_seg(str(file))[0][0] == segmentation).all())
    except Exception:  # readers have errors of many kinds for what they cannot read
        whole = False
    if not whole:
        raise OSError("The label map was not written completely; is the disk full?")


def _renamed(name: str, target: Path, ending: str) -> str:
    """A written file's final name; some writers leave a second file beside the label map, of another ending."""
    return target.name if name.endswith(ending) else f"{target.name[: -len(ending)]}{Path(name).suffix}"
