"""Would distributed training gain from gathering embeddings over its ranks: `python benchmarks/gathered_negatives.py`.

Each rank takes its contrastive pairs from its own share of the batch, and DDP averages the gradients. Gathering would
give each anchor the whole batch to be paired with. Both are compared on the same embeddings of a real CAFRNet, before
and after a short training, for batches of phantom slices that are cropped to different levels of the spine:

    loss           mean over batches, and its standard deviation over draws of the same batch
    classes        that give anchors; of the whole batch, or of a rank on average
    elsewhere      those of them whose positives come from another sample
    direction      cosine of the expected gradient to that of the gathered loss, with respect to the embedding, to the
                   weights of the contrastive head, and to these weights with all batches taken together; the noise of
                   the draws is taken out of it. "another batch" is the gathered loss of the batch before: what one
                   batch tells of the next at all
    one draw       cosine of the gradient of a single draw, all that a training step sees, to the expected gradient of
                   the gathered loss, with respect to the weights
"""

import argparse
import itertools
import time

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor

from nnunetv2_cafr import phantom
from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.projection import ProjectionHead
from nnunetv2_cafr.training.contrastive import ContrastiveTraining

CLASSES = 20
DRAWN, CROPPED = (320, 160), (256, 128)
LOSS = PixelInfoNCE(num_negatives=ContrastiveTraining.clr_negatives, anchors_per_class=ContrastiveTraining.clr_anchors)


def phantom_slices(number: int) -> tuple[Tensor, Tensor]:
    """Middle slices of as many patients: images (n, 1, 320, 160) of mean 0 and deviation 1, and their labels."""
    images, labels = [], []
    for seed in range(number):
        image, mask = (sitk.GetArrayFromImage(volume)[0] for volume in phantom.make_case(seed, size=(*DRAWN, 1)))
        images.append((image - image.mean()) / image.std())
        labels.append(mask)
    return torch.from_numpy(np.stack(images))[:, None].float(), torch.from_numpy(np.stack(labels))[:, None].short()


def draw_batch(slices: tuple[Tensor, Tensor], batch_size: int) -> tuple[Tensor, Tensor]:
    """Different patients, each cropped elsewhere."""
    cropped = []
    for index in torch.randperm(len(slices[0]))[:batch_size]:
        top, left = (torch.randint(full - part + 1, ()).item() for full, part in zip(DRAWN, CROPPED, strict=True))
        cropped.append([array[index, :, top : top + CROPPED[0], left : left + CROPPED[1]] for array in slices])
    images, labels = zip(*cropped, strict=True)
    return torch.stack(images), torch.stack(labels)


def train(network: CAFRNet, slices: tuple[Tensor, Tensor], steps: int, batch_size: int) -> None:
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss_fn = DiceCECLRLoss(DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss), LOSS)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4, weight_decay=1e-5, fused=True)
    for _ in range(steps):
        images, labels = draw_batch(slices, batch_size)
        optimizer.zero_grad(set_to_none=True)
        loss_fn(network(images), labels).backward()
        optimizer.step()
    print("last step: " + ", ".join(f"{name} {value:.3f}" for name, value in loss_fn.last_terms.items()))


