"""Where label maps go, and the record of which ones this network wrote: nothing else is overwritten or skipped.

The record, predict.json, lies beside the label maps. Per file it holds the SHA-256 of the network that predicted it and
of the file itself, so that a label map which somebody has corrected since is known as theirs, and that of the images
and the settings that it was predicted from and with: what is there by others, or of others, is predicted anew. Why it
may be wrong (`doubts`) stands there too, for later calls. Of what lies beside the label maps it holds the SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_conversion.reading import FILE_ENDINGS, PICTURE_ENDINGS
from nnunetv2_cafr.deployment.description import Description, description_file
from nnunetv2_cafr.deployment.studies import Study, fingerprint, series_of
from nnunetv2_cafr.errors import last_line, shorten
from nnunetv2_cafr.files import (
    FULL,
    begins_with,
    check_place,
    json_or_none,
    lock,
    partial_of,
    refuse_inputs,
    sha256,
    write_bytes,
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

RECORD, FORMAT = "predict.json", "nnunetv2_cafr predict 1"
DOCUMENTS = {"dataset.json": "dataset_json", "plans.json": "plans"}  # where nnUNetv2_predict leaves them
LEVEL_TABLES = {  # how they are known
    TABLE_FILE: begins_with("case,confidence,flags"),
    STATISTICS_FILE: begins_with('"settings": {'),
}
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
        if self.settings.get("levels"):
            self._check_tables()
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise FileExistsError(f"{self.folder} is a file; give a folder, or a new file's name for one study")
        if self.folder.exists() and any(path.is_dir() and path.samefile(self.folder) for path in given):
            raise FileExistsError(
                f"{self.folder} is read: label maps among the scans would be taken for scans. Give another folder by -o"
            )
        check_place(self.folder)
        documents = [self.folder / name for name in (*DOCUMENTS, RECORD)]
        refuse_inputs(documents, [self.model, description_file(self.model)])
        record, beside = self._read_record()
        foreign = [self.folder / name for name, key in DOCUMENTS.items() if not self._may_hold(name, key)]
        there = [target for target in targets if os.path.lexists(target)]
        foreign += [target for target in there if not self._wrote(target, record)]
        foreign += [self.folder / name for name in self._beside(studies) if self._is_foreign(name, beside)]
        if foreign:
            names = shorten([str(path.relative_to(self.folder)) for path in foreign])
            raise FileExistsError(
                f"{self.folder} holds {names}, which this network did not write, or which was changed since: "
                "nothing is overwritten or skipped. Give another folder by -o, or move it away"
            )
        done = self._done({target: targets[target] for target in there}, record) if skip else set()
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

    def _check_tables(self) -> None:
        """Makes sure that the two tables of --levels are written over an earlier one's only."""
        for name, is_ours in LEVEL_TABLES.items():
            path = self.folder / name
            if os.path.lexists(path) and (path.is_symlink() or not is_ours(path)):
                raise FileExistsError(f"{path} is there and is none of nnUNetv2_cafr predict --levels: move it away")

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

    def _wrote(self, target: Path, record: Mapping[str, Any]) -> bool:
        entry = record.get(target.name, {})
        if target.is_symlink() or not target.is_file() or entry.get("model") != self.description.content["sha256"]:
            return False
        return sha256(target) in entry["sha256"]

    def _beside(self, studies: Sequence[Study]) -> list[str]:
        """Names of what is written beside the label maps."""
        names = [PAGE_FILE]
        if self.has_single_labels():
            names += (SLICER_FILE, ITKSNAP_FILE)
        if self.description.spine is not None:
            names += [measurements.TABLE_FILE, measurements.JSON_FILE]
        for study in studies:
            names += [f"{PICTURES}/{study.name}.png"] * self.png
            names += [f"{study.name}{SEGMENTATION}"] * (self.dicom_seg and series_of(study) is not None)
        return names

    def has_single_labels(self) -> bool:
        """Whether the labels are no regions, which have names for several values."""
        return not has_regions(self.description.dataset_json["labels"])

    def _is_foreign(self, name: str, beside: Mapping[str, Sequence[str]]) -> bool:
        """Whether a file that lies beside label maps is there, and is not as an earlier call wrote it."""
        path = self.folder / name
        if path.parent != self.folder and (path.parent.is_symlink() or path.parent.is_file()):
            return True
        if not os.path.lexists(path):
            return False
        return path.is_symlink() or not path.is_file() or sha256(path) not in beside.get(name, [])

    def label_maps(self) -> dict[str, Any]:
        """What the record holds of each label map, by its file's name."""
        return self._read_record()[0]

    def read_beside(self, name: str) -> str | None:
        """What an earlier call wrote beside the label maps; None where there is nothing, or somebody changed it."""
        return (self.folder / name).read_text(encoding="utf-8") if self.has_beside(name) else None

    def has_beside(self, name: str) -> bool:
        """Whether an earlier call wrote this beside the label maps, and nobody changed it."""
        return (self.folder / name).is_file() and not self._is_foreign(name, self._read_record()[1])

    def write_beside(self, files: Mapping[str, bytes]) -> None:
        """Writes files beside the label maps, by their names in the folder, each whole or not at all.

        Raises:
            FileExistsError: if one is there that no earlier call wrote.
            OSError: if they cannot be written.
        """
        with _locked(self.folder):
            record, beside = self._read_record()
            for name in files:
                if self._is_foreign(name, beside):
                    raise FileExistsError(f"{self.folder / name} has come into being meanwhile; it was left as it is")
            for name, content in files.items():
                path = self.folder / name
                before = [sha256(path)] if path.exists() else []
                beside[name] = list(dict.fromkeys([*before, hashlib.sha256(content).hexdigest()]))
            self._write_record(record, beside)  # first, so that a kill never leaves a file that is not in it
            for name, content in files.items():
                (self.folder / name).parent.mkdir(exist_ok=True)
                write_bytes(self.folder / name, content)

    def remove_beside(self, names: Sequence[str]) -> None:
        """Removes what an earlier call wrote beside the label maps, unless somebody changed it since."""
        with _locked(self.folder):
            record, beside = self._read_record()
            there = [name for name in names if (self.folder / name).is_file()]
            if ours := [name for name in there if not self._is_foreign(name, beside)]:
                for name in ours:
                    (self.folder / name).unlink()
                self._write_record(record, {name: known for name, known in beside.items() if name not in ours})

    def _read_record(self) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """By name, what is known of each label map, and the SHA-256 of what was written beside them."""
        path = self.folder / RECORD
        if not os.path.lexists(path):
            return {}, {}
        content = json_or_none(path)
        if (record := _label_maps_in(content)) is None:
            raise FileExistsError(f"{path} is there and is no record of nnUNetv2_cafr predict: move it away")
        beside = content.get("beside") or {}
        return record, {name: known for name, known in beside.items() if isinstance(known, list)}

    def _write_record(self, record: Mapping[str, Any], beside: Mapping[str, Sequence[str]]) -> None:
        write_json(self.folder / RECORD, {"format": FORMAT, "label_maps": record, "beside": beside})

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
        with _locked(self.folder):
            record, beside = self._read_record()
            for final, file in files.items():
                before = [sha256(final)] if final.exists() and self._wrote(final, record) else []
                if os.path.lexists(final) and not before:
                    raise FileExistsError(f"{final} is there and this network did not write it; it was left as it is")
                digests = list(dict.fromkeys([*before, sha256(file)]))
                model = self.description.content["sha256"]
                record[final.name] = {
                    "model": model,
                    "settings": self.settings,
                    "images": images,
                    "doubts": study.doubts,
                    "sha256": digests,
                }
            self._write_record(record, beside)

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


def doubts_of_prediction(folder: Path) -> dict[str, dict[str, str]]:
    """By label map, what `nnUNetv2_cafr predict` said of its image; of those that are as it wrote them."""
    record = _label_maps_in(json_or_none(folder / RECORD)) or {}
    doubts = {name: entry.get("doubts", {}) for name, entry in record.items() if (folder / name).is_file()}
    # Only what something was said of is read.
    return {name: said for name, said in doubts.items() if not said or sha256(folder / name) in record[name]["sha256"]}


def _label_maps_in(content: Any) -> dict[str, Any] | None:
    """What a record holds of each label map, by its file's name; None if the content is no record."""
    record = content.get("label_maps") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(record, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), list) for entry in record.values()
    ):
        return None
    return record


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes that predict into this folder from writing the record meanwhile, where that can be done."""
    file = folder / f".{RECORD}.lock"
    held = lock(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps what is open
            file.unlink()
        held.release()
