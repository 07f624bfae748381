"""Trainers constructed as nnU-Net constructs them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


@pytest.fixture
def construct(nnunet_environment: Path) -> Callable[..., nnUNetTrainer]:
    """Makes and initialises a trainer of this name for the preprocessed phantoms, 2-D, fold 0, on the CPU."""

    def make(name: str, **kwargs: bool) -> nnUNetTrainer:
        trainer = get_trainer_from_args("511", "2d", 0, name, device=torch.device("cpu"), **kwargs)
        trainer.initialize()
        return trainer

    return make
