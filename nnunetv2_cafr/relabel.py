"""`nnUNetv2_cafr relabel`: consistent spine levels in a folder of label maps, nnU-Net's or another tool's.

Vertebrae and discs are put in a row along the spine, and the numbering of the whole row that the labels (with -p: the
network's probabilities) speak for is given to whole structures. Borders stay as they are, and so does a study that is
consistent already. A study whose numbering stays doubtful, or that may have a vertebra more or less, is left as it is
and named. What cannot be seen is a shift of all levels alike, unless the sacrum is labelled.

A label map that cannot be read does not stop the others: it is listed at the end, and the exit status is 1.
"""

import argparse
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import (
    determine_reader_writer_from_dataset_json,
    recursive_find_reader_writer_by_name,
)
from tqdm import tqdm

from nnunetv2_cafr.files import check_place, write_atomically
from nnunetv2_cafr.levels.decoding import decode
from nnunetv2_cafr.levels.files import (
    STATISTICS_FILE,
    TABLE_FILE,
    Record,
    copy_atomically,
    grid_of,
    read_labels,
    read_probabilities,
)
from nnunetv2_cafr.spine import IGNORE, read_spine
from nnunetv2_cafr.splits.cases import read_json, shorten

EXAMPLES = """examples:
  nnUNetv2_predict -d 511 -c 2d -f 0 -i IN -o MAPS --save_probabilities
  nnUNetv2_cafr relabel -i MAPS -p MAPS -o LEVELS
  nnUNetv2_cafr relabel -i OTHER_TOOLS_MAPS -o LEVELS --labels dataset.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", type=Path, required=True, metavar="MAPS", help="folder of label maps")
    parser.add_argument("-p", type=Path, metavar="PROBABILITIES", help="folder of .npz by --save_probabilities")
    parser.add_argument("-o", type=Path, required=True, metavar="OUT", help="new label maps, a table and statistics")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="dataset.json with labels and file_ending (default MAPS/dataset.json)",
    )


def run(arguments: argparse.Namespace) -> int:
    source, target = arguments.i, arguments.o
    file = arguments.labels or source / "dataset.json"
    if not source.is_dir() or not file.is_file():
        missing = file if source.is_dir() else source
        raise SystemExit(
            f"There is no {missing}: expected are a folder of label maps, and a dataset.json in it or by --labels"
        )
    description = read_json(file)
    try:
        labels, ending = description["labels"], str(description["file_ending"])
        spine = read_spine(labels)
    except KeyError as error:
        raise SystemExit(
            f"{file} has no {error}, expected are labels and file_ending as nnU-Net v2 writes them"
        ) from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise SystemExit(f"Levels cannot be decoded with {file}: {error}. Nothing was written") from error
    maps = sorted(path for path in source.glob(f"*{ending}") if not path.name.startswith("."))
    if others := [
        path.name
        for path in sorted(source.iterdir())
        if path.name.lower().endswith(ending.lower()) and not path.name.endswith(ending)
    ]:
        raise SystemExit(
            f"{shorten(others)} in {source} would be left out: maps end in {ending}, in these letters. Rename them"
        )
    if not maps:
        raise SystemExit(f"{source} holds no *{ending}, the file_ending of {file}")
    probabilities = _probabilities(arguments.p, [path.name.removesuffix(ending) for path in maps])
    _check_target(target, [source, *([arguments.p] if arguments.p else [])], [path.name for path in maps])

    plans = source / "plans.json"
    if plans.is_file():  # the reader that predicted: its arrays are those of the probabilities
        reader = recursive_find_reader_writer_by_name(read_json(plans)["image_reader_writer"])
    else:
        reader = determine_reader_writer_from_dataset_json(description, str(maps[0]), verbose=False)
    target.mkdir(parents=True, exist_ok=True)
    copy_atomically(file, target / "dataset.json")
    if plans.is_file():
        copy_atomically(plans, target / plans.name)
    values = frozenset(map(int, labels.values()))
    number = len(values) - (IGNORE in labels)
    record = Record(target, {"maps": str(source), "probabilities": str(arguments.p or ""), "labels": str(file)})
    failed = {}
    for path in tqdm(maps, unit="study"):
        case = path.name.removesuffix(ending)
        try:
            found, properties = read_labels(path, reader, values)
            evidence = read_probabilities(probabilities[case], found, number) if probabilities else None
            decoding = decode(found, spine, grid_of(properties), evidence)
            if decoding.changed:
                write = partial(_write, reader, decoding.labels, properties, ending)
                write_atomically(target / path.name, write)
            else:
                copy_atomically(path, target / path.name)
            record.add(case, decoding)
        except Exception as error:
            failed[case] = f"{type(error).__name__}: {error}"
    print(record.summary([path.name.removesuffix(ending) for path in maps]))
    print(f"{len(maps) - len(failed)} label maps, {TABLE_FILE} and {STATISTICS_FILE} written to {target}")
    if failed:
        print(f"{len(failed)} of {len(maps)} studies failed:")
        print("\n".join(f"  {case}: {reason}" for case, reason in failed.items()))
        return 1
    return 0


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
        SystemExit: with the cases that have none.
    """
    if folder is None:
        return {}
    files = {case: folder / f"{case}.npz" for case in cases}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise SystemExit(
            f"{folder} lacks {len(missing)} of {len(cases)} files: {shorten(missing)}. nnUNetv2_predict writes them by "
            "--save_probabilities; without -p the labels alone are used"
        )
    return files


def _check_target(target: Path, sources: list[Path], names: list[str]) -> None:
    """Refuses a folder that is an input, cannot be written to, or holds anything that would be overwritten."""
    if target.exists() and any(source.samefile(target) for source in sources):
        raise SystemExit(f"-o {target} is the folder of the input; nothing is overwritten, give another one")
    if target.exists() and not target.is_dir():
        raise SystemExit(f"-o {target} is a file, expected a folder")
    try:
        check_place(target)
    except OSError as error:
        raise SystemExit(f"-o {error}") from error
    written = (*names, "dataset.json", "plans.json", TABLE_FILE, STATISTICS_FILE)
    if there := [name for name in written if os.path.lexists(target / name)]:
        raise SystemExit(f"{target} holds {shorten(there)} already; nothing is overwritten, give a new folder by -o")
