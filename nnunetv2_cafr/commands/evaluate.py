"""`nnUNetv2_cafr evaluate`: scores predictions against references, voxels, surfaces and levels, in mm.

Per case and class: Dice, IoU, HD, HD95, ASSD and NSD, volume-wise and slice-wise; Dice and IoU where vertebrae meet
discs; where the labels are spine levels, how many vertebrae carry the right one, which Dice hides, and how many would
after level decoding, with a figure. Means are given in every way of counting absent classes; Dice and IoU per case and
class are those of nnU-Net's summary.json.

Labels are taken from a dataset.json: -djfile, or the one in the folder of references or beside it, or in the folder of
predictions (nnUNetv2_predict leaves it there) or beside it. If both sides have one, their labels must agree. A
provenance.json beside it, or beside the references' folder, says which patient a case is of; without one, each case is
a patient of its own.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_cafr import options
from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.evaluation import TOLERANCE_MM
from nnunetv2_cafr.files import begins_with, check_folder, describe_failure, read_json

if TYPE_CHECKING:
    from nnunetv2_cafr.evaluation.reading import CasePair

EXAMPLES = """examples:
  nnUNetv2_cafr evaluate $nnUNet_raw/Dataset511_SpineMRI/labelsTs PREDICTIONS
  nnUNetv2_cafr evaluate REFERENCES PREDICTIONS -djfile dataset.json -o scores --tolerance 2 -np 4
  nnUNetv2_cafr evaluate labelsTr fold_0/validation --chill     only the cases that were predicted

