"""What it takes to repeat and to compare a training: a seed that is always set, a record of everything that made it.

Beside nnU-Net's log stand `training_record.json`, a list with one record per start (a continued training has several),
and `training_curves.json`, the values that nnU-Net logs per epoch: a comparison reads them without any checkpoint.
"""

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

from nnunetv2_cafr.files import sha256, write_json
from nnunetv2_cafr.training.network_identity import identity_of
from nnunetv2_cafr.training.orientation import OrientedCases

ENDINGS = (".b2nd", "_seg.b2nd", ".npz", ".pkl")  # of preprocessed data
RECORD_FILE, CURVES_FILE = "training_record.json", "training_curves.json"
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
                encoding="utf-8",
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return described.stdout.strip()
    # pip notes where it installed from (PEP 610).
    origin = importlib.metadata.distribution("nnunetv2-cafr").read_text("direct_url.json")
    return json.loads(origin).get("vcs_info", {}).get("commit_id") if origin else None


def code_digest() -> str:
    """SHA-256 of the sources that decide what a training does; also told of changes that are not committed."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    parts = [sorted((package / part).glob("*.py")) for part in ("network", "loss", "training", "planning")]
    ground = [package / name for name in ("plans_fields.py", "raw_dataset.py", "spine.py", "voxel_order.py")]
    for file in (*itertools.chain(*parts), *ground):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def describe_transforms(transform: Any) -> list[str]:
    """Each augmentation with its parameters, in order; what only prepares labels for a loss is left out."""
    if isinstance(transform, RemoveLabelTansform | DownsampleSegForDSTransform):
        return []
    children = getattr(transform, "transforms", None)
    if children is None and hasattr(transform, "transform"):
        children = [transform.transform]
    own = {name: value for name, value in sorted(vars(transform).items()) if not name.startswith("_")}
    values = ", ".join(f"{name}={_describe(value)}" for name, value in own.items() if _describe(value))
    lines = [] if type(transform).__name__ == "ComposeTransforms" else [f"{type(transform).__name__}({values})"]
    return lines + [f"  {line}" if lines else line for child in children or [] for line in describe_transforms(child)]


def _describe(value: object) -> str:
    """Text of a parameter that is a value; "" for modules, functions and other transforms."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if _is_plain(value):
        return repr(value)
    return repr(value) if type(value).__module__.startswith("batchgeneratorsv2.helpers") else ""


class RecordedTraining(OrientedCases):
    """Mixin: seeds everything, writes a record of the training and its curves.

    The network is initialised from `seed`; dropout and the contrastive sampling of an epoch follow from seed, epoch and
    rank alone, so that a continued training draws what an uninterrupted one would have drawn. nnU-Net's background
    workers draw their patches unseeded, and their augmentation begins with a seed for each rank and start; without them
    (nnUNet_n_proc_DA=0) a training on one CPU repeats exactly.
    """

    seed = 0
    _split: dict[str, list[str]] | None = None
    _augmentation: list[str] | None = None

    def initialize(self) -> None:
        set_seed(self.seed)
        super().initialize()

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        train, validation = super().get_tr_and_val_datasets()
        self._split = {"train": list(train.identifiers), "val": list(validation.identifiers)}
        return train, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        if self.current_epoch > 0 or self.local_rank > 0:
            # Worker processes inherit torch's generator, which decides what is mirrored, deformed and noisy. Without
            # this, all ranks and a continued training would draw the same again.
            set_seed(self.seed, self.current_epoch, self.local_rank)
        train, validation = super().get_dataloaders()
        loader = getattr(train, "generator", None) or train.data_loader  # of worker processes, of this process
        self._augmentation = describe_transforms(loader.transforms)
        return train, validation

    def on_train_start(self) -> None:
        super().on_train_start()
        self.print_to_log_file(self.describe_voxel_orders(), also_print_to_console=True)
        if doubt := self.doubt_about_plane():
            self.print_to_log_file(doubt, also_print_to_console=True)
        record = self.record()
        # Without the cases' files, which would fill pages of it.
        shown = {**record, "data": {key: value for key, value in record["data"].items() if key != "cases"}}
        text = json.dumps(shown, indent=2, default=str)
        self.print_to_log_file(f"Record of this training:\n{text}", also_print_to_console=False)
        if self.local_rank == 0:
            file = Path(self.output_folder) / RECORD_FILE
            earlier = json.loads(file.read_text(encoding="utf-8")) if self.current_epoch > 0 and file.is_file() else []
            write_json(file, [*earlier, record], _as_plain)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0:
            curves = self.logger.local_logger.my_fantastic_logging
            write_json(Path(self.output_folder) / CURVES_FILE, curves, _as_plain)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        # Epoch 0 is not to repeat the numbers of the initialisation.
        set_seed(self.seed, self.current_epoch + 1, self.local_rank)

    def record(self) -> dict[str, Any]:
        """Everything that made this training, as JSON values; known once the data loaders are."""
        settings = {
            name: value for name in dir(self) if not name.startswith("_") and _is_plain(value := getattr(self, name))
        }
        return {
            "seed": self.seed,
            "command": sys.argv,
            "trainer": f"{type(self).__module__}.{type(self).__name__}",
            "versions": versions(),
            "nnunetv2-cafr git revision": git_revision(),
            "nnunetv2-cafr code": code_digest(),
            **self.machine_record(),
            "environment": {key: value for key, value in os.environ.items() if key.startswith("nnUNet_")},
            "settings": settings,
            "plans": self.plans_manager.plans_name,
            "configuration": self.configuration_manager.configuration,
            "data": {**self.data_record(), "cases": data_files(self.preprocessed_dataset_folder, self._cases())},
            "network": identity_of(self.network, self.num_input_channels, self.configuration_manager.patch_size),
            "voxel orders": self.count_voxel_orders(),
            "augmentation": self._augmentation,
            "mirroring": self.inference_allowed_mirroring_axes,
            "optimizer": repr(self.optimizer),
            "loss": repr(self.loss),
            "split": self._split,
        }

    def machine_record(self) -> dict[str, Any]:
        """What this training runs on."""
        return {
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device),
            "threads": torch.get_num_threads(),
            "ranks": torch.distributed.get_world_size() if self.is_ddp else 1,
        }

    def data_record(self) -> dict[str, Any]:
        """Which data set this is, with digests of what describes it."""
        fingerprint = Path(self.preprocessed_dataset_folder_base) / "dataset_fingerprint.json"
        return {
            "dataset": self.plans_manager.dataset_name,
            "identifier": self.configuration_manager.data_identifier,
            "dataset.json": hashlib.sha256(json.dumps(self.dataset_json, sort_keys=True).encode()).hexdigest(),
            "fingerprint": sha256(fingerprint) if fingerprint.is_file() else None,
        }

    def _cases(self) -> list[str]:
        return sorted({case for part in (self._split or {}).values() for case in part})


def versions() -> dict[str, str | None]:
    """Of all packages that decide what a training does."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,  # with its CUDA version
        **{name: _version(name) for name in PACKAGES},
    }


def data_files(folder: str, cases: Iterable[str]) -> dict[str, list[int]]:
    """Bytes of each case's preprocessed files, which are compressed: other content takes another number of them."""
    return {
        case: [file.stat().st_size for ending in ENDINGS if (file := Path(folder) / f"{case}{ending}").is_file()]
        for case in cases
    }


def _as_plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
