"""What it takes to repeat a training: a seed that is always set, and a record of everything that made it."""

import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

PACKAGES = (
    "nnunetv2-cafr",
    "nnunetv2",
    "numpy",
    "batchgenerators",
    "batchgeneratorsv2",
    "dynamic-network-architectures",
)


def set_seed(*numbers: int) -> None:
    """Seeds torch (all devices), numpy and random from these numbers together."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def git_revision() -> str | None:
    """The commit that this package runs from, "-dirty" behind it where tracked files differ; None if there is none."""
    clone = Path(__file__).parents[2]
    if (clone / ".git").exists():
        try:
            described = subprocess.run(
                ["git", "-C", str(clone), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return described.stdout.strip()
    # pip notes where it installed from (PEP 610).
    origin = importlib.metadata.distribution("nnunetv2-cafr").read_text("direct_url.json")
    return json.loads(origin).get("vcs_info", {}).get("commit_id") if origin else None


class RecordedTraining:
    """Mixin before any nnUNetTrainer: seeds everything and writes a record of the training into its log.

    The network is initialised from `seed`; dropout and the contrastive sampling of an epoch follow from seed, epoch and
    rank alone, so that a continued training draws what an uninterrupted one would have drawn. nnU-Net's background
    workers draw their patches unseeded; without them (nnUNet_n_proc_DA=0) a training on one CPU repeats exactly.
    """

    seed = 0
    _split: dict[str, list[str]] | None = None

    def initialize(self: Any) -> None:
        set_seed(self.seed)
        super().initialize()  # type: ignore[misc]

    def get_tr_and_val_datasets(self: Any) -> tuple[Any, Any]:
        train, validation = super().get_tr_and_val_datasets()  # type: ignore[misc]
        self._split = {"train": list(train.identifiers), "val": list(validation.identifiers)}
        return train, validation

    def on_train_start(self: Any) -> None:
        super().on_train_start()  # type: ignore[misc]
        record = json.dumps(self.record(), indent=2, default=str)
        self.print_to_log_file(f"Record of this training:\n{record}", also_print_to_console=False)

    def on_train_epoch_start(self: Any) -> None:
        super().on_train_epoch_start()  # type: ignore[misc]
        # Epoch 0 is not to repeat the numbers of the initialisation.
        set_seed(self.seed, self.current_epoch + 1, self.local_rank)

    def record(self: Any) -> dict[str, Any]:
        """Everything that made this training, as JSON values; known once the data loaders are."""
        settings = {
            name: value for name in dir(self) if not name.startswith("_") and _is_plain(value := getattr(self, name))
        }
        return {
            "seed": self.seed,
            "command": sys.argv,
            "trainer": f"{type(self).__module__}.{type(self).__name__}",
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,  # with its CUDA version
                **{name: _version(name) for name in PACKAGES},
            },
            "nnunetv2-cafr git revision": git_revision(),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device),
            "threads": torch.get_num_threads(),
            "ranks": torch.distributed.get_world_size() if self.is_ddp else 1,
            "environment": {key: value for key, value in os.environ.items() if key.startswith("nnUNet_")},
            "settings": settings,
            "plans": self.plans_manager.plans_name,
            "configuration": self.configuration_manager.configuration,
            "optimizer": repr(self.optimizer),
            "loss": repr(self.loss),
            "split": self._split,
        }


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
