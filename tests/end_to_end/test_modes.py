"""The modes that nnU-Net's users know, by its real commands: 3-D, low resolution and cascade, regions with an ignore
label and two channels, the best configuration with ensemble and postprocessing, --npz, --val_best, fold all."""

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr import phantom
from nnunetv2_cafr.loss import PixelInfoNCE
from nnunetv2_cafr.training.continuation import BEST_VALIDATED

TRAINER = "nnUNetTrainer_CAFR_budget2x1"
THICK, REGIONS, OTHER = "Dataset001_Thick", "Dataset002_Regions", "Dataset003_Other"
SACRUM, LUMBAR, THORACIC, IGNORE = 1, 2, 3, 4
CLASSES = {"background": 0, "sacrum": SACRUM, "lumbar": LUMBAR, "thoracic": THORACIC}
SHAPE = (12, 64, 48)  # sagittal slices, rows, columns
CASES, TEST_CASE = ["case_1", "case_2", "case_3"], "case_4"
SPLITS = [{"train": [*CASES[:2]], "val": [CASES[2]]}, {"train": [*CASES[1:]], "val": [CASES[0]]}]


def write_raw(folder: Path, dataset_json: dict, *, with_ignored: bool) -> None:
    """Phantoms with slices three times as thick as their pixels are wide, and three parts of the spine as labels."""
    for sub in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / sub).mkdir(parents=True)
    channels = len(dataset_json["channel_names"])
    for number, case in enumerate([*CASES, TEST_CASE]):
        image, mask = phantom.make_case(number, size=(*SHAPE[1:], SHAPE[0]), spacing=(4.4, 4.4, 13.5))
        level = sitk.GetArrayFromImage(mask)
        lumbar = ((level >= 2) & (level <= 6)) | ((level >= 11) & (level <= 16))
        part = np.select([level == 1, lumbar, level > 0], [SACRUM, LUMBAR, THORACIC], 0).astype(np.uint8)
        if with_ignored:
            part[:, 20:28] = IGNORE  # a band across the spine
        labels = sitk.GetImageFromArray(part)
        labels.CopyInformation(image)
        is_test = case == TEST_CASE
        for channel in range(channels):
            shown = image if channel == 0 else sitk.Cast(sitk.InvertIntensity(image), sitk.sitkInt16)
            sitk.WriteImage(shown, folder / ("imagesTs" if is_test else "imagesTr") / f"{case}_{channel:04d}.nii.gz")
        if not is_test:
            sitk.WriteImage(labels, folder / "labelsTr" / f"{case}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"numTraining": 3, "file_ending": ".nii.gz", **dataset_json}))


def edit_json(path: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def train(folders, dataset: str, configuration: str, fold: int | str, *options: object) -> None:
    folders.call("nnUNetv2_train", dataset, configuration, fold, "-tr", TRAINER, "-device", "cpu", *options)


def predict(folders, dataset: str, configuration: str, target: Path, *options: object, folds=(0,)) -> np.ndarray:
    """The prediction of the test case."""
    images = folders.raw / dataset / "imagesTs"
    which = ["-d", dataset, "-c", configuration, "-tr", TRAINER, "-f", *folds, "-i", images, "-o", target]
    folders.call("nnUNetv2_predict", *which, "-device", "cpu", "-npp", 0, "-nps", 0, *options)
    return read(target / f"{TEST_CASE}.nii.gz")


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def fold_folder(folders, dataset: str, configuration: str, fold: int | str = 0) -> Path:
    return folders.results / dataset / f"{TRAINER}__nnUNetPlans__{configuration}" / f"fold_{fold}"


def load_final(folder: Path) -> dict:
    return torch.load(folder / "checkpoint_final.pth", weights_only=False)


def assert_learned_from_all_terms(checkpoint: dict, *, least_clr: float = 1e-3) -> None:
    """Finite terms in both epochs; in the second the contrastive one had its weight, and pairs if it exceeds 0."""
    curves = checkpoint["logging"]
    for term in ("train_dice", "train_ce", "train_clr"):
        assert len(curves[term]) == 2
        assert np.isfinite(curves[term]).all()
    assert curves["clr_weight"] == [0.0, 0.01]
    assert curves["train_clr"][1] >= least_clr


def make_trainer(dataset: str, configuration: str, name: str = TRAINER, plans: str = "nnUNetPlans") -> nnUNetTrainer:
    trainer = get_trainer_from_args(dataset, configuration, 0, name, plans, device=torch.device("cpu"))
    trainer.initialize()
    return trainer


def prepare(folders, dataset: str, configurations: list[str], edit_plans: Callable[[dict], None]) -> None:
    """Planned, the plans edited as users edit them, preprocessed, and split in two folds."""
    number, preprocessed = dataset[7:10], folders.preprocessed / dataset
    folders.call("nnUNetv2_extract_fingerprint", "-d", number, "-np", 1)
    folders.call("nnUNetv2_plan_experiment", "-d", number)
    edit_json(preprocessed / "nnUNetPlans.json", lambda plans: edit_plans(plans["configurations"]))
    folders.call("nnUNetv2_preprocess", "-d", number, "-c", *configurations, "-np", 1)
    (preprocessed / "splits_final.json").write_text(json.dumps(SPLITS))


def add_cascade(configurations: dict) -> None:
    """As users do where nnU-Net plans none."""
    full = configurations["3d_fullres"]
    configurations["3d_lowres"] = {
        **full,
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [full["spacing"][0], 8.8, 8.8],
        "median_image_size_in_voxels": [12, 32, 24],
        "patch_size": [12, 32, 24],
        "batch_dice": False,
        "next_stage": "3d_cascade_fullres",
    }
    full["batch_dice"] = True  # as nnU-Net's planner sets it where there is a low resolution
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


def enlarge_batch(configurations: dict) -> None:
    """So that every batch has pairs: cells of one combination of regions are few on so small a spine.

    None of 500 batches of 48 was without; 13 of 150 batches of 8 were.
    """
    configurations["2d"]["batch_size"] = 48


@pytest.fixture(scope="module")
def datasets(make_nnunet_folders):
    """One of thick slices in 2-D, 3-D and cascade; one of two channels, nested regions and an ignored band."""
    folders = make_nnunet_folders()
    write_raw(folders.raw / THICK, {"channel_names": {"0": "T2"}, "labels": CLASSES}, with_ignored=False)
    nested = {
        "background": 0,
        "spine": [SACRUM, LUMBAR, THORACIC],
        "lumbosacral": [SACRUM, LUMBAR],
        "sacrum": SACRUM,
        "ignore": IGNORE,
    }
    two_channels = {"channel_names": {"0": "T2", "1": "inverted"}}
    regions = {"labels": nested, "regions_class_order": [THORACIC, LUMBAR, SACRUM]}
    write_raw(folders.raw / REGIONS, {**two_channels, **regions}, with_ignored=True)
    prepare(folders, THICK, ["2d", "3d_fullres", "3d_lowres"], add_cascade)
    prepare(folders, REGIONS, ["2d"], enlarge_batch)
    return folders


def remember_pairs(patch: pytest.MonkeyPatch) -> list:
    """Collects target, number of cells and pairs of each training step."""
    drawn = []
    sample_pairs = PixelInfoNCE.sample_pairs

    def remember(self: PixelInfoNCE, target: torch.Tensor, cells: Sequence[int], hard: torch.Tensor | None = None):
        drawn.append((target, cells, sample_pairs(self, target, cells, hard)))
        return drawn[-1][-1]

    patch.setattr(PixelInfoNCE, "sample_pairs", remember)
    return drawn


@pytest.fixture(scope="module")
def drawn() -> list:
    """What the training on regions compared."""
    return []


@pytest.fixture(scope="module")
def trained(datasets, drawn):
    """The low resolution of fold all, which predicts every case for the next stage, and its cascade with
    probabilities; the regions."""
    train(datasets, THICK, "3d_lowres", "all")
    train(datasets, THICK, "3d_cascade_fullres", 0, "--npz")
    with pytest.MonkeyPatch.context() as patch:
        remembered = remember_pairs(patch)
        train(datasets, REGIONS, "2d", 0)
    drawn += remembered
    return datasets


@pytest.fixture(scope="module")
def weights(datasets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 2-D, one channel, before any training: only names and shapes of its weights are asked for."""
    file = tmp_path_factory.mktemp("weights") / "checkpoint_final.pth"
    with datasets.in_this_process():
        make_trainer(THICK, "2d").save_checkpoint(str(file))
    return file


@pytest.fixture
def in_process(datasets, tmp_path: Path) -> Iterator[Callable[..., nnUNetTrainer]]:
    """Makes an initialised trainer in this process, without workers and with results of its own."""
    with datasets.in_this_process() as patch:
        patch.setenv("nnUNet_results", str(tmp_path))
        yield make_trainer


def test_thick_slices_in_3d(trained):
    fold = fold_folder(trained, THICK, "3d_cascade_fullres")
    checkpoint = load_final(fold)
    # the image and one channel for each foreground class of the previous stage;
    # slices three times as thick as pixels are wide: a token covers a quarter as many of them
    assert checkpoint["network_weights"]["patch_embedding.projection.weight"].shape == (768, 1 + 3, 4, 16, 16)
    assert checkpoint["network_weights"]["pyramid.stages.0.0.0.weight"].shape[1] == 1 + 3
    assert_learned_from_all_terms(checkpoint)
    validated = read(fold / "validation" / f"{CASES[2]}.nii.gz")
    assert validated.shape == SHAPE
    assert set(np.unique(validated)) <= set(CLASSES.values())
    with np.load(fold / "validation" / f"{CASES[2]}.npz") as stored:
        np.testing.assert_array_equal(stored["probabilities"].argmax(0), validated)


def test_a_cascade_without_its_low_resolution_is_refused(in_process):
    with pytest.raises(SystemExit, match=r"holds no prediction of \d cases .* Train 3d_lowres first"):
        in_process(THICK, "3d_cascade_fullres").get_tr_and_val_datasets()


def test_low_resolution_of_fold_all_feeds_the_cascade(trained, tmp_path):
    low = fold_folder(trained, THICK, "3d_lowres", "all")
    # a spine four pixels wide fills hardly a cell
    assert_learned_from_all_terms(load_final(low), least_clr=0)
    for_next_stage = low.parent / "predicted_next_stage" / "3d_cascade_fullres"
    assert {path.name.partition(".")[0] for path in for_next_stage.iterdir()} == set(CASES)

    predict(trained, THICK, "3d_lowres", tmp_path / "low", folds=["all"])
    previous = ["-prev_stage_predictions", tmp_path / "low"]
    predicted = predict(trained, THICK, "3d_cascade_fullres", tmp_path / "full", *previous)
    assert predicted.shape == SHAPE
    assert set(np.unique(predicted)) <= set(CLASSES.values())


def test_val_best_validates_the_best_checkpoint(trained):
    """A best checkpoint that sees the sacrum everywhere."""
    fold = fold_folder(trained, THICK, "3d_cascade_fullres")
    best = torch.load(fold / "checkpoint_best.pth", weights_only=False)
    for name, values in best["network_weights"].items():
        if ".seg_layers." in name:
            values.zero_()
    best["network_weights"]["decoder.seg_layers.0.bias"][SACRUM] = 10
    torch.save(best, fold / "checkpoint_best.pth")
    train(trained, THICK, "3d_cascade_fullres", 0, "--val", "--val_best", "--npz")
    np.testing.assert_array_equal(read(fold / "validation" / f"{CASES[2]}.nii.gz"), SACRUM)
    assert (fold / "validation" / f"{CASES[2]}.npz").exists()
    assert (fold / "validation" / BEST_VALIDATED).exists()


@pytest.mark.slow
def test_best_configuration_ensemble_and_postprocessing(trained, tmp_path):
    folders = trained
    for configuration, fold in (("2d", 0), ("2d", 1), ("3d_fullres", 0), ("3d_fullres", 1)):
        train(folders, THICK, configuration, fold, "--npz")
    folders.run("nnUNetv2_find_best_configuration", 1, "-tr", TRAINER, "-c", "2d", "3d_fullres", "-f", 0, 1, "-np", 1)
    found = json.loads((folders.results / THICK / "inference_information.json").read_text())
    single = {f"{TRAINER}__nnUNetPlans__{configuration}" for configuration in ("2d", "3d_fullres")}
    assert single < found["all_results"].keys()
    assert len(found["all_results"]) == 3
    assert all(0 < dice < 1 for dice in found["all_results"].values())
    best = found["best_model_or_ensemble"]
    assert {model["trainer"] for model in best["selected_model_or_models"]} == {TRAINER}
    assert f"-tr {TRAINER}" in (folders.results / THICK / "inference_instructions.txt").read_text()

    members = [tmp_path / "2d", tmp_path / "3d_fullres"]

    for member in members:
        predict(folders, THICK, member.name, member, "--save_probabilities", folds=(0, 1))
    together = tmp_path / "together"
    folders.run("nnUNetv2_ensemble", "-i", *members, "-o", together, "-np", 1)
    mean = np.mean([np.load(member / f"{TEST_CASE}.npz")["probabilities"] for member in members], axis=0)
    ensembled = read(together / f"{TEST_CASE}.nii.gz")
    np.testing.assert_array_equal(ensembled, mean.argmax(0))

    rules = Path(best["postprocessing_file"])
    assert isinstance(pickle.loads(rules.read_bytes()), tuple)
    arguments = ["-i", together, "-o", tmp_path / "cleaned", "-pp_pkl_file", rules, "-np", 1]
    folders.run("nnUNetv2_apply_postprocessing", *arguments, "-plans_json", best["some_plans_file"])
    cleaned = read(tmp_path / "cleaned" / f"{TEST_CASE}.nii.gz")
    changed = cleaned != ensembled
    assert (cleaned[changed] == 0).all()


def test_fine_tuning_to_other_plans_patch_and_classes(datasets, weights, in_process, tmp_path):
    """Pretrained weights that can be told from freshly initialised ones, into a data set of one class more."""
    pretrained = torch.load(weights, weights_only=False)
    parameters = {  # of the usual size, in another order
        name: values.copy_(values.roll(1, 0))
        for name, values in pretrained["network_weights"].items()
        if values.is_floating_point() and "running_" not in name
    }
    torch.save(pretrained, tmp_path / "pretrained.pth")

    other = datasets.preprocessed / OTHER
    shutil.copytree(datasets.preprocessed / THICK, other, ignore=shutil.ignore_patterns("*_3d_*"))
    edit_json(other / "dataset.json", lambda content: content["labels"].update(cervical=4))

    def make_other_plans(plans: dict) -> None:
        plans.update(dataset_name=OTHER, plans_name="otherPlans")
        plans["configurations"]["2d"].update(patch_size=[40, 48], batch_size=3)

    edit_json(other / "nnUNetPlans.json", make_other_plans)
    (other / "nnUNetPlans.json").rename(other / "otherPlans.json")

    trainer = in_process(OTHER, "2d", plans="otherPlans")
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "pretrained.pth"))
    trainer.run_training()
    tuned = load_final(Path(trainer.output_folder))["network_weights"]
    for name, values in parameters.items():
        if ".seg_layers." in name:
            assert tuned[name].shape[0] == len(values) + 1
        else:  # two steps of AdamW, each by about the learning rate at most
            torch.testing.assert_close(tuned[name], values, rtol=0, atol=8e-3)


@pytest.mark.parametrize(
    ("dataset", "configuration"),
    [(THICK, "3d_fullres"), (REGIONS, "2d")],
    ids=["2-D into 3-D", "one channel into two"],
)
def test_weights_that_do_not_fit_are_refused_by_name(dataset, configuration, weights, in_process):
    network = in_process(dataset, configuration).network
    with pytest.raises(AssertionError) as refused:
        load_pretrained_weights(network, weights)
    assert str(refused.value).startswith(
        "The shape of the parameters of key pyramid.stages.0.0.0.weight is not the same. "
        "Pretrained model: torch.Size([16, 1, 3, 3]); your network: "
    )


def test_weights_fit_an_ablation_that_leaves_a_part_out_but_not_the_reverse(weights, in_process, tmp_path):
    without = in_process(THICK, "2d", "nnUNetTrainer_CAFR_noCLR").network
    load_pretrained_weights(without, weights)
    torch.save({"network_weights": without.state_dict()}, tmp_path / "without.pth")
    network = in_process(THICK, "2d").network
    with pytest.raises(AssertionError, match=r"Key fusion\.fuse\.0\.weight is missing"):
        load_pretrained_weights(network, tmp_path / "without.pth")


def test_regions_with_ignore_label_and_two_channels(trained, tmp_path):
    checkpoint = load_final(fold_folder(trained, REGIONS, "2d"))
    assert_learned_from_all_terms(checkpoint)
    assert checkpoint["network_weights"]["pyramid.stages.0.0.0.weight"].shape[1] == 2
    assert checkpoint["network_weights"]["decoder.seg_layers.0.bias"].shape == (3,)
    predicted = predict(trained, REGIONS, "2d", tmp_path / "predicted")
    assert predicted.shape == SHAPE
    assert set(np.unique(predicted)) <= {0, SACRUM, LUMBAR, THORACIC}


def contents_of_cells(target: torch.Tensor, cells: Sequence[int]) -> list[set[tuple]]:
    """The combinations of channel values that occur in each cell, in the order (sample, row, column)."""
    height, width = (-(-pixels // count) for pixels, count in zip(target.shape[2:], cells, strict=True))
    return [
        {tuple(pixel) for pixel in sample[:, row : row + height, column : column + width].flatten(1).T.tolist()}
        for sample in target
        for row in range(0, target.shape[2], height)
        for column in range(0, target.shape[3], width)
    ]


def assert_unambiguous(drawn: list, is_told_apart: Callable[[tuple], bool]) -> None:
    """Every cell that enters the loss holds one combination of channel values, and one that may be compared."""
    num_pairs = 0
    for target, cells, pairs in drawn:
        found_in = contents_of_cells(target, cells)
        for anchor, positive, *negatives in torch.column_stack(pairs).tolist():
            (content,) = found_in[anchor]
            assert found_in[positive] == {content}
            assert positive != anchor
            others = [found_in[negative] for negative in negatives]
            assert all(len(other) == 1 for other in others)
            assert {content} not in others
            assert all(map(is_told_apart, (content, *(value for other in others for value in other))))
        num_pairs += len(pairs.anchor)
    assert num_pairs > 0


def test_contrastive_pairs_of_regions_are_unambiguous(trained, drawn):
    assert len(drawn) == 2  # epochs of one step
    assert_unambiguous(drawn, lambda values: any(values[:-1]) and not values[-1])  # the last channel is the ignored


def test_contrastive_pairs_of_a_label_map_are_unambiguous(datasets, in_process, monkeypatch):
    path = datasets.preprocessed / REGIONS / "dataset.json"
    before = path.read_text()
    content = json.loads(before)
    del content["regions_class_order"]
    path.write_text(json.dumps({**content, "labels": {**CLASSES, "ignore": IGNORE}}))
    trainer = in_process(REGIONS, "2d")
    path.write_text(before)

    drawn = remember_pairs(monkeypatch)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    for _ in range(2):
        trainer.train_step(next(trainer.dataloader_train))
    assert len(drawn) == 2
    assert_unambiguous(drawn, lambda values: values[0] in CLASSES.values())
