"""CAFR-Net's training loss: nnU-Net's own Dice and cross-entropy plus the weighted contrastive term.

Source: CAFR-Net, PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642, its section on the loss function: the total
is a weighted sum of Dice, cross-entropy and CLR. The paper's weights are lost; 1, 1 and 0.01 are ours
(documentation/recipe.md).
"""

from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_cafr.loss.info_nce import PixelInfoNCE


class DiceCECLRLoss(nn.Module):
    """Dice + cross-entropy on the logits, plus `clr_weight` times the contrastive loss on the embedding.

    Dice and cross-entropy are nnU-Net's module, as its trainer builds it; nothing of it is computed anew. Its Dice part
    is wrapped in place, so that its value can be logged.

    Attributes:
        dice_ce:
            nnU-Net's DC_and_CE_loss, or DC_and_BCE_loss for regions; its `dc` may be compiled already.
        contrastive:
            The contrastive loss; its `regions` has to agree with `dice_ce`.
        clr_weight:
            Weight of the contrastive term, 0.01 (ours: at 0.1 it cost Dice, see documentation/recipe.md). A plain
            number that a trainer may change from epoch to epoch, as for a warm-up.
        last_terms:
            The terms of the last call, detached scalars: 'dice' and 'ce' as they enter the total, 'clr' before its
            weight (0 where no embedding came).

    Raises:
        ValueError: If `clr_weight` is negative, or `dice_ce` has no Dice part `dc`.
        TypeError: On a call, if the output is neither logits nor (logits, embedding).

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

    def __init__(self, dice_ce: nn.Module, contrastive: PixelInfoNCE, clr_weight: float = 0.01) -> None:
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
        self.last_terms: dict[str, Tensor] = {}

    def forward(self, output: Tensor | tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        """Compute the total.

        Args:
            output: Logits (b, c, *size), or (logits, embedding) with the embedding (b, d, *cells) of unit length.
            target: (b, 1, *size) label map, negative where padded, or regions as in `PixelInfoNCE`.

        Returns:
            The total, a scalar.
        """
        if isinstance(output, Tensor):
            logits, embedding = output, None
        elif isinstance(output, tuple) and len(output) == 2:
            logits, embedding = output
        else:
            raise TypeError(
                f"output must be logits or a tuple (logits, embedding), got {type(output).__name__}; deep supervision "
                f"is not supported"
            )
        # What nnU-Net's RemoveLabelTransform does to padding. The contrastive loss still needs to know where it is.
        known = target if self.contrastive.regions else target.clamp(min=0)
        nothing = torch.zeros((), device=logits.device)
        self.dice_ce.dc.value = nothing  # stays where nnU-Net skips Dice because its weight is 0
        total = self.dice_ce(logits, known)
        dice = self.dice_ce.weight_dice * self.dice_ce.dc.value
        ce = total.detach() - dice

        if embedding is None:
            clr = nothing
        else:
            clr = self.contrastive(embedding, target, logits)
            total = total + self.clr_weight * clr
        self.last_terms = {"dice": dice, "ce": ce, "clr": clr.detach()}
        return total


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
