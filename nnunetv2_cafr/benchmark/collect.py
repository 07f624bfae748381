"""From the folders of a benchmark to the study that the report shows."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunetv2_cafr.benchmark import fairness
from nnunetv2_cafr.benchmark.arms import RECIPE
from nnunetv2_cafr.benchmark.jobs import (
    COST_FILE,
    EQUAL_SECONDS,
    external_predictions,
    external_references,
    external_scores,
    external_section,
    jobs_of,
    references_of,
    scores_of,
    section_of,
)
from nnunetv2_cafr.benchmark.matrix import Matrix, Training
from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.evaluation.means import nnunet_means
from nnunetv2_cafr.evaluation.reading import label_table
from nnunetv2_cafr.evaluation.scores import REFERENCE_CHECKSUMS, SETTINGS_FILE, Evaluation
from nnunetv2_cafr.files import read_json, sha256
from nnunetv2_cafr.raw_dataset import case_files, find_dataset, patients_of
from nnunetv2_cafr.report.page import check_report_folder, write_report
from nnunetv2_cafr.report.study import CaseFiles, Cost, Curve, Lengths, Section, Study
from nnunetv2_cafr.training.continuation import BEST_VALIDATED
from nnunetv2_cafr.training.record import CURVES_FILE

REPORT = "report"  # folder of the page
UNEVEN = 0.05  # share of the equal seconds by which an arm may miss them untold


def report(folder: Path, command: str) -> Path:
    """Writes the report of the benchmark in `folder`; returns the page.

    Raises:
        UserError: if a training or a score is missing, or they were not made under equal conditions.
    """
    matrix = Matrix.read(folder)
    try:
        check_report_folder(folder / REPORT)
        fairness.check_after(matrix)
        _check_scoring(matrix, folder)
        return write_report(study_of(matrix, folder, command), folder / REPORT)
    except (ValueError, OSError) as error:
        raise UserError(f"No report: {error}") from error


def study_of(matrix: Matrix, folder: Path, command: str) -> Study:
    description = read_json(matrix.preprocessed / "dataset.json")
    costs, cost_conditions = _costs(folder / COST_FILE)
    record = _shared_record(matrix)
    return Study(
        title=f"{matrix.dataset}, {matrix.configuration}, budget {matrix.budget}",
        arms=matrix.selected_arms(),
        sections=list(_sections(matrix, folder)),
        label_names={
            label: name for label, name in label_table(description["labels"]).items() if isinstance(label, int)
        },
        conditions=_conditions(matrix, record),
        provenance=_provenance(record, command),
        costs=costs,
        cost_conditions=cost_conditions,
        curves={arm.name: list(_curves(matrix, arm.name)) for arm in matrix.selected_arms()},
        settings={arm.name: _settings(matrix, arm.name) for arm in matrix.selected_arms()},
        files={arm.name: dict(_files(matrix, arm.name, description["file_ending"])) for arm in matrix.selected_arms()},
        lengths=_lengths(matrix),
        notes=_notes(matrix),
    )


def _shared_record(matrix: Matrix) -> dict[str, Any]:
    """Of a training under the benchmark's own plans and recipe, which are what all arms share, if there is one."""
    trainings = list(matrix.trainings())
    shared = [one for one in trainings if one.arm.plans == matrix.plans and one.arm.family != RECIPE]
    return fairness.records_of(matrix, (shared or trainings)[0])[0]


def _check_scoring(matrix: Matrix, folder: Path) -> None:
    """Raises ValueError if scores are missing, or some were made by other versions, definitions or tolerances."""
    files = [job.output for job in jobs_of(matrix, folder) if job.output.name == SETTINGS_FILE]
    if lacking := [str(file) for file in files if not file.is_file()]:
        raise ValueError(f"{shorten(lacking)} is missing: give the benchmark's line again, which scores what is left")
    ways: dict[str, list[str]] = defaultdict(list)
    for file in files:
        settings = read_json(file)
        how = [settings.get(name) for name in ("tolerance_mm", "versions", "definitions")]
        ways[json.dumps(how, sort_keys=True)].append(str(file.parent))
    if len(ways) > 1:
        raise ValueError(
            f"other versions, definitions or tolerances scored {' than '.join(map(shorten, ways.values()))}: remove "
            f"{folder / 'evaluation'}, and give the benchmark's line again"
        )


