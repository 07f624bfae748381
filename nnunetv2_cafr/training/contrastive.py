"""Dice + CE + the contrastive loss (CLR) inside nnU-Net's training: its weight over the epochs, its terms in the log.

What a trainer needs beside a network that returns `(logits, embedding)` in training; with deep supervision or without.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from matplotlib import style
from matplotlib.figure import Figure
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.utilities.collate_outputs import collate_outputs
from torch import distributed as dist

from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE
from nnunetv2_cafr.spine import Spine, has_regions, read_spine
from nnunetv2_cafr.training.preflight import CheckedTraining

TERMS = {"dice": "minus soft Dice", "ce": "cross-entropy", "clr": "contrastive loss"}


class ContrastiveTraining(CheckedTraining):
    """Mixin: a trainer's loss plus 0.01 InfoNCE (the weight is ours).

    The contrastive weight rises from 0 over the first tenth of the epochs (ours). The three loss terms and the weight
    are logged once per epoch and drawn to `loss_terms.png`. Dice is nnU-Net's, the negative of the soft Dice score.
    """

    use_clr = True
    clr_weight = 0.01  # at 0.1 Dice was 0.8 to 3.4 points less in three pairs (documentation/experiments.md)
    clr_warmup = 0.1  # fraction of the epochs
    clr_negatives: int | None = None  # all cells drawn of other classes; the paper has 5 for each positive
    clr_anchors = 32  # of each class and step
    clr_hard_anchors = False
    clr_by_level = False  # hard anchors and weights of the negatives by the distance along the spine
    loss: DiceCECLRLoss

    @classmethod
    def unfit(cls, settings: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> str | None:
        labels = dataset_json["labels"]
        if cls.clr_by_level:
            try:
                read_spine(labels)
            except ValueError as error:
                return f"needs labels that are levels of the spine: {error}"
        if cls.clr_hard_anchors and has_regions(labels):
            return "needs labels of which a voxel has one, and these are regions: train nnUNetTrainer_CAFR"
        return super().unfit(settings, dataset_json)

    def initialize(self) -> None:
        super().initialize()
        self._register_log_keys()
        if self.use_clr and self.batch_size == 1:
            self.print_to_log_file(
                "WARNING: a batch of one sample (per GPU): the contrastive loss finds its positives in the same sample "
                "only, which is another loss than the paper's. Fewer GPUs, or plans with a larger batch, avoid that."
            )

    def _build_loss(self) -> DiceCECLRLoss:
        stock = super()._build_loss()
        contrastive = PixelInfoNCE(
            num_negatives=self.clr_negatives,
            anchors_per_class=self.clr_anchors,
            ignore_label=self.label_manager.ignore_label,
            regions=self.label_manager.has_regions,
            hard_anchors=self.clr_hard_anchors or self.clr_by_level,
            level_distance=self._level_distance() if self.clr_by_level else None,
        ).to(self.device)
        if isinstance(stock, DeepSupervisionWrapper):
            return DiceCECLRLoss(stock.loss, contrastive, 0.0, stock.weight_factors)
        return DiceCECLRLoss(stock, contrastive, 0.0)

    def _level_distance(self) -> torch.Tensor:
        return level_distance(read_spine(self.dataset_json["labels"]), self.label_manager.num_segmentation_heads)

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

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        outputs = super().train_step(batch)
        values = {**self.loss.last_terms, "negative_cosine": self.loss.contrastive.last_negative_cosine}
        return {**outputs, **{name: value.cpu().numpy() for name, value in values.items()}}

    def _warn_of_no_pairs(self, train_outputs: list[dict[str, Any]]) -> None:
        if self.loss.clr_weight > 0 and not any(np.isfinite(step["negative_cosine"]) for step in train_outputs):
            self.print_to_log_file(
                f"WARNING: no step of epoch {self.current_epoch} had anything to pair, so the contrastive loss did "
                "nothing: patches show one class each, or structures too thin for its cells; of regions, whose outside "
                "is left out, two are needed"
            )

    def mean_cosine_between_classes(self, train_outputs: list[dict[str, Any]]) -> float:
        cosines = [step["negative_cosine"] for step in train_outputs if np.isfinite(step["negative_cosine"])]
        # With weight 0 nothing has moved the embedding yet.
        return float(np.mean(cosines)) if cosines and self.loss.clr_weight > 0 else float("nan")

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
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
        self._warn_of_no_pairs(train_outputs)
        self.print_to_log_file(
            "train_loss terms:",
            *(f"{term} {means[term]:.4f}" for term in TERMS),
            f"(weight {self.loss.clr_weight:.3f}), lr {self.optimizer.param_groups[0]['lr']:.2e}",
        )

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0:
            try:
                self._plot_loss_terms()
            except OSError as error:
                self.print_to_log_file(f"ALARM: loss_terms.png could not be drawn ({error}). Training goes on.")

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        self._register_log_keys()

    def _register_log_keys(self) -> None:
        """nnU-Net's logger refuses keys that it doesn't know, and a loaded checkpoint replaces what it knows."""
        logging = self.logger.local_logger.my_fantastic_logging
        for key in (*(f"train_{term}" for term in TERMS), "clr_weight"):
            logging.setdefault(key, [])

    def _plot_loss_terms(self) -> None:
        with style.context("default"):  # progress.png leaves the letters of a larger page behind
            figure = Figure(figsize=(8, 8), layout="tight")  # not pyplot's, which would keep one that cannot be saved
            axes = figure.subplots(len(TERMS), 1, sharex=True)
            for axis, (term, words) in zip(axes, TERMS.items(), strict=True):
                axis.plot(self.logger.get_value(f"train_{term}", step=None))
                axis.set_ylabel(words)
            weight = axes[-1].twinx()
            weight.plot(self.logger.get_value("clr_weight", step=None), color="grey", linestyle="dotted")
            weight.set_ylabel("its weight (dotted)")
            axes[-1].set_xlabel("epoch")
            figure.savefig(Path(self.output_folder) / "loss_terms.png")


def level_distance(spine: Spine, num_classes: int) -> torch.Tensor:
    """Places along the spine between each two labels, (c, c); 0 between a label and itself, or one without a place."""
    place = torch.full((num_classes,), torch.nan)
    for label, position in spine.positions.items():
        place[label] = position
    return (place[:, None] - place).abs().nan_to_num(0.0)
