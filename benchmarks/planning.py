"""What CAFRPlanner plans for four fingerprints, and its memory estimate held against real training steps.

    python benchmarks/planning.py               the plans, table in Markdown
    python benchmarks/planning.py --measure     estimate against measurement; minutes, and up to 7 GB, on a CPU

Measured are two full steps of our trainers (forward, Dice, cross-entropy and contrastive loss, backward, clipping,
AdamW), each size in a process of its own. On a GPU in mixed precision, uncompiled: torch's peak of allocated and of
reserved memory, and what the whole device holds at the end (leave it idle otherwise), against the planner's estimate.
On a CPU (Linux) in float32: how far the peak of resident memory rises above what a process holds that has already run a
small step, against the traced peak, which the planner's estimate is made from.
"""

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.convolution import NUM_HALVINGS, LevelGeometry
from nnunetv2_cafr.network_cost import machine
from nnunetv2_cafr.planning import GB
from nnunetv2_cafr.planning.architecture import cafr_architecture, token_size
from nnunetv2_cafr.planning.memory import traced_peak, training_memory
from nnunetv2_cafr.planning.planner import CAFRPlanner

CLASSES = 20
CASES = 172  # of SpineMRI's training set
# (slices, rows, columns), spacing in mm
FINGERPRINTS = {
    "880x880 at 0.34 mm": ((15, 880, 880), (4.4, 0.34, 0.34)),
    "640x320 at 0.57 mm": ((16, 640, 320), (4.4, 0.57, 0.57)),
    "300x150 at 0.8 mm": ((16, 300, 150), (4.0, 0.8, 0.8)),
    "384x256x64 isotropic": ((384, 256, 64), (1.0, 1.0, 1.0)),
}
# patch, spacing in mm, fused attention
MEASURED = (
    ((320, 160), (1.0, 1.0), True),
    ((640, 320), (1.0, 1.0), True),
    ((640, 320), (1.0, 1.0), False),
    ((880, 880), (1.0, 1.0), True),
    ((880, 880), (1.0, 1.0), False),
    ((8, 320, 160), (4.4, 0.57, 0.57), True),
    ((128, 128, 64), (1.0, 1.0, 1.0), True),
)
BATCH_SIZE = 2


