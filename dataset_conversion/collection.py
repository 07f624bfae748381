"""What a source module says about a copy of its source: all that a new source has to provide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_conversion.cases import Case
from dataset_conversion.labels import LabelTable, Structure, structures_of
from dataset_conversion.problems import Problem


@dataclass(frozen=True)
class Collection:
    """The cases of a source, and what is to be known about all of them.

    Attributes:
        name: of the data set: `Dataset###_<name>`.
        source: the folder that all cases lie in.
        table: what the values in masks mean; a case may have its own.
        channel, description, reference, licence: for `dataset.json`.
        structures: what is labelled, in the order of the values to be written; default: those of the table.
        open_ended: structures after the last one that occurs in a mask are left out.
        options: settings of the source that decide about the result, for `provenance.json`.
        problems, notes: what was found while listing the cases; a note is no obstacle.
    """

    name: str
    source: Path
    cases: Sequence[Case]
    table: LabelTable
    channel: str
    description: str
    reference: str
    licence: str
    structures: Sequence[Structure] = ()
    open_ended: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()

    @property
    def labelled(self) -> list[Structure]:
        """The structures in the order of their values."""
        return list(self.structures) or structures_of(self.table)

    @property
    def num_training(self) -> int:
        return sum(case.mask is not None for case in self.cases)
