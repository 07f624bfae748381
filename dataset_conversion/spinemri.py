"""SpineMRI, the MRSpineSeg challenge set: 172 labelled sagittal T2 volumes, 19 structures.

Its layout is `train/MR/Case<N>.nii.gz` with `train/Mask/mask_case<N>.nii.gz`, and `test1/MR/`, `test2/MR/` without
masks. Copies with renamed folders are in circulation; they are understood too. Its terms (research only, signed
agreement, no redistribution) go into `dataset.json`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dataset_conversion.cases import Case, files_by_key, pair
from dataset_conversion.collection import Collection
from dataset_conversion.command import make_parser, run
from dataset_conversion.labels import Structure
from dataset_conversion.problems import Problem

# From the sacrum upwards, vertebrae first, then the discs between them; in the order of their label values. The sacrum
# counts as a vertebra.
VERTEBRAE = ("S", "L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9")
DISCS = ("L5/S", "L4/L5", "L3/L4", "L2/L3", "L1/L2", "T12/L1", "T11/T12", "T10/T11", "T9/T10")
STRUCTURES = (
    *(Structure(name, "vertebrae") for name in VERTEBRAE),
    *(Structure(name, "discs") for name in DISCS),
)
TABLE = dict(enumerate(STRUCTURES, 1))

TRAINING_LAYOUTS = (  # folders of images and masks below the root; upper and lower case are the same
    ("train/MR", "train/Mask"),
    ("original_mr", "mask"),
    ("source", "label"),
    ("image", "groundtruth"),
)
TEST_FOLDERS = ("test1", "test2")
ENDINGS = (".nii", ".nii.gz")
IMAGE_NAME = re.compile(r"case([0-9]+)\.nii(?:\.gz)?", re.IGNORECASE)
MASK_NAME = re.compile(r"(?:mask_)?case([0-9]+)\.nii(?:\.gz)?", re.IGNORECASE)

# What was published: cases, and the numbers from 1 to the highest that are no training case.
PUBLISHED = {"train": 172, "test1": 20, "test2": 23}
HIGHEST_NUMBER, PUBLISHED_GAPS = 215, 43


def _number(match: re.Match[str]) -> str:
    return str(int(match[1]))


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
    images, problems = files_by_key(image_folder, IMAGE_NAME, ENDINGS, _number)
    masks, mask_problems = files_by_key(mask_folder, MASK_NAME, ENDINGS, _number)
    pairs, unpaired = pair(images, masks, image_folder, mask_folder)
    problems += mask_problems + unpaired
    if not pairs and not problems:
        remedy = "check that the archives were unpacked completely"
        problems.append(Problem(image_folder, "no images", "Case<N>.nii.gz, such as Case2.nii.gz", remedy))
    cases = [Case(f"SpineMRI_{int(n):03d}", image, mask, patient=n, subset="train") for n, image, mask in pairs]
    for name in TEST_FOLDERS:
        for folder in _folders(root, f"{name}/MR"):
            tests, test_problems = files_by_key(folder, IMAGE_NAME, ENDINGS, _number)
            problems += test_problems
            cases += [
                Case(f"SpineMRI_{name}_{int(n):03d}", tests[n], None, patient=n, subset=name)
                for n in sorted(tests, key=int)
            ]
    return cases, problems


def compare_with_published(cases: Sequence[Case]) -> str:
    """Say how this copy differs from the published set: in counts, and in gaps of the training cases' numbers."""
    numbers = {subset: {int(case.patient) for case in cases if case.subset == subset} for subset in PUBLISHED}
    gaps = set(range(1, HIGHEST_NUMBER + 1)) - numbers["train"]
    unexplained = sorted(gaps - numbers["test1"] - numbers["test2"])
    counts = ", ".join(f"{len(numbers[subset])} of {count} {subset} cases" for subset, count in PUBLISHED.items())
    text = f"compared with the published set, here are {counts}"
    if len(gaps) != PUBLISHED_GAPS:
        text += f"; {len(gaps)} of the numbers 1 to {HIGHEST_NUMBER} are no training case (published: {PUBLISHED_GAPS})"
    if not unexplained:
        text += "; all numbers are accounted for"
    return text


def collect(arguments: argparse.Namespace) -> Collection:
    cases, problems = find_cases(arguments.i)
    return Collection(
        name="SpineMRI",
        source=arguments.i,
        cases=cases,
        table=TABLE,
        channel="T2",
        description="Sagittal T2 MR of the lumbar spine: sacrum, vertebrae L5 to T9 and the discs between them",
        reference="www.spinesegmentation-challenge.com; Pang et al., SpineParseNet, IEEE TMI 40(1):262-273, 2021",
        licence="research only, by signed agreement with the organisers; no redistribution",
        problems=problems,
        notes=[compare_with_published(cases)] if cases else [],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command `nnUNetv2_convert_SpineMRI`, see `command.run`."""
    parser = make_parser(
        "nnUNetv2_convert_SpineMRI",
        description="Convert SpineMRI (MRSpineSeg challenge) to an nnU-Net data set.",
        source="the collection: the folder with train/, or its parent",
        example="-i MRSpineSeg_Challenge_SMU -d 511\nwrites Dataset511_SpineMRI into the folder that nnUNet_raw names",
    )
    return run(parser, collect, argv)


if __name__ == "__main__":
    sys.exit(main())
