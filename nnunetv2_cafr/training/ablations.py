"""Ablations: nnUNetTrainer_CAFR with parts left out (paper, results section), nnU-Net with one part added (ours)."""

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunetv2_cafr.network.contrastive_unet import ContrastiveUNet
from nnunetv2_cafr.training.cafr import nnUNetTrainer_CAFR
from nnunetv2_cafr.training.contrastive import ContrastiveTraining
from nnunetv2_cafr.training.level_safe import nnUNetTrainer_LevelSafe


class nnUNetTrainer_CAFR_noLAFR(nnUNetTrainer_CAFR):
    """Skips enter the decoder without recalibration.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_noLAFR`
    """

    use_lafr = False


class nnUNetTrainer_CAFR_noCLR(nnUNetTrainer_CAFR):
    """Dice + CE alone; the network has no contrastive head.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_noCLR`
    """

    use_clr = False


class nnUNetTrainer_CAFR_noLAFR_noCLR(nnUNetTrainer_CAFR):
    """Neither recalibration nor contrastive loss.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_noLAFR_noCLR`
    """

    use_lafr = False
    use_clr = False


class nnUNetTrainer_CAFR_noTransformer(nnUNetTrainer_CAFR):
    """The hierarchy reads the patch embedding itself: no attention, no context beyond the convolutions.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_noTransformer`
    """

    use_transformer = False


class nnUNetTrainer_CAFR_noTransformer_noLAFR_noCLR(nnUNetTrainer_CAFR):
    """None of the paper's three parts: pyramid, decoder and recipe, which are ours.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_noTransformer_noLAFR_noCLR`
    """

    use_transformer = False
    use_lafr = False
    use_clr = False


class nnUNetTrainer_CAFR_hardCLR(nnUNetTrainer_CAFR):
    """InfoNCE of weight 0.1, half of its anchors where the network is wrong (Wang et al. 2021, arXiv 2101.11939).

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_hardCLR`
    """

    clr_weight = 0.1
    clr_hard_anchors = True


class nnUNetTrainer_CAFR_orderedCLR(nnUNetTrainer_CAFR):
    """InfoNCE of weight 0.1 that knows the order of levels: neighbours weigh most, anchors lie where they are confused.

    For labels that are levels of the spine; others are refused before the first epoch.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_CAFR_orderedCLR`
    """

    clr_weight = 0.1
    clr_by_level = True


class nnUNetTrainer_LevelSafe_CLR(ContrastiveTraining, nnUNetTrainer_LevelSafe):
    """nnUNetTrainer_LevelSafe with CAFR-Net's contrastive loss: what that loss does for nnU-Net's own network.

    Network, deep supervision, optimiser and schedule are nnU-Net's, under its own plans of any kind, ResEnc's too. A
    projection head on the decoder's features at 1/4 is added, and run in training only (network/contrastive_unet.py).

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_LevelSafe_CLR`
    """

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        network = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        return ContrastiveUNet(network)
