"""Folders of label maps of a spine, by nnU-Net or another tool: what `relabel` and `measure` share."""

import argparse
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.files import check_place, read_json
from nnunetv2_cafr.spine import Spine, read_spine


@dataclass(frozen=True)
class SpineMaps:
    """Label maps and what their labels mean.

    Args:
        file: the dataset.json that says it.
        description: its content.
        maps: the files by case, in order.
    """

    file: Path
    description: dict[str, Any]
    spine: Spine
    maps: dict[str, Path]

    @property
    def labels(self) -> dict[str, int]:
        return self.description["labels"]

    @property
    def ending(self) -> str:
        return str(self.description["file_ending"])


def add_labels_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="dataset.json with labels and file_ending (default MAPS/dataset.json)",
    )


def read_spine_maps(folder: Path, labels: Path | None, refusal: str) -> SpineMaps:
    """Finds the maps of a folder.

    Args:
        folder: holds them.
        labels: a dataset.json; None takes the folder's.
        refusal: what labels without levels make impossible, "Nothing can be measured".

    Raises:
        UserError: if the folder or the dataset.json is missing or unfit, or a map would be left out.
    """
    from dataset_conversion.reading import ending_of

    file = labels or folder / "dataset.json"
    if not folder.is_dir() or not file.is_file():
        missing = file if folder.is_dir() else folder
        raise UserError(
            f"There is no {missing}: expected are a folder of label maps, and a dataset.json in it or by --labels"
        )
    description = read_json(file)
    try:
        named, ending = description["labels"], str(description["file_ending"])
        spine = read_spine(named)
    except KeyError as error:
        raise UserError(
            f"{file} has no {error}, expected are labels and file_ending as nnU-Net v2 writes them"
        ) from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{refusal} with {file}: {error}. Nothing was written") from error
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    maps = [path for path in files if path.name.endswith(ending)]
    rest = [path.name for path in files if not path.name.endswith(ending)]
    if others := [name for name in rest if name.lower().endswith(ending.lower())]:
        raise UserError(
            f"{shorten(others)} in {folder} would be left out: maps end in {ending}, in these letters. Rename them"
        )
    if other := [name for name in rest if ending_of(name)]:
        print(f"Left out of {folder}: {shorten(other)} (label maps end in {ending}, the file_ending of {file})")
    if not maps:
        raise UserError(f"{folder} holds no *{ending}, the file_ending of {file}")
    return SpineMaps(file, description, spine, {path.name.removesuffix(ending): path for path in maps})


def tell_of_failed(failed: Mapping[str, str], studies: int) -> int:
    """Prints why studies failed, by case, of so many; returns the exit status."""
    if failed:
        print(f"{len(failed)} of {studies} studies failed:")
        print("\n".join(f"  {case}: {reason}" for case, reason in failed.items()))
    return int(bool(failed))


def check_target(target: Path, written: Iterable[str]) -> None:
    """Refuses a folder that cannot be written to, or holds anything that would be overwritten, by UserError."""
    if target.exists() and not target.is_dir():
        raise UserError(f"-o {target} is a file, expected a folder")
    try:
        check_place(target)
    except OSError as error:
        raise UserError(f"-o {error}") from error
    if there := [name for name in written if os.path.lexists(target / name)]:
        raise UserError(f"{target} holds {shorten(there)} already; nothing is overwritten, give a new folder by -o")