exit status: 0 scored, 2 the call was refused
"""

FIGURE_FILE = "level_shifts.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("references", type=Path, metavar="REF", help="folder of reference label maps")
    parser.add_argument("predictions", type=Path, metavar="PRED", help="folder of predicted ones, of the same names")
    parser.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json with the labels and the file ending")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="where the tables go (default PRED/evaluation)")
    parser.add_argument(
        "--tolerance",
        type=options.number("tolerance in mm", 0),
        default=TOLERANCE_MM,
        metavar="MM",
        help=f"of the NSD (default {TOLERANCE_MM:g} mm)",
    )
    parser.add_argument("--chill", action="store_true", help="leave out references that have no prediction")
    options.add_processes(parser, "processes; each holds one case in memory")


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2_cafr.evaluation.level_shifts import SHIFTS, draw_level_shifts
    from nnunetv2_cafr.evaluation.means import shift_summary
    from nnunetv2_cafr.evaluation.printed import summary
    from nnunetv2_cafr.evaluation.reading import label_table
    from nnunetv2_cafr.evaluation.scores import CLASSES_FILE, LEVELS_FILE, SETTINGS_FILE, SHIFTS_FILE
    from nnunetv2_cafr.evaluation.scoring import evaluate_folders

    _check_folders(arguments.references, arguments.predictions)
    target = arguments.o or arguments.predictions / "evaluation"
    _check_target(target)
    file = _find_dataset_json((arguments.references, arguments.predictions), arguments.djfile)
    description = read_json(file)
    try:
        names, ending = label_table(description["labels"]), str(description["file_ending"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} has no labels and file_ending as nnU-Net v2 reads them: {error!r}") from error
    if not any(name != "ignore" for name in names.values()):
        raise UserError(
            f"{file} has no label but the background, so there is nothing to score; add the structures' labels"
        )
    pairs = _pairs(arguments.references, arguments.predictions, ending, arguments.chill, file)
    try:
        evaluation = evaluate_folders(
            pairs, names, tolerance_mm=arguments.tolerance, num_processes=arguments.np, progress=True
        )
    except (RuntimeError, ValueError, OSError, MemoryError) as error:
        raise UserError(f"Nothing was written. {error}") from error
    try:
        (target / FIGURE_FILE).unlink(missing_ok=True)
        evaluation.write(target)
        if not evaluation.shifts.empty:
            draw_level_shifts(shift_summary(evaluation)[list(SHIFTS)], target / FIGURE_FILE)
    except OSError as error:
        raise UserError(describe_failure(target, error)) from error
    print(summary(evaluation))
    written = [CLASSES_FILE, LEVELS_FILE, SHIFTS_FILE, *([] if evaluation.shifts.empty else [FIGURE_FILE])]
    print(f"\nWrote {', '.join(written)} and {SETTINGS_FILE} (with all definitions) in {target}")
    return 0


def _check_folders(references: Path, predictions: Path) -> None:
    """Raises UserError, which names every folder that is not there."""
    missing = [folder for folder in dict.fromkeys((references, predictions)) if not folder.is_dir()]
    if missing:
        found = " and ".join(f"no folder {folder}{' (it is a file)' if folder.exists() else ''}" for folder in missing)
        raise UserError(f"There is {found}. Expected are a folder of reference label maps and one of predictions")


def _find_dataset_json(folders: Sequence[Path], given: Path | None) -> Path:
    """The dataset.json that says what the labels of references and predictions are, in these folders or above them.

    Raises:
        UserError: if there is none, or if that of the predictions has other labels than that of the references.
    """
    if given is not None:
        return given
    sides = [[place / "dataset.json" for place in (one.resolve(), one.resolve().parent)] for one in folders]
    there = [next(file for file in files if file.is_file()) for files in sides if any(map(Path.is_file, files))]
    if not there:
        places = ", ".join(map(str, dict.fromkeys(itertools.chain(*sides))))
        raise UserError(f"No dataset.json, which names the labels: it is none of {places}. Give it by -djfile")
    _check_same_labels(there[0], there[-1])
    return there[0]


def _check_same_labels(first: Path, second: Path) -> None:
    """Refuses label maps whose values mean different structures: the references' dataset.json and the predictions'."""
    labels, others = (read_json(file).get("labels") for file in (first, second))
    if not isinstance(labels, dict) or not isinstance(others, dict) or labels == others:
        return
    differ = [
        f"{name} ({labels.get(name, 'none')} and {others.get(name, 'none')})"
        for name in dict.fromkeys([*labels, *others])
        if labels.get(name) != others.get(name)
    ]
    raise UserError(
        f"{first} and {second} number the labels differently: {shorten(differ)}. Expected are references and "
        "predictions with the same labels: convert one of them, or name the file that is right for both by -djfile"
    )


def _pairs(references: Path, predictions: Path, ending: str, chill: bool, dataset_json: Path) -> list[CasePair]:
    """Files of every reference; with `chill` of those that have a prediction.

    Raises:
        UserError: with everything that has no partner.
    """
    from nnunetv2_cafr.evaluation.reading import CasePair
    from nnunetv2_cafr.raw_dataset import patients_by_provenance

    # Names that begin with a dot are of the system, as macOS's ._case.nii.gz.
    expected, found = (
        sorted(file.name for file in folder.glob(f"[!.]*{ending}")) for folder in (references, predictions)
    )
    if not expected or not found:
        raise UserError(f"No *{ending} in {predictions if expected else references}; {dataset_json} has this ending")
    if others := [
        str(file)
        for folder in (references, predictions)
        for file in sorted(folder.iterdir())
        if file.name.lower().endswith(ending.lower()) and not file.name.endswith(ending) and file.name[0] != "."
    ]:
        raise UserError(
            f"{shorten(others)} would be left out: the file_ending is {ending}, in these letters. Rename them"
        )
    without_reference = [name for name in found if name not in expected]
    without_prediction = [] if chill else [name for name in expected if name not in found]
    if without_reference:
        raise UserError(
            f"{len(without_reference)} predictions in {predictions} have no reference in {references}: "
            f"{shorten(without_reference)}. Give the folder of their references, or take them out"
        )
    if without_prediction:
        raise UserError(
            f"{predictions} lacks {len(without_prediction)} of {len(expected)} predictions: "
            f"{shorten(without_prediction)}. Predict them, or score the others alone by --chill"
        )
    cases = [name.removesuffix(ending) for name in found]
    files = [folder / "provenance.json" for folder in (dataset_json.parent, references.resolve().parent)]
    file = next((file for file in files if file.is_file()), files[0])
    patients = patients_by_provenance(file, cases)
    return [
        CasePair(case, patients[case], references / name, predictions / name)
        for case, name in zip(cases, found, strict=True)
    ]


def _check_target(target: Path) -> None:
    """Refuses a target that is neither new, nor empty, nor an earlier evaluation."""
    from nnunetv2_cafr.evaluation.scores import (
        CLASS_COLUMNS,
        CLASSES_FILE,
        LEVEL_COLUMNS,
        LEVELS_FILE,
        SETTINGS_FILE,
        SHIFT_COLUMNS,
        SHIFTS_FILE,
    )

    ours = {
        CLASSES_FILE: begins_with(",".join(CLASS_COLUMNS)),
        LEVELS_FILE: begins_with(",".join(LEVEL_COLUMNS)),
        SHIFTS_FILE: begins_with(",".join(SHIFT_COLUMNS)),
        SETTINGS_FILE: begins_with('"references": ['),
        FIGURE_FILE: lambda _: (target / SHIFTS_FILE).is_file(),
    }
    try:
        check_folder(target, "an earlier evaluation's", ours)
    except OSError as error:
        raise UserError(str(error)) from error
