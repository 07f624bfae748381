"""`--c` goes on with what a training began, refuses by name what is no longer so, and tells what is only different."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.files import lock, try_lock
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.training.continuation import BEST_VALIDATED
from nnunetv2_cafr.training.network_identity import differences, identity_of

TRAINER = "nnUNetTrainer_CAFR_budget2x1"


@pytest.fixture(scope="module")
def begun_once(phantom_dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a training that has begun: its checkpoint and record."""
    results = tmp_path_factory.mktemp("begun")
    with phantom_dataset.in_this_process() as patch:
        patch.setenv("nnUNet_results", str(results))
        trainer = make()
        trainer.initialize()
        trainer.on_train_start()
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))
    return results


@pytest.fixture
def begun(data: Path, begun_once: Path, nnunet_environment: Path) -> Path:
    """The checkpoint, in results that may be changed."""
    shutil.copytree(begun_once, nnunet_environment, dirs_exist_ok=True)
    (checkpoint,) = nnunet_environment.rglob("checkpoint_latest.pth")
    return checkpoint


def make(name: str = TRAINER, continue_training: bool = False) -> nnUNetTrainer:
    return get_trainer_from_args("511", "2d", 0, name, continue_training=continue_training, device=torch.device("cpu"))


def go_on(checkpoint: Path) -> str:
    """What the log says after `--c` has loaded the checkpoint."""
    trainer = make(continue_training=True)
    trainer.load_checkpoint(str(checkpoint))
    return Path(trainer.log_file).read_text()


