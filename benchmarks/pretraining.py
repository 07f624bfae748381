"""CAFR-Net's encoder taught by unlabelled series, as weights for nnU-Net's -pretrained_weights.

    python benchmarks/pretraining.py -d 532 -c 2d_small --steps 90 --seed 0 -o unlabelled.pth
    nnUNetv2_train 532 2d_small 0 -tr nnUNetTrainer_CAFR_train25percent_budget6x50 -pretrained_weights unlabelled.pth

The head of the contrastive loss is trained without labels on all training patients of the fold: two windows of a patch
that overlap, brightness, contrast and noise of each its own; a cell's positive is the same place in the other window,
its negatives are the other cells that were drawn (InfoNCE in both directions). The windows lie differently, so that
the position of a token does not give the place away. Batches come from nnU-Net's loader with CAFR's augmentation, no
patch is chosen by its labels, and the optimiser is CAFR's.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from nnunetv2.run.run_training import get_trainer_from_args
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_cafr.files import write_atomically
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.convolution import pad_to_multiple
from nnunetv2_cafr.network.hierarchy import FUSED_LEVEL

CELL = 4  # pixels of an embedding's cell, per axis
CELLS_PER_SAMPLE = 64
TEMPERATURE = 0.1


def perturbed(image: Tensor) -> Tensor:
    """Another brightness, contrast and noise for each sample of (b, c, h, w)."""
    shape = (len(image), 1, 1, 1)
    contrast, brightness = torch.empty(shape).uniform_(0.7, 1.4), torch.empty(shape).uniform_(-0.3, 0.3)
    noise = torch.empty(shape).uniform_(0, 0.3) * torch.randn_like(image)
    return image * contrast + brightness + noise


def two_windows(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two windows of (b, c, h, w), three quarters of it on each axis, moved against each other by whole cells.

    Returns the windows, and the cells (n, 4) of their overlap: row and column in the first, then in the second.
    """
    height, width = image.shape[2:]
    size = (height * 3 // 4 // CELL * CELL, width * 3 // 4 // CELL * CELL)
    starts = [
        [int(torch.randint((full - part) // CELL + 1, ())) for full, part in zip((height, width), size, strict=True)]
        for _ in range(2)
    ]
    windows = [
        image[:, :, row * CELL : row * CELL + size[0], column * CELL : column * CELL + size[1]]
        for row, column in starts
    ]
    cells = torch.cartesian_prod(torch.arange(height // CELL), torch.arange(width // CELL))
    places = torch.cat([cells - torch.tensor(start) for start in starts], dim=1)
    limits = torch.tensor([size[0] // CELL, size[1] // CELL] * 2)
    return windows[0], windows[1], places[((places >= 0) & (places < limits)).all(dim=1)]


def embed(network: CAFRNet, image: Tensor) -> Tensor:
    """As CAFRNet's forward pass in training, without the decoder: (b, d, h / 4, w / 4) of unit length."""
    assert network.fusion is not None and network.projection is not None
    x = pad_to_multiple(image, network.size_multiple).to(memory_format=network.memory_format)
    fused = network.fusion(network.encode(x)[FUSED_LEVEL:])
    return network.projection(fused[:, :, : image.shape[2] // CELL, : image.shape[3] // CELL])


def loss_of(network: CAFRNet, image: Tensor) -> Tensor:
    first, second, places = two_windows(image)
    embeddings = embed(network, torch.cat([perturbed(first), perturbed(second)])).chunk(2)
    chosen = places[torch.randperm(len(places))[:CELLS_PER_SAMPLE]]
    one, other = (
        embedding[:, :, chosen[:, at], chosen[:, at + 1]].movedim(1, 2).flatten(0, 1).float()
        for embedding, at in zip(embeddings, (0, 2), strict=True)
    )
    similarity = one @ other.T / TEMPERATURE
    target = torch.arange(len(one))
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def pretrain(arguments: argparse.Namespace) -> None:
    # One epoch of these steps, in which its rate warms up and decays.
    name = f"nnUNetTrainer_CAFR_seed{arguments.seed}_budget1x{arguments.steps}"
    trainer = get_trainer_from_args(arguments.d, arguments.c, arguments.f, name, device=torch.device("cpu"))
    trainer.initialize()
    trainer.oversample_foreground_percent = 0.0
    network = trainer.network
    loaders = trainer.get_dataloaders()
    network.train()
    seconds = mean = 0.0
    for step in range(1, arguments.steps + 1):
        image = next(loaders[0])["data"]
        start = time.perf_counter()
        loss = loss_of(network, image)
        trainer.optimizer.zero_grad()
        loss.backward()
        trainer.optimizer.step()
        seconds += time.perf_counter() - start
        mean += loss.item()
        if step % 25 == 0 or step == arguments.steps:
            print(f"step {step}: loss {mean / (step % 25 or 25):.3f}, {seconds / step:.3f} s a step", flush=True)
            mean = 0.0
    for loader in loaders:
        loader._finish()  # as nnU-Net ends its workers
    write_atomically(arguments.o, lambda partial: torch.save({"network_weights": network.state_dict()}, partial))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="preprocessed data set, 2-D")
    parser.add_argument("-c", default="2d", help="configuration")
    parser.add_argument("-f", type=int, default=0, help="fold, whose training patients are used")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", type=Path, required=True, help="file for -pretrained_weights")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as log_folder:
        os.environ["nnUNet_results"] = log_folder  # of a training that nobody needs
        pretrain(arguments)


if __name__ == "__main__":
    main()
