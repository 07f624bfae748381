"""A scan gives the same labels in whatever order its voxels are stored, on its own grid; else it is refused."""

import json
import shutil
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_cafr.deployment.training_cases import cases_of_training, heights_of, orders_of

from ..verbs import run_verb
from .untrained import Models, nnunet_label_maps, nnunet_predictor, write_image

ORDERS = ["".join(order) for axes in permutations(("PA", "IS", "RL")) for order in product(*axes)]
# Each axis in each of its places and in both directions.
TWELVE = [order for number, order in enumerate(ORDERS) if number % 8 in (number // 8 % 4, 7 - number // 8 % 4)]

FILES = {"file_ending": ".nii.gz"}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> sitk.Image:
    """Few slices, PIR as the cases that the networks were trained on."""
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_image(path, 7, (4, 44, 37))
    return sitk.ReadImage(path)


@pytest.fixture(scope="module")
def reorienting(models: Models) -> tuple[Path, Path]:
    """A network of nnU-Net's own whose cases were turned to RAS by its reader."""
    folder = models.make("Dataset906_Turned", "nnUNetTrainer", "2d", reader="SimpleITKIOWithReorient")
    return folder, models.export(folder, models.root / "turned.onnx")


@pytest.fixture
def predict(tmp_path: Path) -> Callable[..., dict[str, sitk.Image]]:
    """Predicts images by name, without mirroring, which would hide that an axis is reversed."""

    def run(model: Path, images: dict[str, sitk.Image], status: int = 0) -> dict[str, sitk.Image]:
        folder = tmp_path / f"scans{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name, image in images.items():
            sitk.WriteImage(image, folder / f"{name}.nii.gz")
        out = folder / "out"
        assert run_verb("predict", "-m", model, "-i", folder, "-o", out, "--threads", 1, "--disable_tta") == status
        return {path.name.removesuffix(".nii.gz"): sitk.ReadImage(path) for path in out.glob("*.nii.gz")}

    return run


def rotated(image: sitk.Image, degrees: tuple[float, float, float]) -> sitk.Image:
    """The same voxels under a header turned by these angles."""
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), *np.radians(degrees)).GetMatrix(), (3, 3))
    image = sitk.Image(image)
    image.SetDirection((turn @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    return image


def assert_on_grid(labels: sitk.Image, image: sitk.Image) -> None:
    assert labels.GetSize() == image.GetSize()
    for name in ("Spacing", "Origin", "Direction"):
        np.testing.assert_allclose(getattr(labels, f"Get{name}")(), getattr(image, f"Get{name}")(), atol=1e-4)


def assert_same_labels(found: dict[str, sitk.Image], images: dict[str, sitk.Image], back_to: str = "PIR") -> None:
    """Voxel for voxel, and on each scan's own grid."""
    assert found.keys() == images.keys()
    arrays = {name: sitk.GetArrayFromImage(sitk.DICOMOrient(found[name], back_to)) for name in images}
    expected = next(iter(arrays.values()))
    assert np.count_nonzero(np.bincount(expected.ravel()) > 20) > 2  # else there would be nothing to compare
    assert any((expected != np.flip(expected, axis)).mean() > 0.05 for axis in range(3))
    for name, image in images.items():
        assert_on_grid(found[name], image)
        np.testing.assert_array_equal(arrays[name], expected, err_msg=name)


@pytest.mark.parametrize(
    ("network", "trained_in", "orders"),
    [("cafr", "PIR", ORDERS), ("reorienting", "RAS", TWELVE)],
    ids=["cafr", "reorienting"],
)
def test_all_orders(network, trained_in, orders, scan, predict, request):
    """The first network's plans name a reader that turns nothing; before the second nnU-Net's turns every scan."""
    model = request.getfixturevalue(network)[1]
    assert json.loads(model.with_suffix(".json").read_text())["voxel_order"] == trained_in
    images = {order: sitk.DICOMOrient(scan, order) for order in ("PIR", *(set(orders) - {"PIR"}))}
    images |= {f"oblique {order}": rotated(sitk.DICOMOrient(scan, order), (17, -12, 9)) for order in ("PIR", "LAS")}
    assert_same_labels(predict(model, images), images)


def test_same_label_maps_as_nnunets_own_reorienting_reader(reorienting, scan, predict, tmp_path):
    images = {"PIR": scan, "LAS": sitk.DICOMOrient(scan, "LAS"), "ASR": sitk.DICOMOrient(scan, "ASR")}
    cases = {}
    for name, image in images.items():
        cases[name] = [tmp_path / f"{name}_0000.nii.gz"]
        sitk.WriteImage(image, cases[name][0])
    expected = nnunet_label_maps(nnunet_predictor(reorienting[0], use_mirroring=False), cases, tmp_path / "nnunet")
    assert_same_labels(expected, images)
    found = predict(reorienting[1], images)
    for name in images:
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(maps[name]) for maps in (found, expected)))


