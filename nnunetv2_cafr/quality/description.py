"""What nnU-Net will refuse or misread in a dataset.json, checked with nnU-Net's own classes before any image is opened.

LabelManager stops at the first error. So everything that it is known to refuse is looked for here first, all at once,
and LabelManager has the last word.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import (
    determine_reader_writer_from_dataset_json,
    recursive_find_reader_writer_by_name,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_cafr.errors import ranges
from nnunetv2_cafr.quality.findings import Finding, Severity
from nnunetv2_cafr.spine import read_spine, unread_levels, values_of

FILE = "dataset.json"
OF_A_SPINE = re.compile(r"vert|dis[ck]|sacr", re.IGNORECASE)


def _error(check: str, found: str, expected: str, remedy: str, structure: str = "") -> Finding:
    return Finding("", Severity.ERROR, check, structure, found, expected, remedy, FILE)


def check_description(description: Mapping[str, Any]) -> list[Finding]:
    """All that is wrong with the labels, channels and file ending of a dataset.json (its content)."""
    findings = [
        *_check_channels(description["channel_names"]),
        *_check_labels(description),
        *_check_reader(description),
    ]
    if not any(finding.check in ("labels", "regions") for finding in findings):
        _, refusal = ask_label_manager(description)
        if refusal:
            findings.append(
                _error("labels", refusal, "labels that nnU-Net's LabelManager takes", "correct dataset.json")
            )
    return findings


def ask_label_manager(description: Mapping[str, Any]) -> tuple[list[int] | None, str]:
    """The values that nnU-Net expects in a mask, or None and what it says against the labels."""
    try:
        manager = LabelManager(dict(description["labels"]), description.get("regions_class_order"))
    except (AssertionError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        return None, str(error) or type(error).__name__
    ignore = [] if manager.ignore_label is None else [manager.ignore_label]
    return [*map(int, manager.all_labels), *ignore], ""


def _check_channels(channels: Any) -> Iterator[Finding]:
    if not isinstance(channels, Mapping):
        names = ", ".join(f'"{number}": "{name}"' for number, name in enumerate(channels))
        yield _error(
            "channels", f"channel_names is a {type(channels).__name__}", f"an object: {{{names}}}", f"write {{{names}}}"
        )
    elif not channels:
        yield _error("channels", "channel_names is empty", "a name for each channel", "name them")
    elif list(channels) != [str(number) for number in range(len(channels))]:
        # nnU-Net takes normalisations in the order of the entries, and files in the order of their numbers.
        yield _error(
            "channels",
            f"channel_names has the keys {', '.join(map(str, channels))}",
            f"0 to {len(channels) - 1}, in this order, as the files' numbers",
            "number the channels so",
        )


def _check_labels(description: Mapping[str, Any]) -> Iterator[Finding]:
    labels: Mapping[str, Any] = description["labels"]
    number = "number the labels 0 (background), 1, 2, ... in dataset.json, and in the masks with them"
    odd = [name for name, value in labels.items() if any(type(member) is not int for member in values_of(value))]
    if odd:
        found = ", ".join(f"{name}: {labels[name]!r}" for name in odd)
        yield _error("labels", found, "whole numbers, or lists of them", "write whole numbers without quotes", odd[0])
    if "background" not in labels:
        yield _error("labels", "no label is called background", '"background": 0', f"add it; {number}")
    elif labels["background"] not in (0, "0"):
        yield _error("labels", f"background is {labels['background']}", "background: 0", number, "background")
    known = {int(v) for name, value in labels.items() if name != "ignore" for v in values_of(value)}
    numbers = sorted(known | {0})
    gaps = sorted(set(range(numbers[-1])) - known - {0})
    if gaps or numbers[0] < 0:
        found = f"labels {ranges(numbers)}" + (f"; {ranges(gaps)} is missing" if gaps else "")
        yield _error("labels", found, f"consecutive values, 0 to {len(numbers) - 1}", number)
    if numbers == [0]:
        yield _error("labels", "no label but the background", "at least one structure", "add the structures' labels")
    if "ignore" in labels:
        ignore = labels["ignore"]
        if isinstance(ignore, list | tuple):
            yield _error("labels", f"ignore is the list {ignore}", "one value", "give it one value", "ignore")
        elif int(ignore) != numbers[-1] + 1:
            yield _error(
                "labels",
                f"ignore is {ignore}, the highest label {numbers[-1]}",
                f"ignore: {numbers[-1] + 1}, one above all others",
                f"give it the value {numbers[-1] + 1}, in dataset.json and in the masks",
                "ignore",
            )
    by_value: dict[int, list[str]] = {}
    for name, value in labels.items():
        if not isinstance(value, list | tuple):
            by_value.setdefault(int(value), []).append(name)
    for value, names in by_value.items():
        if len(names) > 1:
            yield Finding(
                "",
                Severity.WARNING,
                "labels",
                ", ".join(names),
                f"{' and '.join(names)} are all {value}: nnU-Net trains them as one",
                "a value of its own for each label",
                "remove a name, or give it another value",
                FILE,
            )
    yield from _check_levels(labels)
    yield from _check_regions(description, known)


def _check_levels(labels: Mapping[str, Any]) -> Iterator[Finding]:
    """Names that look like a level and are read as none: decoding and scores of levels leave them out."""
    try:
        spine = read_spine(labels)
    except ValueError:
        return
    unread = unread_levels(labels, spine)
    for name in labels:
        if name in unread or (name not in spine.names.values() and OF_A_SPINE.search(name)):
            yield Finding(
                "",
                Severity.WARNING,
                "level names",
                name,
                f"{name} is read as no level, and the others are",
                "names such as L5 and L4/L5, vertebrae_L5, disc_L4_L5, for what is a level",
                "rename it in dataset.json if it is one; level decoding and the scores of levels leave it out",
                FILE,
            )


def _check_regions(description: Mapping[str, Any], known: set[int]) -> Iterator[Finding]:
    labels, order = description["labels"], description.get("regions_class_order")
    if not any(isinstance(value, list | tuple) and len(value) > 1 for value in labels.values()):
        return
    regions = [name for name, value in labels.items() if name != "ignore" and any(int(v) for v in values_of(value))]
    expected = f"regions_class_order: a value for each of {', '.join(regions)}"
    remedy = "list for each region, in their order, the label that a voxel of it is given; later ones paint over others"
    if order is None:
        yield _error("regions", "labels are regions, and there is no regions_class_order", expected, remedy)
    elif not isinstance(order, list) or len(order) != len(regions):
        found = f"regions_class_order is {order}"
        yield _error("regions", found, f"{expected} ({len(regions)})", remedy)
    elif foreign := [value for value in order if value not in known]:
        found = f"regions_class_order holds {', '.join(map(str, foreign))}"
        yield _error("regions", found, f"labels: {ranges(sorted(known))}", remedy)


def _check_reader(description: Mapping[str, Any]) -> Iterator[Finding]:
    named = description.get("overwrite_image_reader_writer")
    if named not in (None, "None"):
        try:
            recursive_find_reader_writer_by_name(str(named))
        except RuntimeError:
            yield Finding(
                "",
                Severity.WARNING,
                "reader",
                "",
                f"overwrite_image_reader_writer is {named}, which nnU-Net does not find: it will take another reader",
                "the name of a class in nnunetv2.imageio",
                "correct the name, or remove the entry",
                FILE,
            )
    try:
        reader_of(description)
    except RuntimeError:
        yield _error(
            "reader",
            f"file_ending is {description['file_ending']}, which no reader of nnU-Net takes",
            "an ending such as .nii.gz, .mha, .nrrd, .png or .tif, with its dot",
            "correct file_ending, or write the files in another format",
        )


def reader_of(description: Mapping[str, Any], example: Path | None = None) -> type[BaseReaderWriter]:
    """nnU-Net's reader for a data set; an example file decides where several take its ending.

    Raises:
        RuntimeError: if there is none.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it tells of each try
        return determine_reader_writer_from_dataset_json(
            dict(description), None if example is None else str(example), verbose=False
        )


def channels_in(files: list[Path], reader: type[BaseReaderWriter]) -> int:
    """How many channels nnU-Net reads from these files: a colour picture or a 4-D file holds several.

    Raises:
        RuntimeError, OSError, ValueError, AssertionError: as the reader does.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        images, _ = reader().read_images([str(file) for file in files])
    return len(images)
