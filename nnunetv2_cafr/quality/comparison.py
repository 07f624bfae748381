"""Checks across cases: grids unlike the others', missing levels, unusual volumes, duplicates, patients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nnunetv2_cafr import spine as levels
from nnunetv2_cafr.quality.checks import Source
from nnunetv2_cafr.quality.findings import Finding, Severity
from nnunetv2_cafr.quality.inspection import CaseReport
from nnunetv2_cafr.voxel_order import RECOMMENDED_READER

CRUMB = 0.05  # of the median volume: less is rather a mask that was lost than a patient
FEWEST_CASES = 3  # to speak of what most cases have
SPACING_FACTOR = 2.0  # from the median of the cases, along any axis
FEWEST_VOLUMES = 8  # of a structure, to call one unusual
VOLUME_DEVIATIONS = 3.5  # robust standard deviations of the logarithm
SMALLEST_DEVIATION = 0.05  # volumes within some 5 % of each other do not make a 10 % larger one unusual
USUAL_SHARE = 0.9  # a structure that so many cases have is usual


def compare(cases: Sequence[CaseReport], spine: bool, reorients: bool, labels: Mapping[str, Any]) -> list[Finding]:
    """All findings that need more than one case.

    Args:
        spine: whether the labels are levels of the spine.
        reorients: whether nnU-Net's reader turns every case to one voxel order.
        labels: as in dataset.json.
    """
    return [
        *([] if reorients else check_orders(cases)),
        *check_grids(cases),
        *check_use(cases, labels),
        *check_presence(cases, spine),
        *(finding for finding, _ in unusual_volumes(cases)),
        *check_duplicates(cases, spine),
        *check_patients(cases),
    ]


def check_orders(cases: Sequence[CaseReport]) -> Iterator[Finding]:
    """Cases in several voxel orders: those that are not in the order of most cases, or all where there is none such."""
    orders = [(case, case.geometry.orientation) for case in cases if case.geometry is not None]
    counts = Counter(order for _, order in orders)
    if len(counts) < 2:
        return
    remedy = (
        "turn image and mask with SimpleITK's DICOMOrient, or let nnU-Net do so: "
        f'"overwrite_image_reader_writer": "{RECOMMENDED_READER}" in dataset.json'
    )
    usual = _majority(list(counts.elements())) if len(orders) >= FEWEST_CASES else None
    if usual is None:
        found = ", ".join(f"{order} ({count} cases)" for order, count in counts.most_common())
        yield Source("", "dataset.json").finding(
            Severity.WARNING,
            "orientation",
            f"{len(counts)} voxel orders in {len(orders)} cases: {found}",
            "one voxel order for all cases: nnU-Net's reader takes voxels as they are stored",
            remedy,
        )
        return
    for case, order in orders:
        if order != usual:
            source = Source(case.identifier, case.image_files[0])
            yield source.finding(Severity.WARNING, "orientation", order, f"{usual}, as most cases have", remedy)


def check_grids(cases: Sequence[CaseReport]) -> Iterator[Finding]:
    """Spacing and size that differ from what more than half of the cases share."""
    grids = [(case, case.geometry) for case in cases if case.geometry is not None]
    if len(grids) < FEWEST_CASES:
        return
    if len({geometry.orientation for _, geometry in grids}) > 1:
        grids = [(case, geometry.along_world_axes()) for case, geometry in grids]
    spacings = [geometry.spacing for _, geometry in grids]
    median = np.median([s for s in spacings if len(s) == len(spacings[0])], axis=0).tolist()
    usual_spacing = _majority([spacing_in_words(geometry.spacing) for _, geometry in grids])
    usual_size = _majority([_size(geometry.size) for _, geometry in grids])
    for case, geometry in grids:
        source = Source(case.identifier, case.image_files[0])
        if len(geometry.spacing) == len(median) and _factor(geometry.spacing, median) > SPACING_FACTOR:
            yield source.finding(
                Severity.WARNING,
                "spacing",
                f"{spacing_in_words(geometry.spacing)} mm",
                f"within {SPACING_FACTOR:g} times {spacing_in_words(median)} mm, the median",
                "correct the header if it is wrong; nnU-Net resamples the case otherwise",
            )
        elif usual_spacing not in (None, spacing_in_words(geometry.spacing)):
            yield source.finding(
                Severity.NOTE,
                "spacing",
                f"{spacing_in_words(geometry.spacing)} mm",
                f"{usual_spacing} mm, as most cases have",
                "nothing if the header is right: nnU-Net resamples",
            )
        if usual_size not in (None, _size(geometry.size)):
            yield source.finding(
                Severity.NOTE,
                "size",
                _size(geometry.size),
                f"{usual_size}, as most cases have",
                "nothing, if this is how the scan was made",
            )


def _majority(values: Sequence[str]) -> str | None:
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _factor(spacing: Sequence[float], median: Sequence[float]) -> float:
    return float(np.exp(np.abs(np.log(np.divide(spacing, median))).max()))


def spacing_in_words(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing)


def _size(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def check_presence(cases: Sequence[CaseReport], spine: bool) -> Iterator[Finding]:
    """Levels missing between two others, and structures that nearly all other cases have."""
    annotated = [case for case in cases if case.structures]
    counts = Counter(name for case in annotated for name in case.names)
    name_of = {structure.level: structure.name for case in annotated for structure in case.structures}
    for case in annotated:
        assert case.mask_file is not None
        source = Source(case.identifier, case.mask_file)
        present = {structure.level for structure in case.structures}
        missing = {name_of[level]: level for level in levels.missing_levels(present, name_of.keys())} if spine else {}
        for name, level in missing.items():
            disc = [name_of[neighbour] for neighbour in levels.disc_of(level) or ()]
            yield source.finding(
                Severity.WARNING if disc else Severity.ERROR,
                "missing level",
                f"{name} is not in the mask, and its neighbours are",
                f"{name} between {disc[0]} and {disc[1]}" if disc else "every level from the lowest to the highest",
                "annotate the level, or correct the labels of those around it",
                name,
            )
        for name, count in counts.items():
            if name not in case.names and name not in missing and count >= USUAL_SHARE * len(annotated):
                yield source.finding(
                    Severity.NOTE,
                    "absent structure",
                    f"{name} is not in the mask",
                    f"{name}, as in {count} of {len(annotated)} cases",
                    "nothing, if it is out of the picture",
                    name,
                )


def check_use(cases: Sequence[CaseReport], labels: Mapping[str, Any]) -> Iterator[Finding]:
    """Labels and regions of dataset.json that no training case holds: classes that nnU-Net trains, and never sees."""
    held = {structure.label for case in cases if case.training for structure in case.structures}
    wanted = {
        name: set(map(int, levels.values_of(value))) - {0} for name, value in labels.items() if name != levels.IGNORE
    }
    known = [name for name, values in wanted.items() if values]
    unused = [name for name in known if not wanted[name] & held]
    if unused and held:
        yield Source("", "dataset.json").finding(
            Severity.WARNING,
            "labels in no case",
            f"{len(unused)} of {len(known)} labels occur in no training case: {', '.join(unused)}",
            "every label in some case: nnU-Net trains a class for each, and can't learn these",
            "look whether masks or dataset.json are right; take out what no case has, and number the labels anew",
            ", ".join(unused),
        )


def volumes(cases: Sequence[CaseReport]) -> dict[str, list[tuple[CaseReport, float, bool]]]:
    """By structure, in the order of the labels: case, volume in ml, and whether it is cut by the picture's border."""
    by_label: dict[int, list[tuple[CaseReport, float, bool]]] = defaultdict(list)
    names = {}
    for case in cases:
        for structure in case.structures:
            names[structure.label] = structure.name
            by_label[structure.label].append((case, structure.volume, structure.cut))
    return {names[label]: by_label[label] for label in sorted(by_label)}


