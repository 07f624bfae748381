"""What one benchmark compares, and where nnU-Net keeps each of its trainings."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunetv2_cafr.benchmark.arms import ARMS, RECIPE, SAME_PLANS, Budget, parse_budget
from nnunetv2_cafr.evaluation.study import Arm

MATRIX_FILE = "benchmark.json"


@dataclass(frozen=True)
class Training:
    """One call of nnUNetv2_train."""

    arm: Arm
    seed: int
    percent: int  # of the patients that the fold trains on
    fold: int


@dataclass(frozen=True)
class Matrix:
    """Arms x folds x seeds x shares of the data under one budget.

    Args:
        dataset: full name, Dataset###_Name.
        plans: plans identifier of all arms but those with plans of their own.
        arms: names in ARMS.
        percents: shares of the training patients, in percent, with 100 among them.
        externals: full names of data sets that every arm predicts without training on them.
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

    def write(self, folder: Path) -> None:
        (folder / MATRIX_FILE).write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, folder: Path) -> "Matrix":
        """Raises FileNotFoundError if the folder holds no benchmark."""
        content = json.loads((folder / MATRIX_FILE).read_text(encoding="utf-8"))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**values)

    @cached_property
    def length(self) -> Budget:
        return parse_budget(self.budget)

    def selected_arms(self) -> list[Arm]:
        """The arms with the plans that they train under."""
        arms = [ARMS[name] for name in self.arms]
        return [replace(arm, plans=self.plans) if arm.plans == SAME_PLANS else arm for arm in arms]

    def trainings(self) -> Iterator[Training]:
        """All trainings; those that take part in the main comparison first, fold by fold over all arms."""
        for percent in sorted(self.percents, reverse=True):
            for seed in self.seeds:
                for fold in self.folds:
                    for arm in self.selected_arms():
                        yield Training(arm, seed, percent, fold)

    def trainer(self, training: Training) -> str:
        """The trainer's name with seed, share and budget: what nnUNetv2_train -tr takes."""
        share = f"_train{training.percent}percent" if training.percent < 100 else ""
        return f"{training.arm.trainer}_seed{training.seed}{share}{self.length.suffix}"

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
