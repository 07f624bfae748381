"""Trainers constructed as nnU-Net constructs them, over really preprocessed phantoms."""

import inspect
import json
import pickle
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunetv2_cafr import training
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.lafr import LAFR
from nnunetv2_cafr.network.transformer import TransformerLayer
from nnunetv2_cafr.raw_dataset import patients_of
from nnunetv2_cafr.spine import read_spine
from nnunetv2_cafr.training.cosine_lr import CosineLRScheduler
from nnunetv2_cafr.training.level_safe import loaded_patch_size
from nnunetv2_cafr.training.lookup import find_trainer
from nnunetv2_cafr.training.orientation import superior_inferior_axis
from nnunetv2_cafr.training.robust import LOCK
from nnunetv2_cafr.training.variants import nested_share

CPU = torch.device("cpu")
UP_DOWN, FRONT_BACK = 0, 1  # patch axes of a sagittal slice


@pytest.fixture
def interrupted(construct) -> nnUNetTrainer:
    """A training of two epochs which nnU-Net's own loop saved after the first and which ended at the second."""
    trainer = construct("nnUNetTrainer_CAFR_budget2x3")
    trainer.save_every = 1
    start_epoch = trainer.on_epoch_start

    def stop_in_second_epoch() -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        start_epoch()

    trainer.on_epoch_start = stop_in_second_epoch
    with pytest.raises(KeyboardInterrupt):
        trainer.run_training()
    return trainer


@pytest.mark.parametrize("name", training.__all__)
def test_every_trainer_can_be_constructed_and_saves_its_name(name, construct):
    trainer = construct(name)
    assert trainer.network is not None
    assert list(inspect.signature(type(trainer)).parameters) == [
        "plans",
        "configuration",
        "fold",
        "dataset_json",
        "device",
    ]
    assert Path(trainer.output_folder).parent.name == f"{name}__nnUNetPlans__2d"
    if "CAFR" in name:
        assert isinstance(trainer.network, CAFRNet)
        single = name.endswith("paper")  # has one output
        assert trainer.enable_deep_supervision != single
        assert trainer.network.decoder.deep_supervision != single
        for enabled in (False, True):  # as nnU-Net's validation does
            trainer.set_deep_supervision_enabled(enabled)
        assert trainer.network.decoder.deep_supervision != single
        assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert trainer.num_epochs == (500 if name.endswith("paper") else 1000)
    assert trainer.num_iterations_per_epoch == 250
    assert trainer.oversample_foreground_percent == 0.33


@pytest.mark.parametrize(
    ("name", "lafr", "clr", "transformer"),
    [
        ("nnUNetTrainer_CAFR", True, True, True),
        ("nnUNetTrainer_CAFR_nnUNetDA", True, True, True),
        ("nnUNetTrainer_CAFR_noLAFR", False, True, True),
        ("nnUNetTrainer_CAFR_noCLR", True, False, True),
        ("nnUNetTrainer_CAFR_noLAFR_noCLR", False, False, True),
        ("nnUNetTrainer_CAFR_noTransformer", True, True, False),
        ("nnUNetTrainer_CAFR_noTransformer_noLAFR_noCLR", False, False, False),
    ],
)
def test_ablations_leave_out_what_their_names_say(name, lafr, clr, transformer, construct):
    trainer = construct(name)

    def has(kind: type[nn.Module]) -> bool:
        return any(isinstance(module, kind) for module in trainer.network.modules())

    assert (has(LAFR), trainer.network.projection is not None, has(TransformerLayer)) == (lafr, clr, transformer)
    trainer.current_epoch = 999
    assert trainer.current_clr_weight() == (0.01 if clr else 0)


