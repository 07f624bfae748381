"""An augmentation for scans that show a part of the spine: where a slice ends must not tell which level is there."""

from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

PADDING = -1  # nnU-Net's label outside of the image


class PartialView(BasicTransform):
    """Keeps a part of the patch along one axis, moves it to anywhere along that axis, and pads the rest.

    As nnU-Net shows the network a scan that is shorter than the patch: images padded with 0, labels with -1.

    Args:
        axis: of the spatial axes of the patch.
        least: smallest part that is kept, as a share of the patch.
    """

    def __init__(self, axis: int, least: float) -> None:
        super().__init__()
        self.axis = axis
        self.least = least

    def get_parameters(self, **data_dict: Any) -> dict[str, int]:
        length = data_dict["image"].shape[1 + self.axis]
        kept = int(torch.randint(max(1, round(self.least * length)), length + 1, ()))
        start, place = torch.randint(length - kept + 1, (2,)).tolist()
        return {"kept": kept, "start": start, "place": place}

    def _apply_to_image(self, img: torch.Tensor, **params: int) -> torch.Tensor:
        return self._moved(img, 0, **params)

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: int) -> torch.Tensor:
        return self._moved(segmentation, PADDING, **params)

    def _moved(self, values: torch.Tensor, padding: int, kept: int, start: int, place: int) -> torch.Tensor:
        moved = torch.full_like(values, padding)
        moved.narrow(1 + self.axis, place, kept).copy_(values.narrow(1 + self.axis, start, kept))
        return moved
