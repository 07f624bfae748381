"""CAFR-Net inside nnU-Net: its plans, folds, sampling, inference; the paper's network, loss and optimiser."""

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.optim import Adam, Optimizer

from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.planning.architecture import cafr_architecture
from nnunetv2_cafr.training.contrastive import ContrastiveTraining
from nnunetv2_cafr.training.cosine_lr import CosineLRScheduler
from nnunetv2_cafr.training.level_safe import LevelSafeAugmentation
from nnunetv2_cafr.training.robust import RobustTraining


class nnUNetTrainer_CAFR_nnUNetDA(ContrastiveTraining, RobustTraining, nnUNetTrainer):
    """CAFR-Net under stock nnU-Net augmentation: held against `nnUNetTrainer`, only network, loss and optimiser differ.

    Patch and batch size, folds, foreground oversampling, epochs and iterations are nnU-Net's. From the paper (training
    section): Adam from 1e-4 to 1e-6 by cosine annealing, weight decay 1e-5, and Dice + CE + InfoNCE (see
    ContrastiveTraining).
    """

    use_transformer = True
    use_lafr = True
    final_lr = 1e-6

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 1e-4
        self.weight_decay = 1e-5
        self.enable_deep_supervision = False

    @classmethod
    def network_arguments(cls, configuration: ConfigurationManager) -> dict[str, Any]:
        """Keyword arguments of CAFRNet: those of plans that name it, else derived from the spacing of nnU-Net's plans.

        Which parts the network has is the trainer's to say, also where the plans say otherwise.
        """
        named = configuration.network_arch_class_name.rpartition(".")[2] == CAFRNet.__name__
        arguments = configuration.network_arch_init_kwargs if named else cafr_architecture(configuration.spacing)
        parts = {"use_transformer": cls.use_transformer, "use_lafr": cls.use_lafr, "use_clr": cls.use_clr}
        return {**arguments, **parts}

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> nn.Module:
        network = CAFRNet(
            num_input_channels,
            num_output_channels,
            deep_supervision=enable_deep_supervision,
            **cls.network_arguments(configuration_manager),
        )
        return network.apply(network.initialize)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """The paper's network has one output; nnU-Net's validation calls this always."""

    def configure_optimizers(self) -> tuple[Optimizer, CosineLRScheduler]:
        # One pass over the weights instead of ten: on a CPU the plain update took a sixth of a small step.
        fused = self.device.type in ("cuda", "cpu")
        optimizer = Adam(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay, fused=fused)
        return optimizer, CosineLRScheduler(optimizer, self.initial_lr, self.final_lr, self.num_epochs)


class nnUNetTrainer_CAFR(LevelSafeAugmentation, nnUNetTrainer_CAFR_nnUNetDA):
    """CAFR-Net under nnU-Net's plans with the level-safe augmentation: the default trainer of this package.

    Its fair counterpart is nnUNetTrainer_LevelSafe: the same augmentation, epochs, iterations and inference.
    """