def test_contrast_by_level_reads_the_order_from_the_label_names(construct):
    """Phantoms count from L5: a disc is one place from the bodies beside it, a body two from the next."""
    trainer = construct("nnUNetTrainer_CAFR_orderedCLR")
    labels, contrastive = trainer.dataset_json["labels"], trainer.loss.contrastive
    distance = contrastive.level_distance
    assert distance.shape == (len(labels), len(labels))
    assert distance[labels["L5"], labels["L4/L5"]] == 1
    assert distance[labels["L5"], labels["L4"]] == 2
    assert distance[labels["L3"], labels["L5"]] == 4
    assert not distance[0].any() and not distance.diagonal().any()
    assert contrastive.hard_anchors
    hard = construct("nnUNetTrainer_CAFR_hardCLR").loss.contrastive
    assert hard.hard_anchors and hard.level_distance is None
    plain = construct("nnUNetTrainer_CAFR").loss.contrastive
    assert not plain.hard_anchors and plain.level_distance is None


def test_contrast_by_level_refuses_labels_without_order(construct, monkeypatch):
    monkeypatch.setattr(
        "nnunetv2_cafr.training.contrastive.read_spine", lambda _: read_spine({"background": 0, "anterior": 1})
    )
    with pytest.raises(UserError, match="nnUNetTrainer_CAFR_orderedCLR needs labels that are levels of the spine"):
        construct("nnUNetTrainer_CAFR_orderedCLR")


def test_clr_weight_follows_the_epoch(construct):
    trainer = construct("nnUNetTrainer_CAFR")
    weights = []
    for epoch in (0, 50, 100, 999):
        trainer.current_epoch = epoch
        weights.append(trainer.current_clr_weight())
    assert weights == pytest.approx([0, 0.005, 0.01, 0.01])


@pytest.mark.parametrize(
    ("name", "scale"), [("CAFR", 0), ("CAFR_noCLR", 0), ("CAFR_paperRecipe", 1), ("CAFR_paper", 1)]
)
def test_taps_begin_at_0_but_where_the_rate_is_the_papers(name, scale, construct):
    taps = construct(f"nnUNetTrainer_{name}").network.taps
    assert all((tap.to_level[-1].weight == scale).all() for tap in taps)


def test_papers_learning_rate_follows_the_epoch(construct):
    trainer = construct("nnUNetTrainer_CAFR_paperRecipe")
    rates = []
    for epoch in (0, 50, 100, 999):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(1e-6)
    assert rates == sorted(rates, reverse=True)
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 1e-5


@pytest.mark.parametrize("name", ["nnUNetTrainer_CAFR_budget10x20", "nnUNetTrainer_LevelSafe_AdamW_budget10x20"])
def test_rate_warms_up_and_decays_by_iteration(name, construct):
    """Held against torch's own schedulers; a training that is continued in any epoch has the same rates."""
    trainer = construct(name)
    peak, warmup = trainer.learning_rate, 10  # 5 % of 200
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], peak)
    rise = torch.optim.lr_scheduler.LinearLR(reference, 1 / warmup, total_iters=warmup - 1)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=200 - warmup)
    expected = torch.optim.lr_scheduler.SequentialLR(reference, [rise, fall], [warmup])
    of_epochs = []
    for epoch in range(10):
        trainer.lr_scheduler.step(epoch)
        of_epochs.append(trainer.optimizer.param_groups[0]["lr"])
        for _ in range(20):
            (rate,) = {group["lr"] for group in trainer.optimizer.param_groups}
            assert rate == pytest.approx(expected.get_last_lr()[0], abs=1e-12)
            trainer.optimizer.step()
            reference.step()
            expected.step()
    trainer.lr_scheduler.step(7)
    assert trainer.optimizer.param_groups[0]["lr"] == of_epochs[7]


def test_norms_and_biases_do_not_decay(construct):
    trainer = construct("nnUNetTrainer_CAFR")
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {p.ndim > 1 for p in trainer.network.parameters() if decays[id(p)] == trainer.decay} == {True}
    assert {p.ndim > 1 for p in trainer.network.parameters() if decays[id(p)] == 0} == {False}


def test_gradients_are_clipped_before_the_step(construct):
    trainer = construct("nnUNetTrainer_CAFR")
    for parameter in trainer.network.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    trainer.optimizer.step()
    norm = torch.stack([parameter.grad.norm() for parameter in trainer.network.parameters()]).norm()
    assert norm.item() == pytest.approx(trainer.clip_norm, rel=1e-3)


