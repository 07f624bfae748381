"""nnU-Net's experiment planner with CAFR-Net in place of the U-Net.

Spacing, transposition, normalisation, resampling and the question whether a low resolution is needed stay nnU-Net's.
Patch and batch size follow nnU-Net's rules, but on the memory of this network (`planning/memory.py`) and in whole
tokens, which need no powers of two: 880x880 stays 880x880.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.planning import CONTEXT_BYTES, GB
from nnunetv2_cafr.planning.architecture import cafr_architecture, token_size
from nnunetv2_cafr.planning.memory import TrainingMemory, training_memory
from nnunetv2_cafr.plans_fields import channels_of

STOCK_PLANS, OWN_PLANS = "nnUNetPlans", "nnUNetCAFRPlans"
# Two configurations that agree in these are preprocessed to the same files.
_DECIDES_CONFIGURATION_DATA = (
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)
_DECIDES_ALL_DATA = ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel")


class CAFRPlanner(ExperimentPlanner):
    """Plans patch, batch and architecture of CAFR-Net for a GPU with `gpu_memory_target_in_gb` (10^9 bytes).

    The plans name `CAFRNet` and its keyword arguments without the contrastive head, because nnU-Net's own trainers have
    no loss for it; ours switch it on themselves, and the memory is planned with it. Where nnUNetPlans of the same data
    set preprocess a configuration alike, both share that data.

    Raises:
        ValueError: if the target is no finite number above what CUDA takes itself; while planning, if not even the
            smallest patch fits it.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = OWN_PLANS,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        if not CONTEXT_BYTES < gpu_memory_target_in_gb * GB < math.inf:  # nnU-Net's planner would never end
            raise ValueError(
                f"a GPU memory target of {gpu_memory_target_in_gb} GB: expected more than {CONTEXT_BYTES / GB:g}, "
                "which CUDA takes without any network"
            )
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.planned: list[str] = []  # configurations, without those that inherit and those kept from an older file
        self._memory: dict[tuple[Any, ...], TrainingMemory] = {}

    @staticmethod
    def static_estimate_VRAM_usage(*_args: Any, **_kwargs: Any) -> int:  # noqa: N802
        """Next to nothing, so that nnU-Net's planner neither builds its U-Net nor shrinks its patch for it."""
        return 1

    def get_plans_for_configuration(
        self,
        spacing: Sequence[float],
        median_shape: Sequence[float],
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict,
    ) -> dict[str, Any]:
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        patch_size = self._fit_patch(spacing, median_shape)
        fitting = self.memory(patch_size, spacing).largest_batch(self.UNet_vram_target_GB * GB)
        # nnU-Net's precaution against overfitting
        covering = round(approximate_n_voxels_dataset * self.max_dataset_covered / math.prod(patch_size))
        plan["patch_size"] = patch_size
        plan["batch_size"] = max(min(fitting, covering), self.UNet_min_batch_size)
        plan["architecture"] = {
            "network_class_name": f"{CAFRNet.__module__.rpartition('.')[0]}.{CAFRNet.__name__}",
            "arch_kwargs": {**cafr_architecture(spacing), "use_clr": False},
            "_kw_requires_import": [],
        }
        return plan

    def memory(
        self, patch_size: Sequence[int], spacing: Sequence[float], *, fused_attention: bool = True
    ) -> TrainingMemory:
        """Memory of a training step on this data set's channels and classes; traced once per number of tokens."""
        tokens = token_size(spacing)
        # Every map is a whole number of cells per token, so patches of as many tokens take the same.
        key = (*tokens, math.prod(patch_size) // math.prod(tokens), fused_attention)
        if key not in self._memory:
            channels = channels_of(self.dataset_json)
            self._memory[key] = training_memory(
                patch_size,
                cafr_architecture(spacing),
                len(channels),
                len(self.dataset_json["labels"]),
                fused_attention=fused_attention,
            )
        return self._memory[key]

    def _fit_patch(self, spacing: Sequence[float], median_shape: Sequence[float]) -> list[int]:
        """The largest patch of whole tokens that fits the target at nnU-Net's smallest batch."""
        token = np.array(token_size(spacing))
        median = np.asarray(median_shape, dtype=float)
        # As nnU-Net starts: a large patch of the voxels' aspect ratio, at most the median shape.
        per_mm = 1 / np.asarray(spacing, dtype=float)
        voxels = {2: 2048**2, 3: 256**3}[len(token)]
        largest = per_mm * (voxels / per_mm.prod()) ** (1 / len(token))
        grid = np.ceil(np.minimum(largest.round(), median) / token).astype(int)

        target = self.UNet_vram_target_GB * GB
        while True:
            patch_size = (grid * token).tolist()
            memory = self.memory(patch_size, spacing)
            needed = memory.at(self.UNet_min_batch_size)
            if needed <= target:
                return patch_size
            if grid.max() == 1:
                raise ValueError(
                    f"{self.dataset_name}: at {[round(float(axis), 2) for axis in spacing]} mm even the smallest "
                    f"patch, {patch_size} at batch {self.UNet_min_batch_size}, needs {needed / GB:.2f} GB, and the GPU "
                    f"memory target is {self.UNet_vram_target_GB:g} GB. Raise it to at least "
                    f"{math.ceil(10 * needed / GB) / 10:g} GB."
                )
            # What depends on the patch is all but proportional to its tokens: shrink by that, then trace again.
            affordable = grid.prod() * (target - memory.fixed) / (needed - memory.fixed)
            while True:
                # nnU-Net's choice: the axis that is largest relative to the median shape
                shrinkable = np.where(grid > 1, grid * token / median, 0)
                grid[shrinkable.argmax()] -= 1
                if grid.prod() <= affordable or grid.max() == 1:
                    break

    def save_plans(self, plans: dict[str, Any]) -> None:
        recursive_fix_for_json_export(plans)  # what was saved can only be compared to what will be
        stock_file = Path(str(nnUNet_preprocessed)) / self.dataset_name / f"{STOCK_PLANS}.json"
        if stock_file.is_file():
            _share_data(plans, read_json(stock_file))
        self.planned = [name for name, plan in plans["configurations"].items() if "inherits_from" not in plan]
        super().save_plans(plans)


def _share_data(plans: dict[str, Any], stock: dict[str, Any]) -> None:
    """Gives each configuration of `plans` the data of the same one of `stock`, where that is preprocessed alike."""
    if any(plans[key] != stock[key] for key in _DECIDES_ALL_DATA):
        return
    manager = PlansManager(stock)
    for name, configuration in plans["configurations"].items():
        if "data_identifier" not in configuration or name not in manager.available_configurations:
            continue
        other = manager.get_configuration(name).configuration
        if all(configuration[key] == other[key] for key in _DECIDES_CONFIGURATION_DATA):
            configuration["data_identifier"] = other["data_identifier"]
