"""What one forward pass of CAFR-Net costs beside nnU-Net's own network."""

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.network_cost import count_macs, in_turns, infer
from nnunetv2_cafr.raw_dataset import name_of_dataset, require_folders
from nnunetv2_cafr.training import nnUNetTrainer_CAFR


@dataclass(frozen=True)
class CostRow:
    """What one forward pass costs in `eval()`, batch 1."""

    name: str
    gmacs: float
    parameters: int
    latency_ms: float


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
    require_folders("nnUNet_preprocessed")
    folder = Path(str(nnUNet_preprocessed)) / name_of_dataset(dataset)
    plans_file = folder / f"{plans_name}.json"
    if not plans_file.is_file():
        raise UserError(
            f"No plans file {plans_file}: run nnUNetv2_plan_and_preprocess -d {dataset} first, or name the plans by -p"
        )
    plans = PlansManager(read_json(plans_file))
    if configuration not in plans.available_configurations:
        raise UserError(f"{plans_file} has no configuration {configuration!r}, only {plans.available_configurations}")
    dataset_json = read_json(folder / "dataset.json")
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


def measure(networks: dict[str, nn.Module], shape: list[int], device: torch.device, repeats: int) -> list[CostRow]:
    """Cost of each network for one input (1, *shape), shape = (channels, *spatial)."""
    x = torch.randn(1, *shape, device=device)
    for network in networks.values():
        network.to(device).eval()
    times = in_turns({name: partial(infer, network, x) for name, network in networks.items()}, device, repeats, 2)
    return [
        CostRow(
            name,
            count_macs(network, x) / 1e9,
            sum(p.numel() for p in network.parameters()),
            statistics.median(times[name]),
        )
        for name, network in networks.items()
    ]


def table(costs: list[CostRow]) -> str:
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
