"""DiceCECLRLoss against nnU-Net's own losses, whose values it must not change."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE

IGNORE = 4


def stock_loss(kind: str, **kwargs: float) -> Any:
    """As nnUNetTrainer._build_loss makes them."""
    dice = {"batch_dice": kind != "label map", "smooth": 1e-5, "do_bg": "regions" in kind, "ddp": False}
    if "regions" in kind:
        return DC_and_BCE_loss(
            {}, dice, use_ignore_label="ignore" in kind, dice_class=MemoryEfficientSoftDiceLoss, **kwargs
        )
    ignore_label = IGNORE if "ignore" in kind else None
    return DC_and_CE_loss(dice, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss, **kwargs)


def our_loss(kind: str, clr_weight: float = 0.1, **kwargs: float) -> DiceCECLRLoss:
    ignore_label = IGNORE if "ignore" in kind else None
    contrastive = PixelInfoNCE(ignore_label=ignore_label, regions="regions" in kind)
    return DiceCECLRLoss(stock_loss(kind, **kwargs), contrastive, clr_weight)


def batch(kind: str, spatial: tuple[int, ...] = (16, 32)) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (2, 4, *spatial), embedding at 1/4 and a target without padding."""
    generator = torch.Generator().manual_seed(0)
    cells = tuple(size // 4 for size in spatial)
    logits = torch.randn(2, 4, *spatial, generator=generator)
    embedding = F.normalize(torch.randn(2, 8, *cells, generator=generator), dim=1)
    target = torch.randint(0, 5 if "ignore" in kind else 4, (2, 1, *cells), generator=generator)
    for axis in range(2, 2 + len(spatial)):
        target = target.repeat_interleave(4, dim=axis)
    if "regions" in kind:
        regions = [target > 0, target > 1, target == 2, target == 3]
        target = torch.cat([*regions, target == IGNORE] if "ignore" in kind else regions, dim=1)
    return logits, embedding, target if target.dtype == torch.bool else target.to(torch.int16)


KINDS = ["label map", "label map, batch dice", "label map, ignore", "regions", "regions, ignore"]


@pytest.mark.parametrize("spatial", [(16, 32), (8, 16, 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_alone_give_the_stock_value(kind: str, spatial: tuple[int, ...]) -> None:
    logits, _, target = batch(kind, spatial)
    loss_fn = our_loss(kind)
    loss = loss_fn(logits, target)
    assert loss.item() == stock_loss(kind)(logits, target).item()
    assert loss_fn.last_terms["clr"].item() == 0


@pytest.mark.parametrize("spatial", [(16, 32), (8, 16, 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_terms_are_those_of_the_parts_and_sum_to_the_total(kind: str, spatial: tuple[int, ...]) -> None:
    logits, embedding, target = batch(kind, spatial)
    loss_fn = our_loss(kind, clr_weight=0.3)
    torch.manual_seed(0)
    loss = loss_fn((logits, embedding), target)
    torch.manual_seed(0)
    clr = loss_fn.contrastive(embedding, target)
    assert loss.item() == pytest.approx(stock_loss(kind)(logits, target).item() + 0.3 * clr.item(), rel=1e-6)

    terms = loss_fn.last_terms
    assert set(terms) == {"dice", "ce", "clr"}
    assert terms["clr"].item() == clr.item() > 0
    only_dice = stock_loss(kind, weight_ce=0)(logits, target)
    assert terms["dice"].item() == pytest.approx(only_dice.item(), rel=1e-6)
    assert terms["ce"].item() == pytest.approx((stock_loss(kind)(logits, target) - only_dice).item(), rel=1e-6)
    assert (terms["dice"] + terms["ce"] + 0.3 * terms["clr"]).item() == pytest.approx(loss.item(), rel=1e-6)


def test_terms_hold_no_graph_and_belong_to_the_last_call() -> None:
    logits, embedding, target = batch("label map")
    loss_fn = our_loss("label map")
    loss_fn((logits.requires_grad_(), embedding.requires_grad_()), target)
    first = loss_fn.last_terms
    assert not any(term.requires_grad or term.shape for term in first.values())
    loss_fn(3 * logits, target)
    assert first["dice"] != loss_fn.last_terms["dice"]
    assert loss_fn.last_terms["clr"] == 0


@pytest.mark.parametrize("weights", [{"weight_dice": 0.5, "weight_ce": 2.0}, {"weight_dice": 0, "weight_ce": 1}])
def test_terms_of_other_weights_sum_to_the_total(weights: dict[str, float]) -> None:
    logits, _, target = batch("label map")
    loss_fn = our_loss("label map", **weights)
    loss_fn(logits, target)  # a value of Dice that must not live on
    loss = loss_fn(2 * logits, target)
    assert loss.item() == stock_loss("label map", **weights)(2 * logits, target).item()
    assert loss_fn.last_terms["ce"].item() == pytest.approx(
        weights["weight_ce"] * F.cross_entropy(2 * logits, target[:, 0].long()).item(), rel=1e-5
    )


@pytest.mark.parametrize("kind", ["label map", "label map, ignore"])
def test_padding_is_background_for_dice_and_ce_but_not_for_the_pairs(kind: str) -> None:
    logits, embedding, target = batch(kind)
    padded = target.clone()
    padded[:, :, 8:] = -1
    as_background = padded.clamp(min=0)
    before = padded.clone()
    loss_fn = our_loss(kind)

    assert loss_fn(logits, padded).item() == stock_loss(kind)(logits, as_background).item()
    torch.manual_seed(0)
    loss_fn((logits, embedding), padded)
    torch.manual_seed(0)
    assert loss_fn.last_terms["clr"].item() == loss_fn.contrastive(embedding, padded).item()
    torch.manual_seed(0)
    assert loss_fn.last_terms["clr"].item() != loss_fn.contrastive(embedding, as_background).item()
    assert torch.equal(padded, before)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_dice_may_be_compiled(moment: str) -> None:
    """nnU-Net compiles `loss.dc`; a subclass of a trainer may do so once more."""
    logits, embedding, target = batch("label map")
    dice_ce = stock_loss("label map")
    if moment == "before":
        dice_ce.dc = torch.compile(dice_ce.dc, backend="eager")
    loss_fn = DiceCECLRLoss(dice_ce, PixelInfoNCE(), clr_weight=0.1)
    if moment == "after":
        loss_fn.dice_ce.dc = torch.compile(loss_fn.dice_ce.dc, backend="eager")
    expected = our_loss("label map")
    for scale in (1, 2):
        values = []
        for each in (loss_fn, expected):
            torch.manual_seed(0)
            values.append(each((scale * logits, embedding), target).item())
        assert values[0] == pytest.approx(values[1], rel=1e-6)
        for name, term in expected.last_terms.items():
            assert loss_fn.last_terms[name].item() == pytest.approx(term.item(), rel=1e-5)


def test_weight_may_change_between_calls_and_keeps_the_gradient_at_zero() -> None:
    logits, embedding, target = batch("label map")
    loss_fn = our_loss("label map")
    stock = stock_loss("label map")(logits, target).item()
    for weight in (0.0, 0.05, 1.0):
        loss_fn.clr_weight = weight
        leaf = embedding.clone().requires_grad_()
        loss = loss_fn((logits, leaf), target)
        loss.backward()
        assert loss.item() == pytest.approx(stock + weight * loss_fn.last_terms["clr"].item(), rel=1e-6)
        assert leaf.grad is not None
        assert (leaf.grad.abs().sum() > 0) == (weight > 0)


def test_gradient_of_the_logits_is_the_stock_one() -> None:
    logits, embedding, target = batch("label map")
    ours, stock = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    our_loss("label map")((ours, embedding), target).backward()
    stock_loss("label map")(stock, target).backward()
    assert ours.grad is not None
    assert stock.grad is not None
    assert torch.equal(ours.grad, stock.grad)


def test_works_under_autocast() -> None:
    logits, embedding, target = batch("label map")
    loss_fn = our_loss("label map")
    for output in ((logits.bfloat16(), embedding.bfloat16()), logits.bfloat16()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_fn(output, target)
        assert loss.isfinite()
        assert all(term.dtype == torch.float32 for term in loss_fn.last_terms.values())


def test_state_dict_holds_nothing_of_ours() -> None:
    assert not our_loss("label map").state_dict()
    class_weights = torch.ones(4)
    dice_ce = DC_and_CE_loss({}, {"weight": class_weights}, dice_class=MemoryEfficientSoftDiceLoss)
    names = {f"dice_ce.{name}" for name in dice_ce.state_dict()}
    assert set(DiceCECLRLoss(dice_ce, PixelInfoNCE()).state_dict()) == names


def test_what_does_not_fit_is_refused() -> None:
    logits, _, target = batch("label map")
    with pytest.raises(ValueError, match=r"clr_weight must be 0 or more, got -0\.1"):
        our_loss("label map", clr_weight=-0.1)
    with pytest.raises(ValueError, match=r"needs its Dice part as submodule 'dc'.*got CrossEntropyLoss"):
        DiceCECLRLoss(nn.CrossEntropyLoss(), PixelInfoNCE())
    with pytest.raises(TypeError, match="got list of list for scale_weights None"):
        our_loss("label map")([logits, logits[:, :, ::2, ::2]], target)


def test_loss_needs_neither_trainers_nor_network() -> None:
    code = (
        "import sys, nnunetv2_cafr.loss\n"
        "print([m for m in sys.modules if m.startswith(('nnunetv2.training.nnUNetTrainer', 'nnunetv2_cafr.network'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.strip() == "[]"
