"""`python -m nnunetv2_cafr.benchmark.stepping FOLDER OUTPUT ARM...`: seconds per training step, measured in turns.

Every arm is built by its own trainer under the benchmark's plans and takes real, augmented batches. In each round every
arm takes one step (all losses, backward, optimiser) of one batch that is there already, so all see the same machine,
and neither loading nor validation is counted.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tqdm import tqdm

from nnunetv2_cafr.benchmark.clock import Measurement
from nnunetv2_cafr.benchmark.matrix import Matrix, Training
from nnunetv2_cafr.files import write_json
from nnunetv2_cafr.network_cost import in_turns, machine
from nnunetv2_cafr.training.record import code_digest

ROUNDS, WARM_UP = 20, 2
SPREAD = (10, 90)  # percentiles


class SteppingArm:
    """One arm, ready to train a step; its optimiser's state exists.

    Args:
        matrix, training: what it trains.
        watch: is open while the trainer is built and while it takes its first steps.
    """

    def __init__(self, matrix: Matrix, training: Training, watch: AbstractContextManager | None = None) -> None:
        watch = watch or nullcontext()
        self.device = torch.device(matrix.device)
        arguments = (matrix.dataset, matrix.configuration, training.fold, matrix.trainer(training), training.arm.plans)
        self.trainer: nnUNetTrainer = get_trainer_from_args(*arguments, device=self.device)
        with watch:
            self.trainer.initialize()
        if hasattr(self.trainer.loss, "clr_weight"):
            self.trainer.loss.clr_weight = self.trainer.clr_weight  # as after the warm-up
        self.network = self.trainer.network
        self.batch = next(self.trainer.get_dataloaders()[0])
        with watch:
            for _ in range(2):  # the optimiser's state exists from the second step on
                self.training_step()

    def training_step(self) -> None:
        self.network.train()
        self.trainer.set_deep_supervision_enabled(self.trainer.enable_deep_supervision)
        self.trainer.train_step(self.batch)


def percentiles(times: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(times, SPREAD)
    return float(low), float(high)


def measure(matrix: Matrix, names: Sequence[str]) -> Measurement:
    """Seconds per step of these arms; the first may be one that the benchmark has left out since."""
    load = os.getloadavg()[0]
    first = replace(matrix, arms=tuple(names)).first_trainings()
    arms = {name: SteppingArm(matrix, first[name]) for name in tqdm(names, desc="building the arms")}
    device = arms[names[0]].device
    steps = {name: arm.training_step for name, arm in arms.items()}
    times = {
        name: [milliseconds / 1000 for milliseconds in found]
        for name, found in in_turns(steps, device, ROUNDS, WARM_UP, "steps in turns").items()
    }
    return Measurement(
        step_seconds={name: statistics.median(found) for name, found in times.items()},
        spread={name: percentiles(found) for name, found in times.items()},
        conditions=(
            f"{machine(device)}, torch {torch.__version__}, batch {tuple(arms[names[0]].batch['data'].shape)}; medians "
            f"of {ROUNDS} rounds in turns after {WARM_UP} to warm up; other work before it (load): {load:.1f}"
        ),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        code=code_digest(),
    )


@contextmanager
def in_scratch_folder() -> Iterator[None]:
    """For measurements in a process of their own: batches come from it, and trainers make their folders elsewhere.

    nnU-Net reads both variables when they are asked for.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_results": folder}
        yield


def main(folder: Path, output: Path, names: Sequence[str]) -> None:
    matrix = Matrix.read(folder)
    with in_scratch_folder():
        measurement = measure(matrix, names)
    output.parent.mkdir(exist_ok=True)
    write_json(output, asdict(measurement))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