def _sections(matrix: Matrix, folder: Path) -> Iterator[Section]:
    main_title = "Cross-validation" if len(matrix.folds) > 1 else "Held-out patients"
    for percent in sorted(matrix.percents, reverse=True):
        key = section_of(percent)
        title = main_title if percent == 100 else f"Trained on {percent} % of the patients"
        note = f"Validation cases of fold {_list(matrix.folds)}, each predicted by the training that did not see it."
        if percent < 100:
            note += " The patients trained on are a part of those of every larger share, and the same for all arms."
        yield Section(key, title, note, _scores(matrix, folder, percent))
    if matrix.budget_seconds:
        note = (
            f"The same cases, predicted by trainings that take {matrix.seconds:,.0f} s of stepping each, to the "
            "nearest epoch, as measured in turns before them: a cheaper step gives more of them. Reading, augmentation "
            "and nnU-Net's validation are not counted."
        )
        title = f"Equal seconds: {matrix.seconds:,.0f} s"
        yield Section(EQUAL_SECONDS, title, note, _scores(matrix, folder, 100, equal_seconds=True))
    for dataset in matrix.externals:
        note = f"{dataset}, never trained on, predicted by the ensemble of fold {_list(matrix.folds)} of each arm."
        key, raw = external_section(dataset), find_dataset(dataset)
        cases = list(case_files(raw, read_json(raw / "dataset.json")))
        scores = {
            arm: {seed: _external_scores(matrix, folder, dataset, cases, arm, seed) for seed in matrix.seeds}
            for arm in matrix.arms
        }
        if older := list(_older_than_trainings(matrix, folder, dataset)):
            note += (
                f" The scores are older than the trainings {shorten(older)}: if these were repeated and not copied, "
                "remove the predictions and their scores, and give the benchmark's line again."
            )
        yield Section(key, f"External: {dataset}", note, scores)


def _scores(
    matrix: Matrix, folder: Path, percent: int, *, equal_seconds: bool = False
) -> dict[str, dict[int, Evaluation]]:
    """By arm and seed, the folds pooled."""
    folds: dict[str, dict[int, list[Evaluation]]] = defaultdict(lambda: defaultdict(list))
    for training in matrix.trainings():
        if (training.percent, training.equal_seconds) == (percent, equal_seconds):
            folds[training.arm.name][training.seed].append(_validation_scores(matrix, training, folder))
    return {arm: {seed: _pool(parts) for seed, parts in seeds.items()} for arm, seeds in folds.items()}


def _validation_scores(matrix: Matrix, training: Training, folder: Path) -> Evaluation:
    """Raises ValueError if they are not those of this training's predictions of the cases that it validates."""
    file, predictions = scores_of(matrix, training, folder), matrix.fold_folder(training) / "validation"
    cases = fairness.records_of(matrix, training)[-1]["split"]["val"]
    if (predictions / BEST_VALIDATED).exists():
        raise ValueError(
            f"{predictions} was predicted by the best checkpoint (--val_best), where a benchmark compares the final "
            "ones: validate it again with --val alone"
        )
    remedy = f"look for predictions of an earlier training in {predictions}, remove {file}"
    scores = _scores_of_cases(file, matrix.dataset, cases, references_of(matrix), remedy)
    summary = predictions / "summary.json"
    # A copied folder may be older than its predictions too: nnU-Net's own Dice says whether it is of others.
    if (file / SETTINGS_FILE).stat().st_mtime < summary.stat().st_mtime:
        of_nnunet = [one["Dice"] for one in read_json(summary)["mean"].values()]
        ours, _ = nnunet_means(scores, "dice")
        if not np.allclose(np.sort(ours), np.sort(of_nnunet), equal_nan=True):
            raise ValueError(
                f"{file} has scores of an earlier training than {predictions}: remove it, and give the benchmark's "
                "line again"
            )
    return scores


