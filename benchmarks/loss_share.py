"""Share of the contrastive loss in a training step of CAFR-Net: `python benchmarks/loss_share.py`.

Both are timed in one run, taking turns, and compared by their medians: the contrastive loss with its own backward pass
down to the embedding, and the whole step (forward, Dice + cross-entropy + contrastive loss, backward, Adam). Float32,
single-channel 256x256 images, 20 classes, on the GPU where there is one.
"""

import argparse
import statistics

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE
from nnunetv2_cafr.measuring import in_turns, machine
from nnunetv2_cafr.network import CAFRNet

SIZE, CLASSES = 256, 20
BODY_HEIGHT, DISC_HEIGHT, WIDTH = 19, 7, 48


def spine_labels(batch_size: int) -> torch.Tensor:
    """Label maps (b, 1, 256, 256) of a curved spine, each shifted: ten bodies (1-10) with nine thin discs (11-19)."""
    labels = torch.zeros(batch_size, 1, SIZE, SIZE, dtype=torch.int16)
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for sample in range(batch_size):
        height = SIZE + 2 * sample - row  # the upper levels leave the image in some samples, as in real ones
        level = height.div(BODY_HEIGHT + DISC_HEIGHT, rounding_mode="floor")
        in_body = height % (BODY_HEIGHT + DISC_HEIGHT) < BODY_HEIGHT
        left = 90 + 2 * sample + 20 * torch.sin(row / 60)
        in_spine = (column >= left) & (column < left + WIDTH) & (level < 10) & (in_body | (level < 9))
        labels[sample, 0] = torch.where(in_spine, torch.where(in_body, level + 1, level + 11), 0)
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds, after two that are not counted")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    torch.manual_seed(0)
    network = CAFRNet(input_channels=1, num_classes=CLASSES).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-5)
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    dice_ce = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    loss_fn = DiceCECLRLoss(dice_ce, PixelInfoNCE())
    target = spine_labels(arguments.batch_size).to(device)
    image = torch.randn(target.shape, device=device) + target / CLASSES
    with torch.no_grad():
        embedding = network(image)[1]
    embedding.requires_grad_()

    def contrastive_loss() -> None:
        torch.autograd.grad(loss_fn.contrastive(embedding, target), embedding)

    def training_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_fn(network(image), target).backward()
        optimizer.step()

    times = in_turns({"loss": contrastive_loss, "step": training_step}, device, arguments.repeats, warm_up=2)
    loss_ms, step_ms = (statistics.median(values) for values in times.values())

    pairs = loss_fn.contrastive.sample_pairs(target, embedding.shape[2:])
    print(f"{machine(device)}, torch {torch.__version__}, median of {arguments.repeats}")
    print(f"batch {tuple(image.shape)}, {len(target.unique())} classes, {len(pairs.anchor)} anchors")
    print(f"contrastive loss {loss_ms:.1f} ms, training step {step_ms:.1f} ms: {100 * loss_ms / step_ms:.2f} %")


if __name__ == "__main__":
    main()
