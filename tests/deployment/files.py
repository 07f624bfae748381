"""Small images, and descriptions of networks that are not asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunetv2_cafr.files import sha256

from .untrained import configuration

SAGITTAL = (0, 0, -1, 1, 0, 0, 0, -1, 0)
VOXELS = np.random.default_rng(0).integers(1, 900, (4, 30, 24)).astype(np.int16)


def image_of(voxels: np.ndarray, spacing: tuple[float, ...] = (0.7, 0.8, 4.4), **options: Any) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels, **options)
    image.SetSpacing((*spacing, 1)[: image.GetDimension()])
    if image.GetDimension() > 2:
        direction = np.eye(image.GetDimension())
        direction[:3, :3] = np.reshape(SAGITTAL, (3, 3))
        image.SetDirection(direction.ravel())
    return image


def write(path: Path, voxels: np.ndarray = VOXELS, **options: Any) -> Path:
    sitk.WriteImage(image_of(voxels, **options), path)
    return path


def describe(model: Path, channels: tuple[str, ...] = ("T1",), ending: str = ".nii.gz", **plans: Any) -> Path:
    """A network's two files, of which the network is none; `plans` are set in its plans."""
    channel_names = {str(number): name for number, name in enumerate(channels)}
    model.write_bytes(model.name.encode())
    content = {
        "format": "nnunetv2_cafr export 1",
        "configuration": "2d",
        "channel_names": channel_names,
        "inference_allowed_mirroring_axes": [],
        "probe": [0.0],
        "plans": {
            "dataset_name": "Dataset901_Tiny",
            "plans_name": "nnUNetPlans",
            "image_reader_writer": "SimpleITKIO",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {number: {} for number in channel_names},
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {"2d": configuration(2, len(channels))},
            **plans,
        },
        "dataset_json": {"channel_names": channel_names, "labels": {"background": 0, "a": 1}, "file_ending": ending},
    }
    model.with_suffix(".json").write_text(json.dumps({**content, "sha256": sha256(model)}))
    return model
