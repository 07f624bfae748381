"""Rows per case, class and view: against nnU-Net, against scores of each slice alone, and what is refused."""

import gzip
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_cafr.evaluation.junctions import junction_band
from nnunetv2_cafr.evaluation.means import nnunet_means
from nnunetv2_cafr.evaluation.overlap import overlap
from nnunetv2_cafr.evaluation.reading import CasePair, label_table
from nnunetv2_cafr.evaluation.scores import (
    CLASS_COLUMNS,
    DISTANCES,
    LEVEL_COLUMNS,
    METRICS,
    REFERENCE_CHECKSUMS,
    Evaluation,
)
from nnunetv2_cafr.evaluation.scoring import EvaluationError, evaluate_folders
from nnunetv2_cafr.evaluation.surface import surface_scores
from nnunetv2_cafr.files import sha256

from .conftest import SPACING, write_labels

MakePairs = Callable[..., list[CasePair]]
LETTERS = {1: "a", 2: "b", 3: "c"}
SPINE = {1: "S", 2: "L5", 3: "L4", 11: "L5/S", 12: "L4/L5"}


def blobs(seed: int, labels: int = 4, shape: tuple[int, ...] = (3, 16, 14)) -> np.ndarray:
    """Random labels in blocks of 2 x 2, more than half of them background."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, labels, (shape[0], shape[1] // 2, shape[2] // 2))
    drawn[rng.random(drawn.shape) < 0.5] = 0
    return np.kron(drawn, np.ones((1, 2, 2), int))


def evaluate(pairs: list[CasePair], names: dict = LETTERS, **options: float) -> Evaluation:
    return evaluate_folders(pairs, names, num_processes=1, progress=False, **options)


def test_overlaps_are_those_of_nnunets_summary(make_pairs: MakePairs, tmp_path) -> None:
    cases = {str(seed): (blobs(seed, 5), blobs(seed + 100)) for seed in range(4)}  # 4 is the ignore label
    cases["3"][0][cases["3"][0] == 2] = 0  # only predicted
    for labels in cases["2"]:
        labels[labels == 3] = 0  # in neither
    cases["1"][1][cases["1"][1] == 1] = 0  # missed
    pairs = make_pairs(cases)
    table = label_table({"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4})
    evaluation = evaluate(pairs, table)
    folders = [str(tmp_path / name) for name in ("references", "predictions")]
    theirs = compute_metrics_on_folder(*folders, None, SimpleITKIO(), ".nii.gz", [1, 2, 3], 4, num_processes=1)

    rows = evaluation.classes.query("view == 'volume'").set_index(["case", "label"])
    assert len(rows) == 4 * 3
    for case in theirs["metric_per_case"]:
        name = case["reference_file"].rsplit("/", 1)[1].removesuffix(".nii.gz")
        for label, metrics in case["metrics"].items():
            np.testing.assert_equal(
                rows.loc[(name, label), ["dice", "iou"]].tolist(), [metrics["Dice"], metrics["IoU"]]
            )
    for metric, name in (("dice", "Dice"), ("iou", "IoU")):
        per_class, foreground = nnunet_means(evaluation, metric)
        assert per_class.tolist() == pytest.approx([theirs["mean"][label][name] for label in (1, 2, 3)], rel=1e-12)
        assert foreground == pytest.approx(theirs["foreground_mean"][name], rel=1e-12)


def test_regions_are_unions_as_in_nnunet(make_pairs: MakePairs) -> None:
    (pair,) = make_pairs({"x": (blobs(0), blobs(1))})
    table = label_table({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "c": 3})
    assert table == {(1, 2, 3): "whole", (2, 3): "core", 3: "c"}
    evaluation = evaluate([pair], table)
    theirs = compute_metrics(str(pair.reference), str(pair.prediction), SimpleITKIO(), list(table))["metrics"]
    volume = evaluation.classes.query("view == 'volume'")
    assert volume["label"].tolist() == ["(1, 2, 3)", "(2, 3)", 3]
    assert volume["dice"].tolist() == [theirs[region]["Dice"] for region in table]
    assert volume["iou"].tolist() == [theirs[region]["IoU"] for region in table]
    foreground = evaluation.classes.query("view == 'foreground'")
    assert foreground[list(METRICS)].values.tolist() == volume[list(METRICS)].values[:1].tolist()


@pytest.mark.parametrize("axis", range(3))
def test_slices_lie_across_the_largest_spacing(axis: int, make_pairs: MakePairs) -> None:
    reference, prediction = np.moveaxis(blobs(2), 0, axis), np.moveaxis(blobs(3), 0, axis)
    reference[(slice(None),) * axis + (0,)] = 0  # one slice is only predicted
    spacing = np.insert(SPACING[1:], axis, SPACING[0])
    evaluation = evaluate(make_pairs({"x": (reference, prediction)}, spacing), tolerance_mm=0.8)
    for _, row in evaluation.classes.query("view == 'slices'").iterrows():
        scores = []
        for index in range(3):
            r, p = ((labels == row["label"]).take(index, axis) for labels in (reference, prediction))
            scores.append(overlap(r, p)._asdict() | surface_scores(r, p, SPACING[1:], 0.8)._asdict())
        table = pd.DataFrame(scores)
        assert table["dice"].iloc[0] == 0 and math.isinf(table["hd_mm"].iloc[0])
        for metric in METRICS:
            values = table[metric][1:] if metric in DISTANCES else table[metric]
            assert row[metric] == pytest.approx(values.mean()), metric


def test_volume_is_scored_in_mm(make_pairs: MakePairs) -> None:
    reference = np.zeros((5, 30, 30), int)
    reference[1:4, 8:20, 8:20] = 2
    (row,) = (
        evaluate(make_pairs({"x": (reference, np.roll(reference, 1, 0))}))
        .classes.query("view == 'volume' and label == 2")
        .to_dict("records")
    )
    assert row["hd_mm"] == 4.5
    assert row["reference_mm3"] == 3 * 12 * 12 * np.prod(SPACING)
    assert row["dice"] == pytest.approx(2 / 3)
    assert (row["case"], row["patient"], row["name"]) == ("x", "patient of x", "b")


def test_what_is_absent(make_pairs: MakePairs) -> None:
    reference, prediction = np.zeros((2, 3, 8, 8), int)
    reference[0, 2:5, 2:5] = 1
    prediction[1, 2:5, 2:5] = 2
    classes = evaluate(make_pairs({"x": (reference, prediction)})).classes
    for view in ("volume", "slices"):
        missed, false, absent = classes[classes["view"] == view][list(METRICS)].values
        assert missed.tolist() == false.tolist() == [0, 0, 0, math.inf, math.inf, math.inf]
        assert np.isnan(absent).all()


def test_a_class_in_no_common_slice(make_pairs: MakePairs) -> None:
    reference = np.zeros((4, 8, 8), int)
    reference[:2, 2:6, 2:6] = 1
    classes = evaluate(make_pairs({"x": (reference, np.roll(reference, 2, 0))})).classes
    slices = classes.query("view == 'slices' and label == 1").iloc[0]
    assert slices[list(METRICS)].tolist() == [0, 0, 0, math.inf, math.inf, math.inf]
    assert classes.query("view == 'volume' and label == 1").iloc[0]["hd_mm"] == 9.0


def test_an_image_of_one_slice_is_flat(make_pairs: MakePairs, tmp_path) -> None:
    reference, prediction = blobs(4)[:1], blobs(5)[:1]
    classes = evaluate(make_pairs({"x": (reference, prediction)})).classes
    volume, slices = (classes[classes["view"] == view][list(METRICS)].values for view in ("volume", "slices"))
    np.testing.assert_array_equal(volume, slices)
    expected = surface_scores(reference[0] == 1, prediction[0] == 1, SPACING[1:], 1.0)
    row = classes.iloc[0]
    assert row[["hd_mm", "hd95_mm", "assd_mm", "nsd"]].tolist() == list(expected)
    assert row["reference_mm3"] == pytest.approx((reference == 1).sum() * 0.375)
    png = evaluate(make_pairs({"x": (reference[0], prediction[0])}, SPACING[1:], ".png")).classes
    assert png["dice"].tolist() == classes["dice"].tolist()


@pytest.mark.parametrize("slices", [1, 3, 4, 5])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd", ".mhd"])
def test_few_slices_are_no_colours(ending: str, slices: int, make_pairs: MakePairs) -> None:
    """nnU-Net's reader of pictures takes an .mha or .nrrd whose first or last axis has 3 or 4 voxels for a picture."""
    labels = blobs(1, shape=(slices, 16, 14))
    scores = evaluate(make_pairs({"a": (labels, labels)}, ending=ending))
    assert (scores.classes["dice"] == 1).all()


