"""`load_model` in Python: the label maps of the command line, from a file, an image and an array."""

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_cafr import load_model
from nnunetv2_cafr.deployment.model import Prediction
from nnunetv2_cafr.measurements.label_map import LabelMap
from nnunetv2_cafr.measurements.study import measure
from nnunetv2_cafr.phantom import make_case
from nnunetv2_cafr.spine import read_spine

from ..verbs import run_verb
from .untrained import Models


@pytest.mark.parametrize("given", ["file", "image", "array"])
def test_same_label_map_as_the_command(cafr, models: Models, tmp_path, given):
    file = models.images / "case0_0000.nii.gz"
    run_verb("predict", "-m", cafr[1], "-i", file, "-o", tmp_path / "labels.nii.gz", "--threads", 1)
    expected = sitk.ReadImage(tmp_path / "labels.nii.gz")
    model = load_model(cafr[1], threads=1)
    image = sitk.ReadImage(file)
    if given == "array":
        order = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
        found = model.predict(sitk.GetArrayFromImage(image), spacing=image.GetSpacing()[::-1], voxel_order=order)
    else:
        found = model.predict(file if given == "file" else image)
        assert found.labels.GetOrigin() == pytest.approx(expected.GetOrigin())
    assert found.labels.GetSpacing() == pytest.approx(expected.GetSpacing())
    assert found.labels.GetDirection() == pytest.approx(expected.GetDirection())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.labels), sitk.GetArrayFromImage(expected))
    assert found.names["background"] == 0 and found.decoding is None


def test_refused_by_an_error_that_can_be_caught(cafr, models: Models, tmp_path):
    with pytest.raises(ValueError, match=r"There is no nope\.onnx"):
        load_model("nope.onnx")
    model = load_model(cafr[1], threads=1)
    volume = np.zeros((4, 20, 20), np.float32)
    with pytest.raises(ValueError, match="nobody knows where up is"):
        model.predict(volume, spacing=(4, 1, 1))
    with pytest.raises(ValueError, match="'PIX'; expected three letters"):
        model.predict(volume, spacing=(4, 1, 1), voxel_order="PIX")
    with pytest.raises(ValueError, match="an image or a file has its own"):
        model.predict(models.images / "case0_0000.nii.gz", spacing=(4, 1, 1))
    volume[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.predict(volume, spacing=(4, 1, 1), voxel_order="PIR")
    with pytest.raises(ValueError, match="name 0 levels of a spine"):
        model.predict(models.images / "case0_0000.nii.gz", levels=True)


def test_measurements_of_a_prediction():
    labels = sitk.Cast(make_case(1, size=(96, 80, 8))[1], sitk.sitkUInt8)
    names = {"background": 0, "S": 1, "L5": 2, "L4": 3, "L3": 4, "L2": 5, "L1": 6}
    kept = sitk.Mask(labels, sitk.BinaryThreshold(labels, 1, 6))
    assert Prediction(kept, names).measure() == measure(LabelMap.of(kept), read_spine(names))
    with pytest.raises(ValueError, match="single slice"):
        Prediction(kept[:, :, 4:5], names).measure()