def unusual_volumes(cases: Sequence[CaseReport]) -> Iterator[tuple[Finding, float]]:
    """Volumes far from the other cases', with the ml. Structures cut by the border are left out."""
    for name, found in volumes(cases).items():
        whole = [(case, volume) for case, volume, cut in found if not cut]
        if len(whole) < FEWEST_VOLUMES:
            continue
        logarithms = np.log([volume for _, volume in whole])
        median = float(np.median(logarithms))
        spread = max(1.4826 * float(np.median(np.abs(logarithms - median))), SMALLEST_DEVIATION)
        for (case, volume), logarithm in zip(whole, logarithms, strict=True):
            deviations = (logarithm - median) / spread
            if abs(deviations) > VOLUME_DEVIATIONS:
                low, high = (np.exp(median + sign * VOLUME_DEVIATIONS * spread) for sign in (-1, 1))
                source = Source(case.identifier, case.mask_file or "")
                finding = source.finding(
                    Severity.WARNING if logarithm < median + np.log(CRUMB) else Severity.NOTE,
                    "unusual volume",
                    f"{name} has {volume:.3g} ml",
                    f"{low:.3g} to {high:.3g} ml, by the other cases",
                    "look at its contour; nothing, if the patient is like that",
                    name,
                )
                yield finding, volume


