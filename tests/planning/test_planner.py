"""Plans for written fingerprints, and for the phantoms, which both our trainer and nnU-Net's own train under them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_cafr.cli import main
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.planning import GB
from nnunetv2_cafr.planning import planner as planner_module
from nnunetv2_cafr.planning.architecture import cafr_architecture
from nnunetv2_cafr.planning.memory import TrainingMemory, training_memory
from nnunetv2_cafr.planning.planner import CAFRPlanner

from ..conftest import make_pools_threads

DATASET = "Dataset007_Written"
WriteDataset = Callable[..., Path]


@pytest.fixture
def write_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteDataset:
    """Writes what a planner reads, a fingerprint of one shape and the cases' names; returns the preprocessed folder."""

    def write(shape: tuple[int, ...], spacing: tuple[float, ...], *, cases: int = 172, classes: int = 20) -> Path:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (tmp_path / name / DATASET).mkdir(parents=True)
            monkeypatch.setenv(name, str(tmp_path / name))
        monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # fails where nnU-Net builds U-Nets for its own estimate
        make_pools_threads(monkeypatch)
        raw, preprocessed = tmp_path / "nnUNet_raw" / DATASET, tmp_path / "nnUNet_preprocessed" / DATASET
        (raw / "imagesTr").mkdir()
        (raw / "imagesTr" / "case_0000.nii.gz").touch()
        description = {
            "channel_names": {"0": "T2"},
            "labels": {"background": 0, **{str(label): label for label in range(1, classes)}},
            "numTraining": cases,
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        }
        fingerprint = {
            "foreground_intensity_properties_per_channel": {"0": {"mean": 52.3}},
            "median_relative_size_after_cropping": 1.0,
            "shapes_after_crop": [shape],
            "spacings": [spacing],
        }
        (raw / "dataset.json").write_text(json.dumps(description))
        (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        return preprocessed

    return write


@pytest.fixture
def quick_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the trace: 1 GB, and 1 GB for each million voxels of a sample."""

    def estimate(patch_size: list[int], *_args: object, **_kwargs: object) -> TrainingMemory:
        return TrainingMemory(fixed=GB, per_sample=GB * math.prod(patch_size) / 1e6)

    monkeypatch.setattr(planner_module, "training_memory", estimate)


def test_plans_fill_the_target_with_this_network(write_dataset):
    """A sagittal series of 640x320 slices, traced: the 2-D batch and the 3-D patch are the largest that fit."""
    preprocessed = write_dataset((16, 640, 320), (4.4, 0.57, 0.57))
    planner = CAFRPlanner(DATASET, 8)
    planner.plan_experiment()
    plans = json.loads((preprocessed / "nnUNetCAFRPlans.json").read_text())
    assert plans["plans_name"] == "nnUNetCAFRPlans"
    flat, volume = plans["configurations"]["2d"], plans["configurations"]["3d_fullres"]
    assert flat["patch_size"] == [640, 320]
    assert flat["spacing"] == [0.57, 0.57]
    assert flat["architecture"] == {
        "network_class_name": "nnunetv2_cafr.network.CAFRNet",
        "arch_kwargs": {"strides": [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2]], "use_clr": False},
        "_kw_requires_import": [],
    }
    memory = planner.memory(flat["patch_size"], flat["spacing"])
    assert memory == training_memory([640, 320], cafr_architecture(flat["spacing"]), input_channels=1, num_classes=20)
    assert memory.at(flat["batch_size"]) <= 8 * GB < memory.at(flat["batch_size"] + 1)

    depth, height, width = volume["patch_size"]
    assert volume["batch_size"] == 2
    assert volume["architecture"]["arch_kwargs"]["strides"][-1] == [2, 2, 2]
    assert (height % 16, width % 16) == (0, 0)
    assert planner.memory([depth, height, width], volume["spacing"]).at(2) <= 8 * GB
    assert planner.memory([depth + 2, height, width], volume["spacing"]).at(2) > 8 * GB


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "flat", "volume"),
    [
        # Whole slices, no power of two; in 3-D (1x16x16 tokens) all axes stay in proportion to the median shape
        ((15, 880, 880), (4.4, 0.34, 0.34), 4, ([880, 880], 3), ([7, 448, 464], 2)),
        # At most the median shape, rounded up to whole tokens
        ((16, 300, 150), (4.0, 0.8, 0.8), 4, ([304, 160], 61), ([16, 304, 160], 3)),
        # 16x16x16 tokens: the start is 256x256x64, and 256 of 384 rows is less of them than of the other axes
        ((384, 256, 64), (1.0, 1.0, 1.0), 4, ([256, 64], 183), ([256, 176, 32], 2)),
        # Memory in plenty: nnU-Net's largest start, and its cap on the batch
        ((384, 384, 384), (1.0, 1.0, 1.0), 1000, ([384, 384], 3302), ([256, 256, 256], 29)),
    ],
)
def test_patch_and_batch_follow_the_memory(write_dataset, quick_memory, shape, spacing, target, flat, volume):
    write_dataset(shape, spacing)
    configurations = CAFRPlanner(DATASET, target).plan_experiment()["configurations"]
    planned = [
        (configurations[name]["patch_size"], configurations[name]["batch_size"]) for name in ("2d", "3d_fullres")
    ]
    assert planned == [flat, volume]


@pytest.mark.parametrize(("cases", "batch_size"), [(20, 20 * 10 * 0.05), (2, 2)])
def test_batch_covers_5_percent_of_the_voxels_or_two_samples(write_dataset, quick_memory, cases, batch_size):
    write_dataset((10, 320, 320), (4.0, 1.0, 1.0), cases=cases)
    assert CAFRPlanner(DATASET, 100).plan_experiment()["configurations"]["2d"]["batch_size"] == batch_size


def test_low_resolution_stays_nnunets(write_dataset, quick_memory):
    write_dataset((384, 384, 384), (1.0, 1.0, 1.0))
    configurations = CAFRPlanner(DATASET, 8).plan_experiment()["configurations"]
    low, full = configurations["3d_lowres"], configurations["3d_fullres"]
    assert low["next_stage"] == "3d_cascade_fullres"
    assert math.prod(low["patch_size"]) >= 0.25 * math.prod(low["median_image_size_in_voxels"])
    assert low["spacing"][0] > full["spacing"][0]
    assert low["data_identifier"] == "nnUNetCAFRPlans_3d_lowres"


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({}, True),
        ({"spacing": [0.8, 0.9]}, False),
        ({"normalization_schemes": ["CTNormalization"]}, False),
        ({"resampling_fn_seg_kwargs": {"order": 0}}, False),
        ({"transpose_forward": [0, 2, 1]}, False),
    ],
)
def test_shares_the_data_that_is_preprocessed_alike(write_dataset, quick_memory, change, shared):
    preprocessed = write_dataset((16, 300, 150), (4.0, 0.8, 0.8))
    stock = CAFRPlanner(DATASET, plans_name="nnUNetPlans").plan_experiment()  # a file of the same layout
    for key, value in change.items():
        (stock if key in stock else stock["configurations"]["2d"])[key] = value
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(stock))
    plans = CAFRPlanner(DATASET).plan_experiment()
    assert plans["configurations"]["2d"]["data_identifier"] == ("nnUNetPlans_2d" if shared else "nnUNetCAFRPlans_2d")


def test_table_leaves_out_what_an_older_file_holds(write_dataset, quick_memory, capsys):
    """nnU-Net keeps those configurations, which were planned for another target."""
    write_dataset((384, 384, 384), (1.0, 1.0, 1.0))
    assert "3d_cascade_fullres" in CAFRPlanner(DATASET, 8).plan_experiment()["configurations"]
    capsys.readouterr()
    main(["plan", "-d", "7", "--gpu-memory-target", "1000"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "to be preprocessed" in line] == ["2d", "3d_fullres"]


def test_target_too_small_says_what_is_needed(write_dataset, quick_memory, capsys):
    write_dataset((16, 300, 150), (4.0, 0.8, 0.8))
    with pytest.raises(SystemExit, match=r"\[4, 16, 16\] at batch 2, needs 1\.00 GB.*target is 1 GB.*least 1\.1 GB"):
        main(["plan", "-d", "7", "--gpu-memory-target", "1.0000001"])
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "-d", "7", "--gpu-memory-target", "0.5"])
    assert "expected a number above 1" in capsys.readouterr().err


def test_missing_parts_are_named(write_dataset, monkeypatch):
    preprocessed = write_dataset((16, 300, 150), (4.0, 0.8, 0.8))
    (preprocessed / "dataset_fingerprint.json").unlink()
    with pytest.raises(SystemExit, match="nnUNetv2_extract_fingerprint -d 7"):
        main(["plan", "-d", DATASET])
    with pytest.raises(SystemExit, match="Dataset008_No"):
        main(["plan", "-d", "Dataset008_No"])
    with pytest.raises(SystemExit, match="ID 9"):
        main(["plan", "-d", "9"])
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(SystemExit, match="export nnUNet_preprocessed="):
        main(["plan", "-d", "7"])


def test_own_plans_are_planned_anew_and_no_others(write_dataset, quick_memory, capsys):
    """As by nnU-Net, which keeps configurations that it did not make."""
    preprocessed = write_dataset((16, 300, 150), (4.0, 0.8, 0.8))
    file = preprocessed / "nnUNetCAFRPlans.json"
    assert main(["plan", "-d", "7"]) == 0
    assert "planned anew" not in capsys.readouterr().out
    plans = json.loads(file.read_text())
    plans["configurations"]["mine"] = {"inherits_from": "2d", "batch_size": 3}
    file.write_text(json.dumps(plans))
    assert main(["plan", "-d", "7", "--gpu-memory-target", "5"]) == 0
    assert f"{file} is there and is planned anew" in capsys.readouterr().out
    found = json.loads(file.read_text())["configurations"]
    assert found["mine"]["batch_size"] == 3 and found["2d"] != plans["configurations"]["2d"]
    foreign = json.dumps({**plans, "experiment_planner_used": "MyPlanner"})
    for text, said in (
        (foreign, "not written by"),
        ("{", "cannot be read"),
        ("[]", "in braces"),
        ("{}", "no plans"),
    ):
        file.write_text(text)
        with pytest.raises(SystemExit, match=said):
            main(["plan", "-d", "7"])
        assert file.read_text() == text


@pytest.mark.parametrize("name", ["dataset.json", "dataset_fingerprint.json", "nnUNetPlans.json"])
def test_damaged_documents_are_named(write_dataset, quick_memory, name):
    preprocessed = write_dataset((16, 300, 150), (4.0, 0.8, 0.8))
    raw = preprocessed.parents[1] / "nnUNet_raw" / DATASET
    for text in ("{", "[]", "{}"):
        (raw if name == "dataset.json" else preprocessed).joinpath(name).write_text(text)
        with pytest.raises(SystemExit, match=name):
            main(["plan", "-d", "7"])


@pytest.fixture
def planned_phantoms(nnunet_environment: Path, quick_memory: None) -> dict:
    return CAFRPlanner("511", 2).plan_experiment()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_stock_trainer_learns_under_these_plans(planned_phantoms, monkeypatch, configuration):
    """With deep supervision, at the scales that nnU-Net itself derives from the plans."""
    # The phantoms are not preprocessed in 3-D, and no case is read here.
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.infer_dataset_class", lambda folder: None)
    trainer = get_trainer_from_args(
        "511", configuration, 0, "nnUNetTrainer", "nnUNetCAFRPlans", device=torch.device("cpu")
    )
    assert type(trainer) is nnUNetTrainer
    trainer.initialize()
    assert isinstance(trainer.network, CAFRNet)
    patch_size = np.array(trainer.configuration_manager.patch_size)
    scales = trainer._get_deep_supervision_scales()
    target = [torch.ones(2, 1, *np.round(patch_size * scale).astype(int)) for scale in scales]
    before = trainer.network.decoder.seg_layers[0].weight.clone()
    result = trainer.train_step({"data": torch.randn(2, 1, *patch_size), "target": target})
    assert np.isfinite(result["loss"])
    assert not torch.equal(before, trainer.network.decoder.seg_layers[0].weight)


def test_our_trainer_adds_the_contrastive_head(planned_phantoms):
    assert planned_phantoms["configurations"]["2d"]["architecture"]["arch_kwargs"]["use_clr"] is False
    trainer = get_trainer_from_args("511", "2d", 0, "nnUNetTrainer_CAFR", "nnUNetCAFRPlans", device=torch.device("cpu"))
    trainer.initialize()
    assert trainer.network.projection is not None
    labels = torch.ones(2, 1, 64, 64)
    labels[..., :32] = 2
    targets = [labels[:, :, ::step, ::step] for step in (1, 2, 4, 8)]
    assert trainer.train_step({"data": torch.randn(2, 1, 64, 64), "target": targets})["clr"] > 0


def test_command_plans_and_nnunet_trains(nnunet_environment, quick_memory, monkeypatch, capsys):
    """The data preprocessed for nnUNetPlans serves, and the plans are used by their name."""
    assert main(["plan", "-d", "511", "--gpu-memory-target", "3"]) == 0
    output = capsys.readouterr().out
    assert "nnUNetPlans_2d (shared, preprocessed)" in output
    assert "nnUNetv2_preprocess -d 511 -plans_name nnUNetCAFRPlans -c 3d_fullres" in output
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    name = "nnUNetTrainer_CAFR_budget1x1"
    get_trainer_from_args("511", "2d", 0, name, "nnUNetCAFRPlans", device=torch.device("cpu")).run_training()
    model = nnunet_environment / "Dataset511_SpineMRI" / f"{name}__nnUNetCAFRPlans__2d"
    assert (model / "fold_0" / "checkpoint_final.pth").is_file()
    trained_with = PlansManager(json.loads((model / "plans.json").read_text())).get_configuration("2d")
    assert trained_with.network_arch_class_name == "nnunetv2_cafr.network.CAFRNet"