class Gradient:
    """An expected gradient, from the mean of each of two independent halves of draws: they share it, and no noise."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.halves = (first, second)

    def __add__(self, other: "Gradient") -> "Gradient":
        return Gradient(*(mine + theirs for mine, theirs in zip(self.halves, other.halves, strict=True)))

    @property
    def length(self) -> float:
        return (self.halves[0] @ self.halves[1]).clamp(min=0).sqrt().item()

    def cosine(self, other: "Gradient") -> float:
        product = np.mean([(mine @ theirs).item() for mine in self.halves for theirs in other.halves])
        return float(product) / (self.length * other.length)

    def cosine_of_single(self, draw: Tensor) -> float:
        return float(np.mean([(half @ draw).item() for half in self.halves])) / (self.length * draw.norm().item())


class Draws:
    """Repeated draws of pairs from the shares of a batch: their losses and gradients."""

    def __init__(self, head: ProjectionHead, embedding: Tensor, labels: Tensor, ranks: int, number: int) -> None:
        self.losses: list[float] = []
        self.single_of_weights: list[Tensor] = []
        of_embedding = torch.zeros(2, embedding.numel())
        for index in range(number):
            shares = zip(embedding.chunk(ranks), labels.chunk(ranks), strict=True)
            loss = torch.stack([LOSS(*share) for share in shares]).mean()
            first, *others = torch.autograd.grad(loss, [embedding, *head.parameters()], retain_graph=True)
            of_embedding[index % 2] += first.flatten()
            self.single_of_weights.append(torch.cat([values.flatten() for values in others]))
            self.losses.append(loss.item())
        self.of_embedding = Gradient(*(of_embedding / (number / 2)))
        of_weights = torch.stack(self.single_of_weights)
        self.of_weights = Gradient(of_weights[::2].mean(0), of_weights[1::2].mean(0))


def classes_of(labels: Tensor, cells: torch.Size) -> tuple[int, int]:
    """Classes that give anchors, and those of them whose positives lie in another sample."""
    pairs = LOSS.sample_pairs(labels, cells)
    sample_of = [index // cells.numel() for index in (pairs.anchor, pairs.positive)]
    elsewhere = (sample_of[0] != sample_of[1]).view(-1, LOSS.anchors_per_class).any(dim=1)
    return len(elsewhere), int(elsewhere.sum())


def fused_map(network: CAFRNet, images: Tensor) -> Tensor:
    """What the contrastive head reads, batch norm over the whole batch, as nnU-Net synchronises it."""
    seen: list[Tensor] = []
    handle = network.projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen[0]


def measure(network: CAFRNet, slices: tuple[Tensor, Tensor], arguments: argparse.Namespace) -> None:
    rows: dict[int, list[list[float]]] = {ranks: [] for ranks in (1, *arguments.ranks)}
    kept: dict[int, list[Gradient]] = {ranks: [] for ranks in (0, *rows)}
    for _ in range(arguments.batches):
        images, labels = draw_batch(slices, arguments.batch_size)
        embedding = network.projection(fused_map(network, images))
        gathered = Draws(network.projection, embedding, labels, 1, arguments.draws)
        kept[0].append(gathered.of_weights)
        for ranks, row in rows.items():
            # The first is a second estimate of the gathered one: its direction has to come out as 1.
            split = Draws(network.projection, embedding, labels, ranks, arguments.draws)
            kept[ranks].append(split.of_weights)
            classes = np.mean([classes_of(share, embedding.shape[2:]) for share in labels.chunk(ranks)], axis=0)
            one_draw = np.mean([gathered.of_weights.cosine_of_single(single) for single in split.single_of_weights])
            directions = gathered.of_embedding.cosine(split.of_embedding), gathered.of_weights.cosine(split.of_weights)
            row.append([np.mean(split.losses), np.std(split.losses), *classes, *directions, one_draw])

    print(f"{'':>15} {'':>15} {'':>7} {'':>9} {'direction':>31} {'one':>7}")
    print(
        f"{'':>15} {'loss':>15} {'classes':>7} {'elsewhere':>9} {'embedding':>9} {'weights':>9} {'all batches':>11} "
        f"{'draw':>7}"
    )
    in_all = {ranks: sum(gradients[1:], start=gradients[0]) for ranks, gradients in kept.items()}
    for ranks, row in rows.items():
        loss, deviation, classes, elsewhere, of_embedding, of_weights, one_draw = np.mean(row, axis=0)
        name = "gathered" if ranks == 1 else f"{ranks} ranks of {arguments.batch_size // ranks}"
        print(
            f"{name:>15} {loss:6.3f} +- {deviation:.3f} {classes:7.1f} {elsewhere:9.1f} {of_embedding:9.2f} "
            f"{of_weights:9.2f} {in_all[0].cosine(in_all[ranks]):11.2f} {one_draw:7.2f}"
        )
    another = np.mean([before.cosine(after) for before, after in itertools.pairwise(kept[0])])
    print(f"{'another batch':>15} {'':>15} {'':>7} {'':>9} {'':>9} {another:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8, 16], help="each a divisor of the batch size")
    parser.add_argument("--batches", type=int, default=3, help="two or more")
    parser.add_argument("--draws", type=int, default=20, help="of pairs, for each batch and split")
    parser.add_argument("--steps", type=int, default=40, help="of the training before the second table")
    parser.add_argument("--train-batch-size", type=int, default=8)
    parser.add_argument("--patients", type=int, default=48)
    arguments = parser.parse_args()
    if any(arguments.batch_size % ranks for ranks in arguments.ranks):
        parser.error("--ranks must divide --batch-size")

    torch.manual_seed(0)
    start = time.perf_counter()
    slices = phantom_slices(arguments.patients)
    network = CAFRNet(input_channels=1, num_classes=CLASSES)
    network.apply(network.initialize).train()
    print(
        f"torch {torch.__version__}, batch {arguments.batch_size}, patch {CROPPED}, {arguments.batches} batches of "
        f"{arguments.patients} patients, {arguments.draws} draws each\nuntrained"
    )
    measure(network, slices, arguments)
    print(f"after {arguments.steps} steps of batch {arguments.train_batch_size}")
    train(network, slices, arguments.steps, arguments.train_batch_size)
    measure(network, slices, arguments)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
