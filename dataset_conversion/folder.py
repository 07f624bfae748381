"""Any folder of sagittal MR volumes with masks, described by a small YAML file.

Images and masks are NIfTI, MetaImage (.mha) or NRRD files, or folders with one DICOM series each. The layout file says
where they are and what the values in the masks mean; `documentation/data.md` explains every key.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dataset_conversion.cases import Case, pair, unique_keys
from dataset_conversion.collection import Collection
from dataset_conversion.command import make_parser, run
from dataset_conversion.labels import IGNORE, Structure
from dataset_conversion.problems import ConversionError, Problem, natural_order
from dataset_conversion.reading import ENDINGS
from nnunetv2_cafr.spine import disc_of, vertebra_of

REQUIRED = ("name", "channel", "images", "masks", "labels")
OPTIONAL = ("test_images", "patient", "description", "reference", "licence")
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
HIGHEST_VALUE = 65535  # of a mask: look-up tables stay small
PLACEHOLDER = "{id}"
OTHERS = {"vertebrae": disc_of, "discs": vertebra_of}  # what such a kind cannot hold


class _Loader(yaml.SafeLoader):
    """YAML without tags that build objects; a key that occurs twice is an error instead of a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Layout:
    """What a layout file says. Patterns are split at `/`."""

    name: str
    channel: str
    images: list[str]
    masks: list[str]
    table: dict[int, Structure]
    test_images: list[str] | None
    patient: re.Pattern[str] | None
    description: str
    reference: str
    licence: str
    content: Mapping[str, Any]  # as it was read


class _LayoutError(Exception):
    """A finding about the layout file: found, expected, to do."""


def read_layout(path: Path) -> Layout:
    """Read a layout file.

    Raises:
        ConversionError: if it says anything that cannot be understood.
    """
    try:
        content = yaml.load(path.read_bytes(), _Loader)
    except (OSError, yaml.YAMLError, UnicodeError, ValueError) as error:
        found = f"a file that cannot be read as YAML ({' '.join(str(error).split())})"
        raise ConversionError([Problem(path, found, "a layout in YAML", "correct the file")]) from error
    try:
        return _parse(content)
    except _LayoutError as error:
        found, expected = error.args
        remedy = "correct the layout file; documentation/data.md has an example"
        raise ConversionError([Problem(path, found, expected, remedy)]) from error


def _parse(content: object) -> Layout:
    if not isinstance(content, dict):
        raise _LayoutError("no keys", f"the keys {', '.join(REQUIRED)}")
    for key in REQUIRED:
        if key not in content:
            raise _LayoutError(f"no key {key!r}", f"the keys {', '.join(REQUIRED)}")
    for key, value in content.items():
        if key not in REQUIRED + OPTIONAL:
            raise _LayoutError(f"the unknown key {key!r}", f"the keys {', '.join(REQUIRED + OPTIONAL)}")
        if key != "labels" and not (isinstance(value, str) and value):
            raise _LayoutError(f"{value!r} for {key}", "a text")
    if not NAME.fullmatch(content["name"]):
        raise _LayoutError(f"the name {content['name']!r}", "letters without accents, digits, - and _")
    patient = None
    if "patient" in content:
        try:
            patient = re.compile(content["patient"])
        except re.error as error:
            raise _LayoutError(f"patient: {content['patient']!r} ({error})", "a regular expression") from error
        if patient.groups != 1:
            raise _LayoutError(
                f"patient: {patient.groups} groups", "a regular expression with one group in parentheses"
            )
    return Layout(
        name=content["name"],
        channel=content["channel"],
        images=_pattern("images", content["images"]),
        masks=_pattern("masks", content["masks"]),
        table=_parse_labels(content["labels"]),
        test_images=_pattern("test_images", content["test_images"]) if "test_images" in content else None,
        patient=patient,
        description=content.get("description", ""),
        reference=content.get("reference", ""),
        licence=content.get("licence", ""),
        content=content,
    )


def _pattern(key: str, text: str) -> list[str]:
    parts = text.split("/")
    if text.count(PLACEHOLDER) != 1 or not all(parts) or {".", ".."} & set(parts) or "\\" in text or ":" in text:
        expected = (
            f"a path below the folder given with -i, with {PLACEHOLDER} once, * for anything, and / between folders"
        )
        raise _LayoutError(f"{key}: {text!r}", expected)
    if f"*{PLACEHOLDER}" in text or f"{PLACEHOLDER}*" in text:
        expected = f"something between {PLACEHOLDER} and *, such as _: else nothing says where the one ends"
        raise _LayoutError(f"{key}: {text!r}", expected)
    return parts


