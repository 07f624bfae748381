"""MetaImage headers, checked line by line before SimpleITK reads them.

Of odd numbers in them, SimpleITK may take memory that is not its own, or none at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from dataset_conversion.problems import Problem

DIMENSIONS = range(2, 5)
UNIT_TOLERANCE = 0.02  # of the length of an axis in TransformMatrix: more is a second spacing
FARTHEST = 1e9  # of numbers in mm
TYPES = (
    "MET_CHAR", "MET_UCHAR", "MET_SHORT", "MET_USHORT", "MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_LONG_LONG",
    "MET_ULONG_LONG", "MET_FLOAT", "MET_DOUBLE",
)  # fmt: skip
PLACES, TURNS = ("Offset", "Position", "Origin"), ("TransformMatrix", "Rotation", "Orientation")  # synonyms
SPACINGS = ("ElementSpacing", "ElementSize")
WRITE_AGAIN = "write the volume again, by the program that made it or as .nii.gz"


def header_fields(header: bytes) -> list[tuple[str, str]]:
    """Keys and values of the lines before the voxels."""
    found = re.findall(rb"^[ \t]*(\w+)[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?$", header, re.MULTILINE)
    return [(key.decode(), value.decode(errors="replace")) for key, value in found]


def check_header(path: Path, header: bytes) -> Problem | None:
    """Check that a header's numbers are numbers, as many as they have to be.

    Args:
        header: the file up to its voxels.
    """
    fields = header_fields(header)
    keys = [key for key, _ in fields]
    problems = [f"{key} twice" for key in dict.fromkeys(keys) if keys.count(key) > 1]
    for synonyms in (PLACES, TURNS, ("ElementSpacing",), ("DimSize",), ("ElementType",), ("NDims",)):
        if sum(key in synonyms for key in keys) > 1:
            problems.append(" and ".join(key for key in synonyms if key in keys))
    problems += _wrong_numbers(dict(fields))
    if not problems:
        return None
    return Problem(path, f"a header with {', '.join(problems)}", "a MetaImage header of one volume", WRITE_AGAIN)


def is_big_endian(fields: Mapping[str, str]) -> bool:
    """Whether the voxels of a header's fields begin with their most significant byte."""
    return any(fields.get(f"{key}ByteOrderMSB", "").lower() == "true" for key in ("BinaryData", "Element"))


def unplaced(fields: Mapping[str, str]) -> list[str]:
    """What a header's fields do not say about the voxels' place, and SimpleITK makes up."""
    missing = [] if any(key in fields for key in TURNS) else [TURNS[0]]
    return missing + ([] if any(key in fields for key in SPACINGS) else [SPACINGS[0]])


def _wrong_numbers(fields: dict[str, str]) -> Iterator[str]:
    dimensions = int(fields["NDims"]) if fields.get("NDims", "").isdecimal() else 0
    if dimensions not in DIMENSIONS:
        yield f"NDims {fields.get('NDims')!r}"
        return
    if fields.get("ElementType") not in TYPES:
        yield f"ElementType {fields.get('ElementType')!r}"
    if "DimSize" not in fields:
        yield "no DimSize"
    for key, count, sound in (
        ("DimSize", dimensions, _is_length),
        ("ElementSpacing", dimensions, _is_positive),
        ("ElementSize", dimensions, _is_positive),
        ("CenterOfRotation", dimensions, _is_near),
        ("ElementNumberOfChannels", 1, _is_length),
        ("HeaderSize", 1, _is_none),
        *((key, dimensions, _is_near) for key in PLACES),
        *((key, dimensions * dimensions, _is_near) for key in TURNS),
    ):
        if key in fields and not _fits(fields[key], count, sound):
            yield f"{key} {fields[key]!r}"
    for key in TURNS:
        if key in fields and _fits(fields[key], dimensions * dimensions, _is_near):
            rows = np.array(fields[key].split(), dtype=float).reshape(dimensions, dimensions)
            if (np.abs(np.linalg.norm(rows, axis=1) - 1) > UNIT_TOLERANCE).any():
                yield f"{key} {fields[key]!r}, whose axes are not of unit length (scaled or sheared)"
    for key in ("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData"):
        if key in fields and fields[key].lower() not in ("true", "false"):
            yield f"{key} {fields[key]!r}"
    if fields.get("CompressedData", "").lower() == "true" and not fields.get("CompressedDataSize", "").isdecimal():
        yield "CompressedData without CompressedDataSize, of which SimpleITK makes zeros"
    if fields.get("BinaryData", "").lower() == "false":
        yield "BinaryData False, voxels written as text"


def _fits(text: str, count: int, sound: Callable[[float], bool]) -> bool:
    words = text.split()
    try:
        return len(words) == count and all(sound(float(word)) for word in words)
    except ValueError:
        return False


def _is_near(value: float) -> bool:
    return math.isfinite(value) and abs(value) < FARTHEST


def _is_positive(value: float) -> bool:
    return _is_near(value) and value > 0


def _is_length(value: float) -> bool:
    return _is_positive(value) and value.is_integer()


def _is_none(value: float) -> bool:
    return value == 0
