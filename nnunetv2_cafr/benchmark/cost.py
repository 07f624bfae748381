"""`python -m nnunetv2_cafr.benchmark.cost FOLDER`: what the arms of a benchmark cost, measured in turns in one run.

Every arm is built by its own trainer under the benchmark's plans and takes real, augmented batches. In each round every
arm does one thing once, so all see the same machine: a training step (all losses, backward, optimiser), the forward
pass of one patch, nnU-Net's sliding window over one whole case with and without the mirroring that the trainer allows.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tqdm import tqdm

from nnunetv2_cafr.benchmark.jobs import COST_FILE
from nnunetv2_cafr.benchmark.matrix import Matrix, Training
from nnunetv2_cafr.cost import count_macs, in_turns
from nnunetv2_cafr.evaluation.study import Cost
from nnunetv2_cafr.files import write_atomically
from nnunetv2_cafr.planning.memory import LiveStorages

ROUNDS, VOLUME_ROUNDS, WARM_UP = 10, 3, 1
SPREAD = (10, 90)  # percentiles


class MeasuredArm:
    """One arm, ready to train a step and to predict."""

    def __init__(self, matrix: Matrix, training: Training) -> None:
        self.device = torch.device(matrix.device)
        arguments = (matrix.dataset, matrix.configuration, training.fold, matrix.trainer(training), training.arm.plans)
        self.trainer: nnUNetTrainer = get_trainer_from_args(*arguments, device=self.device)
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        storages = LiveStorages()
        with storages:
            self.trainer.initialize()
        if hasattr(self.trainer.loss, "clr_weight"):
            self.trainer.loss.clr_weight = self.trainer.clr_weight  # as after the warm-up
        self.network = self.trainer.network
        self.batch = next(self.trainer.get_dataloaders()[0])
        with storages:
            for _ in range(2):  # the optimiser's state exists from the second step on
                self.training_step()
        self.training_peak = torch.cuda.max_memory_allocated(self.device) if cuda else storages.peak
        channels, *patch = self.batch["data"].shape[1:]
        self.patch = torch.randn(1, channels, *patch, device=self.device)
        dataset = self.trainer.dataset_class(self.trainer.preprocessed_dataset_folder)
        case = self.trainer.do_split()[1][0]
        self.volume = torch.from_numpy(np.array(dataset.load_case(case)[0][:]))
        self._to_inference()
        self.gmacs = count_macs(self.network, self.patch) / 1e9
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())

    def training_step(self) -> None:
        self.network.train()
        self.trainer.set_deep_supervision_enabled(self.trainer.enable_deep_supervision)
        self.trainer.train_step(self.batch)

    def _to_inference(self) -> None:
        self.network.eval()
        self.trainer.set_deep_supervision_enabled(False)

    def predict_slice(self) -> None:
        self._to_inference()
        with torch.no_grad():
            self.network(self.patch)

    def predict_volume(self, mirrored: bool) -> None:
        self._to_inference()
        predictor = nnUNetPredictor(use_mirroring=mirrored, device=self.device, allow_tqdm=False)
        trainer = self.trainer
        predictor.manual_initialization(
            self.network,
            trainer.plans_manager,
            trainer.configuration_manager,
            None,
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )
        with torch.no_grad():
            predictor.predict_sliding_window_return_logits(self.volume)


def measure(matrix: Matrix) -> tuple[dict[str, Cost], str]:
    """Cost of every arm, by its name, and the conditions in words."""
    first = {training.arm.name: training for training in reversed(list(matrix.trainings()))}
    names = [arm.name for arm in matrix.selected_arms()]
    arms = {name: MeasuredArm(matrix, first[name]) for name in tqdm(names, desc="building the arms")}
    actions: dict[str, tuple[int, Callable[[MeasuredArm], None]]] = {
        "training_step_ms": (ROUNDS, MeasuredArm.training_step),
        "slice_ms": (ROUNDS, MeasuredArm.predict_slice),
        "volume_ms": (VOLUME_ROUNDS, lambda arm: arm.predict_volume(mirrored=False)),
        "volume_mirrored_ms": (VOLUME_ROUNDS, lambda arm: arm.predict_volume(mirrored=True)),
    }
    device = arms[names[0]].device
    times = {
        what: in_turns({name: partial(action, arm) for name, arm in arms.items()}, device, rounds, WARM_UP, what)
        for what, (rounds, action) in actions.items()
    }
    costs = {
        name: Cost(
            gmacs=arm.gmacs,
            parameters=arm.parameters,
            training_peak_bytes=arm.training_peak,
            spread={what: _percentiles(times[what][name]) for what in actions},
            **{what: statistics.median(times[what][name]) for what in actions},
        )
        for name, arm in arms.items()
    }
    return costs, _conditions(arms[names[0]])


def _percentiles(times: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(times, SPREAD)
    return float(low), float(high)


def _conditions(arm: MeasuredArm) -> str:
    cuda = arm.device.type == "cuda"
    device = torch.cuda.get_device_name(arm.device) if cuda else f"{processor()}, {torch.get_num_threads()} threads"
    memory = "torch's peak of allocated memory" if cuda else "the tensors alive at the worst moment of a training step"
    return (
        f"{device}; torch {torch.__version__}; batch of training {tuple(arm.batch['data'].shape)}; slice: one patch "
        f"{tuple(arm.patch.shape)}, without autocast; volume: nnU-Net's sliding window over a preprocessed case "
        f"{tuple(arm.volume.shape)}, without resampling and export. Medians of {ROUNDS} rounds in turns "
        f"({VOLUME_ROUNDS} for volumes) after {WARM_UP} to warm up. Peak memory: {memory}."
    )


def processor() -> str:
    """Name of the CPU and its cores, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor() or platform.machine()


def write_costs(folder: Path) -> None:
    """Measures the benchmark in `folder` and writes its cost.json."""
    os.environ["nnUNet_n_proc_DA"] = "0"  # batches come from this process
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results  # trainers make their folders when they are built
        costs, conditions = measure(Matrix.read(folder))
    content: dict[str, Any] = {"conditions": conditions, "arms": {name: asdict(cost) for name, cost in costs.items()}}
    write_atomically(folder / COST_FILE, lambda path: path.write_text(json.dumps(content, indent=2)))


if __name__ == "__main__":
    write_costs(Path(sys.argv[1]))
