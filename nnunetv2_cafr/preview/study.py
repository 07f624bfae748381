"""One study as the page shows it: its slice with contours, its measures, and what in it is to be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2_cafr.errors import shorten
from nnunetv2_cafr.levels.components import FEWEST
from nnunetv2_cafr.levels.decoding import FIELD_OF_VIEW, TILTED, TRANSITIONAL, UNCERTAIN, UPSIDE_DOWN, decode
from nnunetv2_cafr.levels.files import grid_of
from nnunetv2_cafr.measurements.label_map import LabelMap
from nnunetv2_cafr.measurements.study import (
    HEIGHTS,
    NO_BODY,
    SLIP,
    VOLUME,
    WEDGE,
    WIDTH,
    Level,
    StudyMeasurements,
    measure,
)
from nnunetv2_cafr.preview.png import LONGEST, png_of
from nnunetv2_cafr.quality.picture import Picture, draw
from nnunetv2_cafr.spine import BACKGROUND, IGNORE, SACRUM, Spine, has_regions, read_spine
from nnunetv2_cafr.voxel_order import properties_of

PICTURE_SIZE = 480  # pixels of the longer side on the page, at most
HOLLOW_IN_FRONT = -15.0  # degrees of lumbar lordosis; ours
NOT_MEASURED, CONTRADICTORY = "not measured", "contradictory levels"  # doubts
UNLIKELY = "unlikely measures"
OF_NUMBERING = (UNCERTAIN, TRANSITIONAL, FIELD_OF_VIEW, TILTED, UPSIDE_DOWN, CONTRADICTORY)
SIGNAL_VOID, SPACING = "signal void", "spacing"
TOLD = (*OF_NUMBERING, UNLIKELY, SIGNAL_VOID, SPACING)  # doubts that are printed too
VOID = 0.2  # of the vertebrae's brightness above the image's darkest; those of 101 maps have at least 0.37
FEWEST_VOXELS = 200  # of a vertebra whose brightness is looked at
MOST_HEIGHT, LEAST_RATIO, MOST_RATIO = 40.0, 0.6, 3.0  # mm, width by height; 81 references: at most 28, 1.4 to 1.8
MOST_WEDGE, MOST_SLIP = 28.0, 10.0  # degrees, mm: beyond all 81 references; rather a body whose label lost a part
# A vertebra by the mean of those above and below; 252 of 52 references: 0.85 to 1.14, 0.79 to 1.40, 0.71 to 1.23.
BESIDE = ((HEIGHTS[1], "mm high", 0.8, 1.25), (WIDTH, "mm wide", 0.7, 1.5), (VOLUME, "ml", 0.62, 1.5))
CONTRADICTING = 0.05  # of a median vertebra: voxels with another level than their structure


@dataclass(frozen=True)
class Labels:
    """What the values of a label map mean.

    Args:
        names: by value.
        spine: the levels among them; None where they have no order.
    """

    names: dict[int, str]
    spine: Spine | None

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Labels:
        """From a dataset.json; of regions, each name stands for the voxels that no later region takes."""
        named = {name: value for name, value in description["labels"].items() if name not in (BACKGROUND, IGNORE)}
        if has_regions(named):
            return cls(dict(zip(map(int, description["regions_class_order"]), named, strict=False)), None)
        names = {int(value): name for name, value in named.items()}
        try:
            return cls(names, read_spine(named))
        except ValueError:
            return cls(names, None)


@dataclass(frozen=True)
class StudyPreview:
    """What there is to be shown of a study; each part is there, or the reason why it is not.

    Args:
        doubts: why to look at it, by what they are of.
        confidence: of its levels, at most 1, where they were decoded.
        source: by which a later call knows whether the label map is still the same.
        png: content of a larger picture's file; empty where none was asked for.
    """

    name: str
    picture: Picture | None = None
    png: bytes = b""
    no_picture: str = ""
    measurements: StudyMeasurements | None = None
    doubts: Mapping[str, str] = field(default_factory=dict)
    confidence: float | None = None
    source: str = ""


def preview(
    name: str,
    mask: sitk.Image,
    image: sitk.Image | None,
    labels: Labels,
    decoding: Mapping[str, Any] | None = None,
    source: str = "",
    png: bool = False,
    trained: tuple[float, float] | None = None,
) -> StudyPreview:
    """Measures and draws a study. What fails is a doubt, or a picture that is missing; so is a doubtful numbering.

    Args:
        mask: label map of three dimensions.
        image: on its grid; without one, contours lie on black.
        decoding: its `flags` and `confidence`, as levels/files.py has them.
        png: whether a larger picture is drawn, too.
        trained: smallest and largest height of the cases that the network was trained on, in mm; None if unknown.
    """
    doubts = dict(decoding["flags"]) if decoding else {}
    measurements = None
    if labels.spine is not None:
        if decoding is None:
            doubts |= _numbering(mask, labels.spine, trained)
        try:
            measurements = measure(LabelMap.of(mask), labels.spine)
            doubts |= _gaps(measurements, labels.spine)
            doubts |= _back_to_front(measurements)
            doubts |= _unlikely(measurements)
            doubts |= _size(measurements)
        except ValueError as error:
            doubts[NOT_MEASURED] = f"found {error}"
        if image is not None:
            doubts |= _voids(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(mask), labels.spine)
    elif not sitk.GetArrayViewFromImage(mask).any():
        doubts["empty"] = "the label map holds nothing but background"
    picture, file, fault = None, b"", ""
    try:
        grey, values = mask * 0 if image is None else image, sitk.GetArrayFromImage(mask)
        picture = draw(grey, values, labels.names, PICTURE_SIZE)
        if png:
            file = png_of(draw(grey, values, labels.names, LONGEST), name)
    except Exception as error:  # ITK, scikit-image and Pillow have errors of many kinds; the label map is not at fault
        fault = f"{type(error).__name__}: {error}"
    confidence = decoding["confidence"] if decoding else None
    return StudyPreview(name, picture, file, fault, measurements, doubts, confidence, source)


def _numbering(mask: sitk.Image, spine: Spine, trained: tuple[float, float] | None) -> Iterator[tuple[str, str]]:
    """What the decoding of levels would flag or change, so that no wrong level goes unnoticed where it was not run."""
    values = sitk.GetArrayFromImage(mask).astype(np.uint16)
    if not values.any():
        return  # which the measures say
    decoding = decode(values, spine, grid_of(properties_of(mask)), trained=trained)
    for kind in OF_NUMBERING:
        if kind in decoding.flags:
            yield kind, decoding.flags[kind]
    others = [f"{one.found} should be {one.decoded or 'none'}" for one in decoding.levels if one.found != one.decoded]
    bodies = [one.voxels for one in decoding.levels if one.kind == "vertebra"]
    if not others and bodies and decoding.changed > CONTRADICTING * np.median(bodies):
        others = [f"{decoding.changed} voxels have another level than the structure that they are of"]
    if others:
        yield CONTRADICTORY, f"{shorten(others)}, going by the row as a whole"


def _back_to_front(study: StudyMeasurements) -> Iterator[tuple[str, str]]:
    """A lumbar spine that is hollow in front is rare, and what a header that swaps front and back makes of all."""
    if (degrees := study.lordosis.degrees) is not None and degrees < HOLLOW_IN_FRONT:
        yield (
            "front and back",
            f"a lumbar lordosis of {degrees:.0f} degrees; if the header swaps front and back, every wedge, slip and "
            "lordosis has the wrong sign, and so have the anterior and the posterior height",
        )


def _unlikely(study: StudyMeasurements) -> Iterator[tuple[str, str]]:
    """Wedges, slips and sizes that are rather a wrong outline than a patient."""
    found = [
        f"{level.name} {words} {value:.0f} {unit}"
        for level in study.levels
        for measure, words, unit, most in ((WEDGE, "wedge", "degrees", MOST_WEDGE), (SLIP, "slip", "mm", MOST_SLIP))
        if (value := level.values.get(measure)) is not None and abs(value) > most
    ]
    found += _unlike_neighbours([level for level in study.levels if level.kind == "vertebra"])
    if found:
        yield UNLIKELY, f"{', '.join(found)}: look at the outline"


def _unlike_neighbours(vertebrae: Sequence[Level]) -> Iterator[str]:
    """Vertebrae of another size than those above and below: half of one is labelled, or it is fractured."""
    vertebrae = [level for level in vertebrae if level.name not in NO_BODY]
    for index, level in enumerate(vertebrae):
        beside = [*vertebrae[max(index - 1, 0) : index], *vertebrae[index + 1 : index + 2]]
        for size, unit, least, most in BESIDE:
            value = level.values.get(size)
            others = [other for one in beside if (other := one.values.get(size)) is not None]
            if value is not None and others and not least <= value / np.mean(others) <= most:
                yield f"{level.name} {value:.3g} {unit} beside {np.mean(others):.3g}"


def _size(study: StudyMeasurements) -> Iterator[tuple[str, str]]:
    """Bodies of a size or a shape that no lumbar spine has are those of a header with another spacing."""
    pairs = [(level.values.get(HEIGHTS[1]), level.values.get(WIDTH)) for level in study.levels]
    heights = [height for height, _ in pairs if height is not None]
    ratios = [width / height for height, width in pairs if height is not None and width is not None]
    found = []
    if heights and np.median(heights) > MOST_HEIGHT:
        found.append(f"vertebrae {np.median(heights):.0f} mm high")
    if ratios and not LEAST_RATIO <= np.median(ratios) <= MOST_RATIO:
        found.append(f"vertebrae {np.median(ratios):.1f} times as wide as high")
    if found:
        yield SPACING, f"{' and '.join(found)}: is the spacing in the header right?"


def _voids(grey: np.ndarray, labels: np.ndarray, spine: Spine) -> Iterator[tuple[str, str]]:
    """Vertebrae that are as dark as what shows nothing: metal, or a saturation band, in which an outline is a guess.

    Args:
        grey, labels: arrays of one shape.
    """
    darkest, labelled = np.percentile(grey, 1), labels != 0
    grey, labels = grey[labelled], labels[labelled]
    brightness = {}
    for name, values in spine.labels.items():
        inside = grey[np.isin(labels, values)]
        if name != SACRUM and inside.size > FEWEST_VOXELS:
            brightness[name] = float(np.median(inside) - darkest)
    dark = [name for name, value in brightness.items() if value < VOID * np.median(list(brightness.values()))]
    if dark and len(brightness) >= FEWEST:
        yield SIGNAL_VOID, f"{', '.join(dark)} as dark as what shows nothing (metal?): the outline there is a guess"


def _gaps(study: StudyMeasurements, spine: Spine) -> Iterator[tuple[str, str]]:
    """Levels that are missing between others."""
    present = {level.name for level in study.levels}
    missing = spine.gaps(present)
    for lower, upper in spine.discs if any(level.kind == "disc" for level in study.levels) else ():
        if {lower, upper} <= present and not any(
            level.kind == "disc" and level.name in (f"{upper}/{lower}", spine.names[spine.discs[lower, upper][0]])
            for level in study.levels
        ):
            missing.append(f"the disc {upper}/{lower}")
    if missing:
        yield "missing levels", f"{', '.join(missing)} between levels that are there"
