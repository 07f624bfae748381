"""The ONNX file computes what PyTorch does, says what it is, and takes no stranger's place."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.deployment import export
from nnunetv2_cafr.deployment.export import Ensemble, compare, to_onnx
from nnunetv2_cafr.training.baselines import (
    nnUNetTrainer_AttentionUNet,
    nnUNetTrainer_SwinUNet,
    nnUNetTrainer_TransUNet,
)

from .untrained import MIRRORING_AXES, Models, nnunet_predictor, run_verb


def onnx_logits(file: Path, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x.numpy()})[0]


@torch.inference_mode()
def torch_logits(network: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    return network.eval()(x).numpy()


def needs_free_sizes(file: Path) -> None:
    """Skips where PyTorch is too old to trace them, and the network was exported for its patch."""
    sizes = json.loads(file.with_suffix(".json").read_text())["onnx"]["sizes"]
    if torch.__version__ < (2, 14) and sizes.endswith("only"):
        pytest.skip(f"PyTorch {torch.__version__} cannot export this network for free sizes")


@pytest.mark.parametrize("shape", [(1, 1, 32, 24), (3, 1, 16, 16), (2, 1, 37, 51), (1, 1, 17, 90)])
def test_cafr_in_any_size(cafr, shape):
    folder, file = cafr
    needs_free_sizes(file)
    x = torch.randn(shape)
    network = nnunet_predictor(folder).network
    # In float64: instance norm of a few cells amplifies rounding, PyTorch's own in float32 too.
    exact = torch_logits(network.double(), x.double())
    np.testing.assert_allclose(onnx_logits(file, x), exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("shape", [(1, 2, 32, 24), (3, 2, 16, 40)])
def test_folds_are_averaged(regions, shape):
    folder, file = regions
    needs_free_sizes(file)
    x = torch.randn(shape)
    predictor = nnunet_predictor(folder, folds=2)
    of_folds = []
    for weights in predictor.list_of_parameters:
        predictor.network.load_state_dict(weights)
        of_folds.append(torch_logits(predictor.network, x))
    assert np.abs(of_folds[0] - of_folds[1]).max() > 0.1
    np.testing.assert_allclose(onnx_logits(file, x), np.mean(of_folds, axis=0), atol=1e-5)


def test_sizes_between_strides_are_padded_with_zeros(regions):
    _, file = regions
    needs_free_sizes(file)
    x = torch.randn(1, 2, 29, 34)
    padded = torch.zeros(1, 2, 32, 36)
    padded[..., :29, :34] = x
    np.testing.assert_allclose(onnx_logits(file, x), onnx_logits(file, padded)[..., :29, :34], atol=1e-5)


def test_description_holds_all_that_prediction_needs(regions):
    folder, file = regions
    content = json.loads(file.with_suffix(".json").read_text())
    assert content["plans"] == json.loads((folder / "plans.json").read_text())
    assert content["dataset_json"] == json.loads((folder / "dataset.json").read_text())
    assert content["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (content["configuration"], content["trainer"], content["folds"]) == ("2d", "nnUNetTrainer", ["0", "1"])
    assert content["inference_allowed_mirroring_axes"] == list(MIRRORING_AXES["2d"])
    assert content["regions_class_order"] == [1, 2, 3]
    assert content["patch_size"] == [56, 40]
    assert content["spacing"] == [1.0, 1.1]
    assert {"nnunetv2", "nnunetv2-cafr", "torch"} <= content["versions"].keys()
    assert "noise" in content["comparison_with_pytorch"]["source"]  # this data set has no images


def test_comparison_is_on_cases_of_the_data_set(cafr):
    _, file = cafr
    comparison = json.loads(file.with_suffix(".json").read_text())["comparison_with_pytorch"]
    assert comparison["source"] == "case0, case1"
    assert 0 < comparison["max_error"] < 1e-4 * comparison["max_logit"]
    assert comparison["same_label"] > 0.999


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take no time: torch's exporter is replaced."""
    monkeypatch.setattr(export, "to_onnx", lambda *_: b"network")
    monkeypatch.setattr(export, "compare", lambda *_: export.Comparison("nothing", 0.0, 1.0, 1.0))


def export_regions(folder: Path, target: Path, *more: object) -> int:
    return run_verb(
        "export", "-d", folder.parent.name, "-c", "2d", "-tr", "nnUNetTrainer", "-f", 0, "-o", target, *more
    )


def test_own_export_is_replaced_and_nothing_else(regions, small_network, tmp_path):
    folder, _ = regions
    target = tmp_path / "new" / "model.onnx"
    for _ in range(2):
        assert export_regions(folder, target) == 0
    assert sorted(path.name for path in target.parent.iterdir()) == ["model.json", "model.onnx"]
    for foreign in ("theirs.onnx", "theirs.json"):
        (tmp_path / foreign).write_text("{}")
        with pytest.raises(SystemExit, match=f"{foreign} is there and is no export"):
            export_regions(folder, tmp_path / "theirs.onnx")
        assert (tmp_path / foreign).read_text() == "{}"
        (tmp_path / foreign).unlink()
    with pytest.raises(SystemExit, match=r"ends in \.onnx"):
        export_regions(folder, tmp_path / "model.json")