def _external_scores(
    matrix: Matrix, folder: Path, dataset: str, cases: Sequence[str], arm: str, seed: int
) -> Evaluation:
    """Raises ValueError if they are not those of the data set's present cases."""
    file = external_scores(matrix, folder, dataset, arm, seed)
    remedy = f"remove {external_predictions(matrix, folder, dataset, arm, seed)} and {file}"
    return _scores_of_cases(file, dataset, cases, external_references(dataset), remedy)


def _older_than_trainings(matrix: Matrix, folder: Path, dataset: str) -> Iterator[str]:
    """Of external scores, those made before a training that they should be of; a copied folder may look so too."""
    for arm in matrix.arms:
        for training in _trainings(matrix, arm):
            scored = external_scores(matrix, folder, dataset, arm, training.seed) / SETTINGS_FILE
            validated = matrix.fold_folder(training) / "validation" / "summary.json"
            if scored.stat().st_mtime < validated.stat().st_mtime:
                yield f"{arm} fold {training.fold} seed {training.seed}"


def _scores_of_cases(file: Path, dataset: str, cases: Sequence[str], references: Path, remedy: str) -> Evaluation:
    """Raises ValueError if these are scores of other cases, or patients, or against other references than now."""
    scores = Evaluation.read(file)
    scored = scores.settings.get(REFERENCE_CHECKSUMS, {})  # not kept at first
    corrected = [name for name, before in scored.items() if sha256(references / name) != before]
    found = dict(zip(scores.levels["case"], scores.levels["patient"], strict=True))
    expected = patients_of(dataset, sorted(cases))
    moved = [case for case, patient in expected.items() if found.get(case, patient) != patient]
    for wrong, what, do in (
        (found.keys() - expected.keys(), "has scores of {}, which are none of its cases", remedy),
        (expected.keys() - found.keys(), "lacks scores of {}, which are cases of it", remedy),
        (moved, "counts {} as other patients' than provenance.json does now", f"remove {file}"),
        (corrected, f"was made against other label maps than {references} holds now ({{}})", f"remove {file}"),
    ):
        if wrong:
            said = what.format(shorten(sorted(wrong)))
            raise ValueError(f"{file} {said}: {do}, and give the benchmark's line again")
    return scores


def _pool(evaluations: list[Evaluation]) -> Evaluation:
    return Evaluation(
        pd.concat([evaluation.classes for evaluation in evaluations], ignore_index=True),
        pd.concat([evaluation.levels for evaluation in evaluations], ignore_index=True),
        evaluations[0].settings,
        pd.concat([evaluation.shifts for evaluation in evaluations], ignore_index=True),
    )


def _trainings(matrix: Matrix, arm: str) -> Iterator[Training]:
    """The trainings of an arm on all of the data, at equal iterations."""
    return (
        training
        for training in matrix.trainings()
        if training.arm.name == arm and training.percent == 100 and not training.equal_seconds
    )


def _lengths(matrix: Matrix) -> Lengths | None:
    """How long the arms trained in both comparisons; None where there is one."""
    if not matrix.budget_seconds:
        return None
    iterations = {
        section: {
            name: epochs * per_epoch
            for name, training in matrix.first_trainings(equal_seconds=equal_seconds).items()
            for epochs, per_epoch in [matrix.length_of(training).counts]
        }
        for section, equal_seconds in ((section_of(100), False), (EQUAL_SECONDS, True))
    }
    first, *later = (measurement.conditions for measurement in matrix.clock.measurements)
    conditions = "; ".join([first, *(f"arms that joined later, in turns with the first arm: {one}" for one in later)])
    return Lengths(EQUAL_SECONDS, matrix.seconds, iterations, matrix.clock.step_seconds, conditions)


def _curves(matrix: Matrix, arm: str) -> Iterator[Curve]:
    for training in _trainings(matrix, arm):
        values = read_json(matrix.fold_folder(training) / CURVES_FILE)
        plain = {key: value for key, value in values.items() if value and not isinstance(value[0], list)}
        yield Curve(f"fold {training.fold}", training.seed, plain)


