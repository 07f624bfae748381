"""Measurements as files: a table with a row for each level of each study, and JSON with the definitions beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from nnunetv2_cafr.measurements.study import (
    COBB,
    DISC_HEIGHT,
    DISC_INDEX,
    HEIGHTS,
    LORDOSIS,
    OBLIQUE_LIMIT,
    SLIP,
    VOLUME,
    WEDGE,
    WIDTH,
    StudyMeasurements,
)

TABLE_FILE, JSON_FILE = "measurements.csv", "measurements.json"
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
    COBB: "largest angle in the coronal plane between the upper end plate of a vertebra and the lower one of another "
    "vertebra further down",
}
COLUMNS = ("study", "level", "kind", *DEFINITIONS, "reasons")
TOOLS = ("nnunetv2-cafr", "numpy", "scipy", "SimpleITK")


def table_files(
    studies: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, str]:
    """Contents of the two files, by their names.

    Args:
        studies: by name, `as_json` of each.
        failed: by study, why it has no measurements.
        settings: what was read.
    """
    content = {
        "settings": {**settings, "oblique_limit_deg": OBLIQUE_LIMIT},
        "versions": {name: version(name) for name in TOOLS},
        "definitions": DEFINITIONS,
        "studies": dict(studies),
        "failed": dict(failed),
    }
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, study in studies.items():
        writer.writerows({"study": name, **row} for row in _rows(study))
    return {JSON_FILE: json.dumps(content, indent=2) + "\n", TABLE_FILE: table.getvalue()}


def as_json(study: StudyMeasurements) -> dict[str, Any]:
    """Levels from the bottom upwards, and angles by their measure."""
    return {
        "levels": [
            {"level": level.name, "kind": level.kind, **level.values, "reasons": level.reasons}
            for level in study.levels
        ],
        "angles": {
            angle.measure: {key: value for key, value in asdict(angle).items() if key != "measure"}
            for angle in study.angles
        },
    }


def _rows(study: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """Levels from the bottom upwards; the last rows are of the study, one for each angle."""
    for level in study["levels"]:
        yield {**level, "reasons": _reasons(level["reasons"])}
    for measure, angle in study["angles"].items():
        reason = f"{measure}: {angle['reason']}" if angle["reason"] else ""
        yield {"level": angle["between"], "kind": "study", measure: angle["degrees"], "reasons": reason}


def _reasons(reasons: Mapping[str, str]) -> str:
    """Each reason once, before it the measures that it leaves empty."""
    measures: dict[str, list[str]] = {}
    for measure, reason in reasons.items():
        measures.setdefault(reason, []).append(measure)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in measures.items())
