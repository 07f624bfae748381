"""Label maps are those of nnU-Net, whatever the image's format; what fails is told and leaves nothing half-done."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_cafr import load_model
from nnunetv2_cafr.deployment import model as deployed
from nnunetv2_cafr.deployment.runtime import _load_onnxruntime, has_bfloat16, load_network, probe_patch, probe_values

from ..verbs import run_verb
from .untrained import Models, nnunet_label_maps, nnunet_predictor, write_image

needs_bf16 = pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 instructions")


def predict(model: Path, images: Path | list[Path], out: Path, *more: object) -> int:
    images = images if isinstance(images, list) else [images]
    return run_verb("predict", "-m", model, "-i", *images, "-o", out, "--threads", 1, *more)


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(path))


def assert_same_label_maps(found: Path, expected: dict[str, sitk.Image], at_least: float = 0.9999) -> None:
    assert expected
    for name, reference in expected.items():
        image = sitk.ReadImage(found / f"{name}.nii.gz")
        assert image.GetSize() == reference.GetSize()
        assert image.GetPixelID() == reference.GetPixelID()
        for of_image, of_reference in (
            (image.GetSpacing(), reference.GetSpacing()),
            (image.GetOrigin(), reference.GetOrigin()),
            (image.GetDirection(), reference.GetDirection()),
        ):
            np.testing.assert_allclose(of_image, of_reference, atol=1e-6)
        labels, reference_labels = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(reference)
        assert len(np.unique(reference_labels)) > 2  # else there would be nothing to compare
        assert (labels == reference_labels).mean() >= at_least


@pytest.fixture(scope="module")
def expected(cafr, models: Models, tmp_path_factory):
    """What nnU-Net predicts with the network of `cafr`."""
    cases = {path.name.removesuffix("_0000.nii.gz"): [path] for path in sorted(models.images.iterdir())}
    return nnunet_label_maps(nnunet_predictor(cafr[0]), cases, tmp_path_factory.mktemp("nnunet") / "out")


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_same_label_maps_as_nnunet(cafr, models: Models, expected, tmp_path, runtime):
    assert predict(cafr[1], models.images, tmp_path / "out", "--runtime", runtime) == 0
    assert_same_label_maps(tmp_path / "out", expected)
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    beside = ["labels.ctbl", "labels.txt", "plans.json", "predict.json", "preview.html"]
    assert found == ["case0.nii.gz", "case1.nii.gz", "dataset.json", *beside]


def test_options_of_the_sliding_window(cafr, models: Models, expected, tmp_path):
    case = models.images / "case0_0000.nii.gz"
    predictor = nnunet_predictor(cafr[0], use_mirroring=False)
    predictor.tile_step_size = 0.9
    reference = nnunet_label_maps(predictor, {"case0": [case]}, tmp_path / "nnunet")
    assert predict(cafr[1], case, tmp_path / "out", "--disable_tta", "-step_size", 0.9) == 0
    assert_same_label_maps(tmp_path / "out", reference)
    assert (read(tmp_path / "out" / "case0.nii.gz") != sitk.GetArrayFromImage(expected["case0"])).any()


def test_regions_channels_and_folds(regions, models: Models, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for channel in range(2):
        shutil.copy(models.images / f"case{channel}_0000.nii.gz", images / f"both_000{channel}.nii.gz")
    reference = nnunet_label_maps(
        nnunet_predictor(regions[0], folds=2), {"both": sorted(images.iterdir())}, tmp_path / "nnunet"
    )
    assert predict(regions[1], images, tmp_path / "out") == 0
    assert_same_label_maps(tmp_path / "out", reference)
    model = load_model(regions[1])
    found = model.predict([sitk.ReadImage(path) for path in sorted(images.iterdir())])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.labels), read(tmp_path / "out" / "both.nii.gz"))
    with pytest.raises(ValueError, match=r"1 image; expected one for each of the 2 channels: T1, T2"):
        model.predict(images / "both_0000.nii.gz")


@needs_bf16
def test_bf16_is_close_and_not_the_same(cafr, models: Models, expected, tmp_path):
    case = models.images / "case0_0000.nii.gz"
    assert predict(cafr[1], case, tmp_path, "--precision", "bf16") == 0
    assert 0.9 < (read(tmp_path / "case0.nii.gz") == sitk.GetArrayFromImage(expected["case0"])).mean() < 1


def test_bf16_is_not_promised_where_there_is_none(cafr, models: Models, tmp_path):
    with pytest.raises(SystemExit, match="--runtime openvino"):
        predict(cafr[1], models.images, tmp_path, "--precision", "bf16", "--runtime", "onnx")


def write_dicom(folder: Path, volume: Path, skip: int | None = None) -> None:
    """The volume as a DICOM series, its files in another order than its slices; without slice `skip`."""
    image = sitk.Cast(sitk.ReadImage(volume), sitk.sitkInt16)
    folder.mkdir(parents=True)
    axes = np.array(image.GetDirection()).reshape(3, 3).T
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number in range(image.GetDepth()):
        if number == skip:
            continue
        one = image[:, :, number]
        tags = {
            "0008|0060": "MR",
            "0020|000d": "1.2.3",
            "0020|000e": f"1.2.3.{folder.name[-1]}",
            "0008|0018": f"1.2.3.4.{number}",
            "0020|0032": "\\".join(map(str, image.TransformIndexToPhysicalPoint((0, 0, number)))),
            "0020|0037": "\\".join(map(str, (*axes[0], *axes[1]))),
        }
        for tag, value in tags.items():
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"IM{number * 7 % 10}.dcm"))
        writer.Execute(one)


@pytest.fixture(scope="module")
def formats(cafr, models: Models, tmp_path_factory) -> tuple[Path, dict[str, sitk.Image]]:
    """One image as a DICOM series of a patient, as MHA and as NIfTI; and what nnU-Net predicts for the latter."""
    folder = tmp_path_factory.mktemp("formats")
    write_dicom(folder / "patient", models.images / "case0_0000.nii.gz")
    volume = sitk.Cast(sitk.ReadImage(models.images / "case0_0000.nii.gz"), sitk.sitkInt16)
    sitk.WriteImage(volume, folder / "scan_2023.mha")
    sitk.WriteImage(volume, folder / "scan.nii.gz")
    reference = nnunet_label_maps(nnunet_predictor(cafr[0]), {"scan": [folder / "scan.nii.gz"]}, folder / "out")
    shutil.rmtree(folder / "out")
    return folder, reference


def test_other_formats(cafr, formats, tmp_path):
    folder, reference = formats
    assert predict(cafr[1], folder, tmp_path) == 0
    assert_same_label_maps(tmp_path, dict.fromkeys(("patient", "scan_2023", "scan"), reference["scan"]))


def test_one_dicom_folder(cafr, formats, tmp_path, capsys):
    """With a further series below it, and what is no part of the study: named, and not predicted."""
    folder, reference = formats
    shutil.copytree(folder / "patient", tmp_path / "patient")
    shutil.copytree(folder / "patient", tmp_path / "patient" / "again")
    (tmp_path / "patient" / "of_another").mkdir()
    shutil.copy(folder / "scan.nii.gz", tmp_path / "patient" / "of_another")
    assert predict(cafr[1], tmp_path / "patient", tmp_path / "out") == 0
    assert_same_label_maps(tmp_path / "out", {"patient": reference["scan"]})
    assert f"Left out of {tmp_path / 'patient'}: of_another/ (read are" in capsys.readouterr().out


def test_failing_studies_do_not_stop_the_others(cafr, models: Models, tmp_path, capsys):
    images = tmp_path / "images"
    write_dicom(images / "gap", models.images / "case0_0000.nii.gz", skip=3)
    write_dicom(images / "two1", models.images / "case0_0000.nii.gz")
    write_dicom(images / "two2", models.images / "case0_0000.nii.gz")
    for file in (images / "two2").iterdir():
        file.rename(images / "two1" / f"other{file.name}")
    (images / "two2").rmdir()
    (images / "broken_0000.nii.gz").write_bytes(b"not an image")
    shutil.copy(models.images / "case0_0000.nii.gz", images / "zz_0000.nii.gz")
    assert predict(cafr[1], images, tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["zz.nii.gz"]
    output = capsys.readouterr().out
    assert "3 of 4 studies failed" in output
    assert "1 missing slice" in output
    assert "2 series in one folder: 1.2.3.1 (9 slices), 1.2.3.2 (9 slices)" in output
    assert "broken" in output


def test_missing_channel_is_named(regions, models: Models, tmp_path, capsys):
    assert predict(regions[1], models.images / "case0_0000.nii.gz", tmp_path) == 1
    assert "1 (T2) is missing" in capsys.readouterr().out


def test_a_failure_half_way_leaves_the_network_usable(cafr, models: Models, expected, tmp_path, monkeypatch):
    label_map, calls = deployed.label_map, []

    def fail_once(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("once")
        return label_map(*arguments)

    monkeypatch.setattr(deployed, "label_map", fail_once)
    assert predict(cafr[1], models.images, tmp_path) == 1
    assert_same_label_maps(tmp_path, {"case1": expected["case1"]})


def test_inputs_that_cannot_be(cafr, models: Models, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="holds no images"):
        predict(cafr[1], tmp_path / "empty", tmp_path / "out")
    with pytest.raises(SystemExit, match="There is no"):
        predict(cafr[1], tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(SystemExit, match="would both be case0, channel 0"):
        predict(cafr[1], [models.images, models.images / "case0_0000.nii.gz"], tmp_path / "out")
    for option, value in (("-step_size", 0), ("-step_size", "nan"), ("--threads", 0)):
        with pytest.raises(SystemExit, match="2"):
            predict(cafr[1], models.images, tmp_path / "out", option, value)


def test_files_that_do_not_belong_together(cafr, models: Models, tmp_path):
    model = tmp_path / "model.onnx"
    with pytest.raises(SystemExit, match=r"There is no .*model.onnx"):
        predict(model, models.images, tmp_path / "out")
    shutil.copy(cafr[1], model)
    with pytest.raises(SystemExit, match=r"There is no .*model.json"):
        predict(model, models.images, tmp_path / "out")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(SystemExit, match="does not describe an exported network"):
        predict(model, models.images, tmp_path / "out")
    content = json.loads(cafr[1].with_suffix(".json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**content, "sha256": "0"}))
    with pytest.raises(SystemExit, match="SHA-256 differs"):
        predict(model, models.images, tmp_path / "out")


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_runtime_that_computes_wrongly_is_found_out(cafr, models: Models, tmp_path, runtime):
    content = json.loads(cafr[1].with_suffix(".json").read_text())
    content["probe"][100] += 0.05 * max(map(abs, content["probe"]))
    shutil.copy(cafr[1], tmp_path / "model.onnx")
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=f"{runtime} computes something else"):
        predict(tmp_path / "model.onnx", models.images, tmp_path / "out", "--runtime", runtime)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=needs_bf16)])
def test_as_many_tokens_as_heads(cafr, precision):
    """OpenVINO 2026.4 confuses the two in patches of 4x3 tokens and a batch of 1; CAFR-Net has 12 heads."""
    shape = (1, 64, 48)
    patch = probe_patch(1, shape[1:])
    right = next(_load_onnxruntime(cafr[1], shape[1:], 1)([patch]))
    found = next(load_network(cafr[1], "openvino", precision, probe_values(right), shape, 1)([patch]))
    np.testing.assert_allclose(found, right, atol={"float32": 1e-4, "bf16": 0.05 * np.abs(right).max()}[precision])


@pytest.mark.parametrize(("runtime", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_missing_extra(cafr, models: Models, tmp_path, monkeypatch, runtime, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=rf"{package} is not installed.*pip install 'nnunetv2-cafr\[export\]'"):
        predict(cafr[1], models.images, tmp_path, "--runtime", runtime)


def test_no_trainer_network_or_checkpoint_code_is_loaded():
    stack = (
        "nnunetv2.training.nnUNetTrainer",
        "nnunetv2.inference.predict",
        "nnunetv2_cafr.training",
        "nnunetv2_cafr.network",
    )
    modules = "nnunetv2_cafr.commands.predict, nnunetv2_cafr.deployment.library, nnunetv2_cafr.deployment.prediction"
    code = f"import sys, {modules}; print([m for m in sys.modules if m.startswith({stack})])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_3d(models: Models, tmp_path):
    folder = models.make("Dataset905_Volumes", "nnUNetTrainer", "3d_fullres")
    model = models.export(folder, tmp_path / "model.onnx")
    case = tmp_path / "thick_0000.nii.gz"
    write_image(case, 5)
    reference = nnunet_label_maps(nnunet_predictor(folder), {"thick": [case]}, tmp_path / "nnunet")
    assert predict(model, case, tmp_path / "out") == 0
    assert_same_label_maps(tmp_path / "out", reference)


@pytest.mark.slow
def test_benchmark_compares_every_way_to_predict(cafr, models, tmp_path):
    program = Path(__file__).parents[2] / "benchmarks" / "deployment.py"
    trainer = ["-d", "901", "-c", "2d", "-tr", "nnUNetTrainer_CAFR", "--stock", "nnUNetTrainer_CAFR"]
    options = ["-i", models.images, "--rounds", "1", "-o", tmp_path / "deployment.json"]
    subprocess.run([sys.executable, program, *trainer, *options], check=True)
    rows = {row["command"]: row for row in json.loads((tmp_path / "deployment.json").read_text())["rows"]}
    assert len(rows) == 5
    assert rows["float32"]["same_voxels"] == rows["float32, onnx"]["same_voxels"] == 1
    assert all(row["seconds"] > 0 and row["gib"] > 0.1 for row in rows.values())