def test_a_tif_may_hold_a_volume(tmp_path) -> None:
    """nnU-Net has two readers of this ending, one of them for pictures alone."""
    labels = blobs(1, shape=(5, 16, 14)).astype(np.uint8)
    for name in ("reference.tif", "prediction.tif"):
        tifffile.imwrite(tmp_path / name, labels)
    scores = evaluate([CasePair("x", "x", tmp_path / "reference.tif", tmp_path / "prediction.tif")])
    assert (scores.classes["dice"] == 1).all()


def test_a_file_without_reader_is_refused_by_name(make_pairs: MakePairs) -> None:
    labels = blobs(1)
    with pytest.raises(EvaluationError, match=r"a: nnU-Net has no reader for .*a\.vtk: give label maps as"):
        evaluate(make_pairs({"a": (labels, labels)}, ending=".vtk"))


def test_levels_and_junctions_of_a_spine(make_pairs: MakePairs) -> None:
    rows = np.repeat([0, 3, 12, 2, 11, 1, 0], (4, 24, 8, 24, 8, 24, 4))
    reference = np.broadcast_to(rows[None, :, None], (3, len(rows), 10)) * (np.arange(10) > 2)
    prediction = np.roll(reference, 3, axis=1)
    raised = np.select([reference == 1, reference == 2], [2, 3], 0)  # the levels that there are, one too high
    evaluation = evaluate(make_pairs({"moved": (reference, prediction), "raised": (reference, raised)}), SPINE)

    band = junction_band(reference, SPACING, SPINE)
    junctions = evaluation.classes.query("view == 'junctions' and case == 'moved'").set_index("label")
    assert junctions.index.tolist() == sorted(SPINE)
    for label, row in junctions.iterrows():
        masks = [labels[band] == label for labels in (reference, prediction)]
        assert row[["dice", "iou"]].tolist() == list(overlap(*masks))
        assert row["reference_mm3"] == masks[0].sum() * np.prod(SPACING)
        assert row[[*DISTANCES, "nsd"]].isna().all()
    volume = evaluation.classes.query("view == 'volume' and case == 'moved'").set_index("label")
    assert volume["dice"].tolist() == [0.875, 0.875, 0.875, 0.625, 0.625]
    assert junctions["dice"].tolist() == pytest.approx([6 / 9, 9 / 12, 6 / 7.5, 0.625, 0.625])

    assert tuple(evaluation.levels) == LEVEL_COLUMNS
    moved, raised_levels = evaluation.levels.to_dict("records")
    assert moved["diagonal_mm"] == pytest.approx(math.hypot(3 * 4.5, len(rows) * 0.5, 10 * 0.75))
    assert (moved["vertebrae"], moved["right_level"], moved["all_right"]) == (3, 3, 1)
    assert (moved["structures"], moved["own_label_wins"]) == (5, 5)
    assert raised_levels["own_label_wins"] == 0
    assert (raised_levels["found"], raised_levels["shifted_up"], raised_levels["all_right"]) == (2, 2, 0)


