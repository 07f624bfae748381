"""`python -m nnunetv2_cafr.benchmark.cost FOLDER`: what the arms of a benchmark cost, measured in turns in one run.

Every arm is built by its own trainer under the benchmark's plans and takes real, augmented batches. In each round every
arm does one thing once, so all see the same machine: a training step (all losses, backward, optimiser), the forward
pass of one patch, nnU-Net's sliding window over one whole case with and without the mirroring that the trainer allows.
Steps that gave the trainings their length (see clock.py) are not measured again.
"""

import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tqdm import tqdm

from nnunetv2_cafr.benchmark.jobs import COST_FILE
from nnunetv2_cafr.benchmark.matrix import Matrix, Training
from nnunetv2_cafr.benchmark.stepping import SteppingArm, in_scratch_folder, percentiles
from nnunetv2_cafr.files import write_json
from nnunetv2_cafr.network_cost import count_macs, in_turns, machine
from nnunetv2_cafr.planning.memory import LiveStorages
from nnunetv2_cafr.report.study import Cost

ROUNDS, VOLUME_ROUNDS, WARM_UP = 10, 3, 1
STEP = "training_step_ms"


class CudaMemory(AbstractContextManager):
    """`peak`: the most bytes that torch allocates inside, beyond those of the arms that were built before."""

    def __init__(self) -> None:
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()
        self.peak = 0

    def __exit__(self, *_: object) -> None:
        self.peak = torch.cuda.max_memory_allocated() - self.before


class MeasuredArm(SteppingArm):
    """One arm, ready to train a step and to predict."""

    def __init__(self, matrix: Matrix, training: Training) -> None:
        memory = CudaMemory() if matrix.on_gpu else LiveStorages()
        super().__init__(matrix, training, memory)
        self.training_peak = memory.peak
        channels, *patch = self.batch["data"].shape[1:]
        self.patch = torch.randn(1, channels, *patch, device=self.device)
        dataset = self.trainer.dataset_class(self.trainer.preprocessed_dataset_folder)
        case = self.trainer.do_split()[1][0]
        self.volume = torch.from_numpy(np.array(dataset.load_case(case)[0][:]))
        self._to_inference()
        self.gmacs = count_macs(self.network, self.patch) / 1e9
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())

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
    first = matrix.first_trainings()
    names = [arm.name for arm in matrix.selected_arms()]
    arms = {name: MeasuredArm(matrix, first[name]) for name in tqdm(names, desc="building the arms")}
    actions: dict[str, tuple[int, Callable[[MeasuredArm], None]]] = {
        STEP: (ROUNDS, MeasuredArm.training_step),
        "slice_ms": (ROUNDS, MeasuredArm.predict_slice),
        "volume_ms": (VOLUME_ROUNDS, lambda arm: arm.predict_volume(mirrored=False)),
        "volume_mirrored_ms": (VOLUME_ROUNDS, lambda arm: arm.predict_volume(mirrored=True)),
    }
    device, timed = arms[names[0]].device, matrix.clock.step_seconds
    times = {
        what: in_turns(
            {n: partial(action, arm) for n, arm in arms.items() if what != STEP or n not in timed},
            device,
            rounds,
            WARM_UP,
            what,
        )
        for what, (rounds, action) in actions.items()
    }
    times[STEP] |= {name: [1000 * timed[name]] for name in names if name in timed}
    costs = {
        name: Cost(
            gmacs=arm.gmacs,
            parameters=arm.parameters,
            training_peak_bytes=arm.training_peak,
            spread={what: percentiles(times[what][name]) for what in actions if what != STEP or name not in timed},
            **{what: statistics.median(times[what][name]) for what in actions},
        )
        for name, arm in arms.items()
    }
    conditions = _conditions(arms[names[0]])
    if timed:
        conditions += " Training steps: measured before the trainings, to give them equal seconds."
    return costs, conditions


def _conditions(arm: MeasuredArm) -> str:
    cuda = arm.device.type == "cuda"
    memory = "torch's peak of allocated memory" if cuda else "the tensors alive at the worst moment of a training step"
    return (
        f"{machine(arm.device)}; torch {torch.__version__}; batch of training {tuple(arm.batch['data'].shape)}; slice: "
        f"one patch {tuple(arm.patch.shape)}, without autocast; volume: nnU-Net's sliding window over a preprocessed "
        f"case {tuple(arm.volume.shape)}, without resampling and export. Medians of {ROUNDS} rounds in turns "
        f"({VOLUME_ROUNDS} for volumes) after {WARM_UP} to warm up. Peak memory: {memory}."
    )


def write_costs(folder: Path) -> None:
    """Measures the benchmark in `folder` and writes its cost.json."""
    matrix = Matrix.read(folder)
    with in_scratch_folder():
        costs, conditions = measure(matrix)
    content: dict[str, Any] = {"conditions": conditions, "arms": {name: asdict(cost) for name, cost in costs.items()}}
    write_json(folder / COST_FILE, content)


if __name__ == "__main__":
    write_costs(Path(sys.argv[1]))
