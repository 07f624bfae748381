"""The JSON file beside an exported network: all that is needed to predict as nnU-Net would, and what the network is.

nnU-Net's classes, and torch with them, take seconds to import; that waits until they are asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2_cafr.deployment.card import card_faults
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import sha256
from nnunetv2_cafr.plans_fields import channels_of, faults_of
from nnunetv2_cafr.spine import Spine, read_spine
from nnunetv2_cafr.voxel_order import is_order

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

FORMAT = "nnunetv2_cafr export 1"  # the number is raised when a description changes its meaning

BOTH_FILES = "{} and {} in one folder, as nnUNetv2_cafr export writes them"


def description_file(model: Path) -> Path:
    return model.with_suffix(".json")


@dataclass(frozen=True)
class Description:
    """What the JSON file holds (`content`), in the terms of nnU-Net."""

    content: dict[str, Any]

    @classmethod
    def read(cls, model: Path) -> Description:
        """The description of an exported network.

        Raises:
            UserError: if the network or its description is missing, not an export, or not of each other.
        """
        file = description_file(model)
        export_it = "expected are " + BOTH_FILES.format(model.name, file.name)
        for needed in (model, file):
            if not needed.is_file():
                raise UserError(f"There is no {needed}: {export_it}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file} cannot be read ({error}): {export_it}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{file} does not describe an exported network: {export_it}")
        if content.get("sha256") != sha256(model):
            raise UserError(f"{model} is not the file that {file} describes (SHA-256 differs): export it again")
        if faults := list(_faults(content)):
            raise UserError(f"{file} is damaged: {'; '.join(faults)}. Export the network again")
        return cls(content)

    @cached_property
    def plans(self) -> PlansManager:
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        return PlansManager(self.content["plans"])

    @property
    def dataset_json(self) -> dict[str, Any]:
        return self.content["dataset_json"]

    @cached_property
    def spine(self) -> Spine | None:
        """The levels among the labels; None where they have no order along a spine."""
        try:
            return read_spine(self.dataset_json["labels"])
        except ValueError:
            return None

    @property
    def file_ending(self) -> str:
        """Of images and label maps, as the data set has it."""
        return self.dataset_json["file_ending"]

    @property
    def reader(self) -> str:
        """Name of nnU-Net's reader that the network was trained with."""
        return self.content["plans"]["image_reader_writer"]

    @property
    def reads_volumes(self) -> bool:
        """Whether that reader knows medical volumes, in patient coordinates; others read pictures and TIFF."""
        return "SimpleITK" in self.reader or "Nibabel" in self.reader

    @property
    def flat(self) -> bool:
        """Whether the network was trained on single slices."""
        return list(self.content["plans"].get("original_median_shape_after_transp", ()))[:1] == [1]

    @cached_property
    def configuration(self) -> ConfigurationManager:
        return self.plans.get_configuration(self.content["configuration"])

    @cached_property
    def labels(self) -> LabelManager:
        return self.plans.get_label_manager(self.dataset_json)

    @property
    def channel_names(self) -> list[str]:
        return list(self.content["channel_names"].values())

    @property
    def training_voxel_orders(self) -> dict[str, int]:
        """How many training cases are stored in which voxel order; empty where that is unknown, as in older exports."""
        return self.content.get("training_voxel_orders") or {}

    @property
    def training_heights(self) -> tuple[float, float] | None:
        """Smallest and largest height of the training cases in mm; None where it is unknown, as in older exports."""
        heights = self.content.get("training_heights")
        return None if heights is None else (float(heights[0]), float(heights[1]))

    @property
    def voxel_order(self) -> str | None:
        """What arrays are turned to before prediction, such as PIR; None: they are taken as they are stored."""
        return self.content.get("voxel_order")

    @property
    def mirroring_axes(self) -> tuple[int, ...]:
        """Axes of a patch along which nnU-Net mirrors at inference."""
        return tuple(self.content["inference_allowed_mirroring_axes"] or ())


def _faults(content: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a description, beyond its format; a line each."""
    configuration, names = content.get("configuration"), content.get("channel_names")
    if not isinstance(configuration, str):
        yield f"configuration is {configuration!r}; expected a name"
        return
    yield from faults_of(content.get("plans"), configuration, content.get("dataset_json"))
    described = content.get("dataset_json")
    expected = channels_of(described) if isinstance(described, dict) else None
    if names != expected:
        yield f"channel_names is {names!r}; expected those of its dataset_json, {expected!r}"
    axes = content.get("inference_allowed_mirroring_axes", "not there")
    if axes is not None and not (isinstance(axes, list) and all(axis in (0, 1, 2) for axis in axes)):
        yield f"inference_allowed_mirroring_axes is {axes!r}; expected a list of axes"
    order = content.get("voxel_order")
    if order is not None and not is_order(order):
        yield f"voxel_order is {order!r}; expected one such as PIR"
    orders = content.get("training_voxel_orders")
    if orders is not None and not isinstance(orders, dict):
        yield f"training_voxel_orders is {orders!r}; expected a number for each order"
    heights = content.get("training_heights")
    if heights is not None and not (
        isinstance(heights, list)
        and len(heights) == 2
        and all(isinstance(height, int | float) and 0 < height < math.inf for height in heights)
    ):
        yield f"training_heights is {heights!r}; expected the smallest and the largest, in mm"
    if content.get("card") is not None:
        yield from card_faults(content["card"])
    probe = content.get("probe")
    if not isinstance(probe, list) or not probe or not all(isinstance(value, int | float) for value in probe):
        yield "probe is no list of numbers"