def test_cosine_is_torchs_own():
    parameter = nn.Parameter(torch.zeros(1))
    ours, theirs = torch.optim.SGD([parameter], 1e-4), torch.optim.SGD([parameter], 1e-4)
    mine = CosineLRScheduler(ours, 1e-4, 1e-6, num_epochs=11)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=10, eta_min=1e-6)
    for epoch in range(11):
        mine.step(epoch)
        assert mine.get_last_lr()[0] == pytest.approx(reference.get_last_lr()[0])
        theirs.step()
        reference.step()


@pytest.mark.parametrize("name", ["nnUNetTrainer_LevelSafe", "nnUNetTrainer_CAFR", "nnUNetTrainer_CAFR_paper"])
def test_level_safe_augmentation_never_turns_a_spine_upside_down(name, construct):
    trainer = construct(name)
    rotation, _, _, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert mirror_axes == trainer.inference_allowed_mirroring_axes == (FRONT_BACK,)
    assert np.rad2deg(rotation) == pytest.approx((-15, 15))
    pipeline = trainer.get_training_transforms(
        [64, 48], rotation, None, mirror_axes, False, use_mask_for_norm=[False], foreground_labels=[1]
    )
    (mirror,) = (t for t in pipeline.transforms if isinstance(t, MirrorTransform))
    (spatial,) = (t for t in pipeline.transforms if isinstance(t, SpatialTransform))
    assert mirror.allowed_axes == (FRONT_BACK,)
    assert spatial.p_elastic_deform > 0
    # Spines lie anywhere: the patch's centre moves by up to max_shift of the patch.
    loaded = loaded_patch_size([64, 48], rotation)
    image = torch.zeros(1, *loaded)
    centres = [spatial.get_parameters(image=image)["center_location_in_pixels"] for _ in range(200)]
    moved = (np.array(centres) - np.array(loaded) / 2) / spatial.patch_size
    assert np.abs(moved).max() <= trainer.max_shift
    assert (np.abs(moved).max(axis=0) > 0.8 * trainer.max_shift).all()
    # A gradient from top to bottom keeps its direction through everything.
    image = torch.linspace(-1, 1, 64)[:, None].expand(64, 48)[None].clone()
    labels = (image > 0).to(torch.int16)
    for _ in range(40):
        out = pipeline(image=image.clone(), segmentation=labels.clone())["segmentation"][0].float().clamp(min=0)
        assert out[48:].mean() > out[:16].mean()


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainer_CAFR_nnUNetDA"])
def test_stock_augmentation_stays_stock(name, construct):
    trainer = construct(name)
    rotation, _, _, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert mirror_axes == (UP_DOWN, FRONT_BACK)
    assert np.rad2deg(rotation) == pytest.approx((-180, 180))


def test_level_safe_arms_differ_in_network_and_optimiser_only(construct):
    cafr, stock = construct("nnUNetTrainer_CAFR"), construct("nnUNetTrainer_LevelSafe")
    settings = cafr.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    np.testing.assert_equal(settings, stock.configure_rotation_dummyDA_mirroring_and_inital_patch_size())
    arguments = ([64, 48], settings[0], None, settings[3], False)
    ours, theirs = (
        [str(t) for t in trainer.get_training_transforms(*arguments).transforms] for trainer in (cafr, stock)
    )
    # CAFR keeps padding as -1 for the contrastive loss; its Dice and CE see background, as nnU-Net's do.
    assert [t for t in theirs if "RemoveLabel" not in t] == ours
    for attribute in ("num_epochs", "num_iterations_per_epoch", "oversample_foreground_percent", "batch_size"):
        assert getattr(cafr, attribute) == getattr(stock, attribute)


