"""The README's tables say what the results that are committed say."""

from pathlib import Path

import pandas as pd
import pytest

from nnunetv2_cafr.report.statistics import compare

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SEEDS = (0, 1, 2)
SHIFTS = ["-2", "-1", "0", "+1", "+2", "farther", "missed"]


def table(header: str) -> list[list[str]]:
    """Cells of the rows of the README's table whose header begins so; an empty first cell repeats that above."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(header))
    rows: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        cells[0] = cells[0] or rows[-1][0]
        rows.append(cells)
    return rows


def of_seeds(cell: str) -> list[float]:
    return [float(value) for value in cell.replace("*", "").split(" / ") if value]


def test_dice_on_held_out_patients():
    dice = pd.read_csv(RESULTS / "structure_brightness" / "dice_up_to_3.csv")
    rows = table("| set (patch;")
    assert len(rows) == 4
    for name, arm, _, steps, *cells in rows:
        of_set = dice[dice["set"] == name.split()[0]]
        for column, cell in zip(("dice_vertebrae", "dice_discs"), cells, strict=True):
            if not cell:
                assert of_set[column].isna().all()
                continue
            trainers = [
                f"nnUNetTrainer_{arm.replace('-', '_')}_seed{seed}_budget{int(steps) // 50}x50" for seed in SEEDS
            ]
            means = [100 * of_set.loc[of_set["trainer"] == trainer, column].mean() for trainer in trainers]
            assert of_seeds(cell) == pytest.approx(means, abs=0.051)


def test_levels_and_dice_on_another_collection():
    short = pd.read_csv(RESULTS / "structure_brightness" / "level_shifts_up_to_3.csv")
    short = short[short["scans"] == "another collection"]
    long = pd.read_csv(RESULTS / "another_collection" / "level_shifts_long.csv")
    found = long["trainer"].str.extract(r"(?P<trainer>.*)_seed(?P<seed>\d)_budget(?P<epochs>\d+)x50")
    long = long.assign(trainer=found["trainer"], seed=found["seed"].astype(int), steps=50 * found["epochs"].astype(int))
    short = short.assign(steps=short["trainer"].map({"nnUNetTrainer_CAFR": 1000, "nnUNetTrainer_LevelSafe_AdamW": 450}))
    both = pd.concat([short, long])
    for arm, steps, _, *cells in table("| arm |"):
        rows = both[(both["trainer"] == f"nnUNetTrainer_{arm.replace('-', '_')}") & (both["steps"] == int(steps))]
        printed = dict(zip(("levels", "dice", "levels decoded", "dice decoded"), map(of_seeds, cells), strict=True))
        for label_maps, suffix in (("as predicted", ""), ("level-consistent", " decoded")):
            of_maps = rows[rows["label_maps"] == label_maps].groupby("seed")
            levels = 100 * of_maps["0"].sum() / of_maps[SHIFTS].sum().sum(axis=1)
            assert printed[f"levels{suffix}"] == pytest.approx(levels.tolist(), abs=0.51)
            assert printed[f"dice{suffix}"] == pytest.approx((100 * of_maps["dice"].mean()).tolist(), abs=0.051)


def test_seconds_are_steps_by_the_measured_step():
    of_step = {arm: float(seconds) for _, arm, seconds, *_ in table("| set (patch;")[:2]}
    for arm, steps, seconds, *_ in table("| arm |"):
        assert int(seconds) == pytest.approx(of_step[arm] * int(steps), abs=1)


def test_differences_with_their_intervals():
    dice = pd.read_csv(RESULTS / "structure_brightness" / "dice_up_to_3.csv")
    steps = {("SPIDER", "CAFR"): 20, ("WaterFat", "CAFR"): 16}  # of 50 each; nnU-Net's network: 9
    rows = table("| | difference |")
    assert len(rows) == 3
    for name, difference, bootstrap, _, ahead, p in rows:
        of_set, structures = name.split(", ")
        means = {}
        for arm in ("CAFR", "LevelSafe_AdamW"):
            names = [f"nnUNetTrainer_{arm}_seed{seed}_budget{steps.get((of_set, arm), 9)}x50" for seed in SEEDS]
            rows_of_arm = dice[dice["set"].str.startswith(of_set) & dice["trainer"].isin(names)]
            means[arm] = rows_of_arm.groupby("case")[f"dice_{structures}"].mean()
        found = compare(100 * means["CAFR"], 100 * means["LevelSafe_AdamW"])
        interval = [float(value) for value in bootstrap.split(" to ")]
        assert float(difference) == pytest.approx(found.difference.mean, abs=0.051)
        assert interval == pytest.approx([found.difference.low, found.difference.high], abs=0.051)
        assert ahead == f"{found.higher} of {found.patients}"
        assert float(p) == pytest.approx(found.p, abs=0.00051)
