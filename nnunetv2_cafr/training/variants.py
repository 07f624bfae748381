"""Trainers of another length, seed or share of the data, or with partial views, by name alone.

The name is `<trainer>_<E>epochs`, `_budget<E>x<I>`, `_seed<S>`, `_train<P>percent` or `_partialViews`.

nnU-Net finds a trainer by the name of its class, asks every module that it scans for that name, and writes the name
into the output folder and the checkpoint. So a name that carries a length or a seed reaches training, continuation and
inference alike, with no option and no environment variable:

    nnUNetTrainer_CAFR_100epochs      100 epochs, all else as nnUNetTrainer_CAFR
    nnUNetTrainer_budget5x20          stock nnU-Net, 5 epochs of 20 iterations (and 4 for validation)
    nnUNetTrainer_CAFR_seed1          seed 1 instead of 0
    nnUNetTrainer_seed1_budget5x20    both, in any order; nnU-Net's own trainers are unseeded otherwise
    nnUNetTrainer_CAFR_train10percent a tenth of the patients that the fold trains on; validation stays whole
    nnUNetTrainer_CAFR_partialViews   for scans that show less of the spine than those it is trained on

The base is any trainer that nnU-Net finds, its own, ours or the user's; for partial views a level-safe one. Such a
class is made on demand, here, where pickle finds it again.

Shares of the data are nested (10 % is part of 25 %), take whole patients, and are the same for every trainer. A trainer
that names a seed or a share gets what RobustTraining gives, which changes no result.

A network that always sees whole spines tells levels by where they lie in the image. With `_partialViews` a third of the
patches keep a part of their view (training/partial_view.py; measured in documentation/recipe.md).
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.raw_dataset import patients_of
from nnunetv2_cafr.training.level_safe import LevelSafeAugmentation
from nnunetv2_cafr.training.lookup import find_trainer
from nnunetv2_cafr.training.robust import RobustTraining

SHARE_SEED = 12345  # as nnU-Net's splits
PARTIAL_PROBABILITY = 1 / 3
_SEED = re.compile(r"(?P<base>nnUNetTrainer\w*?)_seed(?P<seed>\d+)")
_SHARE = re.compile(r"(?P<base>nnUNetTrainer\w*?)_train(?P<percent>[1-9]\d?)percent")
_PARTIAL = re.compile(r"(?P<base>nnUNetTrainer\w*?)_partialViews")
_LENGTH = re.compile(r"(?P<base>nnUNetTrainer\w*?)_(?:(?P<epochs>[1-9]\d*)epochs?|budget(?P<budget>[1-9]\d*x[1-9]\d*))")


def trainer_variant(name: str) -> type[nnUNetTrainer] | None:
    """The trainer class that `name` describes; None where it describes none, or its base is unknown or unfit."""
    match = _LENGTH.fullmatch(name) or _SEED.fullmatch(name) or _SHARE.fullmatch(name) or _PARTIAL.fullmatch(name)
    if match is None or (base := find_trainer(match["base"])) is None:
        return None
    if match.re is _PARTIAL:
        return _of_partial_views(name, base)
    if match.re is _SEED:
        return _of_seed(name, base, int(match["seed"]))
    if match.re is _SHARE:
        return _of_share(name, base, int(match["percent"]))
    if match["epochs"]:
        return _of_length(name, base, int(match["epochs"]), None)
    epochs, iterations = match["budget"].split("x")
    return _of_length(name, base, int(epochs), int(iterations))


@functools.cache
def _of_seed(name: str, base: type[nnUNetTrainer], seed: int) -> type[nnUNetTrainer]:
    document = f"{base.__name__} of seed {seed}."
    return type(name, _robust(base), {"seed": seed, "__module__": __name__, "__doc__": document})


def _robust(base: type[nnUNetTrainer]) -> tuple[type, ...]:
    return (base,) if issubclass(base, RobustTraining) else (RobustTraining, base)


@functools.cache
def _of_share(name: str, base: type[nnUNetTrainer], percent: int) -> type[nnUNetTrainer]:
    def do_split(self: nnUNetTrainer) -> tuple[list[str], list[str]]:
        train, validation = super(trainer, self).do_split()
        chosen, kept = share_of_cases(self.plans_manager.dataset_name, train, percent, self.fold)
        self.print_to_log_file(
            f"SHARE OF THE DATA, as the trainer's name asks: {percent} % of the patients, "
            f"{len(chosen)} with {len(kept)} of {len(train)} cases: {', '.join(kept)}"
        )
        return kept, validation

    document = f"{base.__name__}, trained on {percent} % of the patients."
    trainer: type[nnUNetTrainer] = type(
        name, _robust(base), {"do_split": do_split, "__module__": __name__, "__doc__": document}
    )
    return trainer


def share_of_cases(dataset: str, train: Sequence[str], percent: int, fold: int | str) -> tuple[set[str], list[str]]:
    """The patients that a share keeps of these training cases, and their cases in the same order."""
    patients = patients_of(dataset, train)
    chosen = nested_share(sorted(set(patients.values())), percent, fold)
    return chosen, [case for case in train if patients[case] in chosen]


def nested_share(patients: Sequence[str], percent: int, fold: int | str) -> set[str]:
    """That share of the patients, at least one; a smaller share of the same fold is a part of a larger one."""
    order = np.random.default_rng([SHARE_SEED, *str(fold).encode()]).permutation(len(patients))
    return {patients[index] for index in order[: max(1, round(len(patients) * percent / 100))]}


@functools.cache
def _of_partial_views(name: str, base: type[nnUNetTrainer]) -> type[nnUNetTrainer] | None:
    if not issubclass(base, LevelSafeAugmentation):
        return None
    attributes = {"partial_probability": PARTIAL_PROBABILITY, "__module__": __name__}
    return type(name, (base,), {**attributes, "__doc__": f"{base.__name__} with partial views of the spine."})


@functools.cache
def _of_length(name: str, base: type[nnUNetTrainer], epochs: int, iterations: int | None) -> type[nnUNetTrainer]:
    # nnU-Net reads the argument names off this signature.
    def __init__(  # noqa: N807
        self: nnUNetTrainer,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        base.__init__(self, plans, configuration, fold, dataset_json, device)
        self.num_epochs = epochs
        if iterations is not None:
            self.num_iterations_per_epoch = iterations
            # nnU-Net validates on one iteration for each five that it trains.
            self.num_val_iterations_per_epoch = max(1, round(iterations / 5))
        self.print_to_log_file(
            f"LIMITED TRAINING, as the trainer's name asks: {self.num_epochs} epochs of "
            f"{self.num_iterations_per_epoch} iterations of {base.__name__}. Its results are not {base.__name__}'s."
        )

    return type(
        name, (base,), {"__init__": __init__, "__module__": __name__, "__doc__": f"{base.__name__} of another length."}
    )


def __getattr__(name: str) -> type[nnUNetTrainer]:
    if (trainer := trainer_variant(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return trainer
