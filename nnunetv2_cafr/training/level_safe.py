"""Augmentation that never contradicts a vertebral level.

A sagittal slice turned upside down shows L5 on top: the labels encode the order of the levels, so a network trained on
such slices is taught that order means nothing. Stock 2-D nnU-Net does exactly that on thick-slice sagittal data: it
mirrors both in-plane axes, one of which runs up and down, and rotates by up to 180 degrees where the patch is near
square. Here the up/down axis is never mirrored, in training or at test time, and rotation stops at 15 degrees.
The rest is nnU-Net's own pipeline, plus what `LevelSafeAugmentation` lists.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.training.orientation import OrientedCases
from nnunetv2_cafr.training.partial_view import PartialView
from nnunetv2_cafr.training.preflight import refuse
from nnunetv2_cafr.training.recipe import AdamWRecipe
from nnunetv2_cafr.training.robust import RobustTraining
from nnunetv2_cafr.training.structure_brightness import StructureBrightness


def loaded_patch_size(patch_size: Sequence[int], rotation: tuple[float, float]) -> np.ndarray:
    """What nnU-Net loads of a case, so that a rotated and scaled patch of `patch_size` is full of image."""
    return get_patch_size(patch_size, rotation, rotation, rotation, (0.85, 1.25))  # nnU-Net's range of scales


class LevelSafeAugmentation(OrientedCases):
    """Mixin: no up/down mirroring, at most 15 degrees of rotation, and what nnU-Net does not have.

    That is shifts, the elastic deformation that the paper names (training section), the brightness of single structures
    and, where asked for, partial views.

    The up/down axis comes from the direction cosines of the preprocessed cases. Where they are missing, or differ
    between cases, nothing is mirrored at all, and the log says so.

    All values but the elastic deformation's presence are ours.
    """

    max_rotation_degrees = 15.0
    max_shift = 0.15  # of the patch, along each axis
    elastic_probability = 0.2
    elastic_sigma = (0.05, 0.15)  # smoothness of the deformation, as a fraction of the patch
    elastic_magnitude = 0.03  # largest displacement, as a fraction of the shortest side of the patch
    brightness_probability = 0.3  # of a patch whose structures become brighter or darker (documentation/recipe.md)
    brightness_most = 3.0  # largest such change, in standard deviations of the patch
    partial_probability = 0.0  # of a patch that keeps a part of its view along up/down (documentation/recipe.md)
    partial_least = 0.35  # smallest such part, as a fraction of the patch

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802 - nnU-Net's name
        self,
    ) -> tuple[tuple[float, float], bool, np.ndarray, tuple[int, ...] | None]:
        rotation, dummy_2d, _, stock_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        limit = np.deg2rad(self.max_rotation_degrees)
        rotation = (max(rotation[0], -limit), min(rotation[1], limit))

        patch_size = self.configuration_manager.patch_size
        initial_patch_size = loaded_patch_size(patch_size, rotation)
        if dummy_2d:
            initial_patch_size[0] = patch_size[0]

        up_down = self.find_superior_inferior_axis()
        if up_down is None:
            mirror_axes = None
            self.print_to_log_file("Level-safe: the up/down axis is unknown or differs between cases: no mirroring")
        else:
            # 2-D patches are planes of the last two axes.
            patch_axis = up_down - (3 - len(patch_size))
            mirror_axes = tuple(axis for axis in stock_axes if axis != patch_axis) or None
            where = f"is patch axis {patch_axis}" if patch_axis >= 0 else "lies across the slices"
            self.print_to_log_file(f"Level-safe: up/down {where}, mirroring axes {mirror_axes}")
        if self.partial_probability and mirror_axes in (None, stock_axes):
            refuse(
                self,
                f"{type(self).__name__} cuts patches along up and down, an axis that is unknown, differs between cases "
                "or lies across the slices here: train without _partialViews",
            )
        self.inference_allowed_mirroring_axes = mirror_axes
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    def find_superior_inferior_axis(self) -> int | None:
        """The axis that all preprocessed cases share, or None."""
        axes = {orientation.up_down for orientation in self._orientations}
        return axes.pop() if len(axes) == 1 else None

    @classmethod
    def get_training_transforms(
        cls,
        patch_size: Any,
        rotation_for_DA: Any,  # noqa: N803 - nnU-Net's name
        deep_supervision_scales: Any,
        mirror_axes: Any,
        *args: Any,
        **kwargs: Any,
    ) -> BasicTransform:
        """nnU-Net's pipeline, its spatial transform with shifts and elasticity; then brightness, and partial views."""
        pipeline = super().get_training_transforms(
            patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, *args, **kwargs
        )
        for transform in pipeline.transforms:
            if isinstance(transform, SpatialTransform):
                axes = len(transform.patch_size)
                loaded = loaded_patch_size(patch_size, rotation_for_DA)[-axes:]
                shift = cls.max_shift * np.asarray(transform.patch_size)
                transform.random_crop = True
                transform.patch_center_dist_from_border = (loaded / 2 - shift).tolist()
                transform.p_elastic_deform = cls.elastic_probability
                transform.elastic_deform_scale = cls.elastic_sigma
                transform.elastic_deform_magnitude = (0.0, cls.elastic_magnitude * min(transform.patch_size))
        then: list[BasicTransform] = []
        if labels := kwargs.get("foreground_labels"):
            brightness = StructureBrightness(labels, cls.brightness_most)
            then.append(RandomTransform(brightness, cls.brightness_probability))
        if cls.partial_probability:
            (up_down,) = set(range(len(patch_size))) - set(mirror_axes)
            then.append(RandomTransform(PartialView(up_down, cls.partial_least), cls.partial_probability))
        spatial = SpatialTransform | Convert2DTo3DTransform
        last = max(at for at, transform in enumerate(pipeline.transforms) if isinstance(transform, spatial))
        pipeline.transforms[last + 1 : last + 1] = then
        return pipeline


class nnUNetTrainer_LevelSafe(LevelSafeAugmentation, RobustTraining, nnUNetTrainer):
    """Stock nnU-Net under the level-safe augmentation: what nnUNetTrainer_CAFR is held against.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_LevelSafe`
    """


class nnUNetTrainer_LevelSafe_AdamW(AdamWRecipe, nnUNetTrainer_LevelSafe):
    """nnU-Net's own network under CAFR-Net's recipe, so that nobody takes the optimiser's gain for the network's.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_LevelSafe_AdamW`
    """
