"""Multiply-accumulates of a network, times measured in turns, and the machine that they were measured on.

MACs are torch's FlopCounterMode halved, with attention run as plain matrix products, which is the one counter that is
right for nnU-Net's networks (their modules are registered twice) and for attention.
"""

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm


def count_macs(network: nn.Module, x: torch.Tensor) -> int:
    """Multiply-accumulates of one forward pass of `network` in `eval()` on x (b, c, *spatial)."""
    network.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(x)
    return counter.get_total_flops() // 2


def in_turns(
    actions: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, warm_up: int, title: str = ""
) -> dict[str, list[float]]:
    """Milliseconds of each action, round by round over all of them, so that all see the same machine.

    Args:
        actions: by name.
        device: that an action's work is done on; the time lasts until all of it is done.
        rounds: that are timed.
        warm_up: rounds before those.
        title: of a progress bar; without one there is none.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in tqdm(range(rounds + warm_up), desc=title, disable=not title):
        for name, action in actions.items():
            synchronize(device)
            start = time.perf_counter()
            action()
            synchronize(device)
            if number >= warm_up:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


@torch.no_grad()
def infer(network: nn.Module, x: torch.Tensor) -> None:
    """One forward pass, to be timed."""
    network(x)


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def machine(device: torch.device) -> str:
    """What it ran on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """Name of the CPU and its cores, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor() or platform.machine()
