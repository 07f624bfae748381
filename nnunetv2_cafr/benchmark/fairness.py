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
from pathlib import Path
from typing import Any

from nnunetv2_cafr.benchmark.arms import OWN_PLANS, RECIPE
from nnunetv2_cafr.benchmark.clock import CLOCK_FOLDER
from nnunetv2_cafr.benchmark.matrix import Matrix, Training
from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.files import read_json, read_json_list, sha256
from nnunetv2_cafr.plans_fields import channels_of, faults_of, resolved
from nnunetv2_cafr.raw_dataset import case_files, find_dataset, patients_of
from nnunetv2_cafr.splits import FOLDS
from nnunetv2_cafr.splits.few_cases import few_cases
from nnunetv2_cafr.splits.writing import SPLITS_FILE
from nnunetv2_cafr.training.lookup import find_trainer
from nnunetv2_cafr.training.preflight import CheckedTraining
from nnunetv2_cafr.training.record import CURVES_FILE, RECORD_FILE, code_digest, versions
from nnunetv2_cafr.training.variants import share_of_cases

Record = dict[str, Any]

_BUDGET = ("num_epochs", "num_iterations_per_epoch", "oversample_foreground_percent", "probabilistic_oversampling")
_OF_PLANS = ("data_identifier", "preprocessor_name", "spacing", "normalization_schemes", "batch_dice")
_MATCHED = ("patch_size", "batch_size")  # may differ for arms with plans of their own


def records_of(matrix: Matrix, training: Training) -> list[Record]:
    """The records of a training, one per start; none if it has not begun."""
    file = matrix.fold_folder(training) / RECORD_FILE
    return read_json_list(file) if file.is_file() else []


def differences(matrix: Matrix, *, to_train: bool = False) -> list[str]:
    """What the trainings that have begun do not share, a line for each condition; empty if they compare fairly.

    Their split must be the one that is there now, of which `check_before` knows that no patient is on both sides.

    Args:
        to_train: whether code and packages that are here now have to be those of the trainings.
    """
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
                values[name][_short(matrix.length_of(training).counts[0])].append("the length by its seconds per step")
    for condition, split in _splits(matrix):
        values[condition][_short(split)].append(f"{SPLITS_FILE} as it is now")
    if to_train:
        for condition, value in _of_code(code_digest(), versions()):
            values[condition][_short(value)].append("what would train now")
    for number, measurement in enumerate(matrix.clock.measurements if matrix.budget_seconds else (), 1):
        who = f"measurement {number} of seconds per step"
        values["device"][_short(measurement.device)].append(who)
        values["version of nnunetv2-cafr's code"][_short(measurement.code)].append(who)
    return [
        f"{condition}: "
        + "; ".join(f"{value} in {shorten(list(dict.fromkeys(who)))}" for value, who in by_value.items())
        for condition, by_value in values.items()
        if len(by_value) > 1
    ]


def _conditions(training: Training, record: Record) -> Iterator[tuple[str, object]]:
    fold = _fold(training.fold, training.percent)
    yield f"split of {fold}", {part: sorted(cases) for part, cases in record["split"].items()}
    yield f"preprocessed files of {fold}", record["data"].get("cases")
    yield "dataset.json", record["data"]["dataset.json"]
    yield "dataset fingerprint", record["data"]["fingerprint"]
    yield from _of_code(record["nnunetv2-cafr code"], record["versions"])
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


def _of_code(digest: str, packages: Mapping[str, str | None]) -> Iterator[tuple[str, object]]:
    yield "version of nnunetv2-cafr's code", digest
    for package, version in packages.items():
        yield f"version of {package}", version


def _splits(matrix: Matrix) -> Iterator[tuple[str, object]]:
    """What each fold and share trains on and validates by the file that is there now; nothing without one."""
    file = matrix.preprocessed / SPLITS_FILE
    if not file.is_file():
        return
    splits = read_json_list(file)
    for fold in matrix.folds:
        split = splits[fold] if fold < len(splits) else {"train": [], "val": []}
        for percent in matrix.percents:
            _, train = share_of_cases(matrix.dataset, split["train"], percent, fold)
            yield f"split of {_fold(fold, percent)}", {"train": sorted(train), "val": sorted(split["val"])}


