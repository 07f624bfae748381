"""Trainers constructed as nnU-Net constructs them, and data that they may find changed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from ..conftest import DATASET


@pytest.fixture
def construct(nnunet_environment: Path) -> Callable[..., nnUNetTrainer]:
    """Makes and initialises a trainer of this name for the preprocessed phantoms, 2-D, fold 0, on the CPU."""

    def make(name: str, **kwargs: bool) -> nnUNetTrainer:
        trainer = get_trainer_from_args("511", "2d", 0, name, device=torch.device("cpu"), **kwargs)
        trainer.initialize()
        return trainer

    return make


@pytest.fixture
def data(nnunet_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the preprocessed phantoms that may be changed."""
    copy = tmp_path / "nnUNet_preprocessed"
    shutil.copytree(os.environ["nnUNet_preprocessed"], copy)
    monkeypatch.setenv("nnUNet_preprocessed", str(copy))
    return copy / DATASET
