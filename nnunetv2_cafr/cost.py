"""`nnUNetv2_cafr cost`: multiply-accumulates, parameters and latency of CAFR-Net beside nnU-Net's own network.

MACs are torch's FlopCounterMode halved, with attention run as plain matrix products, which is the one counter that is
right for nnU-Net's networks (their modules are registered twice) and for attention.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from nnunetv2_cafr import options
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.convolution import strides_of_tokens
from nnunetv2_cafr.training import nnUNetTrainer_CAFR

EXAMPLES = """examples:
  nnUNetv2_cafr cost                          256x256, 1 channel, 20 classes: the paper's table
  nnUNetv2_cafr cost --size 640 320
  nnUNetv2_cafr cost -d 511 -c 2d             what your plans file makes of both networks
  nnUNetv2_cafr cost --bench                  training, memory, whole volumes too: speed.json, speed.png (half an hour)
"""


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass in `eval()`, batch 1."""

    name: str
    gmacs: float
    parameters: int
    latency_ms: float


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
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain_conv_unet(patch_size: list[int], input_channels: int, num_classes: int) -> tuple[nn.Module, list[int]]:
    """The PlainConvUNet that nnU-Net plans for a patch of isotropic spacing, and the size it pads that patch to."""
    dimensions = len(patch_size)
    conv_op, norm_op, max_features = {
        2: (nn.Conv2d, nn.InstanceNorm2d, 512),
        3: (nn.Conv3d, nn.InstanceNorm3d, 320),
    }[dimensions]
    _, strides, kernels, padded, _ = get_pool_and_conv_props([1.0] * dimensions, patch_size, 4, 999999)
    stages = len(strides)
    network = PlainConvUNet(
        input_channels=input_channels,
        n_stages=stages,
        features_per_stage=[min(32 * 2**stage, max_features) for stage in range(stages)],
        conv_op=conv_op,
        kernel_sizes=kernels,
        strides=strides,
        n_conv_per_stage=[2] * stages,
        num_classes=num_classes,
        n_conv_per_stage_decoder=[2] * (stages - 1),
        conv_bias=True,
        norm_op=norm_op,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return network, [int(size) for size in padded]


def networks_from_plans(dataset: str, configuration: str, plans_name: str) -> tuple[dict[str, nn.Module], list[int]]:
    """Both networks exactly as their trainers build them from a plans file, and (channels, *patch_size)."""
    options.require_folders("nnUNet_preprocessed")
    try:
        folder = Path(str(nnUNet_preprocessed)) / maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError) as error:
        raise SystemExit(str(error)) from error
    plans_file = folder / f"{plans_name}.json"
    if not plans_file.is_file():
        raise SystemExit(
            f"No plans file {plans_file}: run nnUNetv2_plan_and_preprocess -d {dataset} first, or name the plans by -p"
        )
    plans = PlansManager(load_json(str(plans_file)))
    if configuration not in plans.available_configurations:
        raise SystemExit(f"{plans_file} has no configuration {configuration!r}, only {plans.available_configurations}")
    dataset_json = load_json(str(folder / "dataset.json"))
    settings = plans.get_configuration(configuration)
    channels = determine_num_input_channels(plans, settings, dataset_json)
    heads = plans.get_label_manager(dataset_json).num_segmentation_heads
    networks = {
        trainer.__name__: trainer.build_network_architecture(
            plans, settings, channels, heads, enable_deep_supervision=False
        )
        for trainer in (nnUNetTrainer, nnUNetTrainer_CAFR)
    }
    return networks, [channels, *settings.patch_size]


def measure(networks: dict[str, nn.Module], shape: list[int], device: torch.device, repeats: int) -> list[Cost]:
    """Cost of each network for one input (1, *shape), shape = (channels, *spatial)."""
    x = torch.randn(1, *shape, device=device)
    for network in networks.values():
        network.to(device).eval()
    times = in_turns({name: partial(infer, network, x) for name, network in networks.items()}, device, repeats, 2)
    return [
        Cost(
            name,
            count_macs(network, x) / 1e9,
            sum(p.numel() for p in network.parameters()),
            statistics.median(times[name]),
        )
        for name, network in networks.items()
    ]


