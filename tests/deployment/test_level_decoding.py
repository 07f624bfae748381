"""Decoding while predicting sees what decoding with all probabilities sees."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cafr.deployment.level_decoding import LevelDecoder
from nnunetv2_cafr.deployment.orders import ORDER_READ
from nnunetv2_cafr.levels.decoding import FIELD_OF_VIEW, Evidence, decode
from nnunetv2_cafr.levels.files import TABLE_FILE, grid_of
from nnunetv2_cafr.phantom import make_case
from nnunetv2_cafr.voxel_order import order_of, turned

from ..levels.drawn import LABELS
from ..verbs import run_verb
from .untrained import Models


class _Description:
    def __init__(self, transpose: list[int], voxel_order: str | None = None) -> None:
        self.dataset_json = {"labels": LABELS}
        self.voxel_order = voxel_order
        self.training_heights = (1000.0, 1000.0)  # mm, more than any scan here shows
        self.plans = PlansManager({"transpose_backward": transpose})


@pytest.mark.parametrize("transpose", [[0, 1, 2], [1, 2, 0]])
@pytest.mark.parametrize("by_slice", [True, False])
def test_sampled_logits_decode_as_all_probabilities_do(transpose, by_slice):
    """Labels are shifted in the middle, which the labels alone say with less confidence than the logits."""
    _, mask = make_case(1, size=(128, 96, 8))
    truth = sitk.GetArrayFromImage(mask).astype(np.uint8)
    geometry = {"direction": mask.GetDirection(), "spacing": mask.GetSpacing(), "origin": mask.GetOrigin()}
    wrong = truth.copy()
    for label in (*range(5, 9), *range(14, 18)):
        wrong[truth == label] = label - 1
    probabilities = np.stack([0.55 * (wrong == label) + 0.449 * (truth == label) for label in range(20)]) + 5e-5
    spine = LevelDecoder(_Description([0, 1, 2])).spine  # type: ignore[arg-type]
    expected = decode(wrong, spine, grid_of({"sitk_stuff": geometry}), Evidence.of_volume(wrong, probabilities))
    assert expected.changed
    assert decode(wrong, spine, grid_of({"sitk_stuff": geometry})).confidence < expected.confidence - 0.1

    forward = [transpose.index(axis) for axis in range(3)]
    # The image has a border that was cropped away; the network's grid is half as fine, which blurs probabilities.
    cropped = wrong[:, 10:].transpose(forward)
    logits = torch.from_numpy(np.log(probabilities[:, :, 10:]).transpose(0, *(axis + 1 for axis in forward)).copy())
    logits = torch.nn.functional.avg_pool3d(logits.float(), (1, 2, 2)).half()
    decoder = LevelDecoder(_Description(transpose))  # type: ignore[arg-type]
    labels = torch.from_numpy(cropped.copy())
    for slab in range(len(cropped)) if by_slice else [slice(None)]:
        one = slice(slab, slab + 1) if by_slice else slab
        decoder.see(logits[:, one], labels[one])
    box = [[0, size] for size in wrong.shape]
    box[1][0] = 10
    properties = {"bbox_used_for_cropping": [box[axis] for axis in forward], "sitk_stuff": geometry}
    found = decoder.decode(wrong, properties)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.confidence == pytest.approx(expected.confidence, abs=0.1)


@pytest.mark.parametrize("order", ["RAS", "PIR", "SLA"])
def test_up_and_back_of_a_turned_scan(order):
    """A swap is repaired, and a belly's island taken out, in the voxel order that the network predicts in."""
    _, mask = make_case(1, size=(128, 96, 8))
    truth = sitk.GetArrayFromImage(mask).astype(np.uint8)
    geometry = {"direction": mask.GetDirection(), "spacing": mask.GetSpacing(), "origin": mask.GetOrigin()}
    stored = order_of({"sitk_stuff": geometry})
    assert stored is not None
    wrong = truth.copy()
    wrong[truth == 4], wrong[truth == 5] = 5, 4
    wrong[3:5, 30:40, 4:12] = 5
    labels = turned(wrong, stored, order)
    decoder = LevelDecoder(_Description([0, 1, 2], order))  # type: ignore[arg-type]
    decoder.see(torch.from_numpy(np.stack([8.0 * (labels == label) for label in range(20)])), torch.from_numpy(labels))
    properties = {
        "bbox_used_for_cropping": [[0, size] for size in labels.shape], "sitk_stuff": geometry, ORDER_READ: stored
    }  # fmt: skip
    found = decoder.decode(labels, properties)
    np.testing.assert_array_equal(turned(found.labels, order, stored), truth)
    height = mask.GetSpacing()[1] * mask.GetSize()[1]
    assert list(found.flags) == [FIELD_OF_VIEW] and found.flags[FIELD_OF_VIEW].startswith(f"{height:.0f} mm")


def test_labels_without_order_are_refused(cafr, models: Models, tmp_path):
    with pytest.raises(SystemExit, match="name 0 levels of a spine"):
        run_verb("predict", "-m", cafr[1], "-i", models.images, "-o", tmp_path / "out", "--levels")
    assert not (tmp_path / "out").exists()


def test_verb_writes_table(cafr, models: Models, tmp_path):
    """Three of the network's labels called levels: with random weights there is no row, and that is what it says."""
    description = json.loads(cafr[1].with_suffix(".json").read_text())
    description["dataset_json"]["labels"] = {"background": 0, "L5": 1, "L4": 2, "L3": 3}
    (tmp_path / "model.json").write_text(json.dumps(description))
    (tmp_path / "model.onnx").write_bytes(cafr[1].read_bytes())
    out = tmp_path / "out"
    assert run_verb("predict", "-m", tmp_path / "model.onnx", "-i", models.images, "-o", out, "--levels") == 0
    rows = (out / TABLE_FILE).read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["case", "case0", "case1"]
