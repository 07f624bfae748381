"""Consistent levels while predicting: keeps a sample of the logits on their way, for the decoding of the whole study.

All logits of a volume would be gigabytes. Where a slab (a slice, or a whole volume) has labels, some voxels keep their
probabilities, enough for the mean of each structure.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice

from nnunetv2_cafr.deployment.description import Description
from nnunetv2_cafr.deployment.orders import grid_in_order
from nnunetv2_cafr.levels.decoding import Decoding, Evidence, decode
from nnunetv2_cafr.spine import read_spine

SAMPLED = 5000  # voxels of a slice


class LevelDecoder:
    """For one study.

    Raises:
        ValueError: if the network's labels have no order along the spine.
    """

    def __init__(self, description: Description) -> None:
        self.spine = read_spine(description.dataset_json["labels"])
        self.transpose_backward = description.plans.transpose_backward
        self.voxel_order = description.voxel_order
        self.trained = description.training_heights
        self._depth = 0
        self._index: list[np.ndarray] = []
        self._probabilities: list[np.ndarray] = []

    def see(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Remembers some voxels of the next slab.

        Args:
            logits: (heads, d, h, w) on the network's grid.
            labels: (*shape) of the same slab on the grid of the cropped image.
        """
        index = torch.nonzero(labels).numpy()
        index = index[:: 1 + len(index) // (SAMPLED * len(labels))]
        ratio = np.divide(logits.shape[1:], labels.shape)
        nearest = ((index + 0.5) * ratio).astype(np.int64)
        at = logits[:, nearest[:, 0], nearest[:, 1], nearest[:, 2]].float()
        self._probabilities.append(at.softmax(0).T.numpy())
        self._index.append(index + np.array([self._depth, 0, 0]))
        self._depth += len(labels)

    def decode(self, segmentation: np.ndarray, properties: Mapping[str, Any]) -> Decoding:
        """Decodes the study whose slabs were seen.

        Args:
            segmentation: its label map (z, y, x), in the network's voxel order.
            properties: as `read_in_order` gives them.
        """
        index = np.concatenate(self._index)
        probabilities = np.concatenate(self._probabilities)
        box = bounding_box_to_slice(properties["bbox_used_for_cropping"])
        index = (index + [side.start for side in box])[:, list(self.transpose_backward)]
        voxels = np.ravel_multi_index(tuple(index.T), segmentation.shape)
        order = np.argsort(voxels)
        evidence = Evidence(voxels[order], probabilities[order])
        grid = grid_in_order(segmentation.shape, properties, self.voxel_order)
        return decode(segmentation, self.spine, grid, evidence, trained=self.trained)
