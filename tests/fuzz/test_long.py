"""Every target for as long as it is asked for; see `harness`."""

import os

import pytest

from . import test_volumes  # noqa: F401  makes the targets known
from .harness import TARGETS


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_long(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    minutes, seed = (
        float(os.environ.get(f"CAFR_FUZZ_{key}", default)) for key, default in (("MINUTES", 1), ("SEED", 1))
    )
    line = TARGETS[name].run_for(minutes, int(seed))
    with capsys.disabled():
        print(f"\n{line}")
