"""What the converters write goes through nnU-Net's own integrity check, planning and preprocessing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import SimpleITK as sitk

Pair = Callable[..., tuple[sitk.Image, sitk.Image]]
SIZE = (4, 64, 56)


def convert(folders: Any, module: str, *arguments: object) -> None:
    """Run a converter in a process of its own, with streams that know ASCII only."""
    command = (sys.executable, "-m", f"dataset_conversion.{module}", *arguments, "-np", 1)
    result = subprocess.run(
        list(map(str, command)),
        env={**folders.environment, "PYTHONIOENCODING": "ascii"},
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-4000:]


def write_spider(source: Path, make_pair: Pair) -> Path:
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
    for patient, order in ((1, "LPS"), (2, "ASR")):
        volumes = make_pair((1, 2, 103, 201, 100), SIZE, seed=patient)
        for volume, folder in zip(volumes, ("images", "masks"), strict=True):
            sitk.WriteImage(sitk.DICOMOrient(volume, order), str(source / folder / f"{patient}_t2.mha"))
    return source


def write_folder(source: Path, make_pair: Pair) -> Path:
    for number, name in enumerate(("Müller 1", "病例.2")):
        (source / name).mkdir(parents=True)
        for volume, kind in zip(make_pair((3, 900), SIZE, seed=number), ("image", "mask"), strict=True):
            sitk.WriteImage(volume, str(source / name / f"{kind}.nrrd"))
    (source / "layout.yaml").write_text(
        "{name: Mine, channel: T1, images: '{id}/image.nrrd', masks: '{id}/mask.nrrd',"
        " labels: {vertebrae: {3: a, 900: b}, ignore: [5]}}"
    )
    return source


def test_nnunet_takes_what_converters_write(make_nnunet_folders: Callable[[], Any], make_pair: Pair) -> None:
    """An ignore label and voxels in any order; regions and names of any script. SpineMRI: see `phantom_dataset`."""
    folders = make_nnunet_folders()
    convert(folders, "spider", "-i", write_spider(folders.root / "SPIDER", make_pair), "-d", 512)
    folder = write_folder(folders.root / "folder", make_pair)
    convert(folders, "folder", "-i", folder, "--layout", folder / "layout.yaml", "-d", 513, "--labels", "regions")
    numbers = [512, 513]
    options = ["-c", "2d", "--verify_dataset_integrity", "-np", 1, "-npfp", 1]
    output = folders.call("nnUNetv2_plan_and_preprocess", "-d", *numbers, *options)
    assert output.count("verify_dataset_integrity Done") == len(numbers)
    assert "Warning" not in output
    for number, name in zip(numbers, ("SPIDER", "Mine"), strict=True):
        preprocessed = folders.preprocessed / f"Dataset{number:03d}_{name}"
        plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
        assert plans["transpose_forward"] == [2, 0, 1]  # of arrays turned to RAS: slices are sagittal
        assert len(list((preprocessed / "nnUNetPlans_2d").glob("*.b2nd"))) == 2 * 2  # image and segmentation
