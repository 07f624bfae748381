"""Every policy for absent and missed classes, on a table small enough to do it by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from nnunetv2_cafr.evaluation import means
from nnunetv2_cafr.evaluation.scores import CLASS_COLUMNS, LEVEL_COLUMNS, Evaluation

INF, NAN = math.inf, math.nan
DIAGONAL = {"one": 100.0, "two": 200.0}
# case, name: reference_mm3, prediction_mm3, dice, hd95_mm
ROWS = {
    ("one", "S"): (10, 8, 0.8, 2.0),
    ("one", "L5"): (10, 0, 0.0, INF),  # missed
    ("one", "L4"): (0, 5, 0.0, INF),  # false
    ("one", "L5/S"): (0, 0, NAN, NAN),  # absent
    ("two", "S"): (10, 9, 0.9, 1.0),
    ("two", "L5"): (10, 9, 0.7, 3.0),
    ("two", "L4"): (10, 0, 0.0, INF),
    ("two", "L5/S"): (0, 0, NAN, NAN),
}


@pytest.fixture
def evaluation() -> Evaluation:
    rows = [
        {"case": case, "patient": case, "view": view, "name": name, "reference_mm3": r, "prediction_mm3": p}
        | {"dice": dice, "iou": dice / 2, "nsd": dice, "hd95_mm": hd95, "hd_mm": hd95, "assd_mm": hd95}
        for view in ("slices", "volume")
        for (case, name), (r, p, dice, hd95) in ROWS.items()
        if view == "volume" or name == "S"
    ]
    levels = [
        {"case": "one", "patient": "A", "vertebrae": 4, "found": 3, "right_level": 2, "shifted_up": 1}
        | {"shifted_down": 0, "all_right": 0, "instance_dice": 0.6, "structures": 5, "own_label_wins": 3},
        {"case": "two", "patient": "B", "vertebrae": 6, "found": 6, "right_level": 6, "shifted_up": 0}
        | {"shifted_down": 0, "all_right": 1, "instance_dice": 0.8, "structures": 9, "own_label_wins": 9},
    ]
    levels = [{**row, "diagonal_mm": DIAGONAL[row["case"]]} for row in levels]
    return Evaluation(pd.DataFrame(rows, columns=CLASS_COLUMNS), pd.DataFrame(levels, columns=LEVEL_COLUMNS), {})


@pytest.mark.parametrize(
    ("metric", "policy", "one", "two"),
    [
        ("dice", "present", (0.8 + 0) / 2, (0.9 + 0.7 + 0) / 3),
        ("dice", "all", (0.8 + 0 + 0 + 1) / 4, (0.9 + 0.7 + 0 + 1) / 4),
        ("dice", "found", 0.8, (0.9 + 0.7) / 2),
        ("hd95_mm", "present", (2 + 100) / 2, (1 + 3 + 200) / 3),
        ("hd95_mm", "all", (2 + 100 + 100 + 0) / 4, (1 + 3 + 200 + 0) / 4),
        ("hd95_mm", "found", 2, (1 + 3) / 2),
        ("iou", "present", 0.4 / 2, 0.8 / 3),
        ("nsd", "all", (0.8 + 0 + 0 + 1) / 4, (0.9 + 0.7 + 0 + 1) / 4),
        ("assd_mm", "found", 2, 2),
        ("hd_mm", "present", 51, 68),
    ],
)
def test_policies(evaluation: Evaluation, metric: str, policy: means.Policy, one: float, two: float) -> None:
    values = means.per_case(evaluation, metric, policy)
    assert values.index.tolist() == ["one", "two"]
    assert values.tolist() == pytest.approx([one, two])


def test_subsets_and_views(evaluation: Evaluation) -> None:
    assert means.per_case(evaluation, "dice", "present", ["L4"]).tolist() == pytest.approx([NAN, 0], nan_ok=True)
    assert means.per_case(evaluation, "dice", "found", view="slices").tolist() == [0.8, 0.9]
    assert means.low_contrast_names(evaluation) == ("S", "L5", "L4", "L5/S")
    both = Evaluation(evaluation.classes.replace({"name": {"L5/S": "S1"}}), evaluation.levels, {})
    assert means.low_contrast_names(both) == ("S", "S1", "L5", "L4")
    others = Evaluation(evaluation.classes.replace({"name": {"L4": "canal"}}), evaluation.levels, {})
    assert means.low_contrast_names(others) == ()
    for wrong in (("dixe", "present"), ("dice", "absent")):
        with pytest.raises(ValueError, match="expected one of"):
            means.per_case(evaluation, *wrong)  # type: ignore[arg-type]


def test_nnunets_mean_is_over_classes(evaluation: Evaluation) -> None:
    per_class, foreground = means.nnunet_means(evaluation, "dice")
    assert per_class.to_dict() == pytest.approx({"S": 0.85, "L5": 0.35, "L4": 0, "L5/S": NAN}, nan_ok=True)
    assert math.isnan(foreground), "as np.mean in nnU-Net, where no case holds L5/S"
    held = Evaluation(evaluation.classes[evaluation.classes["name"] != "L5/S"], evaluation.levels, {})
    assert means.nnunet_means(held, "dice")[1] == pytest.approx((0.85 + 0.35 + 0) / 3)
    with pytest.raises(ValueError, match="hd_mm"):
        means.nnunet_means(evaluation, "hd_mm")


def test_class_table(evaluation: Evaluation) -> None:
    table = means.class_table(evaluation)
    assert table.index.tolist() == ["S", "L5", "L4", "L5/S"]
    assert table[["cases", "missed", "false"]].values.tolist() == [[2, 0, 0], [2, 1, 0], [1, 1, 1], [0, 0, 0]]
    np.testing.assert_allclose(table["dice"], [0.85, 0.35, 0, NAN])
    np.testing.assert_allclose(table["hd95_mm"], [1.5, 3, NAN, NAN])


def test_level_summary(evaluation: Evaluation) -> None:
    expected = {"vertebrae": 10, "found": 0.9, "right_level": 0.8, "shifted_up": 0.1, "shifted_down": 0}
    expected |= {"instance_dice": 0.7, "patients": 2, "patients_all_right": 0.5}
    assert means.level_summary(evaluation) == pytest.approx(expected)
    one_patient = Evaluation(evaluation.classes, evaluation.levels.assign(patient="A"), {})
    assert means.level_summary(one_patient)["patients_all_right"] == 0
    no_spine = Evaluation(evaluation.classes, evaluation.levels.assign(vertebrae=NAN), {})
    assert means.level_summary(no_spine) == {}
