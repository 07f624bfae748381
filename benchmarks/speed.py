"""The speed of CAFR-Net beside nnU-Net's network, from one slice to a volume: `python benchmarks/speed.py -o speed`.

Both networks are timed in turns in one run, so what counts, the ratio, sees the same machine. Training and whole
volumes are those of phantoms of SpineMRI's size, 880x880x12, under the plans that nnU-Net makes for them, with
level-safe augmentation and mirroring for both. Nothing is trained: weights do not change how long they take.
"""

import argparse
import contextlib
import io
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from nnunetv2_cafr import phantom
from nnunetv2_cafr.benchmark.cost import WARM_UP, MeasuredArm
from nnunetv2_cafr.benchmark.forward_pass import plain_conv_unet
from nnunetv2_cafr.benchmark.matrix import Matrix
from nnunetv2_cafr.files import begins_with, check_folder, write_text
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network_cost import count_macs, in_turns, infer, machine
from nnunetv2_cafr.processes import installed

SIZES = ((256, 256), (384, 384), (640, 320), (640, 640), (896, 896))  # all fit both networks unpadded
TARGETS = {(256, 256): 0.40, (640, 320): 0.42, (896, 896): 0.42}  # latency, CAFR / nnU-Net
CLASSES = 20
VOLUME = (880, 880, 12)
NNUNET, CAFR = "LevelSafe", "CAFR"
RESULTS_FILE, GROWTH_FILE = "speed.json", "speed.png"


@dataclass(frozen=True)
class Measurement:
    """One row: the same thing done by both networks.

    Attributes:
        what: in words, with the unit of `cafr` and `nnunet`.
        target: of the ratio, None where there is none.
        spread: of the ratio, smallest and largest over the rounds; None where nothing varies.
    """

    what: str
    cafr: float
    nnunet: float
    target: float | None = None
    spread: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        return self.cafr / self.nnunet


def of_rounds(what: str, cafr: Sequence[float], nnunet: Sequence[float], target: float | None) -> Measurement:
    """Medians, and the spread of the ratio within a round."""
    ratios = [ours / theirs for ours, theirs in zip(cafr, nnunet, strict=True)]
    return Measurement(what, statistics.median(cafr), statistics.median(nnunet), target, (min(ratios), max(ratios)))


def slices(sizes: Sequence[tuple[int, int]], device: torch.device, rounds: int) -> list[Measurement]:
    """MACs at the first size, and the latency of one slice at each, 1 channel, 20 classes, float32, eager."""
    measurements = []
    for size in tqdm(sizes, desc="one slice"):
        unet, padded = plain_conv_unet(list(size), 1, CLASSES)
        assert tuple(padded) == size, f"nnU-Net pads {size} to {padded}"
        networks: dict[str, nn.Module] = {CAFR: CAFRNet(1, CLASSES), NNUNET: unet}
        x = torch.randn(1, 1, *size, device=device)
        for network in networks.values():
            network.to(device).eval()
        if size == sizes[0]:
            macs = {name: count_macs(network, x) / 1e9 for name, network in networks.items()}
            measurements.append(Measurement(f"GMACs at {_by(size)}", macs[CAFR], macs[NNUNET], 0.35))
        passes = {name: partial(infer, network, x) for name, network in networks.items()}
        times = in_turns(passes, device, rounds, WARM_UP)
        measurements.append(of_rounds(f"inference at {_by(size)}, ms", times[CAFR], times[NNUNET], TARGETS.get(size)))
    return measurements


def training(arms: Mapping[str, MeasuredArm], rounds: int) -> list[Measurement]:
    """Training step, the contrastive loss within it, and the peak of memory, under the phantom's own plans."""
    device = arms[CAFR].device
    times = in_turns({name: arm.training_step for name, arm in arms.items()}, device, rounds, WARM_UP, "training step")
    batch = _by(arms[CAFR].batch["data"].shape)
    contrastive = in_turns({CAFR: _contrastive_loss(arms[CAFR])}, device, rounds, WARM_UP)[CAFR]
    peaks = {name: arm.training_peak / 2**30 for name, arm in arms.items()}
    return [
        of_rounds(f"training step, batch {batch}, ms", times[CAFR], times[NNUNET], 0.42),
        of_rounds("contrastive loss, beside CAFR-Net's whole step, ms", contrastive, times[CAFR], 0.05),
        Measurement("peak memory of a training step, GiB", peaks[CAFR], peaks[NNUNET], 0.60),
    ]


def _contrastive_loss(arm: MeasuredArm) -> Callable[[], None]:
    """The contrastive loss alone, forward and back to the embedding."""
    arm.network.train()
    data, target = arm.batch["data"].to(arm.device), arm.batch["target"].to(arm.device)
    with torch.no_grad():
        embedding = arm.network(data)[1]
    embedding.requires_grad_()

    def run() -> None:
        torch.autograd.grad(arm.trainer.loss.contrastive(embedding, target), embedding)

    return run