def test_labels_that_are_no_levels_have_neither(make_pairs: MakePairs) -> None:
    evaluation = evaluate(make_pairs({"x": (blobs(0), blobs(1))}))
    assert set(evaluation.classes["view"]) == {"volume", "slices", "foreground"}
    assert tuple(evaluation.classes) == CLASS_COLUMNS
    assert evaluation.levels[list(LEVEL_COLUMNS[3:])].isna().all(axis=None)


def test_scores_of_an_earlier_version_are_refused(make_pairs: MakePairs, tmp_path) -> None:
    evaluation = evaluate(make_pairs({"x": (blobs(0), blobs(1))}))
    replace(evaluation, levels=evaluation.levels.drop(columns="structures")).write(tmp_path / "old")
    with pytest.raises(ValueError, match=r"levels.csv lacks structures.*score them again"):
        Evaluation.read(tmp_path / "old")


def test_files_and_processes_change_nothing(make_pairs: MakePairs, tmp_path) -> None:
    pairs = make_pairs({f"{number:03d}": (blobs(number), blobs(number + 50)) for number in range(3)})
    pairs[0] = replace(pairs[0], patient="NA")
    alone = evaluate(pairs, tolerance_mm=0.6)
    together = evaluate_folders(pairs, LETTERS, tolerance_mm=0.6, num_processes=2, progress=False)
    together.write(tmp_path / "out")
    together.write(tmp_path / "out")
    read = Evaluation.read(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "classes.csv",
        "evaluation.json",
        "level_shifts.csv",
        "levels.csv",
    ]
    for other in (together, read):
        pd.testing.assert_frame_equal(alone.classes, other.classes)
        pd.testing.assert_frame_equal(alone.levels.astype(other.levels.dtypes), other.levels)
        assert alone.settings == other.settings
    assert alone.settings["tolerance_mm"] == 0.6
    assert alone.settings[REFERENCE_CHECKSUMS] == {pair.reference.name: sha256(pair.reference) for pair in pairs}
    assert set(METRICS) <= {word for key in alone.settings["definitions"] for word in key.split(", ")}


