"""What is measured of the cost, without a GPU."""

import pytest
import torch

from nnunetv2_cafr.benchmark.cost import CudaMemory
from nnunetv2_cafr.cli import main


def test_memory_of_the_arms_before_is_not_an_arms_own(monkeypatch):
    for name, value in (("reset_peak_memory_stats", None), ("memory_allocated", 100), ("max_memory_allocated", 130)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    with CudaMemory() as memory:
        pass
    assert memory.peak == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "3d_fullres"], "-c would change nothing here: give -d"),
        (["-d", "5", "--channels", "2"], "--channels would"),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["cost", *arguments])