def table(costs: list[Cost]) -> str:
    """Plain text table; the ratios are to the first row."""
    first = costs[0]
    lines = [
        f"{'network':<28}{'GMACs':>9}{'2 x GMACs':>11}{'M params':>10}{'ms':>10}{'MACs ratio':>12}{'ms ratio':>10}"
    ]
    for cost in costs:
        lines.append(
            f"{cost.name:<28}{cost.gmacs:>9.2f}{2 * cost.gmacs:>11.2f}{cost.parameters / 1e6:>10.1f}"
            f"{cost.latency_ms:>10.1f}{cost.gmacs / first.gmacs:>12.2f}{cost.latency_ms / first.latency_ms:>10.2f}"
        )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        type=options.whole_number("size in pixels"),
        nargs="+",
        metavar="N",
        help="spatial size of the input (default 256 256)",
    )
    parser.add_argument(
        "--channels", type=options.whole_number("number of channels"), default=1, help="input channels (default 1)"
    )
    parser.add_argument(
        "--classes",
        type=options.whole_number("number of classes"),
        default=20,
        help="output classes with background (default 20)",
    )
    parser.add_argument(
        "-d",
        type=options.dataset,
        metavar="DATASET",
        help="take both networks and the patch from this data set's plans",
    )
    parser.add_argument(
        "-c",
        type=options.configuration,
        metavar="CONFIGURATION",
        default="2d",
        help="configuration of the plans (default 2d)",
    )
    parser.add_argument(
        "-p", type=options.plans, metavar="PLANS", default="nnUNetPlans", help="plans identifier (default nnUNetPlans)"
    )
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda", "mps"], help="default cpu")
    parser.add_argument(
        "--repeats",
        type=options.whole_number("number of passes"),
        default=10,
        help="timed forward passes of each network (default 10)",
    )
    parser.add_argument(
        "--bench",
        action="store_true",
        help="measure latency at several sizes, training steps and memory, and nnUNetv2_predict on a phantom",
    )
    parser.add_argument(
        "-o", type=Path, metavar="FOLDER", default=Path("speed"), help="of --bench's files (default speed)"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.d and arguments.size:
        raise SystemExit("Give either -d (patch from the plans) or --size, not both")
    if arguments.bench:
        if arguments.d or arguments.size or arguments.device == "mps":
            raise SystemExit("--bench has sizes and data of its own, on cpu or cuda: leave out -d and --size")
        from nnunetv2_cafr import speed  # which needs this module

        rows = speed.bench(arguments.o, arguments.device, arguments.repeats)
        print(f"{speed.conditions(arguments.device)}\n\n{speed.table(rows)}\n\nWrote {arguments.o}")
        return 0
    if arguments.d:
        networks, shape = networks_from_plans(arguments.d, arguments.c, arguments.p)
    else:
        size = arguments.size or [256, 256]
        if len(size) not in (2, 3):
            raise SystemExit(f"--size needs 2 or 3 numbers, got {size}")
        unet, padded = plain_conv_unet(size, arguments.channels, arguments.classes)
        if padded != size:
            print(f"nnU-Net pads {size} to {padded}; both networks are measured at that size.")
        network = CAFRNet(arguments.channels, arguments.classes, strides=strides_of_tokens([16] * len(size)))
        networks = {"nnU-Net PlainConvUNet": unet, "CAFRNet": network.apply(network.initialize)}
        shape = [arguments.channels, *padded]
    device = torch.device(arguments.device)
    costs = measure(networks, shape, device, arguments.repeats)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(
        f"Input (1, {', '.join(map(str, shape))}), eval(), float32, {device.type} ({name}{threads}), torch "
        f"{torch.__version__}, median of {arguments.repeats} interleaved passes"
    )
    print(table(costs))
    if np.any([cost.gmacs > 5.12 for cost in costs[1:]]) and shape[1:] == [256, 256] and arguments.classes == 20:
        print("CAFR-Net exceeds the paper's 5.12 GMACs at this size.")
        return 1
    return 0
