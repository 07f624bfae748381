"""SPIDER: 447 sagittal T1, T2 and T2 SPACE series of 218 patients with low back pain (van der Graaf et al., 2024).

Its layout is `images/<patient>_<t1|t2|t2_SPACE>.mha`, `masks/` under the same names, and `overview.csv`. The order of
the voxel axes varies from file to file. Vertebrae (1 to 25) and discs (201 to 225) are counted from the bottom:
vertebra 1 is the lowest lumbar one, which is L5 in most patients, not in all (sacralised L5, lumbarised S1). So they
keep their numbers, unless the user says which vertebra is the lowest.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset_conversion.cases import Case, files_by_key, pair
from dataset_conversion.collection import Collection
from dataset_conversion.command import make_parser, run
from dataset_conversion.labels import IGNORE, Structure
from dataset_conversion.problems import ConversionError, Problem
from dataset_conversion.spinemri import DISCS, STRUCTURES, VERTEBRAE

SEQUENCES = {"t1": "T1", "t2": "T2", "t2_SPACE": "T2"}  # and nnU-Net's name of the channel
PARTIAL = ("ignore", "vertebra")
SERIES_NAME = re.compile(rf"([0-9]+)_({'|'.join(SEQUENCES)})\.mha", re.IGNORECASE)
NUM_LEVELS = 25
CANAL_VALUE, PARTIAL_OFFSET, DISC_OFFSET = 100, 100, 200
CANAL = Structure("canal", "canal")
OVERVIEW_COLUMNS = ("new_file_name", "subset")
LOWEST_COLUMNS = ("patient", "lowest")
LOWEST = ("L4", "L5", "L6")  # which lumbar vertebra can be the lowest one


def make_table(partial: str) -> dict[int, Structure]:
    """Structures by their number.

    The order (canal, vertebra 1, disc 1, vertebra 2, ...) lets values stay the same, however far up the masks reach.

    Args:
        partial: `ignore`, or `vertebra`: what partly visible vertebrae become.
    """
    table = {CANAL_VALUE: CANAL}
    for level in range(1, NUM_LEVELS + 1):
        table[level] = Structure(f"vertebra_{level}", "vertebrae")
        table[DISC_OFFSET + level] = Structure(f"disc_{level}", "discs")
    for level in range(1, NUM_LEVELS + 1):
        table[PARTIAL_OFFSET + level] = IGNORE if partial == "ignore" else table[level]
    return table


def make_named_table(partial: str, lowest: str) -> dict[int, Structure]:
    """SpineMRI's structures by SPIDER's number, for a patient whose vertebra 1 is `lowest`.

    What has no name there (L6 and its discs, all above T9) is ignored: it is neither background nor another level.
    """
    by_name = {structure.name: structure for structure in STRUCTURES}
    above_sacrum = VERTEBRAE.index(lowest) if lowest in VERTEBRAE else 0  # of vertebra 1; 0 is L6, which has no name
    table = {CANAL_VALUE: CANAL}
    for level in range(1, NUM_LEVELS + 1):
        number = above_sacrum + level - 1
        named = 0 < number < len(VERTEBRAE)
        table[level] = by_name[VERTEBRAE[number]] if named else IGNORE
        # The disc below L5 is L5/S only where the sacrum follows.
        named_disc = named and (number > 1 or above_sacrum == 1)
        table[DISC_OFFSET + level] = by_name[DISCS[number - 1]] if named_disc else IGNORE
        table[PARTIAL_OFFSET + level] = IGNORE if partial == "ignore" else table[level]
    return table


def read_table(path: Path, columns: tuple[str, str], key: Callable[[str], str]) -> dict[str, str]:
    """Read two columns of a CSV file: the second by the first.

    Args:
        key: of what the first column says; rows of one key must say the same.

    Raises:
        ConversionError: if the file is no such table, or contradicts itself.
    """
    first, second = columns
    remedy = "take the file as it was published, comma-separated in UTF-8 with a header line"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            if missing := [column for column in columns if column not in names]:
                found = f"no column {' and '.join(missing)}"
                raise ConversionError([Problem(path, found, f"the columns {first}, {second}", remedy)])
            table: dict[str, str] = {}
            for row in reader:
                name, value = key((row[first] or "").strip()), (row[second] or "").strip()
                if table.setdefault(name, value) != value:
                    found = f"{table[name]!r} and {value!r} for {name}"
                    raise ConversionError([Problem(path, found, f"one {second} for each", "remove the wrong row")])
            return table
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConversionError(
            [Problem(path, f"no table ({error})", f"the columns {first}, {second}", remedy)]
        ) from error


def _key(match: re.Match[str]) -> str:
    sequence = next(name for name in SEQUENCES if name.lower() == match[2].lower())
    return f"{int(match[1])}_{sequence}"


def _patient(key: str) -> str:
    return key.split("_")[0]


def find_series(root: Path) -> tuple[list[tuple[str, Path, Path]], list[Problem]]:
    """List key (`<patient>_<sequence>`), image and mask of all series, and what is wrong with names and pairs."""
    images, masks = root / "images", root / "masks"
    if not (images.is_dir() and masks.is_dir()):
        remedy = "unpack images.zip and masks.zip there, or give the folder that holds both"
        return [], [Problem(root, "no folders images and masks", "SPIDER's folders images and masks", remedy)]
    by_key, problems = files_by_key(images, SERIES_NAME, (".mha",), _key)
    masks_by_key, mask_problems = files_by_key(masks, SERIES_NAME, (".mha",), _key)
    pairs, unpaired = pair(by_key, masks_by_key, images, masks)
    if not pairs and not problems:
        problems.append(Problem(images, "no series", "<patient>_<t1|t2|t2_SPACE>.mha", "unpack images.zip there"))
    return pairs, [*problems, *mask_problems, *unpaired]


def read_subsets(path: Path, keys: Sequence[str]) -> tuple[dict[str, str], list[Problem], list[str]]:
    """SPIDER's own division (training, validation) from `overview.csv`.

    Returns:
        The subset of each series that is in the table; a problem for each patient in two subsets; what is missing.
    """
    if not path.is_file():
        return {}, [], [f"{path} is missing: SPIDER's training and validation subsets are not known"]
    table = read_table(path, OVERVIEW_COLUMNS, lambda name: name.removesuffix(".mha").lower())
    subsets = {key: table[key.lower()] for key in keys if key.lower() in table}
    of_patient: dict[str, set[str]] = {}
    for key, subset in subsets.items():
        of_patient.setdefault(_patient(key), set()).add(subset)
    problems = [
        Problem(
            path,
            f"patient {patient} in the subsets {' and '.join(sorted(found))}",
            "each patient in one subset",
            "correct the table: such a patient would be validated on what was trained on",
        )
        for patient, found in of_patient.items()
        if len(found) > 1
    ]
    unknown = [key for key in keys if key not in subsets]
    notes = [f"{len(unknown)} series have no subset in {path.name}: {', '.join(unknown[:5])}"] if unknown else []
    return subsets, problems, notes


def read_lowest(path: Path) -> dict[str, str]:
    """Which vertebra is the lowest, by patient.

    Raises:
        ConversionError: if the file cannot be used.
    """
    lowest = read_table(path, LOWEST_COLUMNS, lambda patient: str(int(patient)) if patient.isdecimal() else patient)
    problems = [
        Problem(path, f"{name!r} for patient {patient}", f"one of {', '.join(LOWEST)}", "correct or remove the row")
        for patient, name in lowest.items()
        if name not in LOWEST
    ]
    if problems:
        raise ConversionError(problems)
    return lowest


def _lowest_by_patient(lowest: str | None, patients: set[str]) -> dict[str, str] | None:
    """One level for all patients, or a file that says it for each; None where nobody says anything."""
    if lowest is None:
        return None
    return dict.fromkeys(patients, lowest) if lowest in LOWEST else read_lowest(Path(lowest))


def collect(arguments: argparse.Namespace) -> Collection:
    series, problems = find_series(arguments.i)
    series = [one for one in series if one[0].split("_", 1)[1] in arguments.sequences]
    keys = [key for key, _, _ in series]
    subsets, subset_problems, notes = read_subsets(arguments.i / "overview.csv", keys)
    if not series and not problems:
        found = f"no series of {', '.join(arguments.sequences)}"
        problems.append(Problem(arguments.i, found, "at least one", "choose other --sequences"))

    lowest = _lowest_by_patient(arguments.lowest_vertebra, {_patient(key) for key in keys})
    tables = {patient: make_named_table(arguments.partial, name) for patient, name in (lowest or {}).items()}
    if lowest is not None:
        if left_out := sorted({_patient(key) for key in keys} - lowest.keys(), key=int):
            notes.append(f"{len(left_out)} patients without a lowest vertebra are left out: {', '.join(left_out)}")
        series = [one for one in series if _patient(one[0]) in lowest]
    cases = [
        Case(
            f"SPIDER_{int(_patient(key)):03d}_{key.split('_', 1)[1]}",
            image,
            mask,
            patient=_patient(key),
            subset=subsets.get(key),
            table=tables.get(_patient(key)),
        )
        for key, image, mask in series
    ]
    channels = sorted({SEQUENCES[sequence] for sequence in arguments.sequences})
    return Collection(
        name="SPIDER",
        source=arguments.i,
        cases=cases,
        table=make_table(arguments.partial),
        structures=() if lowest is None else (*STRUCTURES, CANAL, IGNORE),
        open_ended=lowest is None,
        channel=channels[0] if len(channels) == 1 else "MR",
        description="Sagittal MR of the lumbar spine: vertebrae and discs, and the spinal canal",
        reference="van der Graaf et al., Sci Data 11:264, 2024; doi 10.5281/zenodo.10159290",
        licence="CC BY 4.0",
        options={"sequences": arguments.sequences, "partial": arguments.partial, "lowest_vertebra": lowest},
        problems=[*problems, *subset_problems],
        notes=notes,
    )


def _lowest_vertebra(text: str) -> str:
    if text not in LOWEST and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is neither one of {', '.join(LOWEST)} nor a file")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """The command `nnUNetv2_convert_SPIDER`, see `command.run`."""
    parser = make_parser(
        "nnUNetv2_convert_SPIDER",
        description="Convert SPIDER to an nnU-Net data set.",
        source="the folder with images/, masks/ and overview.csv",
        example="-i SPIDER -d 512 --sequences t2\nwrites Dataset512_SPIDER into the folder that nnUNet_raw names",
    )
    parser.add_argument(
        "--sequences", nargs="+", choices=SEQUENCES, default=list(SEQUENCES), help="series to convert; default: all"
    )
    parser.add_argument(
        "--partial",
        choices=PARTIAL,
        default=PARTIAL[0],
        help="partly visible vertebrae become nnU-Net's ignore label, or vertebrae as others; default: ignore",
    )
    parser.add_argument(
        "--lowest-vertebra",
        type=_lowest_vertebra,
        metavar="|".join((*LOWEST, "CSV")),
        help="give vertebrae and discs SpineMRI's names and values: what the lowest vertebra is in all patients, or a "
        "file with the columns patient and lowest for those to be converted; default: numbers from the bottom",
    )
    return run(parser, collect, argv)


if __name__ == "__main__":
    sys.exit(main())
