"""Finds the images to predict, and hands each to nnU-Net's own reader.

An image is a NIfTI, MetaImage or NRRD file or a folder with one DICOM series. Names are nnU-Net's, CASE_0000.nii.gz
with the number of the channel, or anything else for networks with one channel. DICOM is read as by the converters,
which refuse a series with gaps or doubled slices.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from dataset_conversion.dicom import list_slices, read_series
from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.orders import read_in_order, refuse_two_orientations

ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")


@dataclass
class Study:
    """One case to predict: the image of each channel, a file or a folder with a DICOM series."""

    name: str
    images: dict[int, Path] = field(default_factory=dict)


def find_studies(paths: Sequence[Path], description: Description) -> list[Study]:
    """All studies in files and folders. A folder holds images, or one DICOM series, or such a folder for each study.

    Raises:
        SystemExit: if a path does not exist or holds nothing, or two images would be the same channel of a study.
    """
    endings = (*ENDINGS, description.dataset_json["file_ending"])
    studies: dict[str, Study] = {}
    for path in paths:
        images = _images_in(path, endings)
        if not images:
            raise SystemExit(f"{path} holds no images: expected are {', '.join(endings)}, or folders with DICOM series")
        for image in images:
            name, channel = _case_and_channel(image, endings, len(description.channel_names))
            study = studies.setdefault(name, Study(name))
            if channel in study.images:
                raise SystemExit(
                    f"{study.images[channel]} and {image} would both be {name}, channel {channel}: rename one, or "
                    "predict them into different folders"
                )
            study.images[channel] = image
    return list(studies.values())


def _images_in(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if not path.exists():
        raise SystemExit(f"There is no {path}")
    if path.is_file():
        return [path]
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in inside if (list_slices(entry) if entry.is_dir() else entry.name.endswith(endings))]
    return images or ([path.absolute()] if list_slices(path) else [])


def _case_and_channel(image: Path, endings: tuple[str, ...], channels: int) -> tuple[str, int]:
    name = image.name
    if image.is_file():
        name = name.removesuffix(next((ending for ending in endings if name.endswith(ending)), image.suffix))
    match = re.fullmatch(r"(.+)_(\d{4})", name)
    if match and int(match[2]) < channels:
        return match[1], int(match[2])
    return name, 0


def read_study(study: Study, description: Description) -> tuple[np.ndarray, dict[str, Any]]:
    """Image (c, z, y, x) and its geometry, from the reader of nnU-Net that the plans name.

    Voxels are in the order that the network was trained on, if that is known. What the reader is not made for (DICOM to
    begin with) goes through a temporary file.

    Raises:
        ValueError: if channels are missing or lie on several grids, a DICOM series cannot be a volume, or a file does
            not tell its orientation, or two.
    """
    names = description.channel_names
    if missing := [f"{number} ({name})" for number, name in enumerate(names) if number not in study.images]:
        raise ValueError(
            f"of the {len(names)} channels of the network, {', '.join(missing)} is missing: expected are files "
            f"{study.name}_0000{description.dataset_json['file_ending']} and so on"
        )
    reader = description.plans.image_reader_writer_class()
    supported = tuple(reader.supported_file_endings)
    handover = next(ending for ending in (".mha", description.dataset_json["file_ending"]) if ending in supported)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for channel, image in sorted(study.images.items()):
            if image.is_file():
                refuse_two_orientations(image)
            if image.is_dir() or not image.name.endswith(supported):
                file = Path(folder) / f"{channel}{handover}"
                sitk.WriteImage(_read_series(image) if image.is_dir() else sitk.ReadImage(image), file)
            else:
                file = image
            files.append(str(file))
        return read_in_order(reader, files, description.voxel_order)


def preprocess(study: Study, description: Description) -> tuple[np.ndarray, dict[str, Any]]:
    """The image (c, d, h, w) as the network sees it, by nnU-Net's preprocessor, and how to get back from there."""
    image, properties = read_study(study, description)
    preprocessor = description.configuration.preprocessor_class(verbose=False)
    image, _, properties = preprocessor.run_case_npy(
        image, None, properties, description.plans, description.configuration, description.dataset_json
    )
    return image, properties


def _read_series(folder: Path) -> sitk.Image:
    volume, _, problems = read_series(folder)
    if volume is None:
        reasons = [f"{one.path} has {one.found}, expected {one.expected}: {one.remedy}" for one in problems]
        raise ValueError("; ".join(reasons))
    return volume
