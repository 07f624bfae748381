"""A loss that is no number and a collapsed embedding are named in the log, and the best checkpoint stays."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2_cafr.training.alarms import TrainingDiverged

from .batches import batch_of

CASES = ["SpineMRI_002", "SpineMRI_007"]


@pytest.fixture
def trainer(construct):
    trainer = construct("nnUNetTrainer_CAFR")
    trainer.current_epoch = 200  # past the warm-up of the contrastive weight
    trainer.loss.clr_weight = trainer.current_clr_weight()
    trainer.network.train()
    return trainer


def batch_with(trainer, image: float | None = None) -> dict:
    labels = torch.zeros(2, 1, 64, 48)
    labels[..., 16:48] = 3
    data = torch.randn(2, 1, 64, 48)
    if image is not None:
        data[1] = image
    return batch_of(trainer, data, labels, CASES)


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def test_an_image_with_nan_ends_the_training_and_is_named(trainer):
    trainer.train_step(batch_with(trainer))
    with pytest.raises(TrainingDiverged, match=r"SpineMRI_002, SpineMRI_007.*start again"):
        trainer.train_step(batch_with(trainer, image=math.nan))
    assert "ALARM in epoch 200: the training loss is not finite (dice nan, ce nan" in log_of(trainer)
    assert not (Path(trainer.output_folder) / "checkpoint_best.pth").exists()


def test_a_loss_that_did_not_reach_the_weights_is_named_and_training_goes_on(trainer, monkeypatch):
    """As on a GPU, where GradScaler leaves the step out."""
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
    monkeypatch.setattr(
        trainer.loss.contrastive, "forward", lambda embedding, *_: embedding.sum() * torch.tensor(math.inf)
    )
    trainer.train_step(batch_with(trainer))
    alarm = log_of(trainer).rpartition("ALARM")[2]
    assert "(clr " in alarm
    assert "SpineMRI_002, SpineMRI_007" in alarm
    assert not trainer.best_is_trustworthy
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_best.pth"))
    assert not (Path(trainer.output_folder) / "checkpoint_best.pth").exists()
    for _ in range(10):
        trainer.train_step(batch_with(trainer))
    assert log_of(trainer).count("ALARM") == 5
    assert "Further alarms of this epoch are not shown" in log_of(trainer)


def test_a_step_left_out_for_its_gradient_is_no_alarm(trainer, monkeypatch):
    monkeypatch.setattr(trainer.optimizer, "step", lambda: None)
    weight = trainer.network.decoder.seg_layers[0].weight
    weight.register_hook(lambda gradient: gradient * math.inf)
    trainer.train_step(batch_with(trainer))
    assert not weight.grad.isfinite().all()
    assert "ALARM" not in log_of(trainer)
    assert trainer.best_is_trustworthy


def test_validation_is_watched_too(trainer):
    trainer.network.eval()
    with torch.no_grad():
        trainer.validation_step(batch_with(trainer, image=math.nan))
    assert "the validation loss is not finite (dice nan, ce nan); cases SpineMRI_002" in log_of(trainer)


@pytest.mark.parametrize("collapsed", [True, False])
def test_a_collapsed_embedding_is_noticed_at_the_end_of_the_epoch(collapsed, trainer):
    if collapsed:
        output = trainer.network.projection.output
        torch.nn.init.zeros_(output.weight)
        torch.nn.init.ones_(output.bias)
    steps = [trainer.train_step(batch_with(trainer)) for _ in range(2)]
    for key in trainer.logger.local_logger.my_fantastic_logging:
        trainer.logger.local_logger.my_fantastic_logging[key] = [0.0] * 200
    trainer.on_train_epoch_end(steps)
    assert ("the embedding of the contrastive term (clr) has collapsed" in log_of(trainer)) == collapsed
    assert trainer.best_is_trustworthy == (not collapsed)


def test_an_epoch_without_a_pair_is_told(trainer):
    """The contrastive loss is then 0, as it is where all is well apart."""
    pair, single = batch_with(trainer), batch_with(trainer)
    for labels in single["target"]:
        labels.zero_()
    for steps, told in (([pair, single], False), ([single], True)):
        outputs = [trainer.train_step(batch) for batch in steps]
        for key in trainer.logger.local_logger.my_fantastic_logging:
            trainer.logger.local_logger.my_fantastic_logging[key] = [0.0] * 200
        trainer.on_train_epoch_end(outputs)
        assert ("had anything to pair" in log_of(trainer)) == told


def test_the_cosine_is_that_of_anchors_and_negatives():
    from nnunetv2_cafr.loss import PixelInfoNCE

    loss = PixelInfoNCE()
    embedding = torch.zeros(2, 2, 4, 4)
    embedding[:, 0, :, :2] = 1
    embedding[:, :, :, 2:] = torch.tensor([0.6, 0.8])[:, None, None]
    labels = torch.zeros(2, 1, 16, 16)
    labels[..., 8:] = 1
    loss(embedding, labels)
    assert loss.last_negative_cosine.item() == pytest.approx(0.6)
    loss(embedding, torch.zeros(2, 1, 16, 16))
    assert np.isnan(loss.last_negative_cosine.item())
