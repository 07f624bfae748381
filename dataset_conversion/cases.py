"""Cases, and how their files are found: by a key in the file's name, which image and mask share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_conversion.labels import LabelTable
from dataset_conversion.problems import Problem, natural_order

# An identifier becomes part of file names: letters and digits of any language, blanks, and - _ . + inside. No
# separator, no control character, no leading dot; so short that prefix and ending fit into 255 bytes.
SAFE_IDENTIFIER = re.compile(r"\w(?:[\w .+-]*[\w.+-])?")
LONGEST_IDENTIFIER = 200  # bytes


@dataclass(frozen=True)
class Case:
    """One image, with its mask where it is a training case.

    Attributes:
        identifier: nnU-Net's name for it.
        image, mask: a volume file, or a folder with one DICOM series.
        patient: cases of one patient must not be torn apart by a split.
        subset: the part of the source's own division that the case belongs to.
        table: this case's label table, where it differs from the collection's.
    """

    identifier: str
    image: Path
    mask: Path | None
    patient: str
    subset: str | None = None
    table: LabelTable | None = None


def files_by_key(
    folder: Path, pattern: re.Pattern[str], endings: tuple[str, ...], key: Callable[[re.Match[str]], str]
) -> tuple[dict[str, Path], list[Problem]]:
    """The files of a folder by the key that `key` reads from a match of `pattern` with their whole name.

    Files that do not end in one of `endings` (lower case) are notes, and what operating systems leave in folders.
    """
    found, problems = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(endings):
            continue
        match = pattern.fullmatch(path.name)
        if match is None:
            problems.append(
                Problem(
                    path,
                    "a volume whose name has no case number that can be read",
                    f"a name that matches {pattern.pattern}",
                    "rename the file, or move it out of the folder",
                )
            )
        else:
            found.append((key(match), path))
    by_key, duplicates = unique_keys(found)
    return by_key, problems + duplicates


def unique_keys(found: Iterable[tuple[str, Path]]) -> tuple[dict[str, Path], list[Problem]]:
    """One path per key; further paths of the same key are problems."""
    by_key: dict[str, Path] = {}
    problems = [
        Problem(
            path,
            f"case {key} is taken by {by_key[key].name} already",
            "one file per case (leading zeros do not count)",
            "keep the right one of the two, or rename one",
        )
        for key, path in found
        if by_key.setdefault(key, path) is not path
    ]
    return by_key, problems


def pair(
    images: Mapping[str, Path], masks: Mapping[str, Path], image_place: object, mask_place: object
) -> tuple[list[tuple[str, Path, Path]], list[Problem]]:
    """Pair images and masks of one key.

    Args:
        image_place, mask_place: where a missing one was looked for, as the report shall say it.

    Returns:
        Key, image and mask of the complete pairs, in natural order, and a problem for each image or mask without its
        counterpart.
    """
    problems = [
        Problem(
            images[key],
            "an image without a mask",
            f"the mask of case {key} in {mask_place}",
            "add the mask, or move the image out of the training images",
        )
        for key in images.keys() - masks.keys()
    ]
    problems += [
        Problem(
            masks[key],
            "a mask without an image",
            f"the image of case {key} in {image_place}",
            "add the image, or remove the mask",
        )
        for key in masks.keys() - images.keys()
    ]
    keys = sorted(images.keys() & masks.keys(), key=natural_order)
    return [(key, images[key], masks[key]) for key in keys], problems


def check_identifiers(cases: Sequence[Case]) -> list[Problem]:
    """Check that identifiers are safe as file names, and that no two cases would be written to the same file.

    Two identifiers are the same if they differ in upper and lower case or in the encoding of accents only: some file
    systems do not tell them apart.
    """
    problems = []
    first: dict[str, Case] = {}
    for case in cases:
        name = case.identifier
        if not SAFE_IDENTIFIER.fullmatch(name) or len(name.encode(errors="surrogateescape")) > LONGEST_IDENTIFIER:
            problems.append(
                Problem(
                    case.image,
                    f"the identifier {name!r}, which cannot be part of a file name",
                    f"letters, digits, blanks and - _ . + inside, at most {LONGEST_IDENTIFIER} bytes",
                    "rename the file or folder that the identifier is taken from",
                )
            )
        other = first.setdefault(unicodedata.normalize("NFC", name).casefold(), case)
        if other is not case:
            problems.append(
                Problem(
                    case.image,
                    f"a second case named {name}, beside {other.image}",
                    "identifiers that are unique in the data set, also without regard to upper and lower case",
                    "remove or renumber one of the two",
                )
            )
    return problems
