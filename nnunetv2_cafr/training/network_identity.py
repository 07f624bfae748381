"""What tells one network from another, whatever its weights: its structure, and what it computes.

A checkpoint holds weights, and trusts that the code of today makes the same network around them. Weights that do not
fit are noticed when they are loaded; an argument or a line of code that changes what is computed is not. So a record of
the training holds both: a digest of the modules with their settings, and the output for an input and weights that
always are the same.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_cafr.errors import shorten

PACKAGE = __name__.partition(".")[0]
PROBED_VOXELS = 2**18  # of a smaller patch, where a patch has more
TOLERANCE = 1e-3  # of the largest output: other CPUs and versions of torch add up in another order


def bare(network: nn.Module) -> nn.Module:
    """The network without what distributes and compiles it."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network


def identity_of(network: nn.Module, channels: int, patch_size: Sequence[int]) -> dict[str, Any]:
    """Class, number of parameters, structure and output of a network, as JSON values."""
    network = bare(network)
    kind = type(network)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "structure": hashlib.sha256("\n".join(_structure(network)).encode()).hexdigest(),
        # Networks of other packages have versions of their own, which the record holds.
        "output": probe(network, channels, patch_size) if kind.__module__.startswith(PACKAGE) else None,
    }


def _structure(network: nn.Module) -> list[str]:
    """A line for each module: its kind, its settings and the shapes of its weights."""
    lines = []
    for name, module in network.named_modules():
        kind = type(module).__name__
        settings = module.extra_repr()
        if "BatchNorm" in kind:  # several ranks have SyncBatchNorm in its place
            kind = "BatchNorm"
        if type(module).__module__.startswith(PACKAGE):
            plain = {key: value for key, value in sorted(vars(module).items()) if _is_setting(key, value)}
            settings = f"{settings} {plain}"
        shapes = {key: tuple(value.shape) for key, value in module.named_parameters(recurse=False)}
        lines.append(f"{name}: {kind}({settings}) {shapes}")
    return lines


def _is_setting(key: str, value: object) -> bool:
    if key.startswith("_") or key == "training":
        return False
    members = value if isinstance(value, list | tuple) else [value]
    return all(member is None or isinstance(member, bool | int | float | str) for member in members)


@torch.no_grad()
def probe(network: nn.Module, channels: int, patch_size: Sequence[int]) -> list[float] | None:
    """Eight values of the output in `eval()` for an input and weights that only depend on names and shapes.

    None for a network that takes no patch as small as is probed.
    """
    network = deepcopy(network).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in sorted(network.state_dict().items()):
        if not value.is_floating_point():
            continue
        drawn = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            value.copy_(drawn / math.sqrt(value[0].numel()))
        elif name.endswith(("weight", "running_var")):
            value.copy_(1 + 0.1 * drawn.clamp(-3, 3))
        else:
            value.copy_(0.1 * drawn)
    size = list(patch_size)
    while math.prod(size) > PROBED_VOXELS:
        largest = size.index(max(size))
        size[largest] = math.ceil(size[largest] / 2)
    try:
        output = network(torch.randn(1, channels, *size, generator=generator))
    except (RuntimeError, ValueError):
        return None
    while isinstance(output, list | tuple):
        output = output[0]
    values = output.flatten()
    chosen = torch.linspace(0, len(values) - 1, 6).long()
    return [float(value) for value in (values.mean(), values.std(), *values[chosen])]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two identities differ, in words; empty if they are of one network."""
    for key, words in (("class", "{}, now {}"), ("parameters", "{} parameters, now {}")):
        if then.get(key) != now.get(key):
            return [words.format(then.get(key), now.get(key))]
    if then.get("structure") != now.get("structure"):
        return ["the same weights in modules of other settings"]
    before, after = then.get("output"), now.get("output")
    if before is None or after is None:
        return []
    scale = max(map(abs, before))
    if len(before) != len(after) or not np.allclose(before, after, rtol=0, atol=TOLERANCE * scale):
        return ["the same weights, of which its code computes something else"]
    return []


def misfit(weights: Mapping[str, torch.Tensor], network: nn.Module) -> str | None:
    """What keeps weights from being loaded into a network, in words; None if they fit."""
    expected = bare(network).state_dict()
    missing = sorted(expected.keys() - weights.keys())
    foreign = sorted(weights.keys() - expected.keys())
    other = sorted(
        f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    )
    parts = [
        f"{len(names)} {what} ({shorten(names, 2)})"
        for names, what in ((missing, "are missing"), (foreign, "are unknown"), (other, "have another shape"))
        if names
    ]
    return f"of the weights {', '.join(parts)}" if parts else None
