"""`nnUNetv2_cafr evaluate`: scores predictions against references, voxels, surfaces and levels, in mm.

Per case and class: Dice, IoU, HD, HD95, ASSD and NSD, volume-wise and slice-wise; Dice and IoU where vertebrae meet
discs; where the labels are spine levels, how many vertebrae carry the right one, which Dice hides, and how many would
after level decoding, with a figure. Means are given in every way of counting absent classes; Dice and IoU per case and
class are those of nnU-Net's summary.json.

Labels are taken from a dataset.json: -djfile, or the one beside the folder of references, in the folder of predictions
(nnUNetv2_predict leaves it there), or beside it. A provenance.json beside it, or beside the references' folder, says
which patient a case is of; without one, each case is a patient of its own.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from nnunetv2.configuration import default_num_processes

from nnunetv2_cafr.commands import options
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.evaluation import means
from nnunetv2_cafr.evaluation.level_shifts import CONSISTENT, SHIFTS, draw_level_shifts
from nnunetv2_cafr.evaluation.reading import CasePair, label_table
from nnunetv2_cafr.evaluation.scores import (
    CLASS_COLUMNS,
    CLASSES_FILE,
    DISTANCES,
    LEVEL_COLUMNS,
    LEVELS_FILE,
    METRICS,
    SETTINGS_FILE,
    SHIFT_COLUMNS,
    SHIFTS_FILE,
    Evaluation,
)
from nnunetv2_cafr.evaluation.scoring import TOLERANCE_MM, evaluate_folders
from nnunetv2_cafr.files import begins_with, check_folder, describe_failure, read_json
from nnunetv2_cafr.raw_dataset import patients_by_provenance, shorten

EXAMPLES = """examples:
  nnUNetv2_cafr evaluate $nnUNet_raw/Dataset511_SpineMRI/labelsTs PREDICTIONS
  nnUNetv2_cafr evaluate REFERENCES PREDICTIONS -djfile dataset.json -o scores --tolerance 2 -np 4
  nnUNetv2_cafr evaluate labelsTr fold_0/validation --chill     only the cases that were predicted
