"""What must not be compared is refused, and the message says what differs."""

import copy
import dataclasses
import json
import sys
from pathlib import Path

import pytest

from nnunetv2_cafr.benchmark import fairness
from nnunetv2_cafr.benchmark.clock import Clock, Measurement
from nnunetv2_cafr.benchmark.matrix import Matrix, Training
from nnunetv2_cafr.training.variants import nested_share

CAFR, LEVEL_SAFE, STOCK, RES_ENC, RECIPE = "CAFR", "LevelSafe", "nnU-Net", "ResEncM", "CAFR-paper"
PLANS = {"data_identifier": "nnUNetPlans_2d", "patch_size": [64, 48], "batch_size": 9, "spacing": [1.0, 1.0]}
PLANS |= {"preprocessor_name": "DefaultPreprocessor", "normalization_schemes": ["ZScore"], "batch_dice": True}
SPLITS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["b", "c"], "val": ["a"]}]
RECORD = {
    "data": {"dataset.json": "1", "fingerprint": "2", "cases": {"a": [10, 3], "b": [11, 3], "c": [12, 3]}},
    "nnunetv2-cafr code": "3",
    "versions": {"torch": "2.15"},
    "device": "cpu",
    "ranks": 1,
    "settings": {"num_epochs": 2, "num_iterations_per_epoch": 4, "oversample_foreground_percent": 0.33}
    | {"probabilistic_oversampling": False},
    "configuration": PLANS,
    "mirroring": [1],
    "environment": {},
    "augmentation": ["SpatialTransform(p_rotation=0.2)"],
}


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    """All five arms, finished at equal conditions, two folds, on a data set whose fold 0 validates on case c."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    arms = (CAFR, LEVEL_SAFE, STOCK, RES_ENC, RECIPE)
    monkeypatch.setattr(fairness, "code_digest", lambda: RECORD["nnunetv2-cafr code"])
    monkeypatch.setattr(fairness, "versions", lambda: RECORD["versions"])
    made = Matrix("Dataset001_X", "2d", "nnUNetPlans", arms, (0, 1), (0,), "smoke", (100,), (), "cpu")
    dataset = {"labels": {"background": 0, "S": 1}, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
    for name, labels in (("Dataset001_X", {}), ("Dataset002_Y", {"labels": {"background": 0, "L5": 1}})):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "dataset.json").write_text(json.dumps({**dataset, **labels}))
    (made.preprocessed / "nnUNetPlans_2d").mkdir(parents=True)
    for plans, batch in (("nnUNetPlans", 9), ("nnUNetResEncUNetMPlans", 7)):
        own = {"plans_name": plans, "configurations": {"2d": {**PLANS, "batch_size": batch}}}
        made.plans_file(plans).write_text(json.dumps(own))
    (made.preprocessed / "splits_final.json").write_text(json.dumps(SPLITS))
    for training in made.trainings():
        write(made, training, RECORD)
    return made


def write(matrix: Matrix, training: Training, record: dict) -> None:
    folder = matrix.fold_folder(training)
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    (folder / "validation" / "summary.json").write_text("{}")
    (folder / "training_record.json").write_text(json.dumps([{"split": SPLITS[training.fold], **record}]))
    (folder / "training_curves.json").write_text(json.dumps({"train_losses": [1.0, 0.5]}))


def alter(matrix: Matrix, arm: str, *path: str, value: object) -> None:
    """Writes another value into the records of an arm's fold 0."""
    record = copy.deepcopy({"split": SPLITS[0], **RECORD})
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    write(matrix, next(one for one in matrix.trainings() if one.arm.name == arm and one.fold == 0), record)


