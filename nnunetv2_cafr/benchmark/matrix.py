"""What one benchmark compares, and where nnU-Net keeps each of its trainings."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunetv2_cafr.benchmark.arms import ARMS, RECIPE, Budget, parse_budget
from nnunetv2_cafr.benchmark.clock import Clock
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import read_json, write_json
from nnunetv2_cafr.report.study import Arm

MATRIX_FILE = "benchmark.json"


@dataclass(frozen=True)
class Training:
    """One call of nnUNetv2_train.

    Args:
        percent: of the patients that the fold trains on.
        equal_seconds: whether it is as long as the others in seconds of stepping, and not in iterations.
    """

    arm: Arm
    seed: int
    percent: int
    fold: int
    equal_seconds: bool = False


@dataclass(frozen=True)
class Matrix:
    """Arms x folds x seeds x shares of the data under one budget.

    Args:
        dataset: full name, Dataset###_Name.
        plans: plans identifier of all arms but those with plans of their own.
        arms: names in ARMS.
        percents: shares of the training patients, in percent, with 100 among them.
        externals: full names of data sets that every arm predicts without training on them.
        budget_seconds: of stepping, for a second comparison; or the arm whose training of `budget` gives them.
        clock: what was measured of the seconds per training step (see clock.py); none before that.
    """

    dataset: str
    configuration: str
    plans: str
    arms: tuple[str, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: str
    percents: tuple[int, ...]
    externals: tuple[str, ...]
    device: str
    budget_seconds: str = ""
    clock: Clock = field(default_factory=Clock)

    def write(self, folder: Path) -> None:
        """Writes all but the clock, which has files of its own."""
        content = {name: value for name, value in asdict(self).items() if name != "clock"}
        write_json(folder / MATRIX_FILE, content)

    @classmethod
    def read(cls, folder: Path) -> "Matrix":
        """Raises UserError if the folder holds no benchmark, or one of another version of this package."""
        content = read_json(folder / MATRIX_FILE)
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        try:
            matrix = cls(**values, clock=Clock.read(folder))
            matrix.selected_arms()
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder} holds a benchmark that this version of nnunetv2-cafr does not read ({error}): use the one "
                "that made it, or another folder"
            ) from error
        return matrix

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @cached_property
    def length(self) -> Budget:
        return parse_budget(self.budget)

    def untimed(self) -> list[str]:
        """The arms whose seconds per step the second comparison needs and nobody has measured."""
        wanted = [arm.name for arm in compared(self.selected_arms())] if self.budget_seconds else []
        return [name for name in wanted if name not in self.clock.step_seconds]

    @cached_property
    def seconds(self) -> float:
        """Of stepping, the same for every arm of the second comparison."""
        if self.budget_seconds not in ARMS:
            return float(self.budget_seconds)
        epochs, iterations = self.length.counts
        return epochs * iterations * self.clock.step_seconds[self.budget_seconds]

    def length_of(self, training: Training) -> Budget:
        """How long it trains: at equal seconds, the epochs of the budget's iterations that come closest to them."""
        if not training.equal_seconds:
            return self.length
        iterations = self.length.counts[1]
        epochs = max(1, round(self.seconds / (iterations * self.clock.step_seconds[training.arm.name])))
        # The arm that gives the seconds trains once for both comparisons.
        return self.length if (epochs, iterations) == self.length.counts else Budget("", epochs, iterations)

    def stepping_seconds(self) -> dict[str, float]:
        """How long each arm of the second comparison steps, in whole epochs, by its name."""
        return {
            name: epochs * iterations * self.clock.step_seconds[name]
            for name, training in self.first_trainings(equal_seconds=True).items()
            for epochs, iterations in [self.length_of(training).counts]
        }

    def selected_arms(self) -> list[Arm]:
        """The arms with the plans that they train under."""
        arms = [ARMS[name] for name in self.arms]
        return [replace(arm, plans=arm.plans or self.plans) for arm in arms]

    def trainings(self) -> Iterator[Training]:
        """All trainings; those that take part in the main comparison first, fold by fold over all arms.

        Those of equal seconds come last, and only when every arm's step has been timed.
        """
        for percent in sorted(self.percents, reverse=True):
            for seed in self.seeds:
                for fold in self.folds:
                    for arm in self.selected_arms():
                        yield Training(arm, seed, percent, fold)
        if self.budget_seconds and not self.untimed():
            for seed in self.seeds:
                for fold in self.folds:
                    for arm in compared(self.selected_arms()):
                        yield Training(arm, seed, 100, fold, equal_seconds=True)

    def first_trainings(self, *, equal_seconds: bool = False) -> dict[str, Training]:
        """The first training of every arm in one of the two comparisons, by the arm's name."""
        found: dict[str, Training] = {}
        for training in self.trainings():
            if training.equal_seconds == equal_seconds:
                found.setdefault(training.arm.name, training)
        return found

    def trainer(self, training: Training) -> str:
        """The trainer's name with seed, share and budget: what nnUNetv2_train -tr takes."""
        share = f"_train{training.percent}percent" if training.percent < 100 else ""
        return f"{training.arm.trainer}_seed{training.seed}{share}{self.length_of(training).suffix}"

    def model_folder(self, training: Training) -> Path:
        """Where nnU-Net writes the folds of this trainer."""
        name = f"{self.trainer(training)}__{training.arm.plans}__{self.configuration}"
        return Path(str(nnUNet_results)) / self.dataset / name

    def fold_folder(self, training: Training) -> Path:
        return self.model_folder(training) / f"fold_{training.fold}"

    @property
    def preprocessed(self) -> Path:
        return Path(str(nnUNet_preprocessed)) / self.dataset

    @property
    def raw(self) -> Path:
        return Path(str(nnUNet_raw)) / self.dataset

    def plans_file(self, plans: str) -> Path:
        return self.preprocessed / f"{plans}.json"


def compared(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that take part in a comparison."""
    return [arm for arm in arms if arm.family != RECIPE]
