"""Refuses what cannot be compared fairly: before hours of compute are spent, and again before a report is written.

Every training leaves a record of what made it (training/record.py). Within a report all arms must agree in budget,
data, split, preprocessing, patch, batch, augmentation (per family), code, library versions and device. Two exceptions,
both stated in the report: arms with plans of their own may have another patch and batch, and the paper's own recipe is
held to data, split and code alone, because it is compared with nothing. In the comparison at equal seconds each arm has
its own number of epochs, and only that which follows from the measured seconds per step.
"""

import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from nnunetv2_cafr.benchmark.arms import OWN_PLANS, RECIPE
from nnunetv2_cafr.benchmark.clock import CLOCK_FOLDER
from nnunetv2_cafr.benchmark.matrix import Matrix, Training
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.raw_dataset import case_files, find_dataset, patients_of
from nnunetv2_cafr.splits.few_cases import FOLDS, few_cases
from nnunetv2_cafr.training.lookup import find_trainer
from nnunetv2_cafr.training.preflight import CheckedTraining
from nnunetv2_cafr.training.record import CURVES_FILE, RECORD_FILE, code_digest

Record = dict[str, Any]

_BUDGET = ("num_epochs", "num_iterations_per_epoch", "oversample_foreground_percent", "probabilistic_oversampling")
_OF_PLANS = ("data_identifier", "preprocessor_name", "spacing", "normalization_schemes", "batch_dice")
_MATCHED = ("patch_size", "batch_size")  # may differ for arms with plans of their own


def records_of(matrix: Matrix, training: Training) -> list[Record]:
    """The records of a training, one per start; none if it has not begun."""
    file = matrix.fold_folder(training) / RECORD_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def differences(matrix: Matrix) -> list[str]:
    """What the trainings that have begun do not share, a line for each condition; empty if they compare fairly."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for training in matrix.trainings():
        for record in records_of(matrix, training):
            who = f"{training.arm.name} fold {training.fold} seed {training.seed}"
            who += ", equal seconds" if training.equal_seconds else ""
            for condition, value in _conditions(training, record):
                values[condition][_short(value)].append(who)
            if training.equal_seconds:
                name = f"num_epochs of {training.arm.name} at equal seconds"
                values[name][_short(record["settings"]["num_epochs"])].append(who)
                values[name][_short(matrix.length_of(training).epochs)].append("the length by its seconds per step")
    for number, measurement in enumerate(matrix.clock.measurements if matrix.budget_seconds else (), 1):
        who = f"measurement {number} of seconds per step"
        values["device"][_short(measurement.device)].append(who)
        values["version of nnunetv2-cafr's code"][_short(measurement.code)].append(who)
    return [
        f"{condition}: "
        + "; ".join(f"{value} in {_several(list(dict.fromkeys(who)))}" for value, who in by_value.items())
        for condition, by_value in values.items()
        if len(by_value) > 1
    ]


def _conditions(training: Training, record: Record) -> Iterator[tuple[str, object]]:
    fold = f"fold {training.fold}, {training.percent} % of the patients"
    yield f"split of {fold}", {part: sorted(cases) for part, cases in record["split"].items()}
    yield "dataset.json", record["data"]["dataset.json"]
    yield "dataset fingerprint", record["data"]["fingerprint"]
    yield "version of nnunetv2-cafr's code", record["nnunetv2-cafr code"]
    for package, version in record["versions"].items():
        yield f"version of {package}", version
    yield "device", record["device"]
    yield "processes of a training", record["ranks"]
    if training.arm.family == RECIPE:
        return
    settings, plans = record["settings"], record["configuration"]
    for name in _BUDGET:
        if name != "num_epochs" or not training.equal_seconds:  # see differences
            yield name, settings[name]
    for name in _OF_PLANS:
        yield f"{name} of the plans", plans[name]
    yield f"test-time mirroring ({training.arm.family})", record["mirroring"]
    yield "torch.compile", record["environment"].get("nnUNet_compile")
    if training.arm.plans not in OWN_PLANS:
        for name in _MATCHED:
            yield f"{name} of the plans", plans[name]
        yield f"augmentation ({training.arm.family})", record["augmentation"]


def _short(value: object) -> str:
    """Text of a value; of a long one its beginning and a checksum, so that different ones stay different."""
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else f"{text[:100]}... (checksum {zlib.crc32(text.encode()):08x})"


def _several(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def own_plans(matrix: Matrix) -> list[str]:
    """A line for each arm whose own plans have another patch or batch than the benchmark's."""
    shared = _configuration(matrix, matrix.plans)
    lines = []
    for arm in matrix.selected_arms():
        if arm.plans in OWN_PLANS:
            own = _configuration(matrix, arm.plans)
            differing = [
                f"{name.replace('_', ' ')} {own[name]} instead of {shared[name]}"
                for name in _MATCHED
                if own[name] != shared[name]
            ]
            if differing:
                lines.append(f"{arm.name} trains under nnU-Net's own plans for it: {', '.join(differing)}.")
    return lines


