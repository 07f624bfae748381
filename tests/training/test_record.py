"""A training's log says what it takes to repeat it, and its seed is what made it."""

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.training import variants
from nnunetv2_cafr.training.record import git_revision

from .batches import batch_of


def weights(trainer) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in trainer.network.parameters()])


def step_of_epoch(trainer, epoch: int) -> float:
    """The loss of one step at the start of an epoch: dropout and contrastive sampling are its random parts."""
    trainer.current_epoch = epoch
    for key in trainer.logger.local_logger.my_fantastic_logging:
        trainer.logger.local_logger.my_fantastic_logging[key] = [0.0] * epoch
    trainer.on_train_epoch_start()
    trainer.loss.clr_weight = 1.0
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (2, 1, 16, 12), generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    image = torch.randn(2, 1, 64, 48, generator=generator)
    return float(trainer.train_step(batch_of(trainer, image, labels, ["a", "b"]))["loss"])


@pytest.mark.parametrize("name", ["nnUNetTrainer_CAFR", "nnUNetTrainer_LevelSafe", "nnUNetTrainer_seed0"])
def test_the_same_seed_gives_the_same_network(name, construct):
    first, again = construct(name), construct(name)
    other = construct(f"{name.removesuffix('_seed0')}_seed1")
    torch.testing.assert_close(weights(first), weights(again), rtol=0, atol=0)
    assert not torch.allclose(weights(first), weights(other))


def test_the_same_seed_gives_the_same_sampling_and_loss_in_each_epoch(construct):
    name = "nnUNetTrainer_CAFR_budget9x1"
    loss = step_of_epoch(construct(name), epoch=3)
    torch.rand(7)  # whatever was drawn before
    assert step_of_epoch(construct(name), epoch=3) == pytest.approx(loss, rel=1e-6)
    assert step_of_epoch(construct(name), epoch=4) != pytest.approx(loss, rel=1e-3)


def test_workers_of_other_ranks_and_starts_begin_with_other_random_numbers(construct, monkeypatch):
    """They inherit torch's generator. The first start of the first rank is as initialised."""
    states = []
    trainer = construct("nnUNetTrainer_CAFR")
    loaders = trainer.get_dataloaders()
    monkeypatch.setattr(nnUNetTrainer, "get_dataloaders", lambda _: states.append(torch.get_rng_state()) or loaders)
    for rank, epoch in ((0, 0), (1, 0), (0, 3)):
        trainer = construct("nnUNetTrainer_CAFR")
        initialised = torch.get_rng_state()
        trainer.local_rank, trainer.current_epoch = rank, epoch
        trainer.get_dataloaders()
        assert torch.equal(states[-1], initialised) == (rank == epoch == 0)
    assert not torch.equal(states[1], states[2])


def test_a_seed_and_a_length_go_together():
    for name in ("nnUNetTrainer_CAFR_seed7_budget2x3", "nnUNetTrainer_CAFR_budget2x3_seed7"):
        trainer = variants.trainer_variant(name)
        assert trainer.__name__ == name
        assert trainer.seed == 7
    assert variants.trainer_variant("nnUNetTrainer_seed1_5epochs").seed == 1


def test_the_log_holds_the_whole_record(construct):
    trainer = construct("nnUNetTrainer_CAFR_noLAFR_seed3_budget2x1")
    trainer.on_train_start()
    text = Path(trainer.log_file).read_text().partition("Record of this training:\n")[2]
    record, _ = json.JSONDecoder().raw_decode(text)
    assert record["seed"] == 3
    assert record["versions"]["nnunetv2"] == version("nnunetv2")
    assert record["versions"]["torch"] == torch.__version__
    settings = record["settings"]
    expected = {"use_lafr": False, "use_clr": True, "clr_weight": 0.01, "num_epochs": 2, "elastic_probability": 0.2}
    assert expected.items() <= settings.items()
    assert record["configuration"]["patch_size"] == trainer.configuration_manager.patch_size
    assert len(record["split"]["train"]) == 4
    assert "Adam" in record["optimizer"]
    assert "temperature=0.1" in record["loss"]
    assert record["environment"]["nnUNet_n_proc_DA"] == "1"


def test_record_and_curves_stand_beside_the_log_and_grow_when_continued(construct, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    name = "nnUNetTrainer_seed0_budget2x1"
    trainer = construct(name)
    trainer.save_every = 1
    monkeypatch.setattr(trainer, "num_epochs", 1)
    trainer.perform_actual_validation = lambda *_: None
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    trainer.on_validation_epoch_start()
    trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
    trainer.on_epoch_end()
    folder = Path(trainer.output_folder)
    (record,) = json.loads((folder / "training_record.json").read_text())
    assert record["data"]["identifier"] == "nnUNetPlans_2d"
    assert record["mirroring"] == list(trainer.inference_allowed_mirroring_axes)
    curves = json.loads((folder / "training_curves.json").read_text())
    assert curves["train_losses"] == [float(trainer.logger.get_value("train_losses", step=0))]

    trainer.save_checkpoint(str(folder / "checkpoint_latest.pth"))
    again = construct(name)
    again.load_checkpoint(str(folder / "checkpoint_latest.pth"))
    again.on_train_start()
    assert len(json.loads((folder / "training_record.json").read_text())) == 2


def test_the_record_tells_augmentations_apart_and_nothing_else(construct, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def augmentation(name: str) -> list[str]:
        trainer = construct(name)
        trainer.get_dataloaders()
        return trainer.record()["augmentation"]

    cafr, level_safe, stock = map(
        augmentation, ("nnUNetTrainer_CAFR", "nnUNetTrainer_LevelSafe", "nnUNetTrainer_seed0")
    )
    assert cafr == level_safe != stock
    assert any("SpatialTransform" in line and "p_elastic_deform=0.2" in line for line in cafr)
    assert any("MirrorTransform" in line and "allowed_axes=(0, 1)" in line for line in stock)


def test_the_revision_is_gits_own():
    clone = Path(__file__).parents[2]
    if not (clone / ".git").exists():
        pytest.skip("not run from a git clone")
    head = subprocess.run(
        ["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=True
    )
    assert git_revision().removesuffix("-dirty") == head.stdout.strip()
