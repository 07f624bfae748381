"""The networks that the CAFR-Net paper compares with, inside nnU-Net: level-safe augmentation, their own optimisers.

Plans, folds, sampling, loss (Dice + CE), length and inference are nnU-Net's and equal for all. The optimiser belongs to
the architecture: each has that of its own paper, with the values of its authors' code where there is one. The schedule
is nnU-Net's polynomial decay for all of them, which is also the one in TransUNet's and Swin-Unet's code. All train from
scratch, also those whose authors start from ImageNet.
"""

from types import ModuleType
from typing import Any

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from nnunetv2_cafr.network.padding import Padded
from nnunetv2_cafr.training.level_safe import LevelSafeAugmentation
from nnunetv2_cafr.training.recipe import OwnRate
from nnunetv2_cafr.training.robust import RobustTraining

WIDTHS = (64, 128, 256, 512, 1024)  # of U-Net (2015), and of Attention U-Net after it


def monai_networks() -> ModuleType:
    """monai.networks.nets; it is an extra of this package.

    Raises:
        ImportError: if it is not installed; says how to install it.
    """
    try:
        from monai.networks import nets
    except ImportError as error:
        raise ImportError(
            "nnUNetTrainer_UNet and nnUNetTrainer_AttentionUNet are built from MONAI, which is not installed here: "
            "pip install 'nnunetv2-cafr[baselines]'"
        ) from error
    return nets


class BaselineTraining(LevelSafeAugmentation, OwnRate, RobustTraining, nnUNetTrainer):
    """A network with one output, built for the axes and channels of the plans and for nothing else in them."""

    momentum: float

    def initialize(self) -> None:
        self.enable_deep_supervision = False
        super().initialize()

    @classmethod
    def build_network(cls, input_channels: int, num_classes: int, dimensions: int) -> nn.Module:
        """The network for patches of 2 or 3 axes, initialised."""
        raise NotImplementedError

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> nn.Module:
        dimensions = len(configuration_manager.patch_size)
        return cls.build_network(num_input_channels, num_output_channels, dimensions)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """There is one output; nnU-Net's validation calls this always."""

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        optimizer = SGD(
            self.network.parameters(), self.initial_lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)


class nnUNetTrainer_UNet(BaselineTraining):
    """U-Net (Ronneberger et al. 2015): MONAI's BasicUNet, 64 to 1024 channels, max pooling, transposed convolutions.

    Unlike in 2015, convolutions are padded and followed by batch norm, as in all its descendants; dropout is left out.
    SGD with momentum 0.99 and He initialisation are the paper's; it gives no learning rate: 1e-2, nnU-Net's, is ours.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_UNet`
    """

    learning_rate = 1e-2
    decay = 0.0
    momentum = 0.99

    @classmethod
    def check_requirements(cls) -> None:
        monai_networks()

    @classmethod
    def build_network(cls, input_channels: int, num_classes: int, dimensions: int) -> nn.Module:
        network = monai_networks().BasicUNet(
            dimensions, input_channels, num_classes, features=(*WIDTHS, WIDTHS[0]), act="relu", norm="batch"
        )
        return Padded(network.apply(initialize_he), multiple=[2 ** (len(WIDTHS) - 1)] * dimensions)


class nnUNetTrainer_AttentionUNet(BaselineTraining):
    """Attention U-Net (Oktay et al. 2018): MONAI's AttentionUnet, 64 to 1024 channels.

    MONAI's halves the resolution by strided convolutions, where the paper pools, and has no deep supervision. Adam is
    the paper's; 1e-4 and weight decay 1e-6 are those of its authors' code.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_AttentionUNet`
    """

    learning_rate = 1e-4
    decay = 1e-6

    @classmethod
    def check_requirements(cls) -> None:
        monai_networks()

    @classmethod
    def build_network(cls, input_channels: int, num_classes: int, dimensions: int) -> nn.Module:
        strides = [2] * (len(WIDTHS) - 1)
        network = monai_networks().AttentionUnet(dimensions, input_channels, num_classes, WIDTHS, strides)
        return Padded(network, multiple=[2 ** len(strides)] * dimensions)

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        optimizer = Adam(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)


class nnUNetTrainer_SwinUNet(BaselineTraining):
    """Swin-Unet (Cao et al. 2022) from scratch, 2-D: see network/swin_unet.py.

    SGD with learning rate 0.05, momentum 0.9 and weight decay 1e-4 as in its authors' code, there for a batch of 24.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_SwinUNet`
    """

    only_2d = True
    learning_rate = 0.05
    decay = 1e-4
    momentum = 0.9

    @classmethod
    def build_network(cls, input_channels: int, num_classes: int, dimensions: int) -> nn.Module:
        from nnunetv2_cafr.network.swin_unet import SwinUNet  # timm takes seconds to import, for every training

        network = SwinUNet(input_channels, num_classes)
        return network.apply(network.initialize)


class nnUNetTrainer_TransUNet(BaselineTraining):
    """TransUNet (Chen et al. 2021) from scratch, 2-D: see network/trans_unet.py.

    SGD with learning rate 0.01, momentum 0.9 and weight decay 1e-4 as in its authors' code, there for a batch of 24.

    Examples:
        `nnUNetv2_train 511 2d 0 -tr nnUNetTrainer_TransUNet`
    """

    only_2d = True
    learning_rate = 0.01
    decay = 1e-4
    momentum = 0.9

    @classmethod
    def build_network(cls, input_channels: int, num_classes: int, dimensions: int) -> nn.Module:
        from nnunetv2_cafr.network.trans_unet import TransUNet

        return TransUNet(input_channels, num_classes)


def initialize_he(module: nn.Module) -> None:
    """Normal with variance 2 / inputs for convolutions (U-Net, section 3); for `network.apply`."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        # Stride equals kernel: each output sees in_channels values, where torch would count out_channels.
        nn.init.normal_(module.weight, std=(2 / module.in_channels) ** 0.5)
    elif isinstance(module, nn.modules.conv._ConvNd):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