def _settings(matrix: Matrix, arm: str) -> Mapping[str, Any]:
    return fairness.records_of(matrix, next(_trainings(matrix, arm)))[0]


def _files(matrix: Matrix, arm: str, ending: str) -> Iterator[tuple[str, CaseFiles]]:
    images = find_dataset(matrix.dataset) / "imagesTr"
    for training in _trainings(matrix, arm):
        if training.seed == matrix.seeds[0]:
            predictions = matrix.fold_folder(training) / "validation"
            for case in fairness.records_of(matrix, training)[-1]["split"]["val"]:
                name = f"{case}{ending}"
                yield case, CaseFiles(images / f"{case}_0000{ending}", references_of(matrix) / name, predictions / name)


def _costs(file: Path) -> tuple[dict[str, Cost], str]:
    if not file.is_file():
        return {}, ""
    content = read_json(file)
    return {name: Cost(**cost) for name, cost in content["arms"].items()}, content["conditions"]


def _conditions(matrix: Matrix, record: Mapping[str, Any]) -> dict[str, str]:
    plans = record["configuration"]
    return {
        "data set": matrix.dataset,
        "configuration": f"{matrix.configuration} of {matrix.plans}, preprocessed data {plans['data_identifier']}",
        "budget": matrix.length.words,
        "folds": _list(matrix.folds),
        "seeds": _list(matrix.seeds),
        "patch and batch": f"{_list(plans['patch_size'], ' x ')}, batch {plans['batch_size']}",
        "spacing": f"{_list(plans['spacing'], ' x ')} mm",
        "checkpoint": "final",
        "inference": "sliding window with half a patch between tiles, mirrored along the axes that the family trains",
        "postprocessing": "none",
        "device": record["device"],
    }


def _provenance(record: Mapping[str, Any], command: str) -> dict[str, str]:
    revision = record["nnunetv2-cafr git revision"] or "not installed from a clone"
    versions = {name: str(version) for name, version in record["versions"].items()}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "device": record["device"],
        "git revision of the first training": revision,
        "checksum of the code that trains": record["nnunetv2-cafr code"][:16],
        **versions,
    }


def _notes(matrix: Matrix) -> list[str]:
    notes = fairness.own_plans(matrix)
    for dataset in (matrix.dataset, *matrix.externals):
        if not (find_dataset(dataset) / "provenance.json").is_file():
            notes.append(
                f"{dataset} has no provenance.json, which would say whose the cases are: each counts as a patient of "
                "its own, in intervals and tests too. Where a patient has several, these are too sure of themselves."
            )
    if any(arm.family == RECIPE for arm in matrix.selected_arms()):
        notes.append(
            "The paper's recipe has its own patch, batch and augmentation, and without a budget its own length: it is "
            "shown, and compared with nothing."
        )
    if matrix.budget_seconds:
        notes.append(
            f"The arms are compared twice: after equal iterations, and after {matrix.seconds:,.0f} s of stepping, for "
            "which each has its own number of iterations. All else is equal in both; see 'Equal iterations beside "
            "equal seconds'."
        )
        uneven = [
            f"{name} {seconds:,.0f} s"
            for name, seconds in matrix.stepping_seconds().items()
            if abs(seconds / matrix.seconds - 1) > UNEVEN
        ]
        if uneven:
            notes.append(
                f"Of these {matrix.seconds:,.0f} s, whole epochs take {', '.join(uneven)}: a --budget of fewer "
                "iterations an epoch would come closer."
            )
    if matrix.length.epochs is not None:
        every = "At equal iterations every" if matrix.budget_seconds else "Every"
        notes.append(
            f"{every} arm trained for {matrix.length.steps}, where nnU-Net's own length is 1000 epochs of 250. A "
            "ranking after a short training is one of how fast arms learn; nothing here says how a full one would end."
        )
    return notes


def _list(values: Any, separator: str = ", ") -> str:
    return separator.join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