def _fold(fold: int, percent: int) -> str:
    return f"fold {fold}, {percent} % of the patients"


def _short(value: object) -> str:
    """Text of a value; of a long one its beginning and a checksum, so that different ones stay different."""
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else f"{text[:100]}... (checksum {zlib.crc32(text.encode()):08x})"


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
    return resolved(read_json(matrix.plans_file(plans))["configurations"], matrix.configuration)


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
        left = matrix.untimed() or not all(_is_finished(matrix, training) for training in matrix.trainings())
        lines = differences(matrix, to_train=bool(left))
        problems = [f"trainings that are there already differ in {line}" for line in lines]
    if problems:
        raise UserError("This would be no fair comparison, so nothing was started:\n- " + "\n- ".join(problems))


def _is_finished(matrix: Matrix, training: Training) -> bool:
    return (matrix.fold_folder(training) / "validation" / "summary.json").is_file()


def _plans(matrix: Matrix) -> list[str]:
    """The plans of all arms, those of `-p` first."""
    return list(dict.fromkeys([matrix.plans, *(arm.plans for arm in matrix.selected_arms())]))


def _lack_of_configuration(matrix: Matrix, plans: str) -> str | None:
    """What to do about a plans file without the configuration, or with one that no arm can train; None if it has it."""
    file = matrix.plans_file(plans)
    found = read_json(file)["configurations"]
    if matrix.configuration in found:
        if stage := resolved(found, matrix.configuration).get("previous_stage"):
            return (
                f"{matrix.configuration} of {file} refines what {stage} predicts, which no arm makes: give -c {stage}"
            )
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
            content = read_json(file)
            # nnU-Net names the folders of trainings by it.
            if (name := content.get("plans_name", plans)) != plans:
                yield f"{file} calls itself {name!r}, and would train in its folders: set its plans_name to {plans!r}"
            configuration = resolved(content["configurations"], matrix.configuration)
            identifiers[configuration["data_identifier"]].append(plans)
            folder = matrix.preprocessed / configuration["data_identifier"]
            if not folder.is_dir():
                yield (
                    f"{folder} is missing: run nnUNetv2_preprocess -d {matrix.dataset} -c {matrix.configuration} "
                    f"-plans_name {plans}"
                )
            spacings[str(configuration["spacing"])].append(plans)
    yield from _wrong_networks(matrix)
    if len(identifiers) > 1:
        yield f"the plans do not share one set of preprocessed data: {dict(identifiers)}"
    if len(spacings) > 1:
        yield (
            f"the plans do not share one spacing: {dict(spacings)}; give nnUNetv2_plan_experiment -pl ... the "
            f"-overwrite_target_spacing that {matrix.plans} had"
        )


def _wrong_networks(matrix: Matrix) -> Iterator[str]:
    """Arms that would train another network than they are described by: plans decide for nnU-Net's own trainers."""
    for arm in matrix.selected_arms():
        wanted = arm.network_of_plans
        if wanted and matrix.plans_file(arm.plans).is_file() and not _lack_of_configuration(matrix, arm.plans):
            architecture = _configuration(matrix, arm.plans).get("architecture", {})
            named = architecture.get("network_class_name", wanted).rpartition(".")[2]
            if named != wanted:
                yield (
                    f"{arm.name} stands for nnU-Net's {wanted}, and would train the {named} that {arm.plans} name: "
                    "give other plans by -p, or leave the arm out by --arms"
                )


