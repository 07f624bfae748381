"""`nnUNetv2_cafr relabel`: consistent spine levels in a folder of label maps, nnU-Net's or another tool's.

Vertebrae and discs are put in a row along the spine, and whole structures get the numbering of the row that fits the
labels (with -p: the network's probabilities) best. Borders stay as they are, and so does a study that is already
consistent. A study whose numbering remains doubtful, or that may have one vertebra more or less, is left as it is and
named. A shift of all levels alike cannot be detected, unless the sacrum is labelled.

A label map that cannot be read does not stop the others: it is listed at the end, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.files import read_json, write_atomically
from nnunetv2_cafr.spine import IGNORE, unread_levels
from nnunetv2_cafr.spine_maps import SpineMaps, add_labels_argument, check_target, read_spine_maps, tell_of_failed

if TYPE_CHECKING:
    import numpy as np
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

EXAMPLES = """examples:
  nnUNetv2_predict -d 511 -c 2d -f 0 -tr nnUNetTrainer_CAFR -i IN -o MAPS --save_probabilities
  nnUNetv2_cafr relabel -i MAPS -p MAPS -o LEVELS
  nnUNetv2_cafr relabel -i OTHER_TOOLS_MAPS -o LEVELS --labels dataset.json

exit status: 0 all studies were read, 1 some could not be, 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", type=Path, required=True, metavar="MAPS", help="folder of label maps")
    parser.add_argument("-p", type=Path, metavar="PROBABILITIES", help="folder of .npz by --save_probabilities")
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="new label maps, a table and statistics")
    add_labels_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2_cafr.deployment.record import doubts_of_prediction
    from nnunetv2_cafr.levels.decoding import FIELD_OF_VIEW, TILTED, decode
    from nnunetv2_cafr.levels.files import (
        STATISTICS_FILE,
        TABLE_FILE,
        Record,
        copy_atomically,
        grid_of,
        read_labels,
        read_probabilities,
    )

    source, target = arguments.i, arguments.o
    if arguments.p is not None and not arguments.p.is_dir():
        raise UserError(f"There is no folder {arguments.p} of probabilities (-p)")
    # nnUNetv2_apply_postprocessing copies neither, and nnUNetv2_ensemble no plans.json.
    described = arguments.labels or _beside("dataset.json", source, arguments.p)
    found = read_spine_maps(source, described, "Levels cannot be decoded")
    if unread := unread_levels(found.labels, found.spine):
        raise UserError(
            f"Levels cannot be decoded with {found.file}: it has names that are read as no level, and would keep their "
            f"numbers where vertebrae get others: {shorten(unread)}. Expected are names such as L5 and L4/L5, "
            "vertebrae_L5, disc_L4_L5, or no level in the name: give a copy with such names by --labels. Nothing was "
            "written"
        )
    labels, maps = found.labels, found.maps
    probabilities = _probabilities(arguments.p, list(maps))
    if target.exists() and any(folder.samefile(target) for folder in (source, arguments.p) if folder):
        raise UserError(f"-o {target} is the folder of the input; nothing is overwritten, give another one")
    names = [path.name for path in maps.values()]
    check_target(target, (*names, "dataset.json", "plans.json", TABLE_FILE, STATISTICS_FILE))

    plans = _beside("plans.json", source, arguments.p)
    reader = _reader(found, plans)
    target.mkdir(parents=True, exist_ok=True)
    copy_atomically(found.file, target / "dataset.json")
    if plans.is_file():
        copy_atomically(plans, target / plans.name)
    values = frozenset(map(int, labels.values()))
    number = len(values) - (IGNORE in labels)
    trained = _heights_of_training(plans, found.description) if plans.is_file() else None
    said = doubts_of_prediction(source)
    if trained is None and not said:
        why = "they are not at hand here" if plans.is_file() else f"there is no {plans}, which nnUNetv2_predict writes"
        print(f"Heights are not compared with those of the training cases: {why}")
    record = Record(target, {"maps": str(source), "probabilities": str(arguments.p or ""), "labels": str(found.file)})
    failed = {}
    for case, path in tqdm(maps.items(), unit="study"):
        try:
            label_map, properties = read_labels(path, reader, values)
            evidence = read_probabilities(probabilities[case], label_map, number) if probabilities else None
            decoding = decode(label_map, found.spine, grid_of(properties), evidence, trained=trained)
            of_image = {kind: why for kind, why in said.get(path.name, {}).items() if kind in (FIELD_OF_VIEW, TILTED)}
            decoding = replace(decoding, flags={**decoding.flags, **of_image})
            if decoding.changed:
                write = partial(_write, reader, decoding.labels, properties, found.ending)
                write_atomically(target / path.name, write)
            else:
                copy_atomically(path, target / path.name)
            record.add(case, decoding, target / path.name)
        except Exception as error:
            failed[case] = f"{type(error).__name__}: {error}"
    print(record.summary(list(maps)))
    print(f"{len(maps) - len(failed)} label maps, {TABLE_FILE} and {STATISTICS_FILE} written to {target}")
    return tell_of_failed(failed, len(maps))


def _beside(name: str, maps: Path, probabilities: Path | None) -> Path:
    """A document of nnU-Net beside the label maps, or beside the probabilities where these have none."""
    places = [folder / name for folder in (maps, probabilities) if folder is not None]
    return next((place for place in places if place.is_file()), places[0])


def _reader(found: SpineMaps, plans: Path) -> type[BaseReaderWriter]:
    """nnU-Net's reader of the label maps; of `plans`, where they are there, the one whose arrays the probabilities are.

    Raises:
        UserError: if there is none.
    """
    from nnunetv2.imageio.reader_writer_registry import (
        determine_reader_writer_from_dataset_json,
        recursive_find_reader_writer_by_name,
    )

    try:
        if plans.is_file():
            return recursive_find_reader_writer_by_name(read_json(plans)["image_reader_writer"])
        example = str(next(iter(found.maps.values())))
        return determine_reader_writer_from_dataset_json(found.description, example, verbose=False)
    except (KeyError, TypeError, RuntimeError) as error:
        of = plans if plans.is_file() else found.file
        raise UserError(
            f"nnU-Net finds no reader of the label maps by {of} ({error!r}): restore that file as nnU-Net wrote it"
        ) from error


def _heights_of_training(plans: Path, description: Mapping[str, Any]) -> tuple[float, float] | None:
    """The smallest and the largest height of the training cases in mm, where these are at hand."""
    from nnunetv2_cafr.deployment.training_cases import cases_of_training, heights_of

    try:
        return heights_of(cases_of_training(read_json(plans), description))
    except Exception as error:  # of data that somebody moved or damaged, which this needs no more than a hint of
        print(f"Heights are not compared with those of the training cases, which cannot be read ({error!r})")
        return None


def _write(
    reader: type[BaseReaderWriter], labels: np.ndarray, properties: dict[str, Any], ending: str, path: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # writers go by the ending of a name
        file = Path(folder) / f"labels{ending}"
        reader().write_seg(labels, str(file), properties)
        shutil.copyfile(file, path)


def _probabilities(folder: Path | None, cases: list[str]) -> dict[str, Path]:
    """The .npz of every case; none without a folder.

    Raises:
        UserError: with the cases that have none.
    """
    if folder is None:
        return {}
    files = {case: folder / f"{case}.npz" for case in cases}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise UserError(
            f"{folder} lacks {len(missing)} of {len(cases)} files: {shorten(missing)}. nnUNetv2_predict writes them by "
            "--save_probabilities; without -p the labels alone are used"
        )
    return files