SAGITTAL = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
SAGITTAL_AFFINE = np.array([[0, 0, -4, 7], [-0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("properties", "transpose", "expected"),
    [
        ({"sitk_stuff": {"direction": SAGITTAL}}, [0, 1, 2], 1),
        ({"sitk_stuff": {"direction": SAGITTAL}}, [2, 0, 1], 2),
        ({"sitk_stuff": {"direction": np.eye(3).ravel()}}, [0, 1, 2], 0),
        ({"nibabel_stuff": {"original_affine": np.diag([0.5, 0.5, 4, 1])}}, [0, 1, 2], 0),
        ({"nibabel_stuff": {"original_affine": SAGITTAL_AFFINE}}, [0, 1, 2], 1),
        ({"sitk_stuff": {"direction": (1, 0, 0, 1)}}, [0, 1, 2], None),
        ({"spacing": [1, 1, 1]}, [0, 1, 2], None),
    ],
)  # fmt: skip
def test_up_down_axis_is_read_from_the_geometry(properties, transpose, expected):
    assert superior_inferior_axis(properties, transpose) == expected


def test_unknown_orientation_means_no_mirroring(monkeypatch, construct):
    trainer = construct("nnUNetTrainer_LevelSafe")
    monkeypatch.setattr(trainer, "find_superior_inferior_axis", lambda: None)
    # () makes nnU-Net's predictor fail
    assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] is None
    assert trainer.inference_allowed_mirroring_axes is None


def test_orientation_that_a_reader_made_up_is_not_believed(construct, phantom_dataset, tmp_path, monkeypatch):
    """Of a file without qform and sform SimpleITK makes LPS: mirroring by that would turn these spines upside down."""
    target = tmp_path / "raw" / "Dataset511_SpineMRI" / "imagesTr"
    shutil.copytree(phantom_dataset.raw / "Dataset511_SpineMRI" / "imagesTr", target)
    trainer = construct("nnUNetTrainer_LevelSafe")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    for names, mirrored in ((0, (1,)), (6, None)):
        for file in sorted(target.iterdir())[:names]:
            image = nibabel.load(file)
            image.header["qform_code"] = image.header["sform_code"] = 0
            nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), file)
        for name in ("_orientations", "_unoriented"):
            vars(trainer).pop(name, None)
        assert trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[3] == mirrored
        assert ("headers of 6 cases" in trainer.describe_voxel_orders()) == (names == 6)


@pytest.mark.parametrize(
    ("through", "plane"), [("left to right", None), ("head to foot", "axial"), ("front to back", "coronal")]
)
def test_slices_that_are_not_sagittal_are_named(through, plane, construct, monkeypatch):
    trainer = construct("nnUNetTrainer_CAFR")
    axes = ["head to foot", "front to back", "left to right"]  # of the arrays of a reader that turns to RAS
    first = axes.index(through)
    order = [first, *(axis for axis in range(3) if axis != first)]
    monkeypatch.setitem(trainer.plans_manager.plans, "transpose_forward", order)
    doubt = trainer.doubt_about_plane()
    if plane is None:
        assert doubt is None
    else:
        assert f"cut {plane} slices (patches of " in doubt and doubt.endswith(", ".join(axes))


def test_padding_reaches_the_loss_as_minus_one(construct):
    trainer = construct("nnUNetTrainer_CAFR")
    pipeline = trainer.get_training_transforms([64, 48], (0, 0), None, (), False)
    labels = torch.full((1, 64, 48), -1, dtype=torch.int16)
    assert (pipeline(image=torch.zeros(1, 64, 48), segmentation=labels)["segmentation"] == -1).all()


