"""What is measured of the cost, without a GPU."""

import torch

from nnunetv2_cafr.benchmark.cost import CudaMemory


def test_memory_of_the_arms_before_is_not_an_arms_own(monkeypatch):
    for name, value in (("reset_peak_memory_stats", None), ("memory_allocated", 100), ("max_memory_allocated", 130)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    with CudaMemory() as memory:
        pass
    assert memory.peak == 30
