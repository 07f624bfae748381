"""The loss over several resolutions, held against nnU-Net's own wrapper."""

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.nn import functional as F

from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE

WEIGHTS = (0.6, 0.4, 0.0)


def dice_ce() -> DC_and_CE_loss:
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)


@pytest.fixture
def batch() -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    """Logits at three resolutions, an embedding at 1/4, targets of three classes with two rows of padding."""
    target = torch.zeros(2, 1, 32, 32, dtype=torch.int16)
    target[:, :, 8:16], target[:, :, 16:], target[:, :, :2] = 1, 2, -1
    targets = [target[..., ::step, ::step] for step in (1, 2, 4)]
    logits = [torch.randn(2, 3, *of.shape[2:], requires_grad=True) for of in targets]
    embedding = F.normalize(torch.randn(2, 8, 8, 8), dim=1).requires_grad_()
    return logits, embedding, targets


def test_without_embedding_it_is_nnunets_loss(batch):
    logits, _, targets = batch
    stock = DeepSupervisionWrapper(dice_ce(), WEIGHTS)
    loss_fn = DiceCECLRLoss(dice_ce(), PixelInfoNCE(), scale_weights=WEIGHTS)
    # nnU-Net's pipeline turns padding into background before its loss.
    torch.testing.assert_close(loss_fn(logits, targets), stock(logits, [target.clamp(min=0) for target in targets]))
    assert loss_fn.last_terms["clr"] == 0


def test_the_contrastive_term_is_added_once_and_on_the_finest_target(batch):
    logits, embedding, targets = batch
    targets[1:] = [torch.zeros_like(target) for target in targets[1:]]  # of a single class, so without pairs
    contrastive = PixelInfoNCE()
    loss_fn = DiceCECLRLoss(dice_ce(), contrastive, 0.1, WEIGHTS)
    torch.manual_seed(3)
    total = loss_fn((logits, embedding), targets)
    torch.manual_seed(3)
    expected = contrastive(embedding, targets[0])
    torch.testing.assert_close(loss_fn.last_terms["clr"], expected.detach())
    torch.testing.assert_close(total, loss_fn(logits, targets) + 0.1 * expected)


def test_logged_terms_are_the_parts_of_the_total(batch):
    logits, embedding, targets = batch
    loss_fn = DiceCECLRLoss(dice_ce(), PixelInfoNCE(), 0.1, WEIGHTS)
    total = loss_fn((logits, embedding), targets)
    terms = loss_fn.last_terms
    assert set(terms) == {"dice", "ce", "clr"}
    assert not any(term.requires_grad for term in terms.values())
    torch.testing.assert_close(total.detach(), terms["dice"] + terms["ce"] + 0.1 * terms["clr"])
    assert terms["dice"] < 0 < terms["ce"]


def test_gradient_reaches_all_that_has_a_weight(batch):
    logits, embedding, targets = batch
    DiceCECLRLoss(dice_ce(), PixelInfoNCE(), scale_weights=WEIGHTS)((logits, embedding), targets).backward()
    assert [of.grad is not None for of in (*logits, embedding)] == [True, True, False, True]


def test_a_target_too_few_is_an_error(batch):
    logits, embedding, targets = batch
    with pytest.raises(ValueError, match="shorter"):
        DiceCECLRLoss(dice_ce(), PixelInfoNCE(), scale_weights=WEIGHTS)((logits, embedding), targets[:2])
