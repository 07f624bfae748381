"""Seconds per training step, from which the lengths of trainings of equal seconds follow.

They are measured once, before these trainings, in turns (see stepping.py), and kept in the benchmark's folder: a
training that shares the machine is no clock, and a second measurement would give other lengths. An arm that joins
later is measured in turns with one that was there, and its seconds are scaled by what that one took the first time, so
no length changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nnunetv2_cafr.files import read_json

CLOCK_FOLDER = "seconds_per_step"


@dataclass(frozen=True)
class Measurement:
    """One run over several arms in turns.

    Args:
        step_seconds: medians by arm; the first arm is the unit of a later measurement.
        spread: 10th and 90th percentile, by arm.
        conditions: machine, threads, rounds, in words.
        device, code: as a training's record has them.
    """

    step_seconds: dict[str, float]
    spread: dict[str, tuple[float, float]]
    conditions: str
    device: str
    code: str


@dataclass(frozen=True)
class Clock:
    """All measurements of a benchmark, the first one first."""

    measurements: tuple[Measurement, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "Clock":
        """What the benchmark in `folder` has measured; nothing if it has not."""
        files = sorted((folder / CLOCK_FOLDER).glob("*.json"), key=lambda file: int(file.stem))
        return cls(tuple(Measurement(**read_json(file)) for file in files))

    @cached_property
    def step_seconds(self) -> dict[str, float]:
        """By arm, as the first measurement would have found them."""
        found: dict[str, float] = {}
        for measurement in self.measurements:
            unit = next(iter(measurement.step_seconds))
            scale = found[unit] / measurement.step_seconds[unit] if found else 1.0
            found = {**{arm: scale * seconds for arm, seconds in measurement.step_seconds.items()}, **found}
        return found

    def next_file(self, folder: Path) -> Path:
        return folder / CLOCK_FOLDER / f"{len(self.measurements) + 1}.json"

    def to_measure(self, arms: Sequence[str]) -> list[str]:
        """These arms, behind one that all are held against if there is a measurement already."""
        return [*list(self.step_seconds)[:1], *arms]
