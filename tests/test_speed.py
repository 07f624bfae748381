"""What benchmarks/speed.py writes: ratios within rounds, missed targets by name, and all rows from real runs."""

import importlib
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
speed = importlib.import_module("speed")
Measurement, of_rounds, table = speed.Measurement, speed.of_rounds, speed.table


def test_ratio_is_of_medians_and_spread_within_rounds():
    row = of_rounds("ms", [1.0, 2.0, 9.0], [4.0, 4.0, 10.0], 0.4)
    assert (row.cafr, row.nnunet, row.ratio) == (2, 4, 0.5)
    assert row.spread == (0.25, 0.9)


def test_a_missed_target_is_said():
    held, missed = Measurement("a", 1, 4, 0.3), Measurement("b", 1, 2, 0.3)
    lines = table([held, missed]).splitlines()
    assert "missed" not in lines[2] and lines[3].endswith("<= 0.30 missed |")


@pytest.mark.slow
def test_all_rows_are_measured(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", "set by bench")
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setattr(speed, "SIZES", ((256, 256), (128, 128)))
    monkeypatch.setattr(speed, "VOLUME", (96, 80, 4))
    rows = speed.bench(tmp_path / "speed", "cpu", 2)
    assert len(rows) == 1 + 2 + 3 + 1 and all(row.cafr > 0 and row.nnunet > 0 for row in rows)
    written = json.loads((tmp_path / "speed" / speed.RESULTS_FILE).read_text())
    assert [row["what"] for row in written["measurements"]] == [row.what for row in rows]
    assert (tmp_path / "speed" / speed.GROWTH_FILE).read_bytes().startswith(b"\x89PNG")
