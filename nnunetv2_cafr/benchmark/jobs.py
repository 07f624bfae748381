"""The jobs of a benchmark: plain nnU-Net commands, and what each of them leaves behind.

A job is done when its output is there, so a benchmark that is killed goes on with what is missing. The output of a
training is nnU-Net's `validation/summary.json`, the last file that it writes; checkpoints are left to nnU-Net, whose
`--c` goes on from the last one.
"""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.paths import nnUNet_raw

from nnunetv2_cafr.benchmark.matrix import Matrix, Training
from nnunetv2_cafr.checkpoint_names import FINAL
from nnunetv2_cafr.evaluation.scores import SETTINGS_FILE
from nnunetv2_cafr.processes import installed
from nnunetv2_cafr.report.study import Arm

COST_FILE = "cost.json"
EQUAL_SECONDS = "equal-seconds"  # section of the second comparison
COMPLETE = "complete"  # nnU-Net leaves nothing that tells a finished folder of predictions from half a one


@dataclass(frozen=True)
class Job:
    """One command.

    Args:
        name: unique, fit for a file.
        output: the file that shows that it is done.
        inputs: outputs of the jobs that it needs.
        gpu: whether it takes a GPU.
    """

    name: str
    command: tuple[str, ...]
    output: Path
    inputs: tuple[Path, ...] = ()
    gpu: bool = False

    @property
    def is_of_nnunet(self) -> bool:
        return self.command[0].startswith("nnUNetv2_")

    @property
    def shell(self) -> str:
        """The command with its program by full path, which a cluster's shell need not know, and the mark behind it."""
        line = shlex.join((installed(self.command[0]), *self.command[1:]))
        return f"{line} && touch {shlex.quote(str(self.output))}" if self.output.name == COMPLETE else line


def jobs_of(matrix: Matrix, folder: Path) -> list[Job]:
    """All jobs, in an order that respects what they need."""
    # A training that is as long in seconds as in iterations serves both comparisons.
    trainings = {job.output: job for job in (_training(matrix, training) for training in matrix.trainings())}
    scorings = [_scoring_of_fold(matrix, training, folder) for training in matrix.trainings()]
    external = list(_external(matrix, folder))
    scored = tuple(job.output for job in (*scorings, *external) if job.output.name == SETTINGS_FILE)
    cost = Job("cost", _module("cost", folder), folder / COST_FILE, scored, gpu=matrix.on_gpu)
    return [*trainings.values(), *scorings, *external, cost]


def timing(matrix: Matrix, folder: Path) -> list[Job]:
    """The job that measures seconds per step for arms which need them and have none; none where all have."""
    if not (untimed := matrix.untimed()):
        return []
    output = matrix.clock.next_file(folder)
    command = _module("stepping", folder, output, *matrix.clock.to_measure(untimed))
    return [Job(f"seconds-per-step-{output.stem}", command, output, gpu=matrix.on_gpu)]


def section_of(percent: int) -> str:
    """Key of the report's section for trainings on this share of the patients."""
    return "validation" if percent == 100 else f"fraction-{percent / 100:g}"


def external_section(dataset: str) -> str:
    return f"external-{dataset}"


def scores_of(matrix: Matrix, training: Training, folder: Path) -> Path:
    """Where the scores of a training's validation are kept; of equal seconds by its length, which may change."""
    section, part = section_of(training.percent), f"fold{training.fold}"
    if training.equal_seconds:
        epochs, iterations = matrix.length_of(training).counts
        section, part = EQUAL_SECONDS, f"{part}-{epochs}x{iterations}"
    return folder / "evaluation" / section / training.arm.name / f"seed{training.seed}" / part


def references_of(matrix: Matrix) -> Path:
    """The label maps that validations are scored against, as nnU-Net does."""
    return matrix.preprocessed / "gt_segmentations"


def external_references(dataset: str) -> Path:
    return Path(str(nnUNet_raw)) / dataset / "labelsTr"


def external_scores(matrix: Matrix, folder: Path, dataset: str, arm: str, seed: int) -> Path:
    """Where the scores of an ensemble are kept."""
    return folder / "evaluation" / external_section(dataset) / arm / f"seed{seed}" / _ensemble(matrix)


def external_predictions(matrix: Matrix, folder: Path, dataset: str, arm: str, seed: int) -> Path:
    """Where the label maps of an ensemble are kept."""
    return folder / "predictions" / dataset / arm / f"seed{seed}" / _ensemble(matrix)


def _ensemble(matrix: Matrix) -> str:
    """Its name: one of other folds is another one."""
    return "-".join(("folds", *map(str, sorted(matrix.folds))))


def _training(matrix: Matrix, training: Training) -> Job:
    trainer = matrix.trainer(training)
    command = ["nnUNetv2_train", matrix.dataset, matrix.configuration, str(training.fold), "-tr", trainer]
    command += ["-p", training.arm.plans, "-device", matrix.device, "--c"]
    output = matrix.fold_folder(training) / "validation" / "summary.json"
    return Job(f"train-{training.arm.name}-{trainer}-fold{training.fold}", tuple(command), output, gpu=matrix.on_gpu)


def _scoring_of_fold(matrix: Matrix, training: Training, folder: Path) -> Job:
    target = scores_of(matrix, training, folder)
    predictions = matrix.fold_folder(training) / "validation"
    return _scoring(
        folder,
        matrix.dataset,
        references_of(matrix),
        predictions,
        predictions / "summary.json",
        target,
    )


def _external(matrix: Matrix, folder: Path) -> Iterator[Job]:
    for dataset in matrix.externals:
        images = Path(str(nnUNet_raw)) / dataset / "imagesTr"
        for arm in matrix.selected_arms():
            for seed in matrix.seeds:
                prediction = _prediction(matrix, arm, seed, folder, dataset, images)
                yield prediction
                target = external_scores(matrix, folder, dataset, arm.name, seed)
                done = prediction.output
                yield _scoring(folder, dataset, external_references(dataset), done.parent, done, target)


def _prediction(matrix: Matrix, arm: Arm, seed: int, folder: Path, dataset: str, images: Path) -> Job:
    trainings = [Training(arm, seed, 100, fold) for fold in matrix.folds]
    target = external_predictions(matrix, folder, dataset, arm.name, seed)
    command = ["nnUNetv2_predict", "-d", matrix.dataset, "-c", matrix.configuration, "-p", arm.plans]
    command += ["-tr", matrix.trainer(trainings[0]), "-f", *map(str, matrix.folds), "-chk", FINAL]
    command += ["-i", str(images), "-o", str(target), "-device", matrix.device]
    needed = tuple(matrix.fold_folder(training) / "validation" / "summary.json" for training in trainings)
    return Job(
        f"predict-{dataset}-{arm.name}-seed{seed}-{_ensemble(matrix)}",
        tuple(command),
        target / COMPLETE,
        needed,
        gpu=matrix.on_gpu,
    )


def _scoring(folder: Path, dataset: str, references: Path, predictions: Path, predicted: Path, target: Path) -> Job:
    name = "-".join(("score", *target.relative_to(folder / "evaluation").parts))
    command = _module("scoring", dataset, references, predictions, target)
    return Job(name, command, target / SETTINGS_FILE, (predicted,))


def _module(name: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-m", f"nnunetv2_cafr.benchmark.{name}", *map(str, arguments))


def missing(jobs: list[Job]) -> list[Job]:
    """The jobs whose output is not there."""
    return [job for job in jobs if not job.output.is_file()]
