"""The baselines, and nnU-Net with the contrastive loss, constructed by nnU-Net's own lookup over phantoms."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim import SGD, Adam

from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.loss import DiceCECLRLoss
from nnunetv2_cafr.network.contrastive_unet import ContrastiveUNet
from nnunetv2_cafr.training import (
    nnUNetTrainer_AttentionUNet,
    nnUNetTrainer_SwinUNet,
    nnUNetTrainer_TransUNet,
    nnUNetTrainer_UNet,
)
from nnunetv2_cafr.training.level_safe import LevelSafeAugmentation
from nnunetv2_cafr.training.robust import RobustTraining

BASELINES = {
    "nnUNetTrainer_UNet": (SGD, {"lr": 1e-2, "momentum": 0.99, "weight_decay": 0}),
    "nnUNetTrainer_AttentionUNet": (Adam, {"lr": 1e-4, "weight_decay": 1e-6}),
    "nnUNetTrainer_SwinUNet": (SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}),
    "nnUNetTrainer_TransUNet": (SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}),
}
CLR = "nnUNetTrainer_LevelSafe_CLR"


def small_batch(trainer: nnUNetTrainer) -> dict:
    """Four augmented patches of the trainer's own data, cut to 32x32 around the spine for speed."""
    trainer.batch_size = 4
    trainer.configuration_manager.configuration["patch_size"] = [32, 32]
    return next(trainer.get_dataloaders()[0])


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch, nnunet_environment: Path) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_trains_with_the_optimiser_of_its_paper(name, construct, without_workers):
    trainer = construct(name)
    kind, settings = BASELINES[name]
    assert type(trainer.optimizer) is kind
    (group,) = trainer.optimizer.param_groups
    assert {key: group[key] for key in settings} == settings
    assert not group.get("nesterov")
    assert isinstance(trainer.lr_scheduler, PolyLRScheduler)
    assert isinstance(trainer, LevelSafeAugmentation)
    assert isinstance(trainer, RobustTraining)
    assert not trainer.enable_deep_supervision
    trainer.set_deep_supervision_enabled(False)  # as nnU-Net's validation does

    batch = small_batch(trainer)
    trainer.network.train()
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(8)]
    assert np.isfinite(losses).all()
    assert min(losses[-2:]) < losses[0] - 0.1
    trainer.network.eval()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step(batch)["loss"])


@pytest.mark.parametrize("trainer", [nnUNetTrainer_SwinUNet, nnUNetTrainer_TransUNet])
def test_2d_networks_refuse_3d(trainer, nnunet_environment):
    with pytest.raises(UserError, match=f"{trainer.__name__} is 2-D, and patches have 3 axes: train -c 2d"):
        get_trainer_from_args("511", "3d_fullres", 0, trainer.__name__, device=torch.device("cpu"))


@pytest.mark.parametrize("trainer", [nnUNetTrainer_UNet, nnUNetTrainer_AttentionUNet])
def test_convolutional_networks_take_thick_slices_in_3d(trainer, monkeypatch):
    monkeypatch.setattr("nnunetv2_cafr.training.baselines.WIDTHS", (4, 8, 8, 8, 8))
    network = trainer.build_network(1, 4, dimensions=3)
    assert network(torch.randn(2, 1, 5, 32, 24)).shape == (2, 4, 5, 32, 24)


@pytest.mark.parametrize("name", ["nnUNetTrainer_UNet", "nnUNetTrainer_AttentionUNet"])
def test_without_monai_nothing_starts_and_the_error_says_what_to_install(name, construct, monkeypatch):
    for module in [module for module in sys.modules if module.partition(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "monai", None)  # as if it could not be found
    with pytest.raises(SystemExit, match=r"pip install 'nnunetv2-cafr\[baselines\]'"):
        construct(name)


def test_the_other_trainers_do_without_monai():
    code = (
        "import sys; sys.modules['monai'] = None; from nnunetv2_cafr.training import nnUNetTrainer_SwinUNet as trainer;"
        "trainer.build_network(1, 2, dimensions=2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.loss_terms
def test_contrastive_loss_beside_nnunets_own_training(construct, without_workers):
    """Deep supervision, optimiser and schedule stay nnU-Net's; the terms are logged and the head is trained."""
    stock, trainer = construct("nnUNetTrainer_LevelSafe"), construct(f"{CLR}_budget2x2")
    assert isinstance(trainer.network, ContrastiveUNet)
    assert isinstance(trainer.loss, DiceCECLRLoss) and trainer.loss.scale_weights is not None
    assert trainer.loss.scale_weights == stock.loss.weight_factors
    assert repr(trainer.optimizer) == repr(stock.optimizer)
    assert type(trainer.lr_scheduler) is type(stock.lr_scheduler)
    own = {name for name, _ in trainer.network.named_parameters() if not name.startswith("projection.")}
    assert own == {name for name, _ in stock.network.named_parameters()}

    small_batch(trainer)  # also shrinks the patches of the training below
    trainer.num_val_iterations_per_epoch = 1
    before = {name: values.clone() for name, values in trainer.network.projection.named_parameters()}
    trainer.run_training()
    assert all(not torch.equal(before[name], values) for name, values in trainer.network.projection.named_parameters())
    assert trainer.logger.get_value("clr_weight", step=None) == [0.0, 0.01]
    for epoch in range(2):
        dice, ce, clr = (trainer.logger.get_value(f"train_{term}", step=epoch) for term in ("dice", "ce", "clr"))
        weight = trainer.logger.get_value("clr_weight", step=epoch)
        assert trainer.logger.get_value("train_losses", step=epoch) == pytest.approx(dice + ce + weight * clr, rel=1e-4)
    assert clr > 0
    assert (Path(trainer.output_folder) / "loss_terms.png").is_file()


def test_contrastive_loss_lowers_on_one_batch(construct, without_workers):
    trainer = construct(CLR)
    batch = small_batch(trainer)
    assert len(batch["target"]) > 1  # one for each resolution
    trainer.loss.clr_weight = trainer.clr_weight
    trainer.network.train()
    terms = []
    for _ in range(12):
        trainer.train_step(batch)
        terms.append({name: float(value) for name, value in trainer.loss.last_terms.items()})
    assert terms[-1]["ce"] < terms[0]["ce"] - 0.1
    assert terms[-1]["clr"] < terms[0]["clr"] - 0.1


def test_contrastive_loss_under_resenc_plans_and_not_under_ours(construct, monkeypatch):
    trainer = construct(CLR)
    configuration = trainer.configuration_manager
    architecture = configuration.configuration["architecture"]
    kwargs = {**architecture["arch_kwargs"]}
    kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    resenc = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    monkeypatch.setitem(
        configuration.configuration,
        "architecture",
        {**architecture, "network_class_name": resenc, "arch_kwargs": kwargs},
    )
    network = trainer.build_network_architecture(trainer.plans_manager, configuration, 1, 4, True)
    logits, embedding = network.train()(torch.randn(2, 1, 64, 64))
    assert len(logits) == len(kwargs["features_per_stage"]) - 1
    assert embedding.shape == (2, 256, 16, 16)

    ours = {"network_class_name": "nnunetv2_cafr.network.CAFRNet", "arch_kwargs": {}, "_kw_requires_import": []}
    monkeypatch.setitem(configuration.configuration, "architecture", ours)
    with pytest.raises(ValueError, match="plans of nnU-Net's own planners"):
        trainer.build_network_architecture(trainer.plans_manager, configuration, 1, 4, True)
