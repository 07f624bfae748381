"""Every target for as long as it is asked for; see `harness`."""

import importlib
import os
from pathlib import Path

import pytest

from .harness import TARGETS

for _module in sorted(Path(__file__).parent.glob("test_*.py")):  # makes their targets known
    if _module.stem != Path(__file__).stem:
        importlib.import_module(f".{_module.stem}", __package__)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_long(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    minutes, seed = (
        float(os.environ.get(f"CAFR_FUZZ_{key}", default)) for key, default in (("MINUTES", 1), ("SEED", 1))
    )
    line = TARGETS[name].run_for(minutes, int(seed))
    with capsys.disabled():
        print(f"\n{line}")
    assert not TARGETS[name].failures
