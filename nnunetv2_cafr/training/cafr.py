"""CAFR-Net inside nnU-Net: its plans, folds, sampling, inference; the paper's network, loss and optimiser."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.collate_outputs import collate_outputs
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn
from torch.optim import Adam, Optimizer

from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.planning.architecture import cafr_architecture
from nnunetv2_cafr.training.cosine_lr import CosineLRScheduler
from nnunetv2_cafr.training.level_safe import LevelSafeAugmentation
from nnunetv2_cafr.training.robust import RobustTraining

TERMS = ("dice", "ce", "clr")


class nnUNetTrainer_CAFR_nnUNetDA(RobustTraining, nnUNetTrainer):
    """CAFR-Net under stock nnU-Net augmentation: held against `nnUNetTrainer`, only network, loss and optimiser differ.

    Patch and batch size, folds, foreground oversampling, epochs and iterations are nnU-Net's. From the paper (training
    section): Adam from 1e-4 to 1e-6 by cosine annealing, weight decay 1e-5, and Dice + CE + 0.1 InfoNCE (the weight is
    ours). The contrastive weight rises from 0 over the first tenth of the epochs (ours).

    The three loss terms and the weight are logged once per epoch and drawn to `loss_terms.png`. Dice is nnU-Net's, the
    negative of the soft Dice score.
    """

    use_transformer = True
    use_lafr = True
    use_clr = True
    clr_weight = 0.1
    clr_warmup = 0.1  # fraction of the epochs
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
        self._register_log_keys()

    def initialize(self) -> None:
        super().initialize()
        if self.use_clr and self.batch_size == 1:
            self.print_to_log_file(
                "WARNING: a batch of one sample (per GPU): the contrastive loss finds its positives in the same sample "
                "only, which is another loss than the paper's. Fewer GPUs, or plans with a larger batch, avoid that."
            )

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

    def _build_loss(self) -> nn.Module:
        contrastive = PixelInfoNCE(ignore_label=self.label_manager.ignore_label, regions=self.label_manager.has_regions)
        return DiceCECLRLoss(super()._build_loss(), contrastive, clr_weight=0.0)

    @classmethod
    def get_training_transforms(cls, *args: Any, **kwargs: Any) -> BasicTransform:
        """nnU-Net's pipeline, but padding stays -1, so that the contrastive loss can tell it from background."""
        pipeline = super().get_training_transforms(*args, **kwargs)
        pipeline.transforms = [t for t in pipeline.transforms if not isinstance(t, RemoveLabelTansform)]
        return pipeline

    def current_clr_weight(self) -> float:
        """The contrastive weight of the current epoch; a function of the epoch alone, so `--c` goes on exactly."""
        if not self.use_clr:
            return 0.0
        return self.clr_weight * min(1.0, self.current_epoch / max(1.0, self.clr_warmup * self.num_epochs))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.loss.clr_weight = self.current_clr_weight()

    def train_step(self, batch: dict) -> dict:
        outputs = super().train_step(batch)
        values = {**self.loss.last_terms, "negative_cosine": self.loss.contrastive.last_negative_cosine}
        return {**outputs, **{name: value.cpu().numpy() for name, value in values.items()}}

    def mean_cosine_between_classes(self, train_outputs: list[dict]) -> float:
        cosines = [step["negative_cosine"] for step in train_outputs if np.isfinite(step["negative_cosine"])]
        # With weight 0 nothing has moved the embedding yet.
        return float(np.mean(cosines)) if cosines and self.loss.clr_weight > 0 else float("nan")

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        outputs = collate_outputs(train_outputs)
        means = {term: float(np.mean(outputs[term])) for term in TERMS}
        if self.is_ddp:
            of_all_ranks: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(of_all_ranks, means)
            means = {term: float(np.mean([rank[term] for rank in of_all_ranks])) for term in TERMS}
        for term in TERMS:
            self.logger.log(f"train_{term}", means[term], self.current_epoch)
        self.logger.log("clr_weight", self.loss.clr_weight, self.current_epoch)
        self.print_to_log_file(
            "train_loss terms:",
            *(f"{term} {means[term]:.4f}" for term in TERMS),
            f"(weight {self.loss.clr_weight:.3f}), lr {self.optimizer.param_groups[0]['lr']:.2e}",
        )

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0:
            self._plot_loss_terms()

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        self._register_log_keys()

    def _register_log_keys(self) -> None:
        """nnU-Net's logger refuses keys that it doesn't know, and a loaded checkpoint replaces what it knows."""
        logging = self.logger.local_logger.my_fantastic_logging
        for key in (*(f"train_{term}" for term in TERMS), "clr_weight"):
            logging.setdefault(key, [])

    def _plot_loss_terms(self) -> None:
        figure, axes = plt.subplots(len(TERMS), 1, figsize=(8, 8), sharex=True)
        for axis, term in zip(axes, TERMS, strict=True):
            axis.plot(self.logger.get_value(f"train_{term}", step=None))
            axis.set_ylabel(f"train {term}")
        weight = axes[-1].twinx()
        weight.plot(self.logger.get_value("clr_weight", step=None), color="grey", linestyle="dotted")
        weight.set_ylabel("weight of clr (dotted)")
        axes[-1].set_xlabel("epoch")
        figure.tight_layout()
        figure.savefig(Path(self.output_folder) / "loss_terms.png")
        plt.close(figure)


class nnUNetTrainer_CAFR(LevelSafeAugmentation, nnUNetTrainer_CAFR_nnUNetDA):
    """CAFR-Net under nnU-Net's plans with the level-safe augmentation: the default trainer of this package.

    Its fair counterpart is nnUNetTrainer_LevelSafe: the same augmentation, epochs, iterations and inference.
    """
