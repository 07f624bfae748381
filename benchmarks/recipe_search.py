"""One training of a network alone, outside of nnU-Net, in minutes on a CPU: what chose CAFR-Net's widths and recipe.

    python benchmarks/recipe_search.py DATA/SPIDER_slices --rows 96
    python benchmarks/recipe_search.py DATA/SPIDER_slices --rows 96 --set '{"ffn_dim": 768}'
    python benchmarks/recipe_search.py DATA/SPIDER_slices --rows 96 --network PlainConvUNet --rate 1e-3
    python benchmarks/recipe_search.py DATA/SPIDER_slices --set '{"deep_supervision": true}' --partial 0.33

Reads a folder in SpineMRI's layout, resamples its slices to --rows, holds out every fourth patient, trains with Dice +
CE (+ InfoNCE) under light augmentation, and prints Dice and level accuracy of the held-out patients a few times, whole
and of their upper and lower 55 %. One seed on few patients: differences below two points of Dice say nothing.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_cafr.loss import PixelInfoNCE
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.training.level_safe import LevelSafeAugmentation
from nnunetv2_cafr.training.partial_view import PartialView
from nnunetv2_cafr.training.recipe import AdamWRecipe, WarmupCosineLR, decayed_and_not

TOKEN = 16
FIRST_DISC = 11  # of SpineMRI's labels
NUM_CLASSES = 20
SHOWN = 0.55  # of the rows, by a part of a patient
SCALE_WEIGHTS = (8 / 15, 4 / 15, 2 / 15, 1 / 15)  # of the resolutions, finest first, under deep supervision


@dataclass
class Patient:
    """A preprocessed case, slice by slice."""

    image: Tensor  # (slices, 1, h, w), z-scored
    labels: Tensor  # (slices, 1, h, w)


def read(source: Path, rows: int) -> list[Patient]:
    patients = []
    for file in sorted((source / "train" / "MR").iterdir()):
        mask = source / "train" / "Mask" / file.name.replace("Case", "mask_case")
        image, labels = (
            torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32))[:, None]
            for path in (file, mask)
        )
        columns = round(image.shape[-1] * rows / image.shape[-2])
        image = F.interpolate((image - image.mean()) / image.std(), (rows, columns), mode="area")
        shares = F.one_hot(labels[:, 0].long(), NUM_CLASSES).movedim(-1, 1).float()
        labels = F.interpolate(shares, (rows, columns), mode="area").argmax(dim=1, keepdim=True)
        missing = -columns % TOKEN
        padding = (missing // 2, missing - missing // 2)
        patients.append(Patient(F.pad(image, padding), F.pad(labels, padding)))
    return patients


def parts(patient: Patient) -> list[Patient]:
    """Its upper and its lower part as scans of their own, in the middle of as many rows."""
    rows = patient.image.shape[-2]
    kept = round(SHOWN * rows)
    above = (rows - kept) // 2
    cut = []
    for start in (0, rows - kept):
        image, labels = (values[..., start : start + kept, :] for values in (patient.image, patient.labels))
        padding = (0, 0, above, rows - kept - above)
        cut.append(Patient(F.pad((image - image.mean()) / image.std(), padding), F.pad(labels, padding)))
    return cut


def partly(image: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """This share of the samples keeps a part of its view."""
    view = PartialView(axis=0, least=LevelSafeAugmentation.partial_least)
    for index in (torch.rand(len(image)) < share).nonzero()[:, 0]:
        seen = view(image=image[index], segmentation=labels[index])
        image[index], labels[index] = seen["image"], seen["segmentation"].clamp(min=0)
    return image, labels


def augment(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation up to 15 degrees, scale, shift, noise, brightness and contrast, each for some of the samples."""
    count, (height, width) = len(image), image.shape[-2:]

    def for_some(share: float, low: float, high: float, else_: float) -> Tensor:
        drawn = torch.empty(count).uniform_(low, high)
        return torch.where(torch.rand(count) < share, drawn, else_)

    angle = for_some(0.4, -math.pi / 12, math.pi / 12, 0.0)
    scale = for_some(0.4, 0.7, 1.4, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    shift = torch.stack([for_some(0.3, -0.15, 0.15, 0.0), for_some(0.3, -0.15, 0.15, 0.0)])
    theta = torch.stack([cos, -sin * height / width, shift[0], sin * width / height, cos, shift[1]]).T.view(-1, 2, 3)
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    image = F.grid_sample(image, grid, align_corners=False)
    labels = F.grid_sample(labels.float(), grid, mode="nearest", align_corners=False).long()
    image = image + for_some(0.15, 0, 0.3, 0.0).view(-1, 1, 1, 1) * torch.randn_like(image)
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (for_some(0.3, 0.75, 1.25, 1.0).view(-1, 1, 1, 1) for _ in range(2))
    return ((image - mean) * contrast + mean) * brightness, labels


def build(name: str, keywords: dict[str, Any], rows: int) -> nn.Module:
    if name == "CAFRNet":
        network = CAFRNet(1, NUM_CLASSES, **keywords)
        return network.apply(network.initialize).to(memory_format=torch.channels_last)
    # As nnU-Net plans it for patches of these rows: halved until 4 to 8 cells are left.
    stages = int(math.log2(rows / 4)) + 1
    return PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=[32, 64, 128, 256, 512, 512, 512, 512][:stages],
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=2,
        num_classes=NUM_CLASSES,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


@torch.no_grad()
def score(network: nn.Module, patients: list[Patient]) -> dict[str, float]:
    """Means over patients, in %: Dice of vertebrae and of discs, levels right, patients with all levels right."""
    network.eval()
    supervised_deeply = isinstance(network, CAFRNet) and network.decoder.deep_supervision
    if supervised_deeply:
        network.decoder.deep_supervision = False
    rows = []
    for patient in patients:
        predicted = torch.cat([network(image).argmax(dim=1, keepdim=True) for image in patient.image.split(8)])
        dice: dict[bool, list[float]] = {False: [], True: []}
        right = []
        for label in patient.labels.unique().tolist()[1:]:
            own, reference = predicted == label, patient.labels == label
            dice[label >= FIRST_DISC].append((2 * (own & reference).sum() / (own.sum() + reference.sum())).item())
            levels = predicted[reference & (predicted > 0)]
            right.append(len(levels) > 0 and levels.mode().values.item() == label)
        rows.append([np.mean(dice[False]), np.mean(dice[True] or np.nan), np.mean(right), all(right)])
    network.train()
    if supervised_deeply:
        network.decoder.deep_supervision = True
    names = ("vertebrae", "discs", "levels right", "patients all right")
    return dict(zip(names, (100 * np.nanmean(rows, axis=0)).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder in SpineMRI's layout")
    parser.add_argument("--rows", type=int, default=96, help="rows of a slice, a multiple of 16")
    parser.add_argument("--network", choices=["CAFRNet", "PlainConvUNet"], default="CAFRNet")
    parser.add_argument("--set", type=json.loads, default={}, help="JSON of CAFRNet's keyword arguments")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=AdamWRecipe.learning_rate)
    parser.add_argument("--clr", type=float, default=0.0, help="weight of the contrastive loss")
    parser.add_argument(
        "--partial", type=float, default=0.0, help="share of the samples that keep a part of their view"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    patients = read(arguments.source, arguments.rows)
    held_out, train = patients[3::4], [patient for index, patient in enumerate(patients) if index % 4 != 3]
    tested = {"whole": held_out, "parts": [part for one in held_out for part in parts(one)]}
    keywords = {"use_clr": arguments.clr > 0, **arguments.set}
    network = build(arguments.network, keywords, arguments.rows)
    optimizer = torch.optim.AdamW(
        decayed_and_not(network, AdamWRecipe.decay), arguments.rate, betas=AdamWRecipe.betas, fused=True
    )
    WarmupCosineLR(optimizer, arguments.rate, 1, arguments.steps, AdamWRecipe.warmup_share)
    dice_ce = DC_and_CE_loss(
        {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    deeply = DeepSupervisionWrapper(dice_ce, SCALE_WEIGHTS)
    contrastive = PixelInfoNCE(num_negatives=None, anchors_per_class=32)

    seconds = 0.0
    for step in range(1, arguments.steps + 1):
        chosen = [train[index] for index in torch.randint(len(train), (arguments.batch,)).tolist()]
        slices = [int(torch.randint(len(patient.image), ())) for patient in chosen]
        image, labels = (
            torch.stack([getattr(patient, part)[index] for patient, index in zip(chosen, slices, strict=True)])
            for part in ("image", "labels")
        )
        image, labels = augment(image, labels)
        if arguments.partial:
            image, labels = partly(image, labels, arguments.partial)
        start = time.perf_counter()
        output = network(image)
        logits, embedding = output if isinstance(output, tuple) else (output, None)
        if isinstance(logits, list):
            loss = deeply(logits, [F.interpolate(labels.float(), one.shape[2:]).long() for one in logits])
        else:
            loss = dice_ce(logits, labels)
        if embedding is not None:
            loss = loss + arguments.clr * min(1.0, 10 * step / arguments.steps) * contrastive(embedding, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), AdamWRecipe.clip_norm)
        optimizer.step()
        seconds += time.perf_counter() - start
        if step % max(1, arguments.steps // 4) == 0:
            print(f"step {step}: loss {loss.item():.3f}, {seconds / step:.3f} s a step")
            for name, patients in tested.items():
                values = ", ".join(f"{key} {value:.1f}" for key, value in score(network, patients).items())
                print(f"  {name}: {values}", flush=True)


if __name__ == "__main__":
    main()