def _configuration(matrix: Matrix, plans: str) -> Mapping[str, Any]:
    """A configuration of a plans file with what it inherits."""
    configurations = json.loads(matrix.plans_file(plans).read_text(encoding="utf-8"))["configurations"]
    found = configurations[matrix.configuration]
    while "inherits_from" in found:
        parent = dict(configurations[found["inherits_from"]])
        found = {**parent, **{key: value for key, value in found.items() if key != "inherits_from"}}
    return found


def check_before(matrix: Matrix) -> None:
    """Everything that can be known before the first job.

    Raises:
        UserError: with all that is wrong.
    """
    problems = [*_wrong_plans(matrix), *_wrong_splits(matrix), *_missing_trainers(matrix), *_wrong_externals(matrix)]
    if matrix.budget_seconds and any(one.code != code_digest() for one in matrix.clock.measurements):
        problems.append(
            "the seconds per step were measured with other code of this package than is here: go back to it, or remove "
            f"the folder {CLOCK_FOLDER} of the benchmark, to measure again and train at the lengths that follow"
        )
    if not problems:
        problems = [f"trainings that are there already differ in {line}" for line in differences(matrix)]
    if problems:
        raise UserError("This would be no fair comparison, so nothing was started:\n- " + "\n- ".join(problems))


def _plans(matrix: Matrix) -> list[str]:
    """The plans of all arms, those of `-p` first."""
    return list(dict.fromkeys([matrix.plans, *(arm.plans for arm in matrix.selected_arms())]))


def _lack_of_configuration(matrix: Matrix, plans: str) -> str | None:
    """What to do about a plans file without the configuration; None if it has it."""
    file = matrix.plans_file(plans)
    found = json.loads(file.read_text(encoding="utf-8"))["configurations"]
    if matrix.configuration in found:
        return None
    remedy = (
        "give one of these by -c"
        if plans == matrix.plans
        else f"add it there, with the data_identifier that {matrix.plans} has, or leave out the arms of these plans by "
        "--arms"
    )
    return f"{file} has no configuration {matrix.configuration!r}, only {', '.join(found)}: {remedy}"


def impossible_configuration(matrix: Matrix) -> str | None:
    """The first plans file that lacks the configuration; None if there is none, or plans have not been made yet."""
    made = [plans for plans in _plans(matrix) if matrix.plans_file(plans).is_file()]
    return next(filter(None, (_lack_of_configuration(matrix, plans) for plans in made)), None)


def _wrong_plans(matrix: Matrix) -> Iterator[str]:
    identifiers: dict[str, list[str]] = defaultdict(list)
    spacings: dict[str, list[str]] = defaultdict(list)
    for plans in _plans(matrix):
        file = matrix.plans_file(plans)
        if not file.is_file():
            yield f"{file} is missing: run nnUNetv2_plan_and_preprocess -d {matrix.dataset} -c {matrix.configuration}"
        elif lack := _lack_of_configuration(matrix, plans):
            yield lack
        else:
            configuration = _configuration(matrix, plans)
            identifiers[configuration["data_identifier"]].append(plans)
            folder = matrix.preprocessed / configuration["data_identifier"]
            if not folder.is_dir():
                yield (
                    f"{folder} is missing: run nnUNetv2_preprocess -d {matrix.dataset} -c {matrix.configuration} "
                    f"-plans_name {plans}"
                )
            spacings[str(configuration["spacing"])].append(plans)
    if len(identifiers) > 1:
        yield f"the plans do not share one set of preprocessed data: {dict(identifiers)}"
    if len(spacings) > 1:
        yield (
            f"the plans do not share one spacing: {dict(spacings)}; give nnUNetv2_plan_experiment -pl ... the "
            f"-overwrite_target_spacing that {matrix.plans} had"
        )


