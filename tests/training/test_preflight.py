"""What can't be trained is refused by name before any data is loaded; what only looks odd trains."""

import json
import math
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.training.preflight import impossible_step

from .batches import batch_of


def make(data: Path, name: str = "nnUNetTrainer_CAFR_budget1x1", **changes: object) -> nnUNetTrainer:
    file = data / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"].update(changes)
    file.write_text(json.dumps(plans))
    return get_trainer_from_args("511", "2d", 0, name, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": [64, 0]}, r"patch_size is \[64, 0\]"),
        ({"patch_size": [64, 56, 4]}, r"spacing \[4.4.*expected as many numbers in both"),
        ({"batch_size": 2.5}, r"batch_size is 2.5"),
        ({"spacing": [4.4, math.nan]}, r"spacing is \[4.4, nan\]"),
        ({"normalization_schemes": []}, r"expected one for each of 1 channels"),
        ({"data_identifier": "gone"}, r"gone is not there; make it: nnUNetv2_preprocess"),
    ],
)
def test_plans_that_make_no_training(changes, words, data):
    with pytest.raises(SystemExit, match=f"(?s)nnUNetPlans.json .*can't be trained, 2d:\n- .*{words}"):
        make(data, **changes).initialize()


def test_moved_plans_without_a_fingerprint(data):
    (data / "dataset_fingerprint.json").unlink()
    trainer = make(data)
    trainer.initialize()  # which is all that a validation needs
    with pytest.raises(SystemExit, match="or make it: nnUNetv2_extract_fingerprint -d Dataset511"):
        trainer.on_train_start()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(data):
    trainer = get_trainer_from_args("511", "2d", 0, "nnUNetTrainer_CAFR_budget1x1")
    with pytest.raises(SystemExit, match="-device cpu"):
        trainer.initialize()


def test_the_background_alone_is_nothing_to_learn(data):
    file = data / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "labels": {"background": 0}}))
    with pytest.raises(SystemExit, match="expected one besides the background"):
        make(data).initialize()


def test_a_step_that_a_norm_refuses_is_known_before(data):
    """A single cell has no variance: torch's instance norm refuses it, CAFR-Net's does not."""
    trainer = "nnUNetTrainer_LevelSafe_budget1x1"
    sound = make(data, trainer)
    sound.initialize()
    assert impossible_step(sound) is None
    sound.network.train()
    before = {name: value.clone() for name, value in sound.network.state_dict().items()}
    impossible_step(sound)
    assert all(torch.equal(before[name], value) for name, value in sound.network.state_dict().items())

    tiny = make(data, trainer, patch_size=[8, 8], batch_size=1)
    tiny.initialize()
    with pytest.raises(ValueError, match="Expected more than 1"):
        tiny.network.train()(torch.zeros(1, 1, *tiny.configuration_manager.patch_size))
    with pytest.raises(SystemExit, match=r"can't be trained on 1 patches of . x .: Expected more than 1"):
        tiny.run_training()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_patch_smaller_than_a_token_trains(batch_size, data):
    trainer = make(data, patch_size=[12, 8], batch_size=batch_size)
    trainer.initialize()
    assert impossible_step(trainer) is None
    image, labels = torch.randn(batch_size, 1, 12, 8), torch.randint(0, 3, (batch_size, 1, 12, 8))
    batch = batch_of(trainer, image, labels, ["a", "b"][:batch_size])
    trainer.on_train_epoch_start()
    assert math.isfinite(trainer.train_step(batch)["loss"])


@pytest.mark.parametrize(
    ("fold", "words"),
    [
        ({"train": ["nobody"], "val": ["SpineMRI_001"]}, r"does not hold \(nobody\)"),
        ({"train": ["SpineMRI_001"], "val": []}, "no case in val"),
    ],
)
def test_splits_without_data(fold, words, data):
    (data / "splits_final.json").write_text(json.dumps([fold]))
    trainer = make(data)
    trainer.initialize()
    with pytest.raises(SystemExit, match=words):
        trainer.get_tr_and_val_datasets()


def test_a_fold_that_the_split_does_not_have(data):
    """nnU-Net trains on a random split by case then, also on those that were held out."""
    (data / "splits_final.json").write_text(json.dumps([{"train": ["SpineMRI_001"], "val": ["SpineMRI_002"]}]))
    trainer = make(data)
    trainer.initialize()
    trainer.fold = 1
    with pytest.raises(SystemExit, match="has no fold 1: give one that it has, fold 0"):
        trainer.get_tr_and_val_datasets()


def raw_of(trainer: nnUNetTrainer, folder: Path, monkeypatch: pytest.MonkeyPatch, *unknown: str) -> None:
    """A raw data set of one patient, whose provenance.json lacks the cases `unknown`."""
    cases = trainer.dataset_class.get_identifiers(trainer.preprocessed_dataset_folder)
    raw = folder / "raw" / trainer.plans_manager.dataset_name
    raw.mkdir(parents=True)
    (raw / "dataset.json").write_text("{}")
    known = {case: {"patient": "anna"} for case in cases if case not in unknown}
    (raw / "provenance.json").write_text(json.dumps({"cases": known}))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (None, "is not there, and nnU-Net's own folds are by case: of 1 patients with"),
        ([{"train": ["SpineMRI_001"], "val": ["SpineMRI_002"]}], r"trains on 1 of the 1 patients .*\(anna\)"),
    ],
)
def test_a_patient_on_both_sides_of_a_fold(split, words, data, tmp_path, monkeypatch):
    file = data / "splits_final.json"
    file.unlink(missing_ok=True)
    trainer = make(data)
    trainer.initialize()
    raw_of(trainer, tmp_path, monkeypatch)
    if split is not None:
        file.write_text(json.dumps(split))
    with pytest.raises(SystemExit, match=rf"(?s){words}.*nnUNetv2_cafr split -d {data.name}"):
        trainer.get_tr_and_val_datasets()
    assert file.exists() is (split is not None)  # nnU-Net's own would stay
    trainer.fold = "all"
    trainer.get_tr_and_val_datasets()


def test_patients_that_are_not_known_are_no_reason_to_look_away(data, tmp_path, monkeypatch):
    trainer = make(data)
    trainer.initialize()
    raw_of(trainer, tmp_path, monkeypatch, "SpineMRI_002")
    with pytest.raises(SystemExit, match=r"provenance.json lacks 1 of the \d+ cases: SpineMRI_002"):
        trainer.get_tr_and_val_datasets()


def test_a_training_that_has_begun_goes_on_with_a_warning(data, tmp_path, monkeypatch):
    (data / "splits_final.json").write_text(json.dumps([{"train": ["SpineMRI_001"], "val": ["SpineMRI_002"]}]))
    trainer = make(data)
    trainer.initialize()
    raw_of(trainer, tmp_path, monkeypatch)
    trainer.current_epoch = 1
    trainer.get_tr_and_val_datasets()
    assert "trains on 1 of the 1 patients whom it validates (anna)" in Path(trainer.log_file).read_text()
