"""SpineMRI, the MRSpineSeg challenge set: 172 labelled sagittal T2 volumes, 19 structures.

Its layout is `train/MR/Case<N>.nii.gz` with `train/Mask/mask_case<N>.nii.gz`, and `test1/MR/`, `test2/MR/` without
masks. Copies with renamed folders are in circulation; they are understood too. Its terms (research only, signed
agreement, no redistribution) go into `dataset.json`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nnunetv2.configuration import default_num_processes

from dataset_conversion.core import Case, ConversionError, DatasetDescription, Problem, convert, list_images, pair_files

# From the sacrum upwards, vertebrae first, then the discs between them; in the order of their label values.
STRUCTURES = (
    *("S", "L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9"),
    *("L5/S", "L4/L5", "L3/L4", "L2/L3", "L1/L2", "T12/L1", "T11/T12", "T10/T11", "T9/T10"),
)
LABELS = {"background": 0, **{name: value for value, name in enumerate(STRUCTURES, 1)}}

TRAINING_LAYOUTS = (  # folders of images and masks below the root; upper and lower case are the same
    ("train/MR", "train/Mask"),
    ("original_mr", "mask"),
    ("source", "label"),
    ("image", "groundtruth"),
)
TEST_FOLDERS = ("test1", "test2")
IMAGE_NAME = re.compile(r"case([0-9]+)\.nii(?:\.gz)?", re.IGNORECASE)
MASK_NAME = re.compile(r"(?:mask_)?case([0-9]+)\.nii(?:\.gz)?", re.IGNORECASE)


def _folders(root: Path, relative: str) -> list[Path]:
    """All folders at `relative` below `root`, whatever the case of their letters."""
    found = [root]
    for name in relative.split("/"):
        found = [
            child
            for folder in found
            for child in sorted(folder.iterdir())
            if child.name.lower() == name.lower() and child.is_dir()
        ]
    return found


def _training_folders(root: Path) -> list[tuple[Path, Path]]:
    """All pairs of an image and a mask folder below `root` that form one of the known layouts."""
    return [
        (images, masks)
        for image_folder, mask_folder in TRAINING_LAYOUTS
        for images in _folders(root, image_folder)
        for masks in _folders(root, mask_folder)
    ]


def _training_identifier(number: int) -> str:
    return f"SpineMRI_{number:03d}"


def _test_identifier(folder: str, number: int) -> str:
    return f"SpineMRI_{folder}_{number:03d}"


def find_cases(source: Path) -> tuple[list[Case], list[Problem]]:
    """List the cases of a copy of SpineMRI.

    Args:
        source: the collection's root, or the folder that holds it.

    Returns:
        Training cases `SpineMRI_<N>` and test cases `SpineMRI_test1_<N>`, and what is wrong with names and pairs.
    """
    children = [child for child in sorted(source.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    found = [(root, *folders) for root in (source, *children) for folders in _training_folders(root)]
    if len(found) != 1:
        layouts = ", ".join(f"{images} + {masks}" for images, masks in TRAINING_LAYOUTS)
        what = "no training images with masks"
        if found:
            what = "several training sets: " + ", ".join(str(images.relative_to(source)) for _, images, _ in found)
        expected = f"one of the folder pairs {layouts}, here or one folder below"
        return [], [Problem(source, what, expected, "give the folder that holds the one collection to convert")]

    root, image_folder, mask_folder = found[0]
    cases, problems = pair_files(image_folder, IMAGE_NAME, mask_folder, MASK_NAME, _training_identifier)
    if not cases and not problems:
        remedy = "check that the archives were unpacked completely"
        problems.append(Problem(image_folder, "no images", "Case<N>.nii.gz, such as Case2.nii.gz", remedy))
    for name in TEST_FOLDERS:
        for folder in _folders(root, f"{name}/MR"):
            tests, test_problems = list_images(folder, IMAGE_NAME, partial(_test_identifier, name))
            cases += tests
            problems += test_problems
    return cases, problems


def _dataset_number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 999:
        raise argparse.ArgumentTypeError(f"{text} is not a data set number; expected 1 to 999, such as 511")
    return int(text)


def _num_processes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes; expected 1 or more")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `nnUNetv2_convert_SpineMRI`: 0, or 1 if the data cannot be converted; bad usage exits with 2."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_convert_SpineMRI",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Convert SpineMRI (MRSpineSeg challenge) to an nnU-Net data set.\n"
        "Everything is checked before anything is written; all problems are reported at once.",
        epilog="example: nnUNetv2_convert_SpineMRI -i MRSpineSeg_Challenge_SMU -d 511\n"
        "writes Dataset511_SpineMRI into the folder that nnUNet_raw names",
    )
    parser.add_argument(
        "-i", type=Path, required=True, metavar="SRC", help="the collection: the folder with train/, or its parent"
    )
    parser.add_argument("-d", type=_dataset_number, required=True, metavar="ID", help="data set number, 1 to 999")
    parser.add_argument("-o", type=Path, metavar="DIR", help="where to write the data set; default: $nnUNet_raw")
    processes = min(default_num_processes, os.cpu_count() or 1)
    parser.add_argument(
        "-np",
        type=_num_processes,
        default=processes,
        metavar="N",
        help=f"number of processes; default here: {processes}",
    )
    arguments = parser.parse_args(argv)
    if not arguments.i.is_dir():
        parser.error(f"-i {arguments.i}: no such folder")
    output = arguments.o or os.environ.get("nnUNet_raw")
    if not output:
        parser.error("where should the data set go? Give -o, or set the environment variable nnUNet_raw")
    target = Path(output) / f"Dataset{arguments.d:03d}_SpineMRI"
    description = DatasetDescription(
        name="SpineMRI",
        labels=LABELS,
        channel_names={0: "T2"},
        description="Sagittal T2 MR of the lumbar spine: sacrum, vertebrae L5 to T9 and the discs between them",
        reference="www.spinesegmentation-challenge.com; Pang et al., SpineParseNet, IEEE TMI 40(1):262-273, 2021",
        licence="research only, by signed agreement with the organisers; no redistribution",
        converted_by="nnUNetv2_convert_SpineMRI of nnunetv2-cafr",
    )
    try:
        cases, problems = find_cases(arguments.i)
        convert(cases, target, description, arguments.np, problems)
    except ConversionError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, MemoryError) as error:
        print(f"The conversion failed, and nothing was written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return 130
    training = sum(case.mask is not None for case in cases)
    print(f"{target}: {training} training and {len(cases) - training} test cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