@pytest.mark.parametrize("network", ["cafr", "reorienting"])
def test_a_single_slice_on_any_axis(network, scan, predict, request):
    single = scan[:, :, 2:3]
    images = {order: sitk.DICOMOrient(single, order) for order in ("PIR", "RPI", "SRA", "LPS")}
    assert images["RPI"].GetSize()[0] == images["SRA"].GetSize()[1] == 1
    assert_same_labels(predict(request.getfixturevalue(network)[1], images), images)


def described(model: Path, target: Path, **changes: object) -> Path:
    """A copy of an exported network with another description."""
    shutil.copy(model, target)
    content = {**json.loads(model.with_suffix(".json").read_text()), **changes}
    target.with_suffix(".json").write_text(json.dumps(content))
    return target


def test_channels_in_different_orders(regions, scan, predict, tmp_path, capsys):
    model = described(regions[1], tmp_path / "model.onnx", voxel_order="PIR", training_voxel_orders={"PIR": 2})
    other = sitk.Cast(scan * scan / 300, scan.GetPixelID())
    pairs = {
        "a": (scan, other),
        "b": (scan, sitk.DICOMOrient(other, "SAL")),
        "c": (sitk.DICOMOrient(scan, "LPS"), other),
    }
    stretched = sitk.Image(other)
    stretched.SetSpacing((0.7, 0.8, 5))
    images = {f"{name}_000{k}": image for name, pair in pairs.items() for k, image in enumerate(pair)}
    found = predict(model, {**images, "d_0000": scan, "d_0001": stretched}, status=1)
    assert_same_labels(found, {name: pair[0] for name, pair in pairs.items()})
    assert "find the channel that belongs to it" in capsys.readouterr().out


def test_header_with_two_orientations(cafr, models: Models, scan, predict, tmp_path, capsys):
    """It fails by name, the other study does not."""
    sitk.WriteImage(scan, tmp_path / "scan.nii.gz")
    image = nibabel.load(tmp_path / "scan.nii.gz")
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.affine, code=1)  # mirrored left to right
    folder = tmp_path / "scans"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), None, image.header), folder / "mirrored.nii")
    shutil.copy(tmp_path / "scan.nii.gz", folder)
    assert run_verb("predict", "-m", cafr[1], "-i", folder, "-o", tmp_path / "out", "--threads", 1) == 1
    assert "PIL by the qform, PIR by the sform" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["scan.nii.gz"]


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"voxel_order": None, "training_voxel_orders": {}}, "it is not known in which voxel order"),
        ({"voxel_order": None, "training_voxel_orders": {"PIR": 3, "LPS": 1}}, r"PIR (3 cases), LPS (1 cases)"),
    ],
)
def test_where_the_order_is_unknown_scans_are_taken_as_they_are(
    cafr, scan, predict, tmp_path, capsys, changes, warning
):
    model = described(cafr[1], tmp_path / "model.onnx", **changes)
    found = predict(model, {"PIR": scan, "AIR": sitk.DICOMOrient(scan, "AIR")})
    assert warning in capsys.readouterr().out
    arrays = [sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "PIR")) for labels in found.values()]
    assert (arrays[0] != arrays[1]).mean() > 0.05


def test_orders_and_heights_of_training_from_whatever_is_there(models: Models, scan, tmp_path, monkeypatch):
    validation = tmp_path / "fold_0" / "validation"
    validation.mkdir(parents=True)
    for number, order in enumerate(("PIR", "PIR", "LAS")):
        sitk.WriteImage(sitk.DICOMOrient(scan, order), validation / f"{number}.nii.gz")
    (validation / "summary.json").write_text("{}")

    def cases():
        return cases_of_training({"dataset_name": "Dataset901_Tiny", "configurations": {}}, FILES, tmp_path)

    monkeypatch.setenv("nnUNet_raw", str(models.root / "nowhere"))
    assert orders_of(cases()) == {"PIR": 2, "LAS": 1}
    assert heights_of(cases()) == pytest.approx((44 * 0.8, 44 * 0.8))
    sitk.WriteImage(scan[:, :30], validation / "2.nii.gz")
    assert heights_of(cases()) == pytest.approx((30 * 0.8, 44 * 0.8))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    (tmp_path / "Dataset901_Tiny" / "imagesTr").mkdir(parents=True)
    for channel in range(2):
        sitk.WriteImage(scan, tmp_path / "Dataset901_Tiny" / "imagesTr" / f"a_000{channel}.nii.gz")
    assert orders_of(cases()) == {"PIR": 1}
    image = nibabel.load(tmp_path / "Dataset901_Tiny" / "imagesTr" / "a_0000.nii.gz")
    image.header["qform_code"] = image.header["sform_code"] = 0
    nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(
        tmp_path / "Dataset901_Tiny" / "imagesTr" / "b_0000.nii.gz"
    )
    assert orders_of(cases()) == {"PIR": 1, "none": 1}
    assert heights_of(cases()) is None
