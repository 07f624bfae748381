"""`nnUNetv2_cafr split`: splits_final.json by patient, with every label in every fold where that is possible.

nnU-Net's own split is random by case. Here all cases of a patient (provenance.json says whose they are) stay together,
and patients are divided by the labels that their masks hold: of 172 SpineMRI cases, 8 show T9.
  folds    5 folds, written where nnUNetv2_train and the planner look for them; never over an existing file
  holdout  a quarter of the patients held out: one fold, written there too, that trains on the others and validates on
           these. Nothing is selected on them where the last checkpoint counts, as in nnUNetv2_cafr benchmark
  paper    70/15/15 of the patients, as a new data set: training and validation as its only fold, the test part in
           imagesTs and labelsTs, out of reach of planning and training. Its files are hard links, which take no space;
           the data set that it is made from stays as it is
"""

from __future__ import annotations

import argparse
import os
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_cafr import options
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.splits import DEFAULT_SEED, FOLDS, SCHEMES

if TYPE_CHECKING:
    from nnunetv2_cafr.raw_dataset import Case, Dataset
    from nnunetv2_cafr.splits.writing import Parts

EXAMPLES = """examples:
  nnUNetv2_cafr split -d 511                         5 folds
  nnUNetv2_cafr split -d 511 --scheme holdout        one fold, which holds a quarter out
  nnUNetv2_cafr split -d 511 --scheme paper -t 512   70/15/15 as Dataset512_..._paper

exit status: 0 written, or there already; 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d", type=options.dataset, metavar="DATASET", required=True, help="id or name of the raw data set"
    )
    parser.add_argument("--scheme", default="folds", choices=SCHEMES, help="default folds")
    parser.add_argument(
        "-t",
        type=options.whole_number("data set id", 1, 999),
        metavar="ID",
        help="id of the new data set (--scheme paper)",
    )
    parser.add_argument("--seed", type=options.seed, default=DEFAULT_SEED, help=f"default {DEFAULT_SEED}")
    options.add_processes(parser, "processes that read masks")


def table(dataset: Dataset, parts: Parts) -> str:
    """Plain text: per part the number of patients, of cases, and of cases that hold each label."""
    cases = [[dataset.cases[identifier] for identifier in part] for part in (*parts.values(), dataset.cases)]
    rows: list[tuple[str, Sequence[object]]] = [
        ("", [*parts, "all"]),
        ("patients", [len(_patients(column)) for column in cases]),
        ("cases", [len(column) for column in cases]),
    ]
    rows += [(label, [sum(label in case.labels for case in column) for column in cases]) for label in dataset.labels]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}" + "".join(f"{value:>12}" for value in values) for name, values in rows)


def _patients(cases: Sequence[Case]) -> set[str]:
    return {case.patient for case in cases}


def warnings(dataset: Dataset, parts: Parts, scheme: str) -> list[str]:
    """A line for each label that is missing from a part, or from what a fold trains on, with the reason."""
    lines = []
    held = frozenset().union(*(case.labels for case in dataset.cases.values()))
    for label in (name for name in dataset.labels if name in held):
        holders = [identifier for identifier, case in dataset.cases.items() if label in case.labels]
        without = [name for name, part in parts.items() if not set(holders) & set(part)]
        if not without:
            continue
        patients = len(_patients([dataset.cases[identifier] for identifier in holders]))
        reason = (
            f"too few for {len(parts)} parts"
            if patients < len(parts)
            else "no division with it in every part was found"
        )
        line = f"Warning: {label} (cases {len(holders)}, patients {patients}): {reason}; none in {', '.join(without)}"
        if scheme == "folds" and len(without) == len(parts) - 1:
            (only,) = parts.keys() - set(without)
            line += f"; {only} trains without it"
        lines.append(line)
    absent = [label for label in dataset.labels if label not in held]
    if absent:
        lines.append(f"Warning: in no case at all: {', '.join(absent)}")
    return lines


def _new_folder(dataset: Path, dataset_id: int | None) -> Path:
    """Where the data set of `--scheme paper` goes."""
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    if dataset_id is None:
        raise UserError("--scheme paper makes a new data set: give it a free id by -t, for example -t 512")
    taken = [str(name) for name in find_candidate_datasets(dataset_id)]
    if taken:
        raise UserError(f"-t {dataset_id} is taken by {', '.join(taken)}: nothing is overwritten, give a free id")
    return dataset.parent / f"Dataset{dataset_id:03d}_{dataset.name.split('_', 1)[1]}_paper"


def _describe(dataset: Dataset) -> list[str]:
    patients = len(_patients(list(dataset.cases.values())))
    lines = [f"{dataset.folder.name}: {len(dataset.cases)} cases of {patients} patients"]
    if dataset.provenance is None:
        lines.append("It has no provenance.json: each case counts as a patient of its own.")
    else:
        subsets = Counter(str(dataset.provenance["cases"][identifier].get("subset")) for identifier in dataset.cases)
        if len(subsets) > 1:
            named = ", ".join(f"{name} {count}" for name, count in sorted(subsets.items()))
            lines.append(f"The source's own subsets ({named} cases) are not followed.")
    return lines


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    from nnunetv2_cafr.raw_dataset import find_dataset, read_dataset
    from nnunetv2_cafr.splits.division import cross_validation, divide, one_fold
    from nnunetv2_cafr.splits.writing import SPLITS_FILE, new_dataset, write_splits

    scheme, seed = arguments.scheme, arguments.seed
    if scheme != "paper" and arguments.t is not None:
        raise UserError("-t belongs to --scheme paper; other schemes are written for the data set itself")
    folder = find_dataset(arguments.d)
    target = _new_folder(folder, arguments.t) if scheme == "paper" else None
    dataset = read_dataset(folder, arguments.np)
    parts = divide(dataset, scheme, seed)
    print("\n".join(_describe(dataset)))
    print(f"\nScheme {scheme}, seed {seed}; cases of each {'validation part' if scheme == 'folds' else 'part'}:\n")
    print(table(dataset, parts), end="\n\n")
    for warning in warnings(dataset, parts, scheme):
        print(warning)
    if target is not None:
        new_dataset(dataset, parts, target, seed)
        print(textwrap.fill(f"Test cases ({len(parts['test'])}): {', '.join(parts['test'])}", 120))
        print(f"\nWrote {target}; its files are hard links where that")
        print("is possible: one that is edited in place changes in both data sets.\nNext:")
        print(f"  nnUNetv2_plan_and_preprocess -d {arguments.t} -c 2d")
        print(f"  nnUNetv2_train {arguments.t} 2d 0 -tr nnUNetTrainer_CAFR    fold 0 is the only one")
        return 0
    folders = [folder]
    preprocessed = Path(str(nnUNet_preprocessed)) / folder.name if nnUNet_preprocessed.is_set() else None
    if preprocessed is not None and preprocessed.is_dir():
        folders.append(preprocessed)
        if not os.access(folder, os.W_OK):  # nnU-Net's trainings read the other one alone
            print(f"{folder} can't be written to: the splits go to {preprocessed} alone, from which nnU-Net trains")
            folders.remove(folder)
    is_preprocessed = preprocessed in folders
    targets = [path / SPLITS_FILE for path in folders]
    written = write_splits(cross_validation(parts) if scheme == "folds" else one_fold(parts), targets)
    for path in targets:
        print(f"{'Wrote' if path in written else 'The same splits are already in'} {path}")
    dataset_id = convert_dataset_name_to_id(folder.name)
    if scheme == "holdout":
        print(textwrap.fill(f"Held out ({len(parts['held out'])}): {', '.join(parts['held out'])}", 120))
    which = "the only fold, 0" if scheme == "holdout" else f"folds 0 to {FOLDS - 1}"
    print(f"Next, for {which}:" if is_preprocessed else "Next (planning takes the splits over):")
    if not is_preprocessed:
        print(f"  nnUNetv2_plan_and_preprocess -d {dataset_id} -c 2d")
    print(f"  nnUNetv2_train {dataset_id} 2d 0 -tr nnUNetTrainer_CAFR")
    return 0
