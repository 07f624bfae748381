"""CAFR-Net inside nnU-Net: its plans, folds, sampling, inference; CAFR-Net's network, loss and recipe."""

from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.convolution import NUM_HALVINGS, LevelGeometry
from nnunetv2_cafr.planning.architecture import cafr_architecture
from nnunetv2_cafr.training.contrastive import ContrastiveTraining
from nnunetv2_cafr.training.level_safe import LevelSafeAugmentation
from nnunetv2_cafr.training.recipe import AdamWRecipe, PaperRecipe
from nnunetv2_cafr.training.robust import RobustTraining


class CAFRTraining(ContrastiveTraining, RobustTraining, nnUNetTrainer):
    """CAFR-Net with its loss under nnU-Net's plans; the recipe comes as another mixin."""

    use_transformer = True
    use_lafr = True
    deep_supervision = True
    # None: the network's own
    dropout: float | None = None
    norm: str | None = None
    tap_scale: float | None = None

    def initialize(self) -> None:
        self.enable_deep_supervision = self.deep_supervision
        super().initialize()

    @classmethod
    def network_arguments(cls, configuration: ConfigurationManager) -> dict[str, Any]:
        """Keyword arguments of CAFRNet: those of plans that name it, else derived from the spacing of nnU-Net's plans.

        Which parts the network has is the trainer's to say, also where the plans say otherwise.
        """
        named = configuration.network_arch_class_name.rpartition(".")[2] == CAFRNet.__name__
        arguments = configuration.network_arch_init_kwargs if named else cafr_architecture(configuration.spacing)
        parts: dict[str, Any] = {name: getattr(cls, name) for name in ("use_transformer", "use_lafr", "use_clr")}
        chosen = {name: value for name in ("dropout", "norm", "tap_scale") if (value := getattr(cls, name)) is not None}
        return {**arguments, **parts, **chosen}

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        network = CAFRNet(
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
            **cls.network_arguments(configuration_manager),
        )
        return network.apply(network.initialize)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """nnU-Net's validation switches it off before and on after, also where it never was on."""
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """CAFR-Net's own resolutions, 1/1 to 1/8, of which nnU-Net gives the last one no weight.

        nnU-Net reads them from its U-Net's strides. A patch that is no multiple of a cell has a last cell that sticks
        out, so the scale is that of the cells.
        """
        if not self.enable_deep_supervision:
            return None
        geometry = LevelGeometry(self.network_arguments(self.configuration_manager)["strides"])
        patch_size = self.configuration_manager.patch_size
        cells_of_levels = [geometry.cells(patch_size, level) for level in range(NUM_HALVINGS)]
        return [[count / size for count, size in zip(cells, patch_size, strict=True)] for cells in cells_of_levels]


class nnUNetTrainer_CAFR_nnUNetDA(AdamWRecipe, CAFRTraining):
    """CAFR-Net under stock nnU-Net augmentation: held against `nnUNetTrainer`, only network, loss and optimiser differ.

    Patch and batch size, folds, foreground oversampling, epochs and iterations are nnU-Net's. The loss is
    Dice + CE + InfoNCE (see ContrastiveTraining), the optimiser AdamW (see AdamWRecipe).

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_nnUNetDA`
    """


class nnUNetTrainer_CAFR(LevelSafeAugmentation, nnUNetTrainer_CAFR_nnUNetDA):
    """CAFR-Net under nnU-Net's plans with the level-safe augmentation: the default trainer of this package.

    Its fair counterparts are nnUNetTrainer_LevelSafe, and nnUNetTrainer_LevelSafe_AdamW under the same recipe: the same
    augmentation, epochs, iterations and inference.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR`
    """


class nnUNetTrainer_CAFR_paperRecipe(PaperRecipe, LevelSafeAugmentation, CAFRTraining):
    """nnUNetTrainer_CAFR under the paper's optimiser and schedule: what the recipe alone does.

    Taps begin at 1: at the paper's rate they would take some 10 000 steps to grow from 0.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_paperRecipe`
    """

    tap_scale = 1.0
