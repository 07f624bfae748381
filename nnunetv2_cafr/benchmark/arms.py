"""The networks that a benchmark compares, and the lengths it trains them for.

An arm is a trainer with a plans identifier. Two families of augmentation never mix (see training/level_safe.py): arms
are compared within one. The paper's own recipe brings its own patch, batch and length: it is shown, and compared with
nothing.
"""

import re
from dataclasses import dataclass

from nnunetv2_cafr.errors import counted
from nnunetv2_cafr.report.study import Arm

LEVEL_SAFE, STOCK, RECIPE = "level-safe", "stock", "the paper's recipe"
OWN_PLANS = {"nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM", "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL"}
PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"  # what nnU-Net plans

_SGD = "SGD, Nesterov momentum 0.99, polynomial decay from 1e-2"
_ADAMW = "AdamW, warm-up and cosine per iteration"
_ADAM = "Adam, cosine from 1e-4 to 1e-6"  # the paper's
_POLYNOMIAL = "polynomial decay from"

# By the name that --arms takes and folders carry.
ARMS = {
    arm.name: arm
    for arm in (
        Arm("nnU-Net", "nnUNetTrainer", STOCK, f"{PLAIN}; {_SGD}", network_of_plans=PLAIN),
        Arm("CAFR-stockDA", "nnUNetTrainer_CAFR_nnUNetDA", STOCK, f"CAFR-Net; {_ADAMW}"),
        Arm("LevelSafe", "nnUNetTrainer_LevelSafe", LEVEL_SAFE, f"nnU-Net's {PLAIN}; {_SGD}", network_of_plans=PLAIN),
        Arm(
            "LevelSafe-AdamW",
            "nnUNetTrainer_LevelSafe_AdamW",
            LEVEL_SAFE,
            f"nnU-Net's {PLAIN} under CAFR's recipe; {_ADAMW}",
            network_of_plans=PLAIN,
        ),
        Arm(
            "LevelSafe-CLR",
            "nnUNetTrainer_LevelSafe_CLR",
            LEVEL_SAFE,
            f"nnU-Net's {PLAIN} with CAFR's contrastive loss; {_SGD}",
            network_of_plans=PLAIN,
        ),
        Arm(
            "ResEncM",
            "nnUNetTrainer_LevelSafe",
            LEVEL_SAFE,
            f"nnU-Net's {RESIDUAL}, plans M; {_SGD}",
            plans="nnUNetResEncUNetMPlans",
            network_of_plans=RESIDUAL,
        ),
        Arm(
            "ResEncM-AdamW",
            "nnUNetTrainer_LevelSafe_AdamW",
            LEVEL_SAFE,
            f"nnU-Net's {RESIDUAL}, plans M, under CAFR's recipe; {_ADAMW}",
            plans="nnUNetResEncUNetMPlans",
            network_of_plans=RESIDUAL,
        ),
        Arm(
            "ResEncL",
            "nnUNetTrainer_LevelSafe",
            LEVEL_SAFE,
            f"nnU-Net's {RESIDUAL}, plans L; {_SGD}",
            plans="nnUNetResEncUNetLPlans",
            network_of_plans=RESIDUAL,
        ),
        Arm(
            "UNet",
            "nnUNetTrainer_UNet",
            LEVEL_SAFE,
            f"U-Net of 2015 (MONAI BasicUNet, 64 to 1024); SGD, momentum 0.99, {_POLYNOMIAL} 1e-2",
            "U-Net",
        ),
        Arm(
            "AttentionUNet",
            "nnUNetTrainer_AttentionUNet",
            LEVEL_SAFE,
            f"Attention U-Net (MONAI, 64 to 1024, strided convolutions); Adam, {_POLYNOMIAL} 1e-4",
            "Attention U-Net",
        ),
        Arm(
            "SwinUNet",
            "nnUNetTrainer_SwinUNet",
            LEVEL_SAFE,
            f"Swin-Unet from scratch; SGD, momentum 0.9, {_POLYNOMIAL} 5e-2",
            "Swin-Unet",
        ),
        Arm(
            "TransUNet",
            "nnUNetTrainer_TransUNet",
            LEVEL_SAFE,
            f"TransUNet R50-ViT-B/16 from scratch; SGD, momentum 0.9, {_POLYNOMIAL} 1e-2",
            "TransUNet",
        ),
        Arm("CAFR", "nnUNetTrainer_CAFR", LEVEL_SAFE, f"CAFR-Net; {_ADAMW}", "CAFR-Net"),
        Arm("CAFR-noLAFR", "nnUNetTrainer_CAFR_noLAFR", LEVEL_SAFE, f"CAFR-Net without LAFR; {_ADAMW}", "+ CLR"),
        Arm("CAFR-noCLR", "nnUNetTrainer_CAFR_noCLR", LEVEL_SAFE, f"CAFR-Net without CLR; {_ADAMW}", "+ LAFR"),
        Arm(
            "CAFR-noLAFR-noCLR",
            "nnUNetTrainer_CAFR_noLAFR_noCLR",
            LEVEL_SAFE,
            f"CAFR-Net without LAFR and CLR; {_ADAMW}",
            "neither",
        ),
        Arm(
            "CAFR-noTransformer",
            "nnUNetTrainer_CAFR_noTransformer",
            LEVEL_SAFE,
            f"CAFR-Net without its Transformer; {_ADAMW}",
        ),
        Arm(
            "CAFR-noTransformer-noLAFR-noCLR",
            "nnUNetTrainer_CAFR_noTransformer_noLAFR_noCLR",
            LEVEL_SAFE,
            f"CAFR-Net without Transformer, LAFR and CLR; {_ADAMW}",
        ),
        Arm(
            "CAFR-hardCLR",
            "nnUNetTrainer_CAFR_hardCLR",
            LEVEL_SAFE,
            f"CAFR-Net, CLR with anchors where it is wrong; {_ADAMW}",
        ),
        Arm(
            "CAFR-orderedCLR",
            "nnUNetTrainer_CAFR_orderedCLR",
            LEVEL_SAFE,
            f"CAFR-Net, CLR that knows the order of the levels; {_ADAMW}",
        ),
        Arm(
            "CAFR-paperRecipe",
            "nnUNetTrainer_CAFR_paperRecipe",
            LEVEL_SAFE,
            f"CAFR-Net under the paper's optimiser and schedule; {_ADAM}",
        ),
        Arm("CAFR-paper", "nnUNetTrainer_CAFR_paper", RECIPE, "CAFR-Net as the paper trains it; Adam, early stopping"),
    )
}