def test_the_same_place_in_another_voxel_order(make_pairs: MakePairs) -> None:
    (pair,) = make_pairs({"case": (blobs(0), blobs(1))})
    image = sitk.ReadImage(str(pair.prediction))
    expected = evaluate([pair]).classes
    assert 0 < expected["dice"].dropna().iloc[0] < 1
    for order in ("RAS", "SPL", "AIR"):
        sitk.WriteImage(sitk.DICOMOrient(image, order), str(pair.prediction))
        pd.testing.assert_frame_equal(evaluate([pair]).classes, expected)
    turned = sitk.DICOMOrient(image, "RAS")
    turned.SetOrigin(np.add(turned.GetOrigin(), (0, 0, 0.5)))
    sitk.WriteImage(turned, str(pair.prediction))
    with pytest.raises(EvaluationError, match=r"different grids.*origin"):
        evaluate([pair])


def test_what_cannot_be_compared_is_refused_by_name(make_pairs: MakePairs, tmp_path) -> None:
    good, bad = make_pairs({"good": (blobs(0), blobs(1)), "bad": (blobs(2), blobs(3))})
    labels = blobs(3).astype(np.uint8)

    write_labels(bad.prediction, labels, (4.5, 0.5, 1))
    with pytest.raises(
        EvaluationError, match=r"^bad: .*references/bad\.nii\.gz and .*predictions.*0\.75\) and .*, 1\)"
    ):
        evaluate([good, bad])
    with pytest.raises(EvaluationError, match=r"^bad: .*different grids"):
        evaluate_folders([good, bad], LETTERS, num_processes=2, progress=False)
    write_labels(bad.prediction, labels[:, 1:])
    with pytest.raises(EvaluationError, match=r"shape \(3, 16, 14\) and \(3, 15, 14\)"):
        evaluate([bad])
    image = sitk.ReadImage(str(bad.reference))
    image.SetOrigin((0, 5, 0))
    sitk.WriteImage(image, str(bad.prediction))
    with pytest.raises(EvaluationError, match=r"origin \(0, 0, 0\) and \(0, 5, 0\)"):
        evaluate([bad])
    image.SetOrigin((0, 0, 0))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(bad.prediction))
    with pytest.raises(EvaluationError, match="direction"):
        evaluate([bad])

    write_labels(bad.prediction, labels + np.uint8(1))
    with pytest.raises(EvaluationError, match=r"predictions/bad\.nii\.gz holds \(4\), but the labels are \(1, 2, 3\)"):
        evaluate([bad])
    with pytest.raises(EvaluationError, match=r"holds \(4\)"):  # nnU-Net predicts no ignore label
        evaluate([bad], {**LETTERS, 4: "ignore"})
    write_labels(bad.prediction, labels + np.float32(0.5))
    with pytest.raises(EvaluationError, match="no integers"):
        evaluate([bad])

    noise = np.random.default_rng(0).integers(0, 4, labels.shape, dtype=np.uint8)
    write_labels(bad.prediction, noise)
    whole = bad.prediction.read_bytes()
    assert len(gzip.decompress(whole)) > noise.size
    bad.prediction.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EvaluationError, match="cannot be read"):
        evaluate([bad])


def test_a_coloured_picture_is_no_label_map(tmp_path) -> None:
    pair = CasePair("x", "x", tmp_path / "reference.png", tmp_path / "prediction.png")
    grey = sitk.GetImageFromArray(blobs(0)[0].astype(np.uint8))
    sitk.WriteImage(grey, pair.reference)
    sitk.WriteImage(sitk.Compose([grey] * 3), pair.prediction)
    with pytest.raises(EvaluationError, match=r"prediction\.png has 3 channels"):
        evaluate([pair])


def test_what_is_missing_is_listed(make_pairs: MakePairs) -> None:
    pairs = make_pairs({name: (blobs(0), blobs(1)) for name in "abc"})
    pairs[0].prediction.unlink()
    pairs[2].reference.unlink()
    with pytest.raises(FileNotFoundError, match=r"2 files are missing:\n.*predictions/a\.nii\.gz\n.*references/c\.nii"):
        evaluate(pairs)
    with pytest.raises(ValueError, match="several times: b"):
        evaluate([pairs[1], pairs[1]])
    with pytest.raises(ValueError, match="Nothing to score"):
        evaluate([])
    with pytest.raises(ValueError, match="0 classes"):
        evaluate([pairs[1]], {4: "ignore"})