@pytest.mark.loss_terms
def test_one_epoch_logs_the_terms_and_resumes_to_the_same_state(interrupted, construct):
    assert interrupted.logger.get_value("clr_weight", step=None) == [0.0]
    terms = [interrupted.logger.get_value(f"train_{term}", step=0) for term in ("dice", "ce", "clr")]
    assert np.isfinite(terms).all()
    # CLR's weight is 0 in the first epoch, so the other two terms are nnU-Net's loss.
    assert interrupted.logger.get_value("train_losses", step=0) == pytest.approx(terms[0] + terms[1], rel=1e-4)
    assert (Path(interrupted.output_folder) / "loss_terms.png").stat().st_size > 1000

    resumed = construct("nnUNetTrainer_CAFR_budget2x3", continue_training=True)
    resumed.load_checkpoint(str(Path(interrupted.output_folder) / "checkpoint_latest.pth"))
    assert resumed.current_epoch == 1
    torch.testing.assert_close(resumed.network.state_dict(), interrupted.network.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        resumed.optimizer.state_dict()["state"], interrupted.optimizer.state_dict()["state"], rtol=0, atol=0
    )
    logged = {key: value[:1] for key, value in interrupted.logger.get_checkpoint().items()}
    np.testing.assert_equal(resumed.logger.get_checkpoint(), logged)  # classes that never occurred are NaN
    assert resumed.current_clr_weight() == 0.01
    resumed.run_training()
    assert resumed.logger.get_value("clr_weight", step=None) == [0.0, 0.01]
    assert len(resumed.logger.get_value("train_clr", step=None)) == 2
    assert (Path(resumed.output_folder) / "checkpoint_final.pth").is_file()


def test_a_length_in_the_name_makes_that_trainer():
    from nnunetv2_cafr.training import variants

    trainer = variants.trainer_variant("nnUNetTrainer_CAFR_budget2x10")
    assert issubclass(trainer, training.nnUNetTrainer_CAFR)
    assert trainer.__name__ == "nnUNetTrainer_CAFR_budget2x10"
    assert pickle.loads(pickle.dumps(trainer)) is trainer
    assert issubclass(variants.trainer_variant("nnUNetTrainerAdam_budget1x1"), nnUNetTrainer)


@pytest.mark.parametrize(
    ("name", "epochs", "iterations", "validation"),
    [
        ("nnUNetTrainer_CAFR_100epochs", 100, 250, 50),
        ("nnUNetTrainer_LevelSafe_5epochs", 5, 250, 50),
        ("nnUNetTrainer_CAFR_noCLR_1epoch", 1, 250, 50),
        ("nnUNetTrainer_budget3x20", 3, 20, 4),
        ("nnUNetTrainer_CAFR_paper_budget1x2", 1, 2, 1),
    ],
)
def test_lengths_reach_the_trainer_its_log_and_its_folder(name, epochs, iterations, validation, construct):
    trainer = construct(name)
    found = (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch)
    assert found == (epochs, iterations, validation)
    assert name in trainer.output_folder
    assert "LIMITED TRAINING" in Path(trainer.log_file).read_text()


@pytest.mark.parametrize(
    "name",
    ["nnUNetTrainer_CAFR", "nnUNetTrainer_Unknown_5epochs", "nnUNetTrainer_CAFR_0epochs", "nnUNetTrainer_budget5",
     "nnUNetTrainer_CAFR_budget2x0", "nnUNetTrainer_CAFR_budget2x3x4", "nnUNetTrainer_train100percent",
     "nnUNetTrainer_train0percent", "5epochs", "numpy_5epochs", "__path__"],
)  # fmt: skip
def test_names_that_are_not_fully_understood_are_not_answered(name):
    from nnunetv2_cafr.training import variants

    with pytest.raises(AttributeError):
        getattr(variants, name)


def test_shares_of_the_data_are_nested_whole_patients_and_equal_for_all_trainers(
    phantom_dataset, construct, monkeypatch
):
    whole, _ = construct("nnUNetTrainer_CAFR").do_split()
    patients = {case: f"patient {index // 2}" for index, case in enumerate(whole)}
    monkeypatch.setattr("nnunetv2_cafr.training.variants.patients_of", lambda _, cases: {c: patients[c] for c in cases})
    half = construct("nnUNetTrainer_CAFR_train50percent_budget2x1")
    train, validation = half.do_split()
    assert len(train) == 2 == 2 * len({patients[case] for case in train})
    assert validation == construct("nnUNetTrainer_CAFR").do_split()[1]
    assert construct("nnUNetTrainer_LevelSafe_train50percent").do_split()[0] == train
    assert "SHARE OF THE DATA" in Path(half.log_file).read_text()

    people = [f"p{number}" for number in range(40)]
    shares = [nested_share(people, percent, 3) for percent in (1, 10, 25, 99)]
    assert [len(share) for share in shares] == [1, 4, 10, 40]
    assert all(smaller <= larger for smaller, larger in pairwise(shares))
    assert nested_share(people, 25, 3) != nested_share(people, 25, 4)


