"""Label maps on disk: their orientation, the network's probabilities beside them, and what is reported of both.

Label maps are read and written by nnU-Net's own readers, so every file ending that nnU-Net knows will do.
"""

import contextlib
import csv
import io
import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from nnunetv2_cafr.files import sha256, write_atomically, write_bytes
from nnunetv2_cafr.label_reading import read_label_file, refuse_foreign_labels
from nnunetv2_cafr.levels.components import Grid
from nnunetv2_cafr.levels.decoding import (
    BEYOND,
    FIELD_OF_VIEW,
    LOWER_END,
    MISSED,
    THRESHOLD,
    TILT,
    TILTED,
    TRANSITIONAL,
    UNCERTAIN,
    UPSIDE_DOWN,
    Decoding,
    Evidence,
)
from nnunetv2_cafr.levels.field_of_view import HIGHEST, LOWEST
from nnunetv2_cafr.voxel_order import LPS_TO_RAS, affine_of

TABLE_FILE, STATISTICS_FILE = "level_decoding.csv", "level_decoding.json"
COLUMNS = ("case", "confidence", "flags", "vertebrae", "discs", "relabelled", "islands", "changed_voxels")
Writing = AbstractContextManager[Callable[[Mapping[str, bytes]], None]]  # of files by their names in a folder
AGREEMENT = 0.9  # of labelled voxels, at least, whose label is that of the highest probability
TOOLS = ("nnunetv2-cafr", "numpy", "connected-components-3d")
DEFINITIONS = {
    "confidence": "at most 1: by how much the votes fit any other shift of the whole row of structures worse, below 0 "
    "better; empty where there is no row",
    UNCERTAIN: f"confidence below {THRESHOLD:g}, or no row that could be judged; the label map is left as predicted",
    TRANSITIONAL: "one vertebra more or less (L6, T13, sacralised L5) fits better; where the labels do not provide for "
    "it, the label map is left as predicted",
    FIELD_OF_VIEW: f"the scan's height is less than {LOWEST:g} times that of the lowest training case, or more than "
    f"{HIGHEST:g} times that of the highest, where these are known, or `predict` found that little of it shows "
    "anything: a whole row may be off",
    TILTED: f"the spine is turned by more than {TILT:g} degrees in the image, or the image in the patient; the second "
    "is told by `predict` alone",
    UPSIDE_DOWN: "structures reach the image's lower end, and above them it goes on, or vertebrae grow upwards: the "
    "header may swap up and down",
    MISSED: "levels between the lowest and the highest vertebra that were not found",
    BEYOND: "structures beyond the levels that the labels have; they become background",
    LOWER_END: "the lowest vertebra is neither the sacrum nor the lowest one that the labels have above it, and the "
    "image shows more below it",
    "relabelled": "structures whose most frequent label changed, from the bottom upwards; '-' is background",
    "islands": "fragments off the spine's curve that became background",
    "changed_voxels": "voxels with another label than before, also within structures whose level did not change",
}


def grid_of(properties: Mapping[str, Any]) -> Grid:
    """How the arrays (z, y, x) of nnU-Net's readers lie in the patient; up and back unknown where the file has none."""
    affine = affine_of(properties)
    return Grid(np.diag(np.asarray(properties["spacing"], float))) if affine is None else grid_of_affine(affine)


def grid_of_affine(affine: np.ndarray) -> Grid:
    """The grid of an array (z, y, x) whose index (x, y, z) the affine leads to mm towards right, front and head."""
    up, back = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])  # of DICOM's and ITK's patient: left, back, up
    return Grid((LPS_TO_RAS @ affine[:3, :3])[:, ::-1], up, back)