def check_duplicates(cases: Sequence[CaseReport], spine: bool) -> Iterator[Finding]:
    """The same image under several names or in several channels; and the same spine in the masks of several images."""
    images = [
        (case, channel, prints)
        for case in cases
        for channel, prints in enumerate(case.fingerprints)
        if prints is not None
    ]
    said: set[tuple[str, str]] = set()
    # From the closest likeness to the loosest, so that a pair is described by the closest.
    for words, key in (
        ("the same voxels as", lambda prints: prints.values),
        ("the same image, with other grey values (rescaled), as", lambda prints: prints.ranks),
        ("the same image, mirrored or with other axes, as", lambda prints: prints.arrangement),
    ):
        yield from _same(images, key, words, said)
    if spine:
        yield from _same_masks(cases, said)


def _same_masks(cases: Sequence[CaseReport], said: set[tuple[str, str]]) -> Iterator[Finding]:
    """One mask of two images, unless they are of one patient, or have been said to be one image."""
    groups: Mapping[str, list[CaseReport]] = defaultdict(list)
    for case in cases:
        if case.mask_fingerprint is not None and case.structures:
            groups[case.mask_fingerprint].append(case)
    for group in groups.values():
        for case in group:
            others = [
                other
                for other in group
                if other is not case
                and (case.patient is None or other.patient != case.patient)
                and (case.image_files[0], other.image_files[0]) not in said
            ]
            if others:
                yield Source(case.identifier, case.mask_file or "").finding(
                    Severity.ERROR,
                    "duplicate mask",
                    f"the same mask as {', '.join(str(other.mask_file) for other in others)}, whose image is another",
                    "a mask of its own for each patient",
                    "find the mask that belongs to the image; where both images are of one patient, say so in "
                    "provenance.json, so that they stay on one side of a split",
                )


def _same(images: Sequence, key: Callable, words: str, said: set[tuple[str, str]]) -> Iterator[Finding]:
    groups: Mapping[str, list] = defaultdict(list)
    for image in images:
        groups[key(image[2])].append(image)
    for group in groups.values():
        for case, channel, _ in group:
            source = Source(case.identifier, case.image_files[channel])
            others = [
                (other, case_b)
                for case_b, channel_b, _ in group
                if (other := case_b.image_files[channel_b]) != source.file and (source.file, other) not in said
            ]
            said.update((source.file, other) for other, _ in others)
            within = [other for other, case_b in others if case_b is case]
            across = [(other, case_b) for other, case_b in others if case_b is not case]
            if within:
                yield source.finding(
                    Severity.WARNING,
                    "duplicate channel",
                    f"{words} {', '.join(within)}",
                    "another image in every channel",
                    "put the right image in the channel",
                )
            if across:
                training = case.training or any(case_b.training for _, case_b in across)
                yield source.finding(
                    Severity.ERROR if training else Severity.WARNING,
                    "duplicate",
                    f"{words} {', '.join(f'{other}{_masks(case, case_b)}' for other, case_b in across)}",
                    "every image once, or training and validation see the same patient",
                    "keep one of them" + ("" if case.training else "; a test image must not be in training"),
                )


def _masks(a: CaseReport, b: CaseReport) -> str:
    if a.mask_fingerprint is None or b.mask_fingerprint is None:
        return ""
    return " (masks equal)" if a.mask_fingerprint == b.mask_fingerprint else " (masks differ)"


def check_patients(cases: Sequence[CaseReport]) -> Iterator[Finding]:
    """Patients with several cases, where provenance.json tells patients."""
    by_patient: dict[str, list[CaseReport]] = defaultdict(list)
    for case in cases:
        if case.patient is not None:
            by_patient[case.patient].append(case)
    several = {patient: found for patient, found in by_patient.items() if len(found) > 1}
    mixed = {patient: found for patient, found in several.items() if len({case.training for case in found}) > 1}
    for patient, found in mixed.items():
        yield Source("", "provenance.json").finding(
            Severity.WARNING,
            "patient in training and test",
            f"patient {patient}: {', '.join(case.identifier for case in found)}",
            "all cases of a patient on one side",
            "move the cases to one side, or do not call the result a test",
        )
    if several:
        example = next(iter(several.values()))
        yield Source("", "provenance.json").finding(
            Severity.NOTE,
            "several cases of a patient",
            f"{len(several)} of {len(by_patient)} patients have several cases, such as "
            + ", ".join(case.identifier for case in example[:4]),
            "folds that keep the cases of a patient together",
            "see that splits_final.json does so: nnU-Net's own folds do not know patients",
        )
