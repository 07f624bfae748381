"""The trainers that `nnUNetv2_train -tr` takes; the only place that knows nnUNetTrainer."""

from nnunetv2_cafr.training.ablations import (
    nnUNetTrainer_CAFR_hardCLR,
    nnUNetTrainer_CAFR_noCLR,
    nnUNetTrainer_CAFR_noLAFR,
    nnUNetTrainer_CAFR_noLAFR_noCLR,
    nnUNetTrainer_CAFR_noTransformer,
    nnUNetTrainer_CAFR_noTransformer_noLAFR_noCLR,
    nnUNetTrainer_CAFR_orderedCLR,
    nnUNetTrainer_LevelSafe_CLR,
)
from nnunetv2_cafr.training.baselines import (
    nnUNetTrainer_AttentionUNet,
    nnUNetTrainer_SwinUNet,
    nnUNetTrainer_TransUNet,
    nnUNetTrainer_UNet,
)
from nnunetv2_cafr.training.cafr import (
    nnUNetTrainer_CAFR,
    nnUNetTrainer_CAFR_nnUNetDA,
    nnUNetTrainer_CAFR_paperRecipe,
)
from nnunetv2_cafr.training.level_safe import nnUNetTrainer_LevelSafe, nnUNetTrainer_LevelSafe_AdamW
from nnunetv2_cafr.training.paper import nnUNetTrainer_CAFR_paper

__all__ = [
    "nnUNetTrainer_AttentionUNet",
    "nnUNetTrainer_CAFR",
    "nnUNetTrainer_CAFR_hardCLR",
    "nnUNetTrainer_CAFR_nnUNetDA",
    "nnUNetTrainer_CAFR_noCLR",
    "nnUNetTrainer_CAFR_noLAFR",
    "nnUNetTrainer_CAFR_noLAFR_noCLR",
    "nnUNetTrainer_CAFR_noTransformer",
    "nnUNetTrainer_CAFR_noTransformer_noLAFR_noCLR",
    "nnUNetTrainer_CAFR_orderedCLR",
    "nnUNetTrainer_CAFR_paper",
    "nnUNetTrainer_CAFR_paperRecipe",
    "nnUNetTrainer_LevelSafe",
    "nnUNetTrainer_LevelSafe_AdamW",
    "nnUNetTrainer_LevelSafe_CLR",
    "nnUNetTrainer_SwinUNet",
    "nnUNetTrainer_TransUNet",
    "nnUNetTrainer_UNet",
]