def test_equal_conditions_pass(matrix):
    fairness.check_before(matrix)
    fairness.check_after(matrix)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("settings", "num_epochs"), 3, "num_epochs: "),
        (("settings", "num_iterations_per_epoch"), 5, "num_iterations_per_epoch: "),
        (("augmentation",), ["SpatialTransform(p_rotation=0.9)"], "augmentation (level-safe)"),
        (("mirroring",), [0, 1], "test-time mirroring (level-safe)"),
        (("data", "fingerprint"), "other", "dataset fingerprint"),
        (("data", "dataset.json"), "other", "dataset.json"),
        (("data", "cases", "b"), [13, 3], "preprocessed files of fold 0"),
        (("split", "val"), ["d"], "split of fold 0"),
        (("configuration", "patch_size"), [32, 32], "patch_size of the plans"),
        (("configuration", "batch_size"), 8, "batch_size of the plans"),
        (("configuration", "spacing"), [2.0, 2.0], "spacing of the plans"),
        (("nnunetv2-cafr code",), "other", "version of nnunetv2-cafr's code"),
        (("versions", "torch"), "2.16", "version of torch"),
        (("device",), "NVIDIA A100", "device"),
        (("environment", "nnUNet_compile"), "false", "torch.compile"),
    ],
)
def test_a_report_never_mixes(path, value, message, matrix):
    alter(matrix, CAFR, *path, value=value)
    with pytest.raises(SystemExit) as error:
        fairness.check_after(matrix)
    assert message in str(error.value)
    assert "CAFR fold 0 seed 0" in str(error.value)


def test_a_mixture_is_refused_before_more_is_trained(matrix):
    alter(matrix, CAFR, "device", value="NVIDIA A100")
    with pytest.raises(SystemExit, match="device"):
        fairness.check_before(matrix)


@pytest.mark.parametrize(
    ("arm", "path", "value"),
    [
        (STOCK, ("augmentation",), ["another family"]),
        (STOCK, ("mirroring",), [0, 1]),
        (RES_ENC, ("configuration", "batch_size"), 7),
        (RECIPE, ("settings", "num_epochs"), 500),
        (RECIPE, ("configuration", "patch_size"), [256, 256]),
    ],
)
def test_what_belongs_to_a_family_or_to_own_plans_may_differ(arm, path, value, matrix):
    alter(matrix, arm, *path, value=value)
    if arm == STOCK:  # both of its folds, as the family has no other arm here
        for training in matrix.trainings():
            if training.arm.name == STOCK:
                write(matrix, training, {**RECORD, path[0]: value})
    assert fairness.differences(matrix) == []


def test_at_equal_seconds_an_arm_has_the_epochs_of_its_step_and_no_others(matrix):
    clock = Clock((Measurement({CAFR: 1.0, LEVEL_SAFE: 2.0}, {}, "", "cpu", RECORD["nnunetv2-cafr code"]),))
    both = dataclasses.replace(matrix, arms=(CAFR, LEVEL_SAFE), budget_seconds=LEVEL_SAFE, clock=clock)
    trainings = [one for one in both.trainings() if one.equal_seconds and one.arm.name == CAFR]
    for training in trainings:
        write(both, training, {**RECORD, "settings": {**RECORD["settings"], "num_epochs": 4}})
    assert fairness.differences(both) == []
    write(both, trainings[0], {**RECORD, "settings": {**RECORD["settings"], "num_epochs": 5}})
    (line,) = fairness.differences(both)
    assert line.startswith("num_epochs of CAFR at equal seconds: 5 in CAFR fold 0 seed 0, equal seconds; 4 in ")
    write(both, trainings[0], {**RECORD, "settings": {**RECORD["settings"], "num_epochs": 4}, "device": "other"})
    assert [line.partition(":")[0] for line in fairness.differences(both)] == ["device"]


def test_a_clock_of_other_code_or_another_machine_is_refused(matrix):
    clock = Clock((Measurement({CAFR: 1.0, LEVEL_SAFE: 1.0}, {}, "", "NVIDIA A100", "other"),))
    lines = fairness.differences(dataclasses.replace(matrix, arms=(CAFR, LEVEL_SAFE), budget_seconds=CAFR, clock=clock))
    assert [line.partition(":")[0] for line in lines] == ["version of nnunetv2-cafr's code", "device"]
    assert all("measurement 1 of seconds per step" in line for line in lines)
    with pytest.raises(SystemExit, match="seconds per step were measured with other code"):
        fairness.check_before(dataclasses.replace(matrix, arms=(CAFR, LEVEL_SAFE), budget_seconds=CAFR, clock=clock))