def test_wrong_result_is_not_written(regions, small_network, tmp_path, monkeypatch):
    folder, _ = regions
    monkeypatch.setattr(export, "compare", lambda *_: export.Comparison("nothing", 0.1, 1.0, 0.99))
    with pytest.raises(SystemExit, match="something else than PyTorch"):
        export_regions(folder, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_where_sizes_cannot_be_free_they_are_those_of_the_patch(regions, small_network, tmp_path, monkeypatch):
    folder, _ = regions
    tried = []

    def exporter(_network: object, _channels: int, _patch_size: object, free: bool) -> bytes:
        tried.append(free)
        if free:
            raise torch.onnx.OnnxExporterError("sizes")
        return b"network"

    monkeypatch.setattr(export, "to_onnx", exporter)
    export_regions(folder, tmp_path / "model.onnx")
    assert tried == [True, False]
    assert json.loads((tmp_path / "model.json").read_text())["onnx"]["sizes"] == "[56, 40] only"


def test_what_is_missing_is_named(regions, tmp_path):
    folder, _ = regions
    with pytest.raises(SystemExit, match=r"no .*fold_7/checkpoint_final.pth. It is there for -f 0 1"):
        export_regions(folder, tmp_path / "model.onnx", "-f", "0", "7")
    with pytest.raises(SystemExit, match=r"There are: -f 0 -chk checkpoint_final.pth, -f 1"):
        export_regions(folder, tmp_path / "model.onnx", "-chk", "checkpoint_best")
    with pytest.raises(SystemExit, match=r"no .*fold_4/checkpoint_final.pth. It is there for -f 0 1"):
        run_verb("export", "-d", folder.parent.name, "-c", "2d", "-tr", "nnUNetTrainer", "-o", tmp_path / "model.onnx")
    with pytest.raises(SystemExit, match="no trained model"):
        export_regions(folder, tmp_path / "model.onnx", "-tr", "nnUNetTrainer_CAFR")


def test_exports_of_other_trainings_stay(regions, small_network, tmp_path):
    folder, _ = regions
    target = tmp_path / "model.onnx"
    assert export_regions(folder, target, "-chk", "checkpoint_final") == 0
    content = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**content, "folds": ["0", "1"]}))
    with pytest.raises(SystemExit, match=r"another training: folds \['0', '1'\] \(not \['0'\]\)"):
        export_regions(folder, target)
    (tmp_path / "model.json").write_text(json.dumps(content))
    target.write_bytes(b"another network by this name")
    with pytest.raises(SystemExit, match="is there and is no export"):
        export_regions(folder, target)
    assert target.read_bytes() == b"another network by this name"
    target.unlink()
    with pytest.raises(SystemExit, match="is no folder"):
        export_regions(folder, tmp_path / "model.json" / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_checkpoint_with_code_or_none_of_nnunets_is_refused(regions, models: Models, tmp_path):
    folder, _ = regions
    copied = Path(shutil.copytree(folder, models.folder("Dataset903_Code", "nnUNetTrainer", "2d")))
    for content, words in (
        ({"network_weights": exit}, "could run a stranger's code"),
        (
            {"network_weights": {}},
            r"fold_0/checkpoint_final\.pth is no .* lacks init_args.configuration, trainer_name; it has network",
        ),
    ):
        torch.save(content, copied / "fold_0" / "checkpoint_final.pth")
        with pytest.raises(SystemExit, match=words):
            export_regions(copied, tmp_path / "model.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_extra(regions, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=rf"{missing} is not installed.*pip install 'nnunetv2-cafr\[export\]'"):
        export_regions(regions[0], tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "multiple", "free"),
    [
        (nnUNetTrainer_AttentionUNet, 16, True),
        (nnUNetTrainer_SwinUNet, 32, False),
        (nnUNetTrainer_TransUNet, 16, False),
    ],
)
def test_baselines(trainer, multiple, free):
    network = trainer.build_network(1, 3, 2).eval()
    ensemble = Ensemble([network], [multiple] * 2).eval()
    program = to_onnx(ensemble, 1, [64, 64], free)
    volume = np.random.default_rng(0).standard_normal((1, 3, 90, 100)).astype(np.float32)
    comparison = compare(network, program, [volume], [[64, 64], *([[77, 90]] if free else [])], "")
    assert comparison.max_error < 1e-4 * max(1, comparison.max_logit)


@pytest.mark.slow
def test_3d(models: Models, tmp_path):
    folder = models.make("Dataset904_Volumes", nnUNetTrainer.__name__, "3d_fullres")
    file = models.export(folder, tmp_path / "model.onnx")
    x = torch.randn(2, 1, 16, 8, 20)
    expected = torch_logits(nnunet_predictor(folder).network, x)
    np.testing.assert_allclose(onnx_logits(file, x), expected, atol=1e-4)