def impossible_folds(matrix: Matrix) -> str | None:
    """Why some of the folds can't exist, known from the raw data set alone; None if nothing speaks against them."""
    files = [folder / "splits_final.json" for folder in (matrix.preprocessed, matrix.raw)]
    file = next((file for file in files if file.is_file()), None)
    if file is not None:
        number = len(json.loads(file.read_text(encoding="utf-8")))
        wanted = [str(fold) for fold in matrix.folds if fold >= number]
        there = " ".join(map(str, range(number)))
        return f"{file} has no fold {', '.join(wanted)}: give those that it has, -f {there}" if wanted else None
    if wanted := [str(fold) for fold in matrix.folds if fold >= FOLDS]:
        return f"there is no fold {', '.join(wanted)}: nnUNetv2_cafr split makes {FOLDS}, 0 to {FOLDS - 1}"
    cases = list(case_files(matrix.raw, read_json(matrix.raw / "dataset.json")))
    patients = len(set(patients_of(matrix.dataset, cases).values()))
    if few_cases(len(cases), patients, matrix.dataset) is None:
        return None
    return (
        f"{matrix.dataset} has {len(cases)} training cases of {patients} patients, too few for {FOLDS} folds: write a "
        f'{files[1]} with those that you want, [{{"train": ["CASE", ...], "val": ["CASE", ...]}}, ...], and name them '
        "by -f"
    )


def _wrong_splits(matrix: Matrix) -> Iterator[str]:
    file = matrix.preprocessed / "splits_final.json"
    if not file.is_file():
        yield f"{file} is missing: run nnUNetv2_cafr split -d {matrix.dataset}, which keeps patients together"
        return
    splits = json.loads(file.read_text(encoding="utf-8"))
    wanted = [fold for fold in matrix.folds if fold >= len(splits)]
    if wanted:
        yield f"{file} has {len(splits)} folds, there is no fold {', '.join(map(str, wanted))}"
        return
    cases = sorted({case for split in splits for part in split.values() for case in part})
    patients = patients_of(matrix.dataset, cases)
    for fold in matrix.folds:
        train, validation = ({patients[case] for case in splits[fold][part]} for part in ("train", "val"))
        if both := sorted(train & validation):
            yield f"{file}: fold {fold} trains and validates on patient {_several(both)}; see nnUNetv2_cafr split"
    validated = [case for fold in matrix.folds for case in splits[fold]["val"]]
    if twice := sorted({case for case in validated if validated.count(case) > 1}):
        yield f"{file}: {_several(twice)} would be validated in several folds, and count twice"


def _missing_trainers(matrix: Matrix) -> Iterator[str]:
    for training in {training.arm.name: training for training in matrix.trainings()}.values():
        name = matrix.trainer(training)
        trainer = find_trainer(name)
        if trainer is None:
            yield f"nnU-Net does not find {name}: see nnUNetv2_cafr doctor"
        elif issubclass(trainer, CheckedTraining):  # nnU-Net's own need nothing
            try:
                trainer.check_requirements()
            except ImportError as error:
                yield f"{training.arm.name}: {error}"


def _wrong_externals(matrix: Matrix) -> Iterator[str]:
    own = json.loads((find_dataset(matrix.dataset) / "dataset.json").read_text(encoding="utf-8"))
    for dataset in matrix.externals:
        folder = find_dataset(dataset)
        other = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        if dataset == matrix.dataset:
            yield f"--external {dataset} is the data set that the arms train on"
        if other["labels"] != own["labels"]:
            yield f"{folder}/dataset.json has other labels than {matrix.dataset}: {other['labels']}, {own['labels']}"
        if len(other["channel_names"]) != len(own["channel_names"]):
            yield f"{folder}/dataset.json has {len(other['channel_names'])} channels, not {len(own['channel_names'])}"
        if other["file_ending"] != own["file_ending"]:
            yield (
                f"{folder} holds {other['file_ending']} files, {matrix.dataset} {own['file_ending']}: nnUNetv2_predict "
                "reads only what a model was trained on; convert one of them"
            )


def check_after(matrix: Matrix) -> None:
    """What a report needs: every training finished at its full length, and all under equal conditions.

    Raises:
        UserError: with all that is missing or differs.
    """
    problems = [f"the seconds per step of {name} are not measured" for name in matrix.untimed()]
    for training in matrix.trainings():
        folder = matrix.fold_folder(training)
        records = records_of(matrix, training)
        if not records or not (folder / "validation" / "summary.json").is_file():
            problems.append(f"{folder} is not finished")
        elif training.arm.family != RECIPE:
            epochs = len(json.loads((folder / CURVES_FILE).read_text(encoding="utf-8"))["train_losses"])
            if epochs != records[-1]["settings"]["num_epochs"]:
                problems.append(f"{folder} has {epochs} of {records[-1]['settings']['num_epochs']} epochs")
    problems += differences(matrix)
    if problems:
        raise UserError("No report, because it would mix what cannot be compared:\n- " + "\n- ".join(problems))
