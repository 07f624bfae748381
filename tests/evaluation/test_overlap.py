"""Dice against a slow twin, closed forms and nnU-Net's own summary."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_cafr.evaluation.overlap import score_case, score_folders


def write(path: Path, labels: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(labels.astype(np.uint8)), str(path))
    return path


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_voxel_sets_and_with_nnunet(seed, tmp_path):
    rng = np.random.default_rng(seed)
    reference, prediction = rng.integers(0, 5, (2, 3, 6, 7))
    reference[reference == 4] = 0  # label 4 is only predicted
    score = score_case("case", reference, prediction)

    for label in (1, 2, 3):
        r, p = ({tuple(i) for i in np.argwhere(labels == label)} for labels in (reference, prediction))
        assert score.dice[label] == pytest.approx(2 * len(r & p) / (len(r) + len(p)))
    r, p = reference > 0, prediction > 0
    assert score.foreground_dice == pytest.approx(2 * (r & p).sum() / (r.sum() + p.sum()))
    assert 4 not in score.dice

    files = [str(write(tmp_path / name, a)) for name, a in (("r.nii.gz", reference), ("p.nii.gz", prediction))]
    theirs = compute_metrics(*files, SimpleITKIO(), [1, 2, 3])["metrics"]
    assert score.present_class_dice == pytest.approx(np.mean([theirs[label]["Dice"] for label in (1, 2, 3)]))


def test_closed_forms():
    labels = np.zeros((4, 4), dtype=int)
    labels[:2] = 3
    assert score_case("same", labels, labels).dice == {3: 1.0}
    shifted = score_case("wrong level", labels, np.where(labels == 3, 2, 0))
    assert shifted.dice == {3: 0.0}
    assert shifted.foreground_dice == 1.0
    empty = score_case("empty", np.zeros_like(labels), np.zeros_like(labels))
    assert np.isnan(empty.foreground_dice)
    assert np.isnan(empty.present_class_dice)


def test_folders_name_what_is_missing(tmp_path):
    references, predictions = tmp_path / "r", tmp_path / "p"
    references.mkdir()
    predictions.mkdir()
    with pytest.raises(FileNotFoundError, match="No reference"):
        list(score_folders(references, predictions))
    write(references / "a.nii.gz", np.ones((2, 2, 2)))
    with pytest.raises(FileNotFoundError, match=r"a\.nii\.gz"):
        list(score_folders(references, predictions))
    write(predictions / "a.nii.gz", np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match="shape"):
        list(score_folders(references, predictions))