def test_shares_follow_the_provenance_of_the_raw_data_set(phantom_dataset, nnunet_environment):
    (raw,) = phantom_dataset.raw.iterdir()
    cases = json.loads((raw / "provenance.json").read_text())["cases"]
    assert patients_of(raw.name, sorted(cases)) == {case: entry["patient"] for case, entry in cases.items()}


def test_paper_recipe_reaches_the_stored_plans(phantom_dataset, construct):
    trainer = construct("nnUNetTrainer_CAFR_paper_budget1x1")
    trainer.on_train_start()
    stored = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())["configurations"]["2d"]
    assert stored["patch_size"] == [256, 256]
    assert stored["batch_size"] == 16
    assert stored["normalization_schemes"] == ["RescaleTo01Normalization"]
    batch = next(trainer.dataloader_train)
    assert batch["data"].shape == (16, 1, 256, 256)
    assert -0.2 < batch["data"].min() < batch["data"].max() < 1.2
    # the user's own plans stay as they were
    own = phantom_dataset.preprocessed / "Dataset511_SpineMRI" / "nnUNetPlans.json"
    assert json.loads(own.read_text())["configurations"]["2d"]["patch_size"] != [256, 256]


def test_paper_recipe_reads_cases_as_its_plans_would_preprocess_them(construct):
    """[0, 1] of the z-scored case is [0, 1] of the original: an affine map does not move it."""
    stock, paper = construct("nnUNetTrainer"), construct("nnUNetTrainer_CAFR_paper")
    (z_scored, *_), (unit, *_) = (
        trainer.dataset_class(trainer.preprocessed_dataset_folder).load_case("SpineMRI_002")
        for trainer in (stock, paper)
    )
    expected = z_scored[:] - z_scored[:].min()
    expected /= expected.max()
    np.testing.assert_allclose(unit[:], expected, atol=1e-6)
    np.testing.assert_allclose(unit[:, 1:2, 5:9, 3:4], expected[:, 1:2, 5:9, 3:4], atol=1e-6)


def test_paper_recipe_predicts_from_files_what_it_validates(phantom_dataset, construct):
    """Validation scales the z-scored data, prediction preprocesses the file by the stored plans: the same input."""
    trainer = construct("nnUNetTrainer_CAFR_paper_budget1x1")
    trainer.on_train_start()
    trainer.on_train_end()
    trainer.perform_actual_validation()
    validation = Path(trainer.output_folder) / "validation"
    assert (validation / "summary.json").is_file()

    predictor = nnUNetPredictor(device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    reader = predictor.plans_manager.image_reader_writer_class()
    for predicted in validation.glob("*.nii.gz"):
        file = phantom_dataset.raw / "Dataset511_SpineMRI" / "imagesTr" / predicted.name.replace(".nii", "_0000.nii")
        labels = predictor.predict_single_npy_array(*reader.read_images([str(file)]))
        assert (labels == reader.read_seg(str(predicted))[0][0]).mean() > 0.999


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_lowres"], ids=["planned", "not planned"])
def test_paper_recipe_refuses_3d(configuration, nnunet_environment):
    with pytest.raises(UserError, match=r"is 2-D, and patches have 3 axes|no configuration '3d_lowres'"):
        get_trainer_from_args("511", configuration, 0, "nnUNetTrainer_CAFR_paper", device=CPU)


@pytest.mark.parametrize(
    ("scheme", "masked"), [("CTNormalization", False), ("ZScoreNormalization", True)], ids=["CT", "masked"]
)
def test_paper_recipe_refuses_data_that_prediction_would_scale_otherwise(scheme, masked):
    settings = {"patch_size": [64, 64], "normalization_schemes": [scheme], "use_mask_for_norm": [masked]}
    assert scheme in str(find_trainer("nnUNetTrainer_CAFR_paper").unfit(settings, {"labels": {}}))
    settings |= {"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False]}
    assert find_trainer("nnUNetTrainer_CAFR_paper").unfit(settings, {"labels": {}}) is None


def test_paper_recipe_takes_a_2d_configuration_of_any_name(phantom_dataset, nnunet_environment):
    folder = phantom_dataset.preprocessed / "Dataset511_SpineMRI"
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d_small"] = {"inherits_from": "2d", "patch_size": [64, 64]}
    (folder / "smallPlans.json").write_text(json.dumps(plans))
    try:
        trainer = get_trainer_from_args("511", "2d_small", 0, "nnUNetTrainer_CAFR_paper", "smallPlans", device=CPU)
    finally:
        (folder / "smallPlans.json").unlink()
    settings = trainer.configuration_manager
    assert (settings.patch_size, settings.batch_size) == ([256, 256], 16)
    assert settings.normalization_schemes == ["RescaleTo01Normalization"]


def test_hard_anchors_need_labels_that_exclude_one_another():
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2}}
    assert "these are regions" in str(find_trainer("nnUNetTrainer_CAFR_hardCLR").unfit({}, regions))
    assert find_trainer("nnUNetTrainer_CAFR").unfit({}, regions) is None


