"""The same loss for a network that predicts at several resolutions, as nnU-Net's own does (deep supervision)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunetv2_cafr.loss.compound import DiceCECLRLoss
from nnunetv2_cafr.loss.info_nce import PixelInfoNCE


class DeepSupervisionCLRLoss(nn.Module):
    """nnU-Net's weighted sum of Dice + cross-entropy over the resolutions, plus one weighted contrastive term.

    Attributes:
        scale_loss: Dice and cross-entropy of one resolution.
        scale_weights: Weight of each resolution, finest first; one of weight 0 is not computed.
        contrastive, clr_weight: As in `DiceCECLRLoss`.
        last_terms: As in `DiceCECLRLoss`; 'dice' and 'ce' are the weighted sums.

    Examples:
        >>> from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
        >>> loss_fn = DeepSupervisionCLRLoss(DC_and_CE_loss({}, {}), (2 / 3, 1 / 3), PixelInfoNCE())
        >>> target = torch.zeros(2, 1, 32, 32)
        >>> target[:, :, 16:] = 1
        >>> logits = [torch.randn(2, 2, 32, 32), torch.randn(2, 2, 16, 16)]
        >>> embedding = torch.nn.functional.normalize(torch.randn(2, 256, 8, 8), dim=1)
        >>> loss_fn((logits, embedding), [target, target[..., ::2, ::2]]).shape
        torch.Size([])
    """

    def __init__(
        self, dice_ce: nn.Module, scale_weights: Sequence[float], contrastive: PixelInfoNCE, clr_weight: float = 0.01
    ) -> None:
        super().__init__()
        self.scale_loss = DiceCECLRLoss(dice_ce, contrastive, clr_weight=0.0)
        self.scale_weights = tuple(scale_weights)
        self.contrastive = contrastive
        self.clr_weight = clr_weight
        self.last_terms: dict[str, Tensor] = {}

    def forward(self, output: list[Tensor] | tuple[list[Tensor], Tensor], target: list[Tensor]) -> Tensor:
        """Compute the total.

        Args:
            output: Logits of every resolution, finest first, or (those, embedding).
            target: Of every resolution as in `DiceCECLRLoss`; the first is the contrastive term's.

        Returns:
            The total, a scalar.
        """
        logits, embedding = output if isinstance(output, tuple) else (output, None)
        nothing = torch.zeros((), device=logits[0].device)
        clr = nothing if embedding is None else self.contrastive(embedding, target[0], logits[0])
        total = self.clr_weight * clr
        dice, ce = nothing, nothing
        for weight, scale_logits, scale_target in zip(self.scale_weights, logits, target, strict=True):
            if weight != 0:
                total = total + weight * self.scale_loss(scale_logits, scale_target)
                dice = dice + weight * self.scale_loss.last_terms["dice"]
                ce = ce + weight * self.scale_loss.last_terms["ce"]
        self.last_terms = {"dice": dice, "ce": ce, "clr": clr.detach()}
        return total