@dataclass(frozen=True)
class Budget:
    """How long every arm trains; None for a trainer's own length, which is 1000 epochs of 250 iterations in nnU-Net."""

    name: str
    epochs: int | None = None
    iterations: int | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """Epochs and iterations; nnU-Net's own where a trainer's own length counts."""
        return self.epochs or 1000, self.iterations or 250

    @property
    def suffix(self) -> str:
        """What a trainer's name carries for this length."""
        return f"_budget{self.epochs}x{self.iterations}" if self.epochs else ""

    @property
    def words(self) -> str:
        if self.epochs is None:
            return f"{self.name}: each trainer's own length (nnU-Net's: 1000 epochs of 250 iterations)"
        return f"{self.name}: {self.steps}"

    @property
    def steps(self) -> str:
        """Epochs and iterations in words."""
        epochs, iterations = self.counts
        return f"{counted(epochs, 'epoch')} of {iterations} iterations"


BUDGETS = {budget.name: budget for budget in (Budget("smoke", 2, 4), Budget("short", 100, 250), Budget("full"))}


def parse_budget(text: str) -> Budget:
    """One of BUDGETS, or EPOCHSxITERATIONS.

    Raises:
        ValueError: if it is neither.
    """
    if text in BUDGETS:
        return BUDGETS[text]
    if match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text):
        return Budget(text, int(match[1]), int(match[2]))
    raise ValueError(f"a budget is {', '.join(BUDGETS)} or EPOCHSxITERATIONS such as 50x100, got {text!r}")