def test_plans_of_another_spacing_are_refused_before_anything_starts(matrix):
    other = {"configurations": {"2d": {**PLANS, "spacing": [2.0, 2.0]}}}
    matrix.plans_file("nnUNetResEncUNetMPlans").write_text(json.dumps(other))
    with pytest.raises(SystemExit, match=r"do not share one spacing.*-overwrite_target_spacing"):
        fairness.check_before(matrix)


def test_an_arm_trains_the_network_that_it_is_described_by(matrix):
    """nnU-Net's own trainers build what the plans name, and those of nnUNetv2_cafr plan name CAFR-Net."""
    architecture = {"architecture": {"network_class_name": "nnunetv2_cafr.network.CAFRNet"}}
    content = {"configurations": {"base": {**PLANS, **architecture}, "2d": {"inherits_from": "base"}}}
    matrix.plans_file("nnUNetPlans").write_text(json.dumps(content))
    fairness.check_before(dataclasses.replace(matrix, arms=(CAFR, RES_ENC)))
    with pytest.raises(SystemExit) as error:
        fairness.check_before(matrix)
    refused = [line for line in str(error.value).splitlines() if "would train the CAFRNet" in line]
    assert [line.split()[1] for line in refused] == [LEVEL_SAFE, STOCK]


@pytest.mark.parametrize("arm", ["UNet", "AttentionUNet"])
def test_an_arm_whose_package_is_missing_is_refused_before_anything_starts(arm, matrix, monkeypatch):
    fairness.check_before(dataclasses.replace(matrix, arms=(LEVEL_SAFE, arm)))
    for module in [module for module in sys.modules if module.partition(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "monai", None)  # as if it could not be found
    with pytest.raises(SystemExit, match=rf"- {arm}: .*pip install 'nnunetv2-cafr\[baselines\]'"):
        fairness.check_before(dataclasses.replace(matrix, arms=(LEVEL_SAFE, arm)))


def test_own_plans_are_told(matrix):
    assert fairness.own_plans(matrix) == ["ResEncM trains under nnU-Net's own plans for it: batch size 7 instead of 9."]


def test_a_training_that_stopped_early_is_no_result(matrix):
    first = next(matrix.trainings())
    (matrix.fold_folder(first) / "training_curves.json").write_text(json.dumps({"train_losses": [1.0]}))
    with pytest.raises(SystemExit, match="1 of 2 epochs"):
        fairness.check_after(matrix)
    (matrix.fold_folder(first) / "validation" / "summary.json").unlink()
    with pytest.raises(SystemExit, match="is not finished"):
        fairness.check_after(matrix)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (None, "nnUNetv2_cafr split"),
        ([{"train": ["a"], "val": ["b"]}], "there is no fold 1"),
        ([{"train": ["a", "b"], "val": ["c"]}, {"train": ["a", "b"], "val": ["b"]}], "validates on patient b"),
        ([{"train": ["a"], "val": ["c"]}, {"train": ["b"], "val": ["c"]}], "count twice"),
    ],
)
def test_splits_that_would_flatter_are_refused(splits, message, matrix):
    file = matrix.preprocessed / "splits_final.json"
    file.unlink() if splits is None else file.write_text(json.dumps(splits))
    with pytest.raises(SystemExit) as error:
        fairness.check_before(matrix)
    assert message in str(error.value)


def test_trainings_of_an_earlier_split_are_refused(matrix):
    """One that mixed patients, say: the split that is there now tells nothing of them, and the arms agree."""
    file = matrix.preprocessed / "splits_final.json"
    file.write_text(json.dumps([SPLITS[0], {"train": ["c"], "val": ["a"]}]))
    for check in (fairness.check_before, fairness.check_after):
        with pytest.raises(SystemExit, match=r"split of fold 1, 100 % of the patients: .*splits_final.json"):
            check(matrix)


