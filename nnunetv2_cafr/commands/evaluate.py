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
from pathlib import Path

from nnunetv2_cafr import options
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.evaluation import TOLERANCE_MM
from nnunetv2_cafr.files import begins_with, check_folder, describe_failure

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
    from nnunetv2_cafr.evaluation.pairing import check_folders, find_dataset_json, find_pairs, read_labels
    from nnunetv2_cafr.evaluation.printed import summary
    from nnunetv2_cafr.evaluation.scores import CLASSES_FILE, LEVELS_FILE, SETTINGS_FILE, SHIFTS_FILE
    from nnunetv2_cafr.evaluation.scoring import evaluate_folders

    check_folders(arguments.references, arguments.predictions)
    target = arguments.o or arguments.predictions / "evaluation"
    _check_target(target)
    file = arguments.djfile or find_dataset_json(arguments.references, arguments.predictions)
    names, ending = read_labels(file)
    pairs = find_pairs(arguments.references, arguments.predictions, ending, arguments.chill, file)
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
