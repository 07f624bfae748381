"""A comparison of several trained networks, as the report reads it: plain values, no nnU-Net, no checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunetv2_cafr.evaluation.scores import Evaluation


@dataclass(frozen=True)
class Arm:
    """One network under one recipe.

    Args:
        name: unique in the study, for example "CAFR-Net".
        trainer: the trainer without budget or seed.
        family: augmentation family; arms are compared within one only.
        description: network and optimiser, in one line.
        printed_as: row of the paper's tables that it reproduces; "" where the paper has none.
        plans: the plans identifier; "" for that of the whole study.
        network_of_plans: class of the network that its plans must name; "" where the trainer brings its own.
    """

    name: str
    trainer: str
    family: str
    description: str
    printed_as: str = ""
    plans: str = ""
    network_of_plans: str = ""


@dataclass(frozen=True)
class Section:
    """Scores of all arms on one set of cases: `scores[arm name][seed]`, the folds of a seed pooled.

    Args:
        key: "validation", "fraction-0.1", "external-Dataset004_Name"; a file name.
        title: for people.
        note: how these cases were chosen and predicted.
    """

    key: str
    title: str
    note: str
    scores: Mapping[str, Mapping[int, Evaluation]]


@dataclass(frozen=True)
class Cost:
    """Cost of one arm under the study's plans, all arms measured in turns in one run.

    Milliseconds and bytes are medians; `spread` gives the 10th and 90th percentile of each time. Latency per slice is
    one forward pass of one patch, per volume nnU-Net's sliding window over one whole case.
    """

    gmacs: float
    parameters: int
    training_step_ms: float
    slice_ms: float
    volume_ms: float
    volume_mirrored_ms: float
    training_peak_bytes: int
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Lengths:
    """How long each arm trained in the first section, of equal iterations, and in the one of equal seconds.

    Args:
        section: key of the section of equal seconds.
        seconds: of stepping, in that section.
        iterations: by section key, then by arm.
        step_seconds: seconds per training step, by arm.
        conditions: of their measurement, in words.
    """

    section: str
    seconds: float
    iterations: Mapping[str, Mapping[str, int]]
    step_seconds: Mapping[str, float]
    conditions: str


@dataclass(frozen=True)
class Curve:
    """Values per epoch of one training, by nnU-Net's log keys such as train_losses, ema_fg_dice, train_clr."""

    fold: str
    seed: int
    values: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class CaseFiles:
    """Image (first channel), reference and prediction of one case, on one grid."""

    image: Path
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class Study:
    """Everything that the report shows.

    Args:
        conditions: what is equal for all arms, in words by name: data set, configuration, patch, batch, folds, ...
        provenance: date, command, device, versions.
        costs: by arm name; empty where they were not measured.
        cost_conditions: device, threads, sizes and repetitions of the cost measurement.
        curves, settings, files: by arm name; settings is the trainers' own record, files holds the first seed's
            validation cases.
        lengths: where arms were compared at equal iterations and again at equal seconds.
        notes: what a reader must know before the tables, such as an arm whose plans have another batch size.
    """

    title: str
    arms: Sequence[Arm]
    sections: Sequence[Section]
    label_names: Mapping[int, str]
    conditions: Mapping[str, str]
    provenance: Mapping[str, str]
    costs: Mapping[str, Cost] = field(default_factory=dict)
    cost_conditions: str = ""
    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, CaseFiles]] = field(default_factory=dict)
    lengths: Lengths | None = None
    notes: Sequence[str] = ()