def from_file_to_file(matrix: Matrix, arms: Mapping[str, MeasuredArm], rounds: int) -> Measurement:
    """Seconds of nnUNetv2_predict in a fresh process, one volume, start of the program included."""
    for one in matrix.trainings():
        _write_untrained_model(matrix, arms[one.arm.name], matrix.fold_folder(one))
    seconds: dict[str, list[float]] = {one.arm.name: [] for one in matrix.trainings()}
    for _ in tqdm(range(rounds), desc="volume from file to file"):
        for one in matrix.trainings():
            with tempfile.TemporaryDirectory() as target:
                command = [installed("nnUNetv2_predict"), "-d", matrix.dataset, "-c", matrix.configuration]
                command += ["-tr", matrix.trainer(one), "-f", "0", "-i", str(matrix.raw / "imagesTs"), "-o", target]
                command += ["-device", matrix.device, "-npp", "1", "-nps", "1"]
                start = time.perf_counter()
                _run(command)
                seconds[one.arm.name].append(time.perf_counter() - start)
    what = f"nnUNetv2_predict, one {_by(VOLUME)} volume, file to file, s"
    return of_rounds(what, seconds[CAFR], seconds[NNUNET], 0.60)


def _write_untrained_model(matrix: Matrix, arm: MeasuredArm, folder: Path) -> None:
    arm.trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    shutil.copy(matrix.plans_file("nnUNetPlans"), folder.parent / "plans.json")
    shutil.copy(matrix.preprocessed / "dataset.json", folder.parent)


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout[-3000:]}")


def bench(target: Path, device: str, rounds: int) -> list[Measurement]:
    """Measures everything, writes RESULTS_FILE and GROWTH_FILE into `target`, returns the rows."""
    try:
        ours = {
            RESULTS_FILE: begins_with('"conditions"'),
            GROWTH_FILE: lambda path: path.with_name(RESULTS_FILE).exists(),
        }
        check_folder(target, "an earlier measurement's", ours)
    except OSError as error:
        raise SystemExit(str(error)) from error
    target.mkdir(parents=True, exist_ok=True)
    measurements = slices(SIZES, torch.device(device), rounds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{name}"] = str(folder / name)
            (folder / name).mkdir()
        print(f"Making and preprocessing phantoms of {_by(VOLUME)}", flush=True)
        source = phantom.write_dataset(folder / "phantom", num_train=5, num_test=1, size=VOLUME, progress=False)
        _run([installed("nnUNetv2_convert_SpineMRI"), "-i", str(source), "-d", "999"])
        _run([installed("nnUNetv2_plan_and_preprocess"), "-d", "999", "-c", "2d", "-np", "2", "-npfp", "2"])
        os.environ["nnUNet_n_proc_DA"] = "0"  # batches come from this process
        matrix = Matrix(
            "Dataset999_SpineMRI", "2d", "nnUNetPlans", (CAFR, NNUNET), (0,), (0,), "full", (100,), (), device
        )
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells of every split and folder
            arms = {one.arm.name: MeasuredArm(matrix, one) for one in matrix.trainings()}
        measurements += training(arms, max(2, rounds // 2))
        measurements.append(from_file_to_file(matrix, arms, max(2, rounds // 5)))
    content = {"conditions": conditions(device), "rounds": rounds, "measurements": list(map(asdict, measurements))}
    write_text(target / RESULTS_FILE, json.dumps(content, indent=1))
    plot_growth(measurements, target / GROWTH_FILE)
    return measurements


def conditions(device: str, *packages: str) -> str:
    """Date, device, and versions of Python, PyTorch, nnU-Net and these packages."""
    name = machine(torch.device(device))
    versions = [f"{package} {version(package)}" for package in ("torch", "nnunetv2", *packages)]
    return f"{time.strftime('%Y-%m-%d')}, {device}: {name}, Python {platform.python_version()}, {', '.join(versions)}"


def table(measurements: Sequence[Measurement]) -> str:
    """Markdown; the spread is that of the ratio over the rounds."""
    lines = ["| measure | CAFR-Net | nnU-Net | ratio | spread | target |", "|---|---|---|---|---|---|"]
    for row in measurements:
        spread = f"{row.spread[0]:.2f} to {row.spread[1]:.2f}" if row.spread else ""
        target = "" if row.target is None else f"<= {row.target:.2f}{' missed' if row.ratio > row.target else ''}"
        lines.append(f"| {row.what} | {row.cafr:.4g} | {row.nnunet:.4g} | {row.ratio:.3f} | {spread} | {target} |")
    return "\n".join(lines)


def plot_growth(measurements: Sequence[Measurement], target: Path) -> None:
    """Latency of a slice against its pixels, both axes logarithmic."""
    rows = {row.what: row for row in measurements}
    found = [(math.prod(size), rows[f"inference at {_by(size)}, ms"]) for size in SIZES]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    pixels = [count for count, _ in found]
    axis.loglog(pixels, [row.nnunet for _, row in found], "k--s", label="nnU-Net PlainConvUNet")
    axis.loglog(pixels, [row.cafr for _, row in found], "-o", color="#0b4f9e", label="CAFR-Net")
    for count, row in found:
        axis.annotate(f"{row.ratio:.2f}", (count, row.cafr), (0, 8), textcoords="offset points", ha="center")
    axis.set_xticks(pixels, map(_by, SIZES))
    axis.tick_params(axis="x", which="minor", labelbottom=False)
    axis.set_xlabel("size of a slice")
    axis.set_ylabel("milliseconds; numbers are ratios")
    axis.legend(frameon=False)
    figure.savefig(target, dpi=120)


def _by(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, metavar="FOLDER", default=Path("speed"), help="of the files (default speed)")
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda"], help="default cpu")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed rounds (default 10)")
    arguments = parser.parse_args()
    rows = bench(arguments.o, arguments.device, arguments.repeats)
    print(f"{conditions(arguments.device)}\n\n{table(rows)}\n\nWrote {arguments.o}")


if __name__ == "__main__":
    main()