@contextlib.contextmanager
def dataset(shape: tuple[int, ...], spacing: tuple[float, ...]) -> Iterator[str]:
    """Name of a data set of which there is only what a planner reads: file names and a fingerprint."""
    name = "Dataset001_Fingerprint"
    with tempfile.TemporaryDirectory() as root:
        raw, preprocessed = Path(root, "raw", name), Path(root, "preprocessed", name)
        (raw / "imagesTr").mkdir(parents=True)
        preprocessed.mkdir(parents=True)
        (raw / "imagesTr" / "case_0000.nii.gz").touch()
        description = {
            "channel_names": {"0": "T2"},
            "labels": {"background": 0, **{f"class {label}": label for label in range(1, CLASSES)}},
            "numTraining": CASES,
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        }
        fingerprint = {
            "foreground_intensity_properties_per_channel": {},
            "median_relative_size_after_cropping": 1.0,
            "shapes_after_crop": [shape],
            "spacings": [spacing],
        }
        (raw / "dataset.json").write_text(json.dumps(description))
        (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        os.environ |= {"nnUNet_raw": str(raw.parent), "nnUNet_preprocessed": str(preprocessed.parent)}
        yield name


def print_plans(target_gb: float) -> None:
    print(f"Target {target_gb:g} GB, {CASES} cases, 1 channel, {CLASSES} classes, torch {torch.__version__}\n")
    print("| fingerprint | configuration | spacing, mm | patch | batch | tokens | GB | GB, plain attention |")
    print("|---|---|---|---|---|---|---|---|")
    for title, (shape, spacing) in FINGERPRINTS.items():
        with dataset(shape, spacing) as name, contextlib.redirect_stdout(io.StringIO()):
            planner = CAFRPlanner(name, target_gb)
            configurations = planner.plan_experiment()["configurations"]
        for configuration in ("2d", "3d_lowres", "3d_fullres"):
            if configuration not in configurations:
                continue
            plan = configurations[configuration]
            patch_size, spacing, batch_size = plan["patch_size"], plan["spacing"], plan["batch_size"]
            tokens = math.prod(patch_size) // math.prod(token_size(spacing))
            fused, plain = (
                planner.memory(patch_size, spacing, fused_attention=fused).at(batch_size) / GB
                for fused in (True, False)
            )
            print(
                f"| {title} | {configuration} | {' x '.join(f'{axis:.2f}' for axis in spacing)} | "
                f"{'x'.join(map(str, patch_size))} | {batch_size} | {tokens} | {fused:.1f} | {plain:.1f} |",
                flush=True,
            )


def train_two_steps(patch_size: tuple[int, ...], spacing: tuple[float, ...], fused_attention: bool) -> None:
    """As nnUNetTrainer_CAFR trains."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = CAFRNet(1, CLASSES, deep_supervision=True, **cafr_architecture(spacing)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    dice_ce = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    weights = [4 / 7, 2 / 7, 1 / 7, 0]  # nnU-Net's
    contrastive = PixelInfoNCE(num_negatives=None, anchors_per_class=32)
    loss_fn = DiceCECLRLoss(dice_ce, contrastive, scale_weights=weights)
    image = torch.randn(BATCH_SIZE, 1, *patch_size, device=device)
    # Cells of one class, or the contrastive loss has nothing to do.
    target = torch.randint(CLASSES, (BATCH_SIZE, 1, *(math.ceil(size / 8) for size in patch_size)), dtype=torch.int16)
    for axis, size in enumerate(patch_size, start=2):
        target = target.repeat_interleave(8, axis).narrow(axis, 0, size)
    target = target.contiguous().to(device)
    geometry = LevelGeometry(cafr_architecture(spacing)["strides"])
    of_levels = [geometry.cells(patch_size, level) for level in range(NUM_HALVINGS)]
    targets = [nn.functional.interpolate(target.float(), size=cells).to(torch.int16) for cells in of_levels]
    # A GPU has two fused kernels, a CPU the first.
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(fused if fused_attention else SDPBackend.MATH):
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                output = network(image)
                loss = loss_fn(output, targets)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
            scaler.step(optimizer)
            scaler.update()


def resident_bytes(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (highest so far) of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def measure(patch_size: tuple[int, ...], spacing: tuple[float, ...], fused_attention: bool) -> list[float]:
    """Estimated bytes, then the measured ones that it is held against."""
    architecture = cafr_architecture(spacing)
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True  # nnU-Net sets it
        train_two_steps(patch_size, spacing, fused_attention)
        free, total = torch.cuda.mem_get_info()
        estimate = training_memory(patch_size, architecture, 1, CLASSES, fused_attention=fused_attention)
        measured = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), total - free]
        return [estimate.at(BATCH_SIZE), *measured]
    # The trace runs first, so that all of torch that a step needs is loaded, and a small step loads the kernels.
    peak = traced_peak(
        patch_size, architecture, 1, CLASSES, BATCH_SIZE, mixed_precision=False, fused_attention=fused_attention
    )
    train_two_steps(tuple(2 * size for size in token_size(spacing)), spacing, fused_attention)
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
    train_two_steps(patch_size, spacing, fused_attention)
    return [peak, resident_bytes("VmHWM") - before]


def print_measurements() -> None:
    # glibc keeps what is freed below this size for later, up to 32 MB apiece, and it would count as in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    if torch.cuda.is_available():
        device, columns = torch.device("cuda"), ["allocated", "reserved", "device"]
    else:
        device, columns = torch.device("cpu"), ["measured"]
    precision = ", float32" if device.type == "cpu" else ""
    print(f"{machine(device)}{precision}, torch {torch.__version__}, batch {BATCH_SIZE}, {CLASSES} classes\n")
    print(f"| patch | spacing, mm | attention | estimate, GB | {' | '.join(f'{column}, GB' for column in columns)} |")
    print(f"|---|---|---|---|{'---|' * len(columns)}")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for patch_size, spacing, fused in MEASURED:
            figures = pool.apply(measure, (patch_size, spacing, fused))
            print(
                f"| {'x'.join(map(str, patch_size))} | {' x '.join(map(str, spacing))} | "
                f"{'fused' if fused else 'plain'} | {' | '.join(f'{figure / GB:.2f}' for figure in figures)} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu-memory-target", type=float, default=8, metavar="GB", help="of the plans (default 8)")
    parser.add_argument("--measure", action="store_true", help="estimate against measurement instead of the plans")
    arguments = parser.parse_args()
    if arguments.measure:
        print_measurements()
    else:
        print_plans(arguments.gpu_memory_target)


if __name__ == "__main__":
    main()