def rewrite(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def settings(plans: dict) -> dict:
    return plans["configurations"]["2d"]


PLANS = {
    "patch": lambda plans: settings(plans).update(patch_size=[32, 32]),
    "batch": lambda plans: settings(plans).update(batch_size=3),
    "spacing": lambda plans: settings(plans).update(spacing=[1.0, 1.0]),
    "normalisation": lambda plans: settings(plans).update(normalization_schemes=["NoNormalization"]),
    "transpose_forward": lambda plans: plans.update(transpose_forward=[2, 1, 0], transpose_backward=[2, 1, 0]),
}


@pytest.mark.parametrize("what", PLANS)
def test_changed_plans_are_refused(what, begun, data):
    rewrite(data / "nnUNetPlans.json", PLANS[what])
    words = rf"can't be gone on with by --c.*\n- {what}: .*, now .*\n(- .*\n)*It was trained by nnunetv2-cafr"
    with pytest.raises(SystemExit, match=words):
        go_on(begun)


def test_changed_classes_are_refused_also_in_validation(begun, data):
    rewrite(data / "dataset.json", lambda content: content["labels"].update(more=20))
    with pytest.raises(SystemExit, match=r"\n- classes: none, now {'more': 20}\n"):
        go_on(begun)
    with pytest.raises(SystemExit, match="can't be validated"):
        make().load_checkpoint(str(begun))


def test_another_batch_is_no_matter_in_validation(begun, data):
    rewrite(data / "nnUNetPlans.json", PLANS["batch"])
    make().load_checkpoint(str(begun))


def test_another_split_is_refused_with_the_cases(begun, data):
    splits = json.loads((data / "splits_final.json").read_text())
    moved = splits[0]["train"].pop()
    splits[0]["val"].append(moved)
    (data / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(SystemExit, match=rf"split of fold 0, train: 1 case \({moved}\) no longer\n.*{moved}\) new"):
        go_on(begun)


def test_other_data_are_refused_by_case(begun, data):
    (file, *_) = (data / "nnUNetPlans_2d").glob("*_seg.b2nd")
    with file.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(SystemExit, match=rf"data: 1 case \({file.name.removesuffix('_seg.b2nd')}\) preprocessed anew"):
        go_on(begun)
    trainer = make()
    trainer.load_checkpoint(str(begun))  # references that were corrected may be validated against
    assert "preprocessed anew" in Path(trainer.log_file).read_text()


def test_versions_and_machine_are_only_told(begun):
    def older(records: list) -> None:
        records[0]["versions"]["nnunetv2-cafr"] = "0.0.1"
        records[0]["device"] = "a GPU"

    assert "WARNING" not in go_on(begun)
    rewrite(begun.parent / "training_record.json", older)
    log = go_on(begun)
    assert "nnunetv2-cafr 0.0.1, now " in log
    assert "device a GPU, now cpu" in log


def test_a_network_that_computes_something_else_is_refused(begun, monkeypatch):
    """The weights fit; what is done with them is another thing."""
    record = begun.parent / "training_record.json"
    rewrite(record, lambda records: records[0]["versions"].update({"nnunetv2-cafr": "9"}))
    encode = CAFRNet.encode
    monkeypatch.setattr(CAFRNet, "encode", lambda self, x: [level.tanh() for level in encode(self, x)])
    words = r"network: the same weights, of which its code computes something else\n.* by nnunetv2-cafr 9"
    with pytest.raises(SystemExit, match=words):
        go_on(begun)


def test_weights_that_do_not_fit_are_refused_with_the_version_that_trained_them(begun, monkeypatch):
    checkpoint = torch.load(begun, weights_only=False)
    weights = checkpoint["network_weights"]
    gone = next(key for key in weights if weights[key].ndim > 1)
    weights["old"] = weights.pop(gone)
    torch.save(checkpoint, begun)
    with pytest.raises(SystemExit, match=r"(?s)network: of the weights 1 are missing .*trained by nnunetv2-cafr \d"):
        go_on(begun)
    (begun.parent / "training_record.json").unlink()  # the log has it too
    with pytest.raises(SystemExit, match=r"trained by nnunetv2-cafr \d"):
        go_on(begun)
    # In prediction, where nnU-Net builds the network and loads the weights itself.
    trainer = make()
    arguments = (trainer.plans_manager, trainer.configuration_manager, 1, trainer.label_manager.num_segmentation_heads)
    with pytest.raises(RuntimeError, match=r"of another network than nnUNetTrainer_CAFR.* which version"):
        type(trainer).build_network_architecture(*arguments, False).load_state_dict(weights)


def test_a_finished_training_says_so_and_trains_nothing(begun, monkeypatch):
    trainer = make(continue_training=True)
    trainer.initialize()
    trainer.current_epoch = 1
    final = begun.with_name("checkpoint_final.pth")
    trainer.save_checkpoint(str(final))
    again = make(continue_training=True)
    again.load_checkpoint(str(final))
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda _: pytest.fail("there is nothing to train"))
    again.run_training()
    assert "This training is finished: 2 epochs" in Path(again.log_file).read_text()


def test_a_new_training_leaves_no_checkpoint_that_could_be_taken_for_its_own(begun):
    """nnU-Net's --c takes a final one before all others: it would validate the old training and drop the new one."""
    old = begun.read_bytes()
    final = begun.with_name("checkpoint_final.pth")
    shutil.copy(begun, final)
    trainer = make(continue_training=True)
    trainer.load_checkpoint(str(begun))
    trainer.on_train_start()
    assert begun.is_file() and final.is_file()
    trainer = make()
    trainer.on_train_start()
    assert not begun.exists() and not final.exists()
    assert begun.with_name("checkpoint_final_of_earlier_training.pth").read_bytes() == old
    assert "checkpoint_final.pth of an earlier training" in Path(trainer.log_file).read_text()


def test_what_is_set_aside_stays_when_more_is(begun):
    """Two starts without --c, as of a job that is requeued, with the record and the curves of each."""
    old = begun.read_bytes()
    curves = begun.with_name("training_curves.json")
    record = begun.with_name("training_record.json").read_bytes()
    for words in ("of the first", "of the second"):
        curves.write_text(words)
        trainer = make()
        trainer.on_train_start()
        trainer.save_checkpoint(str(begun))
    names = sorted(path.name for path in begun.parent.glob("*_of_earlier_training*"))
    assert names == [
        f"{name}_of_earlier_training{number}.{ending}"
        for name, ending in (("checkpoint_latest", "pth"), ("training_curves", "json"), ("training_record", "json"))
        for number in ("", "_2")
    ]
    aside = "_of_earlier_training"
    assert begun.with_stem(begun.stem + aside).read_bytes() == old
    assert curves.with_stem(curves.stem + aside).read_text() == "of the first"
    assert begun.with_name(f"training_record{aside}.json").read_bytes() == record


def test_a_new_training_is_not_finished_by_the_validation_of_an_earlier_one(begun):
    """A benchmark takes summary.json and the length of the curves for the end of the training that the record is of."""
    summary = begun.parent / "validation" / "summary.json"
    summary.parent.mkdir()
    summary.write_text("of the first")
    curves = begun.with_name("training_curves.json")
    curves.write_text("of the first")
    make().on_train_start()
    assert not summary.exists() and not curves.exists()
    assert (begun.parent / "validation_of_earlier_training" / "summary.json").read_text() == "of the first"


def test_a_record_without_checkpoints_is_not_set_aside(begun):
    """Of a training that ended before its first checkpoint, nothing is left that could be used."""
    begun.unlink()
    make().on_train_start()
    assert not list(begun.parent.glob("*_of_earlier_training*"))


def test_a_training_keeps_others_out_as_long_as_it_lives(begun, monkeypatch):
    file = begun.with_name(".training.lock")
    held = []
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda _: held.append(try_lock(file)))
    trainer = make()
    trainer.run_training()
    assert held == [None] and not file.exists()
    again = try_lock(file)
    assert again is not None
    again.release()