def test_a_share_of_the_patients_is_that_of_the_present_split(matrix):
    half = dataclasses.replace(matrix, arms=(CAFR,), folds=(0,), percents=(100, 50))
    (share,) = (one for one in half.trainings() if one.percent == 50)
    (chosen,) = nested_share(["a", "b"], 50, 0)
    write(half, share, {**RECORD, "split": {"train": [chosen], "val": ["c"]}})
    assert fairness.differences(half) == []
    write(half, share, {**RECORD, "split": {"train": sorted({"a", "b"} - {chosen}), "val": ["c"]}})
    (line,) = fairness.differences(half)
    assert line.startswith("split of fold 0, 50 % of the patients: ")


def test_what_cannot_be_reported_is_not_trained(matrix, monkeypatch):
    """The arms that are there were trained by code and versions that are no longer here."""
    monkeypatch.setattr(fairness, "code_digest", lambda: "4")
    monkeypatch.setattr(fairness, "versions", lambda: {"torch": "2.16"})
    fairness.check_before(matrix)  # nothing is left to train
    last = list(matrix.trainings())[-1]
    (matrix.fold_folder(last) / "validation" / "summary.json").unlink()
    with pytest.raises(SystemExit) as error:
        fairness.check_before(matrix)
    for condition in ("version of nnunetv2-cafr's code: ", "version of torch: "):
        assert condition in str(error.value)
    assert "what would train now" in str(error.value)


def test_an_external_set_that_holds_images_of_the_training_set_is_refused(matrix):
    raw = matrix.raw.parent
    own, other = raw / "Dataset001_X", raw / "Dataset003_Z"
    for folder in (own, other):
        (folder / "imagesTr").mkdir(parents=True)
    (other / "dataset.json").write_text((own / "dataset.json").read_text())
    for name, content in (("a", "one"), ("b", "two")):
        (own / "imagesTr" / f"{name}_0000.nii.gz").write_text(content)
    (other / "imagesTr" / "y_0000.nii.gz").write_text("owt")  # as long as b
    fairness.check_before(dataclasses.replace(matrix, externals=("Dataset003_Z",)))
    (other / "imagesTr" / "z_0000.nii.gz").write_text("two")
    with pytest.raises(SystemExit, match=r"Dataset003_Z .*z_0000.nii.gz is b_0000.nii.gz"):
        fairness.check_before(dataclasses.replace(matrix, externals=("Dataset003_Z",)))


def test_all_problems_are_said_before_anything_starts(matrix):
    matrix.plans_file("nnUNetResEncUNetMPlans").write_text(json.dumps({"configurations": {}}))
    wanted = dataclasses.replace(matrix, externals=("Dataset002_Y",))
    with pytest.raises(SystemExit) as error:
        fairness.check_before(wanted)
    assert "has no configuration '2d'" in str(error.value)
    assert "other labels" in str(error.value)


def test_plans_that_call_themselves_otherwise_are_refused(matrix):
    """A copied and edited plans file would train in the folders of its original, as that."""
    file = matrix.plans_file("nnUNetPlans")
    file.write_text(json.dumps({**json.loads(file.read_text()), "plans_name": "others"}))
    with pytest.raises(SystemExit, match=r"nnUNetPlans\.json calls itself 'others'"):
        fairness.check_before(matrix)


def test_a_cascade_is_refused(matrix):
    file = matrix.plans_file("nnUNetPlans")
    configurations = {"2d": {"inherits_from": "base"}, "base": {**PLANS, "previous_stage": "3d_lowres"}}
    file.write_text(json.dumps({"plans_name": "nnUNetPlans", "configurations": configurations}))
    assert "refines what 3d_lowres predicts" in fairness.impossible_configuration(matrix)


def test_channels_of_an_external_set_may_be_called_modality(matrix):
    folder = matrix.raw.with_name("Dataset003_Z")
    folder.mkdir()
    content = json.loads((matrix.raw / "dataset.json").read_text())
    content["modality"] = content.pop("channel_names")
    (folder / "dataset.json").write_text(json.dumps(content))
    fairness.check_before(dataclasses.replace(matrix, externals=("Dataset003_Z",)))