def read_labels(
    path: Path, reader: type[BaseReaderWriter], allowed: frozenset[int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """A label map (z, y, x) of unsigned integers, and what nnU-Net's writer needs to know of its grid.

    Raises:
        ValueError: if the file cannot be read, or holds other values than `allowed` and 0.
    """
    values, properties = read_label_file(path, reader, oriented=True)  # the order of levels: which way is up
    if values.shape[0] != 1 or values.ndim != 4:
        raise ValueError(f"{path} holds {values.shape[0]} channels, expected one label map")
    refuse_foreign_labels(path, np.unique(values), allowed)
    # Of a type that holds every label: decoding may give one that the map does not hold yet.
    return values[0].astype(np.uint8 if max(allowed) < 256 else np.uint16), properties


def read_probabilities(path: Path, labels: np.ndarray, number: int) -> Evidence:
    """What `nnUNetv2_predict --save_probabilities` leaves beside a label map.

    Args:
        number: of labels, background included.

    Raises:
        ValueError: if the file cannot be read, or is of another label map.
    """
    try:
        with np.load(path) as content:
            probabilities = content["probabilities"]
    except (OSError, ValueError, TypeError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({error!r}); expected is an .npz by nnUNetv2_predict --save_probabilities"
        ) from error
    if probabilities.shape != (number, *labels.shape):
        raise ValueError(
            f"{path} holds {probabilities.shape}, expected {(number, *labels.shape)} (labels, z, y, x): it belongs to "
            "another label map or another dataset.json"
        )
    evidence = Evidence.of_volume(labels, probabilities)
    agreement = np.mean(evidence.probabilities.argmax(1) == labels.ravel()[evidence.voxels]) if labels.any() else 1
    if agreement < AGREEMENT:
        raise ValueError(
            f"{path} gives another label than the map to {1 - agreement:.0%} of its labelled voxels, expected is that "
            "of the highest probability: give those of the same prediction, or leave -p away"
        )
    return evidence


def read_decodings(folder: Path) -> dict[str, dict[str, Any]]:
    """What `Record` left in a folder, by study; nothing where there is none.

    Raises:
        ValueError: if it cannot be understood.
    """
    file = folder / STATISTICS_FILE
    if not file.is_file():
        return {}
    try:
        studies = json.loads(file.read_text(encoding="utf-8"))["studies"]
        for study in studies.values():
            if not isinstance(study["confidence"], float | int | None) or not all(
                isinstance(text, str) for text in (*study["flags"], *study["flags"].values())
            ):
                raise TypeError("confidence or flags")
        return studies
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} cannot be understood ({error!r}): restore it, or move it away") from error


def decoding_of(label_map: Path, study: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is known of a label map's levels, unless it was changed since."""
    return study if study is not None and study.get("sha256") == sha256(label_map) else None


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        write_bytes(folder / name, content)


def _alone(folder: Path) -> Writing:
    return contextlib.nullcontext(partial(_write_files, folder))


class Record:
    """The table and the statistics of a folder's decodings, written anew after every study.

    Args:
        folder: which gets TABLE_FILE and STATISTICS_FILE. Studies that stand in these stay. None: nothing is written.
        writing: a context that gives what writes files into the folder, and keeps other processes from it meanwhile.

    Raises:
        ValueError: if an earlier STATISTICS_FILE cannot be understood.
    """

    def __init__(
        self, folder: Path | None, settings: Mapping[str, Any], writing: Callable[[Path], Writing] = _alone
    ) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.writing = writing
        self.studies: dict[str, dict[str, Any]] = {} if folder is None else read_decodings(folder)

    def add(self, case: str, decoding: Decoding, label_map: Path) -> None:
        """Adds a study, whose label map is written already."""
        study = {
            "sha256": sha256(label_map),
            "confidence": None if math.isnan(decoding.confidence) else round(decoding.confidence, 4),
            "flags": decoding.flags,
            "structures": [asdict(level) for level in decoding.levels],
            "islands": [asdict(level) for level in decoding.islands],
            "changed_voxels": decoding.changed,
        }
        if self.folder is None:
            self.studies[case] = study
            return
        with self.writing(self.folder) as write:
            self.studies = {**read_decodings(self.folder), case: study}  # another process may have added some
            write(self._files())

    def remove(self, case: str) -> None:
        """Takes out a study whose label map was written anew, and not decoded."""
        if self.folder is None or case not in read_decodings(self.folder):
            return
        with self.writing(self.folder) as write:
            self.studies = read_decodings(self.folder)
            self.studies.pop(case, None)
            write(self._files())

    def _files(self) -> dict[str, bytes]:
        content = {
            "settings": {**self.settings, "threshold": THRESHOLD},
            "versions": {name: version(name) for name in TOOLS},
            "definitions": DEFINITIONS,
            "studies": self.studies,
        }
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_row(name, study) for name, study in sorted(self.studies.items()))
        texts = {STATISTICS_FILE: json.dumps(content, indent=4) + "\n", TABLE_FILE: table.getvalue()}
        return {name: text.encode("utf-8", "backslashreplace") for name, text in texts.items()}

    def summary(self, cases: list[str]) -> str:
        """What became of these cases, and what each flag says, with the cases that have it."""
        studies = {case: self.studies[case] for case in cases if case in self.studies}
        changed = sum(study["changed_voxels"] > 0 for study in studies.values())
        flagged = sum(bool(study["flags"]) for study in studies.values())
        having: dict[str, list[str]] = {}
        for case, study in studies.items():
            for kind, reason in study["flags"].items():
                having.setdefault(f"{kind} ({reason})", []).append(case)
        lines = [f"Levels: {changed} of {len(studies)} studies changed, {flagged} flagged"]
        for flag, named in having.items():
            everyone = len(named) == len(studies) > 1
            lines.append(f"  {flag}: {f'all {len(named)} studies' if everyone else ', '.join(named)}")
        return "\n".join(lines)


def _row(case: str, study: Mapping[str, Any]) -> tuple[object, ...]:
    structures = study["structures"]
    relabelled = [f"{one['found']} > {one['decoded'] or '-'}" for one in structures if one["found"] != one["decoded"]]
    return (
        case,
        "" if study["confidence"] is None else study["confidence"],
        "; ".join(f"{kind}: {reason}" for kind, reason in study["flags"].items()),
        sum(one["kind"] == "vertebra" for one in structures),
        sum(one["kind"] == "disc" for one in structures),
        "; ".join(relabelled),
        len(study["islands"]),
        study["changed_voxels"],
    )


def copy_atomically(source: Path, target: Path) -> None:
    write_atomically(target, lambda path: shutil.copyfile(source, path))