"""

FIGURE_FILE = "level_shifts.png"
HEADINGS = {"dice": "Dice", "iou": "IoU", "nsd": "NSD", "hd_mm": "HD", "hd95_mm": "HD95", "assd_mm": "ASSD"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("references", type=Path, metavar="REF", help="folder of reference label maps")
    parser.add_argument("predictions", type=Path, metavar="PRED", help="folder of predicted ones, of the same names")
    parser.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json with the labels and the file ending")
    parser.add_argument("-pfile", metavar="FILE", help="not needed; taken as nnUNetv2_evaluate_folder asks for it")
    parser.add_argument("-o", type=Path, metavar="FOLDER", help="where the tables go (default PRED/evaluation)")
    parser.add_argument(
        "--tolerance",
        type=options.number("tolerance in mm", 0),
        default=TOLERANCE_MM,
        metavar="MM",
        help=f"of the NSD (default {TOLERANCE_MM:g} mm)",
    )
    parser.add_argument("--chill", action="store_true", help="leave out references that have no prediction")
    parser.add_argument(
        "-np",
        type=options.processes,
        default=default_num_processes,
        metavar="N",
        help=f"processes; each holds one case in memory (default {default_num_processes})",
    )


def run(arguments: argparse.Namespace) -> int:
    _check_folders(arguments.references, arguments.predictions)
    target = arguments.o or arguments.predictions / "evaluation"
    _check_target(target)
    file = _find_dataset_json(arguments.references, arguments.predictions, arguments.djfile)
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
            draw_level_shifts(means.shift_summary(evaluation)[list(SHIFTS)], target / FIGURE_FILE)
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


def _find_dataset_json(references: Path, predictions: Path, given: Path | None) -> Path:
    """The dataset.json that says what the labels are.

    Raises:
        UserError: if there is none; names the places.
    """
    if given is not None:
        return given
    folders = (references.resolve().parent, predictions, predictions.resolve().parent)
    places = [folder / "dataset.json" for folder in dict.fromkeys(folder.resolve() for folder in folders)]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"No dataset.json, which names the labels: it is none of {', '.join(map(str, places))}. Give it by -djfile"
    )


def _pairs(references: Path, predictions: Path, ending: str, chill: bool, dataset_json: Path) -> list[CasePair]:
    """Files of every reference; with `chill` of those that have a prediction.

    Raises:
        UserError: with everything that has no partner.
    """
    expected, found = (sorted(file.name for file in folder.glob(f"*{ending}")) for folder in (references, predictions))
    if not expected or not found:
        raise UserError(f"No *{ending} in {predictions if expected else references}; {dataset_json} has this ending")
    if others := [
        str(file)
        for folder in (references, predictions)
        for file in sorted(folder.iterdir())
        if file.name.lower().endswith(ending.lower()) and not file.name.endswith(ending)
    ]:
        raise UserError(
            f"{shorten(others)} would be left out: the file_ending is {ending}, in these letters. Rename them"
        )
    without_reference = [name for name in found if name not in expected]
    without_prediction = [] if chill else [name for name in expected if name not in found]
    if without_reference:
        raise UserError(
            f"{len(without_reference)} predictions in {predictions} have no reference in {references}: "
            f"{', '.join(without_reference)}"
        )
    if without_prediction:
        raise UserError(
            f"{predictions} lacks {len(without_prediction)} of {len(expected)} predictions: "
            f"{', '.join(without_prediction)}. Predict them, or score the others alone by --chill"
        )
    cases = [name.removesuffix(ending) for name in found]
    files = [folder / "provenance.json" for folder in (dataset_json.parent, references.resolve().parent)]
    file = next((file for file in files if file.is_file()), files[0])
    patients = patients_by_provenance(file, read_json(file) if file.is_file() else None, cases)
    return [
        CasePair(case, patients[case], references / name, predictions / name)
        for case, name in zip(cases, found, strict=True)
    ]


def _check_target(target: Path) -> None:
    """Refuses a target that is neither new, nor empty, nor an earlier evaluation."""
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


def summary(evaluation: Evaluation) -> str:
    """Plain text: classes, means by every policy, levels."""
    return "\n".join(
        [*_class_lines(evaluation), "", *_mean_lines(evaluation), *_level_lines(evaluation), *_shift_lines(evaluation)]
    )


def _class_lines(evaluation: Evaluation) -> Iterator[str]:
    table = means.class_table(evaluation)
    width = max(10, *(len(name) for name in table.index))
    settings = evaluation.settings
    yield (
        f"{settings['cases']} cases, in 3-D. Overlaps are means over the cases that hold the class, a missed one "
        f"counting 0; NSD at {settings['tolerance_mm']:g} mm."
    )
    yield "Distances in mm are means over those that are not missed. false: predicted, but not in the reference.\n"
    yield f"{'':<{width}}{'cases':>7}{'missed':>7}{'false':>7}" + _headings()
    for name, row in table.iterrows():
        counts = "".join(f"{row[column]:>7.0f}" for column in ("cases", "missed", "false"))
        yield f"{name:<{width}}{counts}" + _cells(row)


def _mean_lines(evaluation: Evaluation) -> Iterator[str]:
    yield f"{'means over cases':<46}" + _headings()
    low_contrast = means.low_contrast_names(evaluation)
    rows: list[tuple[str, means.Policy, Sequence[str] | None, str]] = [
        ("classes present; missed = image diagonal", "present", None, "volume"),
        ("all classes; absent = perfect", "all", None, "volume"),
        ("classes that both hold", "found", None, "volume"),
        ("classes present, slice by slice", "present", None, "slices"),
        ("all structures as one", "present", None, "foreground"),
    ]
    if low_contrast:
        rows.append((f"low contrast, present ({' '.join(low_contrast)})", "present", low_contrast, "volume"))
    if (evaluation.classes["view"] == "junctions").any():
        rows.append(("junctions of vertebra and disc, present", "present", None, "junctions"))
    for title, policy, names, view in rows:
        values = {metric: means.per_case(evaluation, metric, policy, names, view).mean() for metric in METRICS}
        yield f"{title:<46}" + _cells(pd.Series(values))
    overlaps = {metric: means.nnunet_means(evaluation, metric)[1] for metric in ("dice", "iou")}
    yield f"{'nnU-Net: per class, then over classes':<46}" + _cells(pd.Series(overlaps).reindex(METRICS))


def _level_lines(evaluation: Evaluation) -> Iterator[str]:
    levels = means.level_summary(evaluation)
    if levels:
        yield (
            f"\n{levels['vertebrae']:.0f} vertebrae: {levels['found']:.1%} found whatever their label (instance Dice "
            f"{levels['instance_dice']:.3f}), {levels['right_level']:.1%} at the right level,"
        )
        yield (
            f"{levels['shifted_up']:.1%} one too high, {levels['shifted_down']:.1%} one too low; all right in "
            f"{levels['patients_all_right']:.1%} of {levels['patients']:.0f} patients"
        )


def _shift_lines(evaluation: Evaluation) -> Iterator[str]:
    table = means.shift_summary(evaluation)
    if table.empty:
        return
    yield f"\n{'vertebrae by level shift':<26}" + "".join(f"{shift:>8}" for shift in SHIFTS) + f"{'Dice':>8}"
    for name, row in table.iterrows():
        yield f"{name:<26}" + "".join(f"{row[shift]:>8.0f}" for shift in SHIFTS) + f"{row['dice']:>8.3f}"
    decoded = table.loc[CONSISTENT]
    yield (
        "Level-consistent is the same after nnUNetv2_cafr relabel, from the labels alone: "
        f"{decoded['better']:.0f} cases better, {decoded['worse']:.0f} worse, {decoded['flagged']:.0f} flagged."
    )


def _headings() -> str:
    return "".join(f"{title:>8}" for title in HEADINGS.values())


def _cells(values: pd.Series) -> str:
    cells = []
    for metric in HEADINGS:
        digits = 2 if metric in DISTANCES else 3
        cells.append(f"{'-':>8}" if pd.isna(values[metric]) else f"{values[metric]:>8.{digits}f}")
    return "".join(cells)
