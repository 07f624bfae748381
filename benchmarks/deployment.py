r"""`nnUNetv2_cafr predict` beside nnUNetv2_predict, end to end on the CPU, with networks that are trained.

For example, with what `nnUNetv2_cafr benchmark -d 4 -c 2d_b8 --arms LevelSafe CAFR --budget 20x50 -f 0` has trained:

    python benchmarks/deployment.py -d 4 -c 2d_b8 -tr nnUNetTrainer_CAFR_seed0_budget20x50 \
        --stock nnUNetTrainer_LevelSafe_seed0_budget20x50 -i IMAGES --labels LABELS

Every command runs in a process of its own, in turns: seconds from its start to its end over all images, and the memory
of its largest process. Label maps are compared with those of nnUNetv2_predict and the same network, and with LABELS.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from speed import conditions
from tqdm import tqdm

from nnunetv2_cafr.deployment.runtime import has_bfloat16
from nnunetv2_cafr.evaluation.overlap import overlap
from nnunetv2_cafr.processes import installed

STOCK, SAME, FLOAT32, ONNX, BF16 = "nnU-Net, nnUNetv2_predict", "nnUNetv2_predict", "float32", "float32, onnx", "bf16"


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds, and GiB of the command's largest process."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{output.read()[-3000:].decode(errors='replace')}")
    return seconds, usage.ru_maxrss / 2**20


def read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(file))


def agreement(first: Path, second: Path, ending: str) -> float:
    """Share of equal voxels over all label maps of two folders."""
    pairs = [(read(file), read(second / file.name)) for file in sorted(first.glob(f"*{ending}"))]
    return sum((a == b).sum() for a, b in pairs) / sum(a.size for a, _ in pairs)


def mean_dice(predictions: Path, labels: Path, ending: str) -> float:
    """Mean over cases of the mean Dice over the classes that the case holds."""
    cases = []
    for file in sorted(predictions.glob(f"*{ending}")):
        found, expected = read(file), read(labels / file.name)
        present = [label for label in np.unique(expected) if label]
        cases.append(statistics.fmean(overlap(expected == label, found == label).dice for label in present))
    return statistics.fmean(cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, metavar="DATASET")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION")
    parser.add_argument("-f", default="0", metavar="FOLD")
    parser.add_argument("-tr", default="nnUNetTrainer_CAFR", metavar="TRAINER", help="whose network is exported")
    parser.add_argument("--stock", default="nnUNetTrainer_LevelSafe", metavar="TRAINER", help="of nnU-Net's network")
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="images, named as nnU-Net names them")
    parser.add_argument("--labels", type=Path, metavar="FOLDER", help="reference label maps, for Dice")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", type=Path, metavar="FILE", help="write the figures as JSON")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folder / "model.onnx"
        training = ["-d", arguments.d, "-c", arguments.c, "-f", arguments.f]
        timed([installed("nnUNetv2_cafr"), "export", *training, "-tr", arguments.tr, "-o", str(model)])
        ending = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))["dataset_json"]["file_ending"]
        ours = [installed("nnUNetv2_cafr"), "predict", "-m", str(model)]
        theirs = [installed("nnUNetv2_predict"), *training, "-device", "cpu", "-npp", "1", "-nps", "1", "-tr"]
        commands = {
            STOCK: [*theirs, arguments.stock],
            SAME: [*theirs, arguments.tr],
            FLOAT32: ours,
            ONNX: [*ours, "--runtime", "onnx"],
        }
        if has_bfloat16():
            commands[BF16] = [*ours, "--precision", "bf16"]
        outputs = {name: folder / str(number) for number, name in enumerate(commands)}
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in tqdm(range(arguments.rounds), desc="rounds"):
            for name, command in commands.items():
                measured[name].append(timed([*command, "-i", str(arguments.i), "-o", str(outputs[name])]))
        rows = []
        for name, runs in measured.items():
            speedups = [stock / one for (stock, _), (one, _) in zip(measured[STOCK], runs, strict=True)]
            rows.append(
                {
                    "command": name,
                    "seconds": statistics.median(seconds for seconds, _ in runs),
                    "times_faster": statistics.median(speedups),
                    "spread": (min(speedups), max(speedups)),
                    "gib": max(gib for _, gib in runs),
                    "same_voxels": None if name == STOCK else agreement(outputs[SAME], outputs[name], ending),
                    "dice": mean_dice(outputs[name], arguments.labels, ending) if arguments.labels else None,
                }
            )
        count = len(list(outputs[STOCK].glob(f"*{ending}")))

    where = conditions("cpu", "openvino", "onnxruntime")
    print(f"{count} images, {arguments.rounds} rounds; {where}\n")
    print("| command | s | times faster | spread | GiB | same voxels | Dice |\n|---|---|---|---|---|---|---|")
    for row in rows:
        same = "" if row["same_voxels"] is None else f"{row['same_voxels']:.4%}"
        dice = "" if row["dice"] is None else f"{row['dice']:.5f}"
        low, high = row["spread"]
        print(
            f"| {row['command']} | {row['seconds']:.1f} | {row['times_faster']:.2f} | {low:.2f} to {high:.2f} "
            f"| {row['gib']:.2f} | {same} | {dice} |"
        )
    if arguments.o:
        settings = {name: value for name, value in vars(arguments).items() if not isinstance(value, Path)}
        content = {"conditions": where, "arguments": settings, "images": count, "rows": rows}
        arguments.o.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
