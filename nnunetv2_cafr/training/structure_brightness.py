"""An augmentation for structures whose brightness differs from patient to patient more than in the cases trained on."""

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from torch.nn import functional as F


class StructureBrightness(ImageOnlyTransform):
    """Makes each labelled structure brighter or darker than it is, on its own and in each channel.

    A healthy disc is bright in T2 and a degenerate one dark: a network that was trained on the old finds no disc in the
    young. A patch draws how far its structures may change, uniformly up to `most`; each structure then draws a change
    between plus and minus that. Changes fade over 3, 5 or 7 voxels (not across few slices), which draws no borders
    sharper than they are and leaves a thin structure's middle changed most, as a nucleus is.

    Args:
        labels: of the structures, one or more; of other labels, padding and background only what lies within the reach
            of a fading change becomes brighter or darker too.
        most: largest change, in standard deviations of the patch's channel.
    """

    def __init__(self, labels: Sequence[int], most: float) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.most = most

    def get_parameters(self, **data_dict: Any) -> dict[str, torch.Tensor]:
        """The change of every voxel, (c, *spatial)."""
        channels = len(data_dict["image"])
        label_map = data_dict["segmentation"][0].long()
        changes = torch.zeros(channels, max(self.labels) + 1)
        changes[:, list(self.labels)] = self.most * torch.rand(()) * (2 * torch.rand(channels, len(self.labels)) - 1)
        known = label_map.clamp(0, changes.shape[1] - 1) * (label_map < changes.shape[1])
        pool = F.avg_pool2d if label_map.ndim == 2 else F.avg_pool3d
        change, reach = changes[:, known], int(torch.randint(1, 4, ()))
        for axis, size in enumerate(label_map.shape):  # one after the other: the same as all at once, and faster
            padding = [min(reach, size // 16) if other == axis else 0 for other in range(label_map.ndim)]
            kernel = [2 * voxels + 1 for voxels in padding]
            change = pool(change, kernel, stride=1, padding=padding, count_include_pad=False)
        return {"change": change}

    def _apply_to_image(self, img: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        deviation = img.flatten(1).std(dim=1).view(-1, *[1] * (img.ndim - 1))
        return img + deviation * change
