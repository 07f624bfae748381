"""Distributed training as nnU-Net runs it, with two gloo processes on the CPU.

SyncBatchNorm has no CPU kernel, so the two processes keep plain batch norm; that nnU-Net's conversion reaches all of
them is tested apart. This file is also the program that each rank runs.
"""

import subprocess
import sys
import time
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.convolution import strides_of_tokens

RANKS = 2
TIME_LIMIT = 300  # seconds, on busy cores too; a pair that hangs is ended
TRAINER = "nnUNetTrainer_CAFR_budget2x2"
SMALL = {"embed_dim": 48, "num_heads": 4, "ffn_dim": 64, "channels": [4, 8, 16, 16, 32], "tap_channels": 16}
SETTINGS: list[dict[str, bool]] = [
    {"use_clr": True, "batch_dice": True},  # nnU-Net gathers its Dice over the ranks
    {"use_clr": True, "batch_dice": False},
    {"use_clr": False, "batch_dice": True},
]


def batch_of(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and target (2, 1, 32, 32): three classes on rank 0, a single one, so no contrastive pair, on rank 1."""
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(10 * step + rank))
    target = torch.zeros(2, 1, 32, 32, dtype=torch.int16)
    if rank == 0:
        target[:, :, 8:16] = 1
        target[:, :, 16:28, 4:20] = 2
    return image, target


def gradients(network: nn.Module) -> list[torch.Tensor]:
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient for {missing}"
    return [parameter.grad.clone() for parameter in network.parameters()]


def two_steps(rank: int, *, use_clr: bool, batch_dice: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    network = CAFRNet(1, 3, use_clr=use_clr, tap_scale=1.0, **SMALL)
    network.apply(network.initialize)
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": True}
    dice_ce = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    loss_fn = DiceCECLRLoss(dice_ce, PixelInfoNCE(), clr_weight=1.0)
    alone = deepcopy(network).train()
    distributed = DistributedDataParallel(network).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    results: dict[str, Any] = {"own": [], "applied": [], "clr": []}
    for step in range(2):
        image, target = batch_of(rank, step)
        alone.load_state_dict(network.state_dict())
        for model, kept in ((alone, "own"), (distributed, "applied")):
            # the same dropout and the same pairs for both
            torch.manual_seed(100 * step + rank)
            model.zero_grad(set_to_none=True)
            loss_fn(model(image), target).backward()
            results[kept].append(gradients(model))
        results["clr"].append(loss_fn.last_terms["clr"].item())
        optimizer.step()
    results["parameters"] = [parameter.detach() for parameter in network.parameters()]
    return results


def steps_in_every_setting(rank: int) -> list[dict[str, Any]]:
    return [two_steps(rank, **setting) for setting in SETTINGS]


def trainer_with_validation(rank: int) -> dict[str, Any]:
    """nnU-Net's own loop. Its distributed mode insists on a GPU per rank: only these insertions are undone.

    The second rank's validation loss is no number in the second epoch.
    """
    validation_step = stock.nnUNetTrainer.validation_step

    def spoilt_step(self: Any, batch: dict) -> dict:
        spoilt = {"loss": np.array(np.nan)} if rank == 1 and self.current_epoch == 1 else {}
        return {**validation_step(self, batch), **spoilt}

    stock.nnUNetTrainer.validation_step = spoilt_step
    LocalLogger.plot_progress_png = lambda *_: None  # takes longer than the epoch
    stock.DDP = lambda network, device_ids: DistributedDataParallel(network)
    nn.SyncBatchNorm.convert_sync_batchnorm = lambda network: network
    trainer = get_trainer_from_args("511", "2d", 0, TRAINER)
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    trainer.run_training()
    trainer.perform_actual_validation()
    return {
        "curves": trainer.logger.local_logger.my_fantastic_logging,
        "batch_size": trainer.batch_size,
        "trusted": trainer.best_is_trustworthy,
        "weights": trainer.network.module.state_dict(),
    }


def run_ranks(folder: Path, environment: dict[str, str]) -> list[tuple[list[Any], dict[str, Any]]]:
    """What `steps_in_every_setting` and `trainer_with_validation` return on each rank, both in one process."""
    command = [sys.executable, __file__, str(folder)]
    environment = {**environment, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    logs = [folder / f"{rank}.log" for rank in range(RANKS)]
    processes = []
    for rank, log in enumerate(logs):
        with log.open("w") as output:
            processes.append(
                subprocess.Popen([*command, str(rank)], stdout=output, stderr=subprocess.STDOUT, env=environment)
            )
    end = time.monotonic() + TIME_LIMIT
    try:
        codes = [process.wait(max(0, end - time.monotonic())) for process in processes]
    except subprocess.TimeoutExpired:
        codes = ["hangs"]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    texts = [log.read_text(encoding="utf-8", errors="replace") for log in logs]  # torch's end with an emoji
    assert codes == [0] * RANKS, "\n".join(f"rank {rank}:\n{text[-6000:]}" for rank, text in enumerate(texts))
    return [torch.load(folder / f"{rank}.pth", weights_only=False) for rank in range(RANKS)]


def run_rank(folder: Path, rank: int) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=TIME_LIMIT / 2),
    )
    torch.save((steps_in_every_setting(rank), trainer_with_validation(rank)), folder / f"{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nnU-Net's results of the ranks, and what they returned."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(phantom_dataset, folder: Path) -> list[tuple[list[Any], dict[str, Any]]]:
    return run_ranks(folder, {**phantom_dataset.environment, "nnUNet_results": str(folder), "nnUNet_n_proc_DA": "0"})


@pytest.fixture(scope="module")
def ranks_per_setting(ranks) -> list[tuple[dict, dict]]:
    return list(zip(*(steps for steps, _ in ranks), strict=True))


@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=[str(setting) for setting in SETTINGS])
def test_a_rank_without_a_contrastive_pair_trains_along(ranks_per_setting, index):
    """No hang, the mean of the ranks' own gradients in every parameter, and the same network afterwards."""
    first, second = ranks_per_setting[index]
    assert all(value > 0 for value in first["clr"]) == SETTINGS[index]["use_clr"]
    assert second["clr"] == [0, 0]
    for step in range(2):
        for own, other, *applied in zip(
            first["own"][step], second["own"][step], first["applied"][step], second["applied"][step], strict=True
        ):
            for gradient in applied:
                torch.testing.assert_close(gradient, (own + other) / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(first["parameters"], second["parameters"], rtol=0, atol=0)


def test_the_ranks_own_gradients_differ(ranks_per_setting):
    """Else their mean would prove nothing."""
    first, second = ranks_per_setting[0]
    assert not torch.allclose(first["own"][0][0], second["own"][0][0], rtol=0.1)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("token_size", [(16, 16), (4, 16, 16)])
def test_nnunets_conversion_synchronises_every_batch_norm(token_size, compiled):
    network = CAFRNet(1, 3, strides=strides_of_tokens(token_size), norm="batch", **SMALL)
    norms = [name for name, module in network.named_modules() if "BatchNorm" in type(module).__name__]
    assert len(norms) > 8
    # nnU-Net compiles first, then converts
    nn.SyncBatchNorm.convert_sync_batchnorm(torch.compile(network) if compiled else network)
    synchronised = [name for name, module in network.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    assert synchronised == norms


def test_trainer_on_two_ranks(ranks, folder):
    """The loop, the logged terms, the checkpoint and the validation of nnU-Net's distributed mode."""
    first, second = (trained for _, trained in ranks)
    torch.testing.assert_close(
        {name: value for name, value in first["weights"].items() if "running_" not in name},
        {name: value for name, value in second["weights"].items() if "running_" not in name},
        rtol=0,
        atol=0,
    )
    for term in ("train_losses", "train_dice", "train_ce", "train_clr", "clr_weight"):
        assert first["curves"][term] == second["curves"][term]
        assert len(first["curves"][term]) == 2
    total = first["curves"]["train_losses"]
    parts = [first["curves"][f"train_{term}"] for term in ("dice", "ce", "clr")]
    weights = first["curves"]["clr_weight"]
    assert weights == [0.0, 0.01]
    for loss, dice, ce, clr, weight in zip(total, *parts, weights, strict=True):
        assert loss == pytest.approx(dice + ce + weight * clr, rel=1e-5)

    fold = folder / "Dataset511_SpineMRI" / f"{TRAINER}__nnUNetPlans__2d" / "fold_0"
    saved = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    torch.testing.assert_close(dict(saved), dict(first["weights"]), rtol=0, atol=0)
    (log,) = fold.glob("training_log_*.txt")
    assert "ALARM in epoch 1, rank 1: the validation loss is not finite" in log.read_text()
    assert "ALARM in epoch 0" not in log.read_text()
    assert (first["trusted"], second["trusted"]) == (False, False)
    assert (fold / "validation" / "summary.json").exists()


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]), int(sys.argv[2]))