def test_a_validation_keeps_a_second_training_out(begun, monkeypatch):
    held = []
    validate = lambda *_: held.append(try_lock(begun.with_name(".training.lock")))  # noqa: E731
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", validate)
    make().perform_actual_validation()
    assert held == [None]


def test_the_other_ranks_of_a_training_do_not_keep_each_other_out(begun, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda _: None)
    held = lock(begun.with_name(".training.lock"))
    trainer = make()
    trainer.local_rank = 1
    trainer.run_training()
    held.release()


@pytest.mark.parametrize("begin", ["run_training", "perform_actual_validation"])
def test_a_second_training_or_validation_in_the_same_folder_is_refused(begin, begun):
    """Their label maps would mix, those of --val_best unmarked."""
    held = lock(begun.with_name(".training.lock"))
    before = begun.read_bytes()
    with pytest.raises(SystemExit, match="another training or validation writes into"):
        getattr(make(), begin)()
    assert begun.read_bytes() == before
    assert not (begun.parent / "validation").exists()
    held.release()


def test_a_validation_of_the_best_checkpoint_is_marked_until_another_follows(begun, monkeypatch):
    """nnU-Net's --val_best fills the same folder; a training that began from a best checkpoint is none of it."""
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda _: None)
    mark = begun.parent / "validation" / BEST_VALIDATED
    best = begun.with_name("checkpoint_best.pth")
    shutil.copy(begun, best)
    for checkpoint, continued, marked in ((best, False, True), (begun, False, False), (best, True, False)):
        trainer = make(continue_training=continued)
        trainer.load_checkpoint(str(checkpoint))
        if continued:
            trainer.run_training()
        trainer.perform_actual_validation()
        assert mark.exists() == marked


def small(**changes: object) -> CAFRNet:
    arguments = {"embed_dim": 48, "num_heads": 2, "head_dim": 8, "ffn_dim": 48, "tap_channels": 8, "projection_dim": 8}
    return CAFRNet(1, 4, **{**arguments, **changes})  # type: ignore[arg-type]


def test_the_identity_of_a_network_is_that_of_its_function():
    first = identity_of(small(), 1, [48, 48])
    assert differences(first, identity_of(small(tap_scale=1.0), 1, [48, 48])) == []  # of the start only
    assert differences(first, json.loads(json.dumps(identity_of(small(), 1, [48, 48])))) == []
    for changes in ({"dropout": 0.2}, {"logit_scale": 1.0}, {"num_heads": 4, "head_dim": 4}, {"use_lafr": False}):
        assert differences(first, identity_of(small(**changes), 1, [48, 48])) != []
