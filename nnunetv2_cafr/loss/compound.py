"""CAFR-Net's training loss: nnU-Net's own Dice and cross-entropy plus the weighted contrastive term.

Source: CAFR-Net, PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642, its section on the loss function: the total
is a weighted sum of Dice, cross-entropy and CLR. The paper's weights are lost; 1, 1 and 0.01 are ours
(documentation/experiments.md).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_cafr.loss.info_nce import PixelInfoNCE


class DiceCECLRLoss(nn.Module):
    """Dice + cross-entropy on the logits, plus `clr_weight` times the contrastive loss on the embedding.

    With `scale_weights` the logits come at several resolutions, and Dice + cross-entropy is nnU-Net's weighted sum over
    these (deep supervision).

    Dice and cross-entropy are nnU-Net's module, as its trainer builds it; nothing of it is computed anew. Its Dice part
    is wrapped in place, so that its value can be logged.

    Attributes:
        dice_ce:
            nnU-Net's DC_and_CE_loss, or DC_and_BCE_loss for regions; its `dc` may be compiled already.
        contrastive:
            The contrastive loss; its `regions` has to agree with `dice_ce`.
        clr_weight:
            Weight of the contrastive term, 0.01 (ours: at 0.1 it cost Dice, see documentation/experiments.md). A plain
            number that a trainer may change from epoch to epoch, as for a warm-up.
        scale_weights:
            Weight of each resolution, finest first, one of weight 0 is not computed; None for a single output.
        last_terms:
            The terms of the last call, detached scalars: 'dice' and 'ce' as they enter the total, 'clr' before its
            weight (0 where no embedding came).

    Raises:
        ValueError: If `clr_weight` is negative, or `dice_ce` has no Dice part `dc`.
        TypeError: On a call, if the output is neither logits nor (logits, embedding), or has several resolutions and
            `scale_weights` is None.

    Examples:
        >>> from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
        >>> loss_fn = DiceCECLRLoss(DC_and_CE_loss({}, {}), PixelInfoNCE())
        >>> target = torch.zeros(2, 1, 32, 32)
        >>> target[:, :, 16:] = 1
        >>> embedding = torch.nn.functional.normalize(torch.randn(2, 256, 8, 8), dim=1)
        >>> loss = loss_fn((torch.randn(2, 2, 32, 32), embedding), target)
        >>> list(loss_fn.last_terms)
        ['dice', 'ce', 'clr']
    """

    def __init__(
        self,
        dice_ce: nn.Module,
        contrastive: PixelInfoNCE,
        clr_weight: float = 0.01,
        scale_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not clr_weight >= 0:
            raise ValueError(f"clr_weight must be 0 or more, got {clr_weight!r}")
        dice = getattr(dice_ce, "dc", None)
        if not isinstance(dice, nn.Module):
            raise ValueError(
                f"dice_ce needs its Dice part as submodule 'dc', as nnU-Net's DC_and_CE_loss and DC_and_BCE_loss have; "
                f"got {type(dice_ce).__name__}"
            )
        # Any: mypy takes the parts of a module that it does not know for tensors.
        self.dice_ce: Any = dice_ce
        self.dice_ce.dc = _Remembering(dice)
        self.contrastive = contrastive
        self.clr_weight = clr_weight
        self.scale_weights = None if scale_weights is None else tuple(scale_weights)
        self.last_terms: dict[str, Tensor] = {}

    def forward(self, output: Any, target: Any) -> Tensor:
        """Compute the total.

        Args:
            output: Logits (b, c, *size), or (logits, embedding) with the embedding (b, d, *cells) of unit length. With
                `scale_weights` the logits are a list, finest first.
            target: (b, 1, *size) label map, negative where padded, or regions as in `PixelInfoNCE`. With
                `scale_weights` a list of these; the first is the contrastive term's.

        Returns:
            The total, a scalar.
        """
        logits, embedding = output if isinstance(output, tuple) and len(output) == 2 else (output, None)
        if not isinstance(logits, Tensor if self.scale_weights is None else list):
            raise TypeError(
                f"output must be logits or a tuple (logits, embedding), where scale_weights are given with a list of "
                f"logits, got {type(output).__name__} of {type(logits).__name__} for scale_weights {self.scale_weights}"
            )
        weights = self.scale_weights
        if weights is None:
            weights, logits, target = (1.0,), [logits], [target]
        nothing = torch.zeros((), device=logits[0].device)
        clr = nothing if embedding is None else self.contrastive(embedding, target[0], logits[0])
        total, dice, ce = self.clr_weight * clr, nothing, nothing
        for weight, scale_logits, scale_target in zip(weights, logits, target, strict=True):
            if weight != 0:
                of_scale, of_dice = self._dice_ce(scale_logits, scale_target)
                total = total + weight * of_scale
                dice = dice + weight * of_dice
                ce = ce + weight * (of_scale.detach() - of_dice)
        self.last_terms = {"dice": dice, "ce": ce, "clr": clr.detach()}
        return total

    def _dice_ce(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Dice + cross-entropy of one resolution, and the Dice part of it, detached."""
        # What nnU-Net's RemoveLabelTransform does to padding. The contrastive loss still needs to know where it is.
        known = target if self.contrastive.regions else target.clamp(min=0)
        self.dice_ce.dc.value = torch.zeros((), device=logits.device)  # stays where nnU-Net skips Dice: its weight is 0
        both = self.dice_ce(logits, known)
        return both, self.dice_ce.weight_dice * self.dice_ce.dc.value


class _Remembering(nn.Module):
    """Passes a loss through and keeps its last value, detached."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.value: Tensor

    def forward(self, *args: Tensor, **kwargs: Tensor | None) -> Tensor:
        result = self.loss(*args, **kwargs)
        self.value = result.detach()
        return result
