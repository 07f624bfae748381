"""The page: one HTML file that needs nothing else, from the previews of the studies.

Words and layout are in templates/, the values here. Each study's part stands in the page between two comments, by which
a later call finds it again: so a folder's page grows with its label maps, without drawing the old ones anew.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from markupsafe import Markup

from nnunetv2_cafr.measurements.study import (
    COBB,
    DISC_HEIGHT,
    DISC_INDEX,
    HEIGHTS,
    LORDOSIS,
    SLIP,
    VOLUME,
    WEDGE,
    WIDTH,
    StudyMeasurements,
)
from nnunetv2_cafr.pages import environment
from nnunetv2_cafr.preview.study import StudyPreview
from nnunetv2_cafr.spine import colour_of

GENERATOR = "nnUNetv2_cafr"
TITLES = {  # of measures, with their units
    VOLUME: "Volume, ml",
    HEIGHTS[0]: "Anterior, mm",
    HEIGHTS[1]: "Middle, mm",
    HEIGHTS[2]: "Posterior, mm",
    WIDTH: "Width, mm",
    WEDGE: "Wedge, °",
    SLIP: "Slip, mm",
    DISC_HEIGHT: "Disc, mm",
    DISC_INDEX: "Disc index",
    LORDOSIS: "Lordosis, °",
    COBB: "Cobb, °",
}
PART = re.compile(r"<!--study (\{[^<>]*\})-->\n(.*?)\n<!--end-->", re.DOTALL)  # names are escaped, so none can end one


@dataclass(frozen=True)
class Part:
    """A study in the page.

    Args:
        row: what the table has of it: name, anchor, source, doubts, confidence, levels, angles.
        card: HTML.
    """

    row: dict[str, Any]
    card: str

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: the doubtful first, most doubts before fewer, then the least confident."""
        confidence = self.row["confidence"]
        return -len(self.row["doubts"]), 1.0 if confidence is None else confidence, self.row["name"]


def part_of(preview: StudyPreview) -> Part:
    """The row and the card of one study."""
    anchor = hashlib.sha256(preview.name.encode("utf-8", "backslashreplace")).hexdigest()[:12]
    row = {
        "name": preview.name,
        "anchor": f"study-{anchor}",
        "source": preview.source,
        "doubts": dict(preview.doubts),
        "confidence": preview.confidence,
        "levels": _extent(preview.measurements),
        "angles": {angle.measure: angle.degrees for angle in preview.measurements.angles}
        if preview.measurements
        else {},
    }
    card = (
        environment(__package__)
        .get_template("card.html")
        .render(
            study=preview,
            row=row,
            titles=TITLES,
            measured=_measured(preview.measurements),
            colour_of=lambda level: colour_of(level, 0),  # of levels, whatever their label
        )
    )
    return Part(row, card.strip())


def parts_in(page: str) -> Iterator[Part]:
    """The studies of a page that was written before."""
    for match in PART.finditer(page):
        yield Part(json.loads(match[1]), match[2])


def render(parts: Iterable[Part], title: str, facts: Mapping[str, object]) -> str:
    """The page as text.

    Args:
        facts: for its head, such as the folder of the images.
    """
    ordered = sorted(parts, key=lambda part: part.order)
    return (
        environment(__package__)
        .get_template("page.html")
        .render(
            generator=GENERATOR,
            title=title,
            when=f"{time.strftime('%Y-%m-%d %H:%M')}, nnunetv2-cafr {version('nnunetv2-cafr')}",
            about=facts,
            parts=[(part.row, Markup(part.card)) for part in ordered],
            doubtful=sum(bool(part.row["doubts"]) for part in ordered),
            decoded=any(part.row["confidence"] is not None for part in ordered),
            angles=[name for name in (LORDOSIS, COBB) if any(name in part.row["angles"] for part in ordered)],
            titles=TITLES,
        )
    )


def _extent(study: StudyMeasurements | None) -> str:
    """The lowest and the highest vertebra."""
    names = [level.name for level in study.levels if level.kind != "disc"] if study else []
    return " to ".join(dict.fromkeys([names[0], names[-1]])) if names else ""


def _measured(study: StudyMeasurements | None) -> list[str]:
    """The measures that some level has, in the order of the table."""
    if study is None:
        return []
    return [name for name in TITLES if any(level.values.get(name) is not None for level in study.levels)]
