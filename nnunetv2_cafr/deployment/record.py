"""predict.json, the record of what `nnUNetv2_cafr predict` wrote into a folder: nothing else is overwritten or skipped.

It lies beside the label maps. Per file it holds the SHA-256 of the network that predicted it and of the file itself, so
that a label map which somebody has corrected since is known as theirs, and that of the images and the settings that it
was predicted from and with: what is there by others, or of others, is predicted anew. Why it may be wrong (`doubts`)
stands there too, for later calls. Of what lies beside the label maps it holds the SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_cafr.files import json_or_none, lock, sha256, write_bytes, write_json

RECORD_FILE, FORMAT = "predict.json", "nnunetv2_cafr predict 1"


class PredictionRecord:
    """The record of a folder as it is now; empty where there is none.

    Attributes:
        label_maps: what is known of each, by its file's name.
        beside: by name, SHA-256 of what was written beside them.

    Raises:
        FileExistsError: if a file of its name is there, and is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.label_maps: dict[str, Any] = {}
        self.beside: dict[str, list[str]] = {}
        path = folder / RECORD_FILE
        if not os.path.lexists(path):
            return
        content = json_or_none(path)
        if (label_maps := _label_maps_in(content)) is None:
            raise FileExistsError(f"{path} is there and is no record of nnUNetv2_cafr predict: move it away")
        self.label_maps = label_maps
        beside = content.get("beside") or {}
        self.beside = {name: known for name, known in beside.items() if isinstance(known, list)}

    def save(self) -> None:
        content = {"format": FORMAT, "label_maps": self.label_maps, "beside": self.beside}
        write_json(self.folder / RECORD_FILE, content)

    def wrote(self, label_map: Path, model: str) -> bool:
        """Whether the network of this SHA-256 wrote a label map, and nobody changed it."""
        entry = self.label_maps.get(label_map.name, {})
        if label_map.is_symlink() or not label_map.is_file() or entry.get("model") != model:
            return False
        return sha256(label_map) in entry["sha256"]

    def is_foreign(self, name: str) -> bool:
        """Whether a file that lies beside label maps is there, and is not as an earlier call wrote it."""
        path = self.folder / name
        if path.parent != self.folder and (path.parent.is_symlink() or path.parent.is_file()):
            return True
        if not os.path.lexists(path):
            return False
        return path.is_symlink() or not path.is_file() or sha256(path) not in self.beside.get(name, [])

    def has(self, name: str) -> bool:
        """Whether an earlier call wrote this beside the label maps, and nobody changed it."""
        return (self.folder / name).is_file() and not self.is_foreign(name)

    def text_of(self, name: str) -> str | None:
        """What an earlier call wrote beside the label maps; None where there is nothing, or somebody changed it."""
        return (self.folder / name).read_text(encoding="utf-8") if self.has(name) else None

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes files beside the label maps, by their names in the folder, each whole or not at all.

        Raises:
            FileExistsError: if one is there that no earlier call wrote.
            OSError: if they cannot be written.
        """
        for name in files:
            if self.is_foreign(name):
                raise FileExistsError(
                    f"{self.folder / name} has come into being or was changed meanwhile; it was left as it is"
                )
        for name, content in files.items():
            path = self.folder / name
            before = [sha256(path)] if path.exists() else []
            self.beside[name] = list(dict.fromkeys([*before, hashlib.sha256(content).hexdigest()]))
        self.save()  # first, so that a kill never leaves a file that is not in it
        for name, content in files.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            write_bytes(self.folder / name, content)


@contextlib.contextmanager
def locked_record(folder: Path) -> Iterator[PredictionRecord]:
    """The record, which no other process that predicts into the folder writes meanwhile, where that can be done."""
    file = folder / f".{RECORD_FILE}.lock"
    held = lock(file)
    try:
        yield PredictionRecord(folder)
    finally:
        with contextlib.suppress(OSError):  # Windows keeps what is open
            file.unlink()
        held.release()


@contextlib.contextmanager
def writing_beside(folder: Path) -> Iterator[Callable[[Mapping[str, bytes]], None]]:
    """What writes files beside the label maps, see `PredictionRecord.write`, while no other process does."""
    with locked_record(folder) as record:
        yield record.write


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files beside the label maps, see `PredictionRecord.write`."""
    with writing_beside(folder) as write:
        write(files)


def remove_files(folder: Path, names: Sequence[str]) -> None:
    """Removes what an earlier call wrote beside the label maps, unless somebody changed it since."""
    with locked_record(folder) as record:
        if ours := [name for name in names if record.has(name)]:
            for name in ours:
                (folder / name).unlink()
                del record.beside[name]
            record.save()


def doubts_of_prediction(folder: Path) -> dict[str, dict[str, str]]:
    """By label map, what `nnUNetv2_cafr predict` said of its image; of those that are as it wrote them."""
    record = _label_maps_in(json_or_none(folder / RECORD_FILE)) or {}
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