def test_paper_recipe_stops_after_ten_epochs_without_gain(monkeypatch, construct):
    """nnU-Net's own loop and logger; only the steps are replaced, by a Dice that rises for three epochs and falls."""
    name = "nnUNetTrainer_CAFR_paper_budget30x1"
    trainer = construct(name)
    term = dict.fromkeys(("dice", "ce", "clr", "negative_cosine"), np.array(0.0))
    monkeypatch.setattr(trainer, "get_dataloaders", lambda: (iter(lambda: {}, None), iter(lambda: {}, None)))
    monkeypatch.setattr(trainer, "train_step", lambda batch: {"loss": np.array(1.0), **term})

    def validation_step(_batch: dict) -> dict:
        hits = np.array([float(10 - abs(trainer.current_epoch - 2) / 4)])
        return {"loss": np.array(1.0), "tp_hard": hits, "fp_hard": 20 - hits, "fn_hard": 20 - hits}

    monkeypatch.setattr(trainer, "validation_step", validation_step)
    reported: set[str] = set()

    class Tracker:
        """Stands where nnU-Net keeps its Weights & Biases logger."""

        def log(self, key: str, value: object, step: int) -> None:
            reported.add(key)

    trainer.logger.loggers.append(Tracker())
    end, guarded = trainer.on_train_end, []
    lock = Path(trainer.output_folder) / LOCK

    def on_train_end() -> None:
        guarded.append(lock.exists() and callable(signal.getsignal(signal.SIGTERM)))
        end()

    monkeypatch.setattr(trainer, "on_train_end", on_train_end)
    trainer.run_training()
    assert guarded == [True]  # the final checkpoint is written as after any last epoch
    assert {"train_dice", "train_ce", "train_clr", "clr_weight"} <= reported
    best = int(np.argmax(trainer.logger.get_value("ema_fg_dice", step=None)))
    assert best >= 2
    assert trainer.current_epoch == best + 10 + 1 < 30
    final = Path(trainer.output_folder) / "checkpoint_final.pth"
    assert final.is_file()

    continued = construct(name, continue_training=True)
    continued.load_checkpoint(str(final))
    monkeypatch.setattr(continued, "get_dataloaders", lambda: (None, None))
    monkeypatch.setattr(continued, "train_step", lambda batch: pytest.fail("trained on after early stopping"))
    continued.run_training()
    assert continued.current_epoch == trainer.current_epoch


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_of_one_is_warned_of(batch_size, construct, monkeypatch):
    monkeypatch.setattr(
        nnUNetTrainer, "_set_batch_size_and_oversample", lambda self: setattr(self, "batch_size", batch_size)
    )
    trainer = construct("nnUNetTrainer_CAFR")
    assert ("a batch of one sample" in Path(trainer.log_file).read_text()) == (batch_size == 1)