def _parse_labels(content: object) -> dict[int, Structure]:
    """Read kinds of labels: `vertebrae: {1: L5, 2: L4}`; under `ignore`, a list of values."""
    expected = "labels: under each kind, structures by their value in the masks, such as vertebrae: {1: L5, 2: L4}"
    if not isinstance(content, dict) or not content:
        raise _LayoutError(f"labels: {content!r}", expected)
    table: dict[int, Structure] = {}
    for kind, members in content.items():
        if kind == IGNORE.kind and isinstance(members, list):
            members = dict.fromkeys(members, IGNORE.name)
        if not isinstance(kind, str) or not isinstance(members, dict) or not members:
            raise _LayoutError(f"labels: {kind!r}: {members!r}", expected)
        for value, name in members.items():
            if type(value) is not int or not 1 <= value <= HIGHEST_VALUE:
                raise _LayoutError(f"labels: the value {value!r} of {name!r}", f"an integer from 1 to {HIGHEST_VALUE}")
            if not isinstance(name, str) or not name.strip():
                raise _LayoutError(f"labels: the name {name!r} of {value}", "a text")
            if kind in OTHERS and OTHERS[kind](name) is not None:
                expected = "vertebrae such as L5 under vertebrae, discs such as L4/L5 under discs"
                raise _LayoutError(f"labels: {name!r} under {kind}", expected)
            if value in table:
                raise _LayoutError(
                    f"labels: {value} means {table[value].name!r} and {name!r}", "one structure per value"
                )
            table[value] = Structure(name, kind)
    return table


def _matches(folder: Path, parts: Sequence[str], key: str | None = None) -> Iterator[tuple[str, Path]]:
    """Paths below `folder` that match a pattern, with their key; the pattern's length bounds how deep links lead."""
    first, *rest = parts
    before, placeholder, after = first.partition(PLACEHOLDER)
    expression = (
        re.escape(before).replace(r"\*", ".*") + ("(.+)" if placeholder else "") + re.escape(after).replace(r"\*", ".*")
    )
    for child in sorted(folder.iterdir()):
        match = re.fullmatch(expression, child.name, re.DOTALL)
        if match is None or child.name.startswith("."):
            continue
        found = match[1] if placeholder else key
        if not rest:
            yield str(found), child
        elif child.is_dir():
            yield from _matches(child, rest, found)


def _find(root: Path, parts: Sequence[str]) -> tuple[dict[str, Path], list[Problem]]:
    """Volumes by their key: files with an ending that is understood, and folders."""
    found, problems = [], []
    for key, path in _matches(root, parts):
        if path.is_dir() or path.name.lower().endswith(ENDINGS):
            found.append((key, path))
        else:
            expected = f"{', '.join(ENDINGS)}, or a folder with a DICOM series"
            remedy = "write the volume in one of these formats, or make the pattern narrower"
            problems.append(Problem(path, f"a file of the format {path.suffix!r}", expected, remedy))
    by_key, duplicates = unique_keys(found)
    return by_key, problems + duplicates


def find_cases(root: Path, layout: Layout) -> tuple[list[Case], list[Problem]]:
    """List the cases that a layout describes, and what is wrong with names and pairs."""
    images, problems = _find(root, layout.images)
    masks, mask_problems = _find(root, layout.masks)
    pairs, unpaired = pair(images, masks, "/".join(layout.images), "/".join(layout.masks))
    problems += mask_problems + unpaired
    if not pairs and not problems:
        remedy = "correct the pattern in the layout file, or the folder given with -i"
        problems.append(Problem(root, "no images", f"images such as {'/'.join(layout.images)}", remedy))
    found: list[tuple[str, Path, Path | None]] = list(pairs)
    if layout.test_images is not None:
        tests, test_problems = _find(root, layout.test_images)
        problems += test_problems
        if not tests and not test_problems:
            remedy = "correct the pattern in the layout file, or take the line out if there are none"
            problems.append(Problem(root, "no test images", f"some such as {'/'.join(layout.test_images)}", remedy))
        found += [(key, tests[key], None) for key in sorted(tests, key=natural_order)]
    cases = []
    for key, image, mask in found:
        patient = key
        if layout.patient is not None:
            match = layout.patient.fullmatch(key)
            if match is None or not match[1]:
                expected = f"an identifier that matches patient: {layout.patient.pattern}"
                remedy = "rename the file, or correct the expression in the layout file"
                problems.append(Problem(image, f"the identifier {key!r}, which names no patient", expected, remedy))
            else:
                patient = match[1]
        cases.append(Case(key, image, mask, patient=patient, subset=None if mask else "test"))
    return cases, problems


def collect(arguments: argparse.Namespace) -> Collection:
    layout = read_layout(arguments.layout)
    cases, problems = find_cases(arguments.i, layout)
    return Collection(
        name=layout.name,
        source=arguments.i,
        cases=cases,
        table=layout.table,
        channel=layout.channel,
        description=layout.description,
        reference=layout.reference,
        licence=layout.licence,
        options={"layout": layout.content},
        problems=problems,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command `nnUNetv2_convert_folder`, see `command.run`."""
    parser = make_parser(
        "nnUNetv2_convert_folder",
        description="Convert a folder of sagittal MR volumes with masks to an nnU-Net data set.",
        source="the folder that the patterns in the layout file start from",
        example="-i FOLDER --layout layout.yaml -d 513\nwrites Dataset513_<name> into the folder that nnUNet_raw names",
    )
    parser.add_argument(
        "--layout", type=Path, required=True, metavar="YAML", help="where the files are, and what labels mean"
    )
    return run(parser, collect, argv)


if __name__ == "__main__":
    sys.exit(main())
