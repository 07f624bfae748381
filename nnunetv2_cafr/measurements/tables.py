"""Measurements as files: a table with a row for each level of each study, and JSON with the definitions beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunetv2_cafr.files import write_atomically
from nnunetv2_cafr.measurements.study import (
    DISC_HEIGHT,
    DISC_INDEX,
    HEIGHTS,
    OBLIQUE_LIMIT,
    SLIP,
    VOLUME,
    WEDGE,
    WIDTH,
    Level,
    StudyMeasurements,
)

TABLE_FILE, JSON_FILE = "measurements.csv", "measurements.json"
LORDOSIS = "lumbar_lordosis_deg"
DEFINITIONS = {
    VOLUME: "all voxels of the label",
    HEIGHTS[0]: "distance of the end plates at the anterior wall, in the body's middle sagittal slice",
    HEIGHTS[1]: "the same half-way between the walls",
    HEIGHTS[2]: "the same at the posterior wall",
    WIDTH: "from right to left at mid height, before the last third of the depth",
    WEDGE: "angle between a body's end plates, positive where it is higher in front",
    SLIP: "of the lower posterior corner against the upper posterior corner of the vertebra below, along the latter's "
    "upper end plate, positive forwards",
    DISC_HEIGHT: "mean of the disc's heights in the middle of its anterior, middle and posterior third",
    DISC_INDEX: "disc height by the mean of the middle heights of the bodies beside it; the sacrum does not count",
    LORDOSIS: "angle between the upper end plates of L1 and S1, or the upper one of L1 and the lower one of L5",
}
COLUMNS = ("study", "level", "kind", *DEFINITIONS, "reasons")
TOOLS = ("nnunetv2-cafr", "numpy", "scipy", "SimpleITK")


def write_tables(
    folder: Path, studies: Mapping[str, StudyMeasurements], failed: Mapping[str, str], settings: Mapping[str, str]
) -> None:
    """Writes both files, each whole or not at all.

    Args:
        failed: by study, why it has no measurements.
        settings: what was read.

    Raises:
        OSError: if they cannot be written.
    """
    content = {
        "settings": {**settings, "oblique_limit_deg": OBLIQUE_LIMIT},
        "versions": {name: version(name) for name in TOOLS},
        "definitions": DEFINITIONS,
        "studies": {name: _as_json(study) for name, study in studies.items()},
        "failed": dict(failed),
    }
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, study in studies.items():
        writer.writerows({"study": name, **row} for row in _rows(study))
    for file, text in ((JSON_FILE, json.dumps(content, indent=2) + "\n"), (TABLE_FILE, table.getvalue())):
        write_atomically(folder / file, partial(Path.write_text, data=text, encoding="utf-8"))


def _as_json(study: StudyMeasurements) -> dict[str, Any]:
    lordosis = study.lordosis
    return {
        "levels": [
            {"level": level.name, "kind": level.kind, **level.values, "reasons": level.reasons}
            for level in study.levels
        ],
        "lumbar_lordosis": {"between": lordosis.between, "degrees": lordosis.degrees, "reason": lordosis.reason},
    }


def _rows(study: StudyMeasurements) -> Iterator[dict[str, object]]:
    """Levels from the bottom upwards; the last row is of the study."""
    for level in study.levels:
        yield {"level": level.name, "kind": level.kind, **level.values, "reasons": _reasons(level)}
    lordosis = study.lordosis
    row = {"level": lordosis.between, "kind": "study", LORDOSIS: lordosis.degrees}
    yield {**row, "reasons": f"{LORDOSIS}: {lordosis.reason}" if lordosis.reason else ""}


def _reasons(level: Level) -> str:
    """Each reason once, before it the measures that it leaves empty."""
    measures: dict[str, list[str]] = {}
    for measure, reason in level.reasons.items():
        measures.setdefault(reason, []).append(measure)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in measures.items())
