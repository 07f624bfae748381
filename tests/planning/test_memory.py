"""The memory estimate against real allocations, and its laws."""

import functools

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.planning import GB, memory
from nnunetv2_cafr.planning.architecture import cafr_architecture
from nnunetv2_cafr.planning.memory import TrainingMemory, traced_peak, training_memory

FLAT = cafr_architecture((1.0, 1.0))
CLASSES = 20


@functools.cache
def traced(batch_size: int, *, mixed_precision: bool = True) -> int:
    """Of slices of 320x160 and five classes."""
    return traced_peak((320, 160), FLAT, 1, 5, batch_size, mixed_precision=mixed_precision)


def test_trace_equals_what_a_real_step_allocates():
    """Torch's profiler sees each allocation and release of two real float32 steps."""
    patch_size = (160, 160)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        network = CAFRNet(1, CLASSES, deep_supervision=True, **FLAT)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
        dice_ce = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
        loss_of_levels = DeepSupervisionWrapper(dice_ce, [1, 1 / 2, 1 / 4, 0])
        image = torch.randn(2, 1, *patch_size)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            logits, embedding = network(image)
            targets = [torch.zeros(2, 1, *level.shape[2:], dtype=torch.int16) for level in logits]
            loss = loss_of_levels(logits, targets) + embedding.mean()
            loss.backward()
            optimizer.step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    assert traced_peak(patch_size, FLAT, 1, CLASSES, 2, mixed_precision=False) == pytest.approx(peak, rel=0.01)


def test_linear_in_the_batch():
    assert traced(12) == traced(2) + 10 * (traced(3) - traced(2))


@pytest.mark.slow
def test_attention_grows_with_the_square_of_the_tokens():
    tokens = 6400
    fused, plain = (
        [traced_peak((1280, times * 1280), FLAT, 1, 5, 2, fused_attention=fused_attention) for times in (1, 2, 3)]
        for fused_attention in (True, False)
    )
    assert np.diff(fused, n=2) == pytest.approx(0, abs=1e-3 * fused[0])
    # At the least each of 3 layers keeps two bytes per weight for its backward pass, of 12 heads and 2 samples.
    assert np.diff(plain, n=2) > 2 * 3 * 12 * 2 * 2 * tokens**2


def test_mixed_precision_counts():
    """In what a further sample takes; weights, their gradients and Adam's state are float32 either way."""
    mixed, full = (
        traced(3, mixed_precision=mixed_precision) - traced(2, mixed_precision=mixed_precision)
        for mixed_precision in (True, False)
    )
    assert 0.5 < mixed / full < 0.75


def test_classes_count():
    """At the least the float32 softmax of the loss and its gradient, where classes are so many that the loss is the
    worst moment."""
    more = traced_peak((320, 160), FLAT, 1, CLASSES + 15, 2) - traced_peak((320, 160), FLAT, 1, CLASSES, 2)
    assert more > 2 * 4 * 15 * 2 * 320 * 160


def test_all_in_estimate_has_the_margins_that_it_states():
    estimate = training_memory((320, 160), FLAT, 1, 5)
    assert estimate.at(12) == pytest.approx(memory.CUDA_FACTOR * traced(12) + memory.CONTEXT_BYTES)


def test_largest_batch():
    estimate = TrainingMemory(fixed=1.5 * GB, per_sample=0.5 * GB)
    assert [estimate.largest_batch(limit * GB) for limit in (1, 1.9, 2, 4.2)] == [0, 0, 1, 5]
