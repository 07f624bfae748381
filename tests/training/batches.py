"""Batches as nnU-Net's data loaders make them."""

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def batch_of(trainer: nnUNetTrainer, image: torch.Tensor, labels: torch.Tensor, keys: Sequence[str]) -> dict[str, Any]:
    """Image (b, c, *spatial) and labels (b, 1, *spatial), these at every resolution that the trainer supervises."""
    scales = trainer._get_deep_supervision_scales()
    if scales is None:
        return {"data": image, "target": labels, "keys": list(keys)}
    of_samples = [DownsampleSegForDSTransform(scales)(segmentation=sample)["segmentation"] for sample in labels]
    return {
        "data": image,
        "target": [torch.stack(level) for level in zip(*of_samples, strict=True)],
        "keys": list(keys),
    }
