"""A data set that appears at once: it grows in a hidden folder beside its place, and a killed conversion goes on there.

An exception, Ctrl-C or SIGTERM removes the hidden folder. SIGKILL and power failures leave it; nnU-Net ignores it. The
next conversion with the same settings takes it up: cases whose sources and results are unchanged are not done again.
"""

from __future__ import annotations

import json
import shutil
import signal
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dataset_conversion.cases import Case
from dataset_conversion.problems import Problem
from dataset_conversion.reading import files_of
from dataset_conversion.writing import FILE_ENDING, replacing
from nnunetv2_cafr.files import Lock, check_place, refuse_inputs, try_lock
from nnunetv2_cafr.processes import on_signal

SETTINGS = ".settings.json"
LOCK = ".lock"
RECORDS = ".cases"  # folder of what is known about each finished case


def _leftovers(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f".{target.name}.partial-*")) if target.parent.is_dir() else []


def check_target(target: Path, cases: Sequence[Case]) -> list[Problem]:
    """Check that neither the data set nor another one with its number exists, nor is being written right now.

    It must not lie in a folder that is read as a case either.
    """
    try:
        check_place(target)
        refuse_inputs([target], [path for case in cases for path in (case.image, case.mask) if path and path.is_dir()])
    except OSError as error:
        return [Problem(target, str(error), "a folder to write in", "choose another folder with -o, or nnUNet_raw")]
    number = target.name.split("_")[0]
    taken = sorted(target.parent.glob(f"{number}_*")) if target.parent.is_dir() else []
    problems = [
        Problem(
            path,
            "an existing data set" if path == target else f"another data set with the number of {target.name}",
            "a number that is free: nothing is ever overwritten",
            "choose another number with -d, or remove the data set yourself",
        )
        for path in taken
    ]
    for folder in _leftovers(target):
        if not (folder / SETTINGS).is_file():  # it is nobody's
            continue
        try:
            lock = try_lock(folder / LOCK)
        except OSError:  # somebody else's, who may be at work: whoever ends first has the name
            continue
        if lock is not None:
            lock.release()
        else:
            found = "a conversion to the same data set that is running now"
            remedy = "wait until it ends, or choose another number with -d"
            problems.append(Problem(folder, found, "one conversion to a data set at a time", remedy))
    return problems


def _take_up(target: Path, settings: str) -> tuple[Path | None, Lock | None, list[str]]:
    """Look for the remains of a killed conversion with these settings.

    Returns:
        Their folder and its lock, or None; and a note for each one that stays as it is.
    """
    notes = []
    taken: tuple[Path | None, Lock | None] = None, None
    for folder in _leftovers(target):
        with suppress(OSError):  # no settings: it is nobody's
            found = (folder / SETTINGS).read_text(encoding="utf-8")
            lock = try_lock(folder / LOCK)
            if lock is None:
                continue
            if taken[0] is None and found == settings and (folder / SETTINGS).is_file():
                taken = folder, lock
                continue
            lock.release()
        notes.append(f"{folder} is left over from a conversion with other settings; remove it if nobody needs it")
    return *taken, notes


@contextmanager
def staged_directory(target: Path, settings: Mapping[str, Any]) -> Iterator[tuple[Path, list[str]]]:
    """Give a hidden folder that becomes `target` at the end, or disappears if an exception comes in between.

    Args:
        settings: what decides about the result; the remains of a conversion with equal ones are taken up.

    Returns:
        The folder, and notes about remains of earlier conversions.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, sort_keys=True, default=str)
    folder, lock, notes = _take_up(target, text)
    try:
        if folder is None:
            folder = target.parent / f".{target.name}.partial-{uuid.uuid4().hex[:8]}"
            folder.mkdir()
            lock = try_lock(folder / LOCK)
            (folder / SETTINGS).write_text(text, encoding="utf-8")
        (folder / RECORDS).mkdir(exist_ok=True)
        yield folder, notes
        if target.exists():
            raise FileExistsError(f"{target} has come into being during the conversion; it was left as it is")
        shutil.rmtree(folder / RECORDS)
        for unfinished in folder.glob("*/.*"):  # of a worker that was killed; nnU-Net would take it for a case
            unfinished.unlink()
        (folder / SETTINGS).unlink()  # from now on nobody takes it up
        if lock is not None:
            lock.release()
        (folder / LOCK).unlink(missing_ok=True)
        folder.rename(target)
    finally:
        # A second Ctrl-C must not stop the removal.
        with on_signal(signal.SIGINT, signal.SIG_IGN), on_signal(signal.SIGTERM, signal.SIG_IGN):
            if folder is not None:
                with suppress(OSError):
                    (folder / SETTINGS).unlink()
            if lock is not None:
                lock.release()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def image_path(folder: Path, case: Case) -> Path:
    """Where nnU-Net expects the case's image."""
    return folder / ("imagesTr" if case.mask else "imagesTs") / f"{case.identifier}_0000{FILE_ENDING}"


def mask_path(folder: Path, case: Case) -> Path:
    """Where nnU-Net expects the case's mask."""
    return folder / "labelsTr" / f"{case.identifier}{FILE_ENDING}"


def remove_others(folder: Path, cases: Sequence[Case]) -> None:
    """Removes what an interrupted conversion wrote of cases that are none of these, or have lost or got a mask."""
    wanted = {image_path(folder, case) for case in cases} | {mask_path(folder, case) for case in cases if case.mask}
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        for file in (folder / name).glob(f"*{FILE_ENDING}"):
            if file not in wanted:
                file.unlink(missing_ok=True)


def _stamp(volume: Path) -> list[Any]:
    """Name, size and time of change of each file that a volume is stored in."""
    files = [(file.relative_to(volume.parent).as_posix(), file.stat()) for file in files_of(volume)]
    return [[name, status.st_size, status.st_mtime_ns] for name, status in files]


def _stamps(folder: Path, case: Case) -> list[Any]:
    paths = [case.image, image_path(folder, case)]
    if case.mask is not None:
        paths += [case.mask, mask_path(folder, case)]
    return [str(case.mask is not None), *(_stamp(path) for path in paths)]


def save_record(folder: Path, case: Case, record: Mapping[str, Any]) -> None:
    """Note that a case is finished, and what is to be known about it."""
    content = json.dumps({"stamps": _stamps(folder, case), "record": record})
    with replacing(folder / RECORDS / f"{case.identifier}.json") as path:
        path.write_text(content, encoding="utf-8")


def load_record(folder: Path, case: Case) -> dict[str, Any] | None:
    """The record of a case that was finished earlier, if its source and its result are the same still."""
    try:
        content = json.loads((folder / RECORDS / f"{case.identifier}.json").read_text(encoding="utf-8"))
        return dict(content["record"]) if content["stamps"] == _stamps(folder, case) else None
    except (OSError, ValueError):
        return None
