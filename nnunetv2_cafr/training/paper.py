"""The paper's own recipe (training section), as far as it is known, inside nnU-Net."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.nnunet_dataset import (
    infer_dataset_class,
    nnUNetBaseDataset,
    nnUNetDatasetBlosc2,
    nnUNetDatasetNumpy,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from skimage.exposure import equalize_adapthist, equalize_hist

from nnunetv2_cafr.plans_fields import resolved
from nnunetv2_cafr.training.cafr import nnUNetTrainer_CAFR_paperRecipe

# nnU-Net's normalisations that a second scaling undoes.
AFFINE = ("ZScoreNormalization", "RescaleTo01Normalization", "RGBTo01Normalization", "NoNormalization")


class EarlyStop(Exception):  # noqa: N818 - an exit, not an error
    """Leaves nnU-Net's epoch loop, which has no other exit."""


class StoppableTraining(nnUNetTrainer):
    """Mixin next to nnU-Net's own loop: after EarlyStop a training ends as after its last epoch."""

    def run_training(self) -> None:
        try:
            super().run_training()
        except EarlyStop:
            self.on_train_end()


class EqualizeTransform(ImageOnlyTransform):
    """Histogram equalisation of each channel of a patch, contrast-limited and adaptive (CLAHE) or global.

    Image (c, *spatial), values kept within the patch's own range. CLAHE's clip limit is scikit-image's default; ours,
    the paper gives none.
    """

    def __init__(self, adaptive: bool) -> None:
        super().__init__()
        self.adaptive = adaptive

    def _apply_to_image(self, img: torch.Tensor, **_params: Any) -> torch.Tensor:
        for channel in img:
            low, high = channel.min(), channel.max()
            if high == low:
                continue
            unit = ((channel - low) / (high - low)).numpy()
            equalized = equalize_adapthist(unit) if self.adaptive else equalize_hist(unit)
            channel.copy_(torch.from_numpy(np.asarray(equalized, dtype=np.float32)) * (high - low) + low)
        return img


