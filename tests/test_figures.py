"""The README's tables say what the results that are committed say."""

import re
from pathlib import Path

import pandas as pd
import pytest

from nnunetv2_cafr.report.statistics import compare, holm

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SEEDS = (0, 1, 2)
SHIFTS = ["-2", "-1", "0", "+1", "+2", "farther", "missed"]
ARMS = {"nnU-Net's": "LevelSafe_AdamW", "CAFR-Net": "CAFR"}
EPOCHS = {("SPIDER", "CAFR"): 20, ("WaterFat", "CAFR"): 16}  # of 50 steps each; nnU-Net's network: 9
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    """Cells of the rows of the README's table whose header begins so."""
    lines = README.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(header))
    rows: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip(" *") for cell in line.strip("|").split("|")])
    return rows


def of_seeds(cell: str) -> list[float]:
    return [float(value) for value in cell.replace("*", "").split(" / ")]


def test_short_trainings():
    of_cafr = pd.read_csv(RESULTS / "taps_from_zero" / "dice.csv")
    others = pd.read_csv(RESULTS / "structure_brightness" / "dice_up_to_3.csv")
    rows = table("| | nnU-Net's network |")
    assert len(rows) == 3
    found_p = []
    for name, printed_nnunet, printed_cafr, difference, median, ahead, _ in rows:
        of_set, structures = name.split(", ")
        means = {}
        arms = (("LevelSafe_AdamW", others, printed_nnunet), ("CAFR", of_cafr, printed_cafr))
        for arm, dice, cell in arms:
            trainers = [f"nnUNetTrainer_{arm}_seed{seed}_budget{EPOCHS.get((of_set, arm), 9)}x50" for seed in SEEDS]
            chosen = dice[dice["set"].str.startswith(of_set) & dice["trainer"].isin(trainers)]
            column = f"dice_{structures}"
            by_seed = 100 * chosen.groupby("trainer")[column].mean()[trainers]
            assert of_seeds(cell) == pytest.approx(by_seed.tolist(), abs=0.051)
            means[arm] = 100 * chosen.groupby("case")[column].mean()
        found = compare(means["CAFR"], means["LevelSafe_AdamW"])
        printed = [float(value) for value in re.findall(r"-?\d+\.\d", difference)]
        expected = [found.difference.mean, found.difference.low, found.difference.high]
        assert printed == pytest.approx(expected, abs=0.051)
        assert ahead == f"{found.higher} of {found.patients}"
        assert float(median) == pytest.approx((means["CAFR"] - means["LevelSafe_AdamW"]).median(), abs=0.051)
        found_p.append(found.p)
    assert [float(row[-1]) for row in rows] == pytest.approx(list(holm(found_p)), abs=0.00051)


def test_levels_and_dice_on_another_collection():
    before = pd.read_csv(RESULTS / "structure_brightness" / "level_shifts_up_to_3.csv")
    of_nnunet = before[before["trainer"] == "nnUNetTrainer_LevelSafe_AdamW"].assign(steps=450)
    of_cafr = pd.read_csv(RESULTS / "taps_from_zero" / "level_shifts.csv")
    short = pd.concat([of_nnunet, of_cafr])
    short = short[short["scans"] == "another collection"]
    long = pd.read_csv(RESULTS / "another_collection" / "level_shifts_long.csv")
    found = long["trainer"].str.extract(r"(?P<trainer>.*)_seed(?P<seed>\d)_budget(?P<epochs>\d+)x50")
    long = long.assign(trainer=found["trainer"], seed=found["seed"].astype(int), steps=50 * found["epochs"].astype(int))
    long = long[long["trainer"] != "nnUNetTrainer_CAFR"]  # those are the previous network's
    both = pd.concat([short, long])
    both = both[both["label_maps"] == "as predicted"]
    seconds_per_step = dict(
        zip(("CAFR", "LevelSafe_AdamW"), re.findall(r"\((.*?) s against (.*?) s,", README)[0], strict=True)
    )
    rows = table("| network |")
    assert len(rows) == 4
    for name, steps, seconds, levels, dice in rows:
        arm = ARMS[name.split(" (")[0]]
        by_seed = both[(both["trainer"] == f"nnUNetTrainer_{arm}") & (both["steps"] == int(steps))].groupby("seed")
        right = 100 * by_seed["0"].sum() / by_seed[SHIFTS].sum().sum(axis=1)
        assert of_seeds(levels) == pytest.approx(right.tolist(), abs=0.51)
        assert of_seeds(dice) == pytest.approx((100 * by_seed["dice"].mean()).tolist(), abs=0.051)
        assert int(seconds) == pytest.approx(float(seconds_per_step[arm]) * int(steps), abs=1)
