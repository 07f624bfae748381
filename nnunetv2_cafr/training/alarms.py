"""Detects a training that goes wrong, and says where: a loss that is not finite, an embedding that has collapsed."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from nnunetv2_cafr.checkpoint_names import BEST, LATEST
from nnunetv2_cafr.training.checkpoints import SafeCheckpoints

MAX_REPORTS = 5  # of one epoch


class TrainingDiverged(RuntimeError):  # noqa: N818 - says what happened, as torch's own do
    """The weights are no longer finite: nothing that follows could be of use."""


class AlarmedTraining(SafeCheckpoints):
    """Mixin: alarms in the log with the term and the case identifiers.

    - A loss that is NaN or infinite is reported at the step where it occurs. If it has reached the weights, the
      training ends there, with the last good checkpoint untouched. Otherwise (GradScaler leaves such a step out) it
      goes on. Steps that GradScaler leaves out for the sake of its scale have a finite loss and are no alarm.
    - An embedding whose vectors are all alike is reported at the end of the epoch: the contrastive loss then does
      nothing, though the sum of the losses looks well.

    `checkpoint_best` is not replaced by an epoch with an alarm. Of several ranks, the first has the log and saves: it
    learns of the others' alarms at the end of the training and of the validation part of an epoch.
    """

    collapsed_above = 0.99  # mean cosine between vectors of different classes; ours

    _reports = 0
    _untold: list[str] = []  # noqa: RUF012 - replaced, never changed

    def on_epoch_start(self) -> None:
        super().on_epoch_start()
        self._reports = 0
        self._untold = []

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        outputs = super().train_step(batch)
        if not math.isfinite(outputs["loss"]):
            self._report_loss("training", outputs["loss"], batch)
            if not self._weights_are_finite():
                raise TrainingDiverged(self._explain_divergence(batch))
        return outputs

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        outputs = super().validation_step(batch)
        if not math.isfinite(outputs["loss"]):
            self._report_loss("validation", outputs["loss"], batch)
        return outputs

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)
        cosine = self.mean_cosine_between_classes(train_outputs)
        if cosine > self.collapsed_above:
            self.raise_alarm(
                f"the embedding of the contrastive term (clr) has collapsed: vectors of different classes have a mean "
                f"cosine of {cosine:.4f}, 1 is all alike"
            )
        self._tell_first_rank()

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        self._tell_first_rank()

    def mean_cosine_between_classes(self, _train_outputs: list[dict[str, Any]]) -> float:
        """Of this epoch's embeddings; NaN for a network without one."""
        return math.nan

    def raise_alarm(self, what: str) -> None:
        """Puts an alarm into the log, MAX_REPORTS times an epoch, and keeps the epoch from becoming the best."""
        self.best_is_trustworthy = False
        self._reports += 1
        if self._reports <= MAX_REPORTS:
            more = " Further alarms of this epoch are not shown." if self._reports == MAX_REPORTS else ""
            if self.local_rank == 0:
                self.print_to_log_file(f"ALARM in epoch {self.current_epoch}: {what}.{more}")
            else:
                self._untold = [*self._untold, f"{what}.{more}"]

    def _tell_first_rank(self) -> None:
        if not self.is_ddp:
            return
        of_ranks: list[list[str]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(of_ranks, self._untold)
        self._untold = []
        for rank, alarms in enumerate(of_ranks):
            for alarm in alarms:
                self.best_is_trustworthy = False
                if self.local_rank == 0:
                    self.print_to_log_file(f"ALARM in epoch {self.current_epoch}, rank {rank}: {alarm}")

    def _report_loss(self, phase: str, loss: float, batch: dict[str, Any]) -> None:
        terms = getattr(self.loss, "last_terms", {})
        culprits = {name: float(value) for name, value in terms.items() if not math.isfinite(value)}
        named = ", ".join(f"{name} {value}" for name, value in culprits.items()) or f"total {loss}"
        self.raise_alarm(f"the {phase} loss is not finite ({named}); cases {_cases(batch)}")

    def _weights_are_finite(self) -> bool:
        return all(torch.isfinite(value).all() for value in self.network.state_dict().values())

    def _explain_divergence(self, batch: dict[str, Any]) -> str:
        there = [name for name in (LATEST, BEST) if (Path(self.output_folder) / name).is_file()]
        remedy = f"continue from {there[0]}: {self.command_to_go_on()}" if there else "start again"
        return (
            f"The loss was not finite in epoch {self.current_epoch} and has ruined the weights; cases of the step: "
            f"{_cases(batch)}. Check these images and labels for NaN and infinite values, then {remedy}"
        )


def _cases(batch: dict[str, Any]) -> str:
    return ", ".join(sorted(map(str, batch["keys"])))