class UnitRangeImage:
    """A preprocessed image (c, z, y, x) mapped to [0, 1] per channel as it is read, patch by patch.

    After a normalisation that is AFFINE this equals scaling the original intensities, up to the resampling after it: no
    second preprocessing is needed. The range is read from the whole image once and kept in `ranges`.
    """

    def __init__(self, image: Any, identifier: str, ranges: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        self._image = image
        self._identifier = identifier
        self._ranges = ranges
        self.shape = image.shape
        self.ndim = image.ndim
        self.dtype = image.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        if self._identifier not in self._ranges:
            values = np.asarray(self._image[:])
            axes = tuple(range(1, values.ndim))
            self._ranges[self._identifier] = values.min(axes, keepdims=True), np.ptp(values, axes, keepdims=True)
        low, extent = self._ranges[self._identifier]
        channels = index[0] if isinstance(index, tuple) else index
        return (np.asarray(self._image[index]) - low[channels]) / np.maximum(extent[channels], 1e-8)


class UnitRange(nnUNetBaseDataset):
    """Mixin before one of nnU-Net's data set classes: `load_case` returns the image in [0, 1]."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def load_case(self, identifier: str) -> tuple[UnitRangeImage, Any, Any, dict[str, Any]]:
        image, segmentation, previous, properties = super().load_case(identifier)
        return UnitRangeImage(image, identifier, self._ranges), segmentation, previous, properties


class UnitRangeBlosc2(UnitRange, nnUNetDatasetBlosc2):
    """Of data stored by blosc2."""


class UnitRangeNumpy(UnitRange, nnUNetDatasetNumpy):
    """Of data stored as npz or npy."""


UNIT_RANGE = {nnUNetDatasetBlosc2: UnitRangeBlosc2, nnUNetDatasetNumpy: UnitRangeNumpy}


class nnUNetTrainer_CAFR_paper(nnUNetTrainer_CAFR_paperRecipe, StoppableTraining):
    """CAFR-Net by the paper's recipe wherever it is known; 2-D configurations only.

    From the paper (training section): 500 epochs, batch 16, 256x256 patches, Adam 1e-4 to 1e-6 by cosine annealing,
    weight decay 1e-5, dropout 0.3, batch norm, five negatives to a positive, early stopping with patience 10,
    intensities in [0, 1], flips, rotation, elastic deformation, CLAHE and histogram equalisation, foreground-stratified
    patches. Patch, batch and intensity range are written into the plans that are stored with the model, so inference
    follows them; the data keep nnU-Net's preprocessing and spacing.

    Ours, where the paper is silent: an epoch is nnU-Net's 250 iterations; the watched value is the smoothed validation
    Dice (patience 10 of 500 epochs and the 364 epochs that the paper trained agree only if it is read generously);
    flips are those that keep the order of the levels, rotation is at most 15 degrees, elastic deformation has
    probability 0.2 and each equalisation 0.1; a third of the patches is sampled around a voxel of a random class.

    Not possible without a second preprocessing: the paper's own resampling, which it does not state, and CLAHE as a
    step before training (here it is an augmentation, as the paper lists it).

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_paper`
    """

    only_2d = True
    deep_supervision = False
    dropout = 0.3
    norm = "batch"
    clr_negatives = 5
    clr_anchors = 64
    patience = 10
    patch_size = (256, 256)
    batch_size_of_paper = 16
    equalization_probability = 0.1

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        self.check_plans(plans, configuration, dataset_json)
        plans = deepcopy(plans)
        channels = len(resolved(plans["configurations"], configuration)["normalization_schemes"])
        plans["configurations"][configuration] |= {
            "patch_size": list(self.patch_size),
            "batch_size": self.batch_size_of_paper,
            "normalization_schemes": ["RescaleTo01Normalization"] * channels,
        }
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 500

    @classmethod
    def unfit(cls, settings: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> str | None:
        schemes = zip(settings["normalization_schemes"], settings["use_mask_for_norm"], strict=True)
        if bent := [f"{name}{' within a mask' * masked}" for name, masked in schemes if masked or name not in AFFINE]:
            return (
                f"scales preprocessed data to [0, 1], as prediction scales images. After {', '.join(bent)}, which the "
                "plans have, these are two things: train nnUNetTrainer_CAFR_paperRecipe, which scales neither"
            )
        return super().unfit(settings, dataset_json)

    def initialize(self) -> None:
        super().initialize()
        self.dataset_class: type = UNIT_RANGE[infer_dataset_class(self.preprocessed_dataset_folder)]

    @classmethod
    def get_training_transforms(
        cls,
        patch_size: Any,
        rotation_for_DA: Any,  # noqa: N803
        deep_supervision_scales: Any,
        mirror_axes: Any,
        do_dummy_2d_data_aug: bool,
        **kwargs: Any,
    ) -> BasicTransform:
        """Of the level-safe pipeline only what the paper names: geometry; its intensity changes are equalisations."""
        pipeline = super().get_training_transforms(
            patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug, **kwargs
        )
        kept: list[BasicTransform] = []
        for transform in pipeline.transforms:
            intensity = isinstance(transform, RandomTransform) and isinstance(transform.transform, ImageOnlyTransform)
            if not intensity:
                kept.append(transform)
            if isinstance(transform, SpatialTransform):
                transform.p_scaling = 0
                kept += [
                    RandomTransform(EqualizeTransform(adaptive), apply_probability=cls.equalization_probability)
                    for adaptive in (True, False)
                ]
        pipeline.transforms = kept
        return pipeline

    def epochs_without_gain(self) -> int:
        """Epochs since the smoothed validation Dice was highest; read off the log, so `--c` keeps count."""
        dice = self.logger.get_value("ema_fg_dice", step=None)
        return len(dice) - 1 - int(np.argmax(dice)) if dice else 0

    def run_training(self) -> None:
        if self.epochs_without_gain() >= self.patience:
            self.num_epochs = self.current_epoch  # continued after it had stopped: nothing is left to train
        super().run_training()

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.epochs_without_gain() >= self.patience:
            self.print_to_log_file(
                f"Early stopping: no higher smoothed validation Dice for {self.patience} epochs (paper: patience 10)"
            )
            raise EarlyStop