def impossible_folds(matrix: Matrix) -> str | None:
    """Why some of the folds can't exist, known from the raw data set alone; None if nothing speaks against them."""
    files = [folder / SPLITS_FILE for folder in (matrix.preprocessed, matrix.raw)]
    file = next((file for file in files if file.is_file()), None)
    if file is not None:
        number = len(read_json_list(file))
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
    file = matrix.preprocessed / SPLITS_FILE
    if not file.is_file():
        yield f"{file} is missing: run nnUNetv2_cafr split -d {matrix.dataset}, which keeps patients together"
        return
    splits = read_json_list(file)
    wanted = [fold for fold in matrix.folds if fold >= len(splits)]
    if wanted:
        yield f"{file} has {len(splits)} folds, there is no fold {', '.join(map(str, wanted))}"
        return
    cases = sorted({case for split in splits for part in split.values() for case in part})
    patients = patients_of(matrix.dataset, cases)
    for fold in matrix.folds:
        train, validation = ({patients[case] for case in splits[fold][part]} for part in ("train", "val"))
        if both := sorted(train & validation):
            yield f"{file}: fold {fold} trains and validates on patient {shorten(both)}; see nnUNetv2_cafr split"
    validated = [case for fold in matrix.folds for case in splits[fold]["val"]]
    if twice := sorted({case for case in validated if validated.count(case) > 1}):
        yield f"{file}: {shorten(twice)} would be validated in several folds, and count twice"


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


def unfit_arms(matrix: Matrix) -> dict[str, str]:
    """Why an arm's trainer can't train these data, by the arm's name; of sound plans that have been made."""
    dataset_json = read_json(matrix.raw / "dataset.json")
    unfit = {}
    for training in matrix.first_trainings().values():
        arm, trainer = training.arm, find_trainer(matrix.trainer(training))
        file = matrix.plans_file(arm.plans)
        if trainer is None or not issubclass(trainer, CheckedTraining) or not file.is_file():
            continue
        if any(faults_of(read_json(file), matrix.configuration, dataset_json)):
            continue  # which its training says
        if reason := trainer.unfit(_configuration(matrix, arm.plans), dataset_json):
            unfit[arm.name] = reason
    return unfit


def _wrong_externals(matrix: Matrix) -> Iterator[str]:
    own = read_json(find_dataset(matrix.dataset) / "dataset.json")
    for dataset in matrix.externals:
        folder = find_dataset(dataset)
        other = read_json(folder / "dataset.json")
        if dataset == matrix.dataset:
            yield f"--external {dataset} is the data set that the arms train on"
        if other["labels"] != own["labels"]:
            yield f"{folder}/dataset.json has other labels than {matrix.dataset}: {other['labels']}, {own['labels']}"
        if (channels := len(channels_of(other))) != (wanted := len(channels_of(own))):
            yield f"{folder}/dataset.json has {channels} channels, not {wanted}"
        if other["file_ending"] != own["file_ending"]:
            yield (
                f"{folder} holds {other['file_ending']} files, {matrix.dataset} {own['file_ending']}: nnUNetv2_predict "
                "reads only what a model was trained on; convert one of them"
            )
        if same := _same_images(matrix.raw, folder, own["file_ending"]):
            yield (
                f"--external {dataset} holds images of {matrix.dataset}, and would not be one that nobody has trained "
                f"on: {shorten(same)}"
            )


def _same_images(own: Path, other: Path, ending: str) -> list[str]:
    """Images of `other` whose content an image of `own` has; only files of one size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in sorted((own / "imagesTr").glob(f"*{ending}")):
        by_size[file.stat().st_size].append(file)
    return [
        f"{file.name} is {same.name}"
        for file in sorted((other / "imagesTr").glob(f"*{ending}"))
        for same in by_size.get(file.stat().st_size, ())
        if sha256(file) == sha256(same)
    ]


def check_after(matrix: Matrix) -> None:
    """What a report needs: every training finished at its full length, and all under equal conditions.

    Raises:
        UserError: with all that is missing or differs.
    """
    problems = [f"the seconds per step of {name} are not measured" for name in matrix.untimed()]
    for training in matrix.trainings():
        folder = matrix.fold_folder(training)
        records = records_of(matrix, training)
        if not records or not _is_finished(matrix, training):
            problems.append(f"{folder} is not finished")
        elif training.arm.family != RECIPE:
            epochs = len(read_json(folder / CURVES_FILE)["train_losses"])
            if epochs != records[-1]["settings"]["num_epochs"]:
                problems.append(f"{folder} has {epochs} of {records[-1]['settings']['num_epochs']} epochs")
    problems += differences(matrix)
    if problems:
        raise UserError("No report, because it would mix what cannot be compared:\n- " + "\n- ".join(problems))
