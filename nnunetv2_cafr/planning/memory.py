"""How much GPU memory a training step of CAFR-Net takes, found without a GPU and without taking that memory.

nnU-Net's planner counts feature map values and scales them by what a U-Net once took. That knows neither tokens nor
attention, so here the step itself is run (forward, Dice + cross-entropy at every resolution, backward, clipping,
AdamW) on fake tensors, which have a shape but no values, and the storages alive at a time are added up. Two steps,
because AdamW's state exists from the second one on. Mixed precision is emulated by bfloat16 on fake CPU tensors. The
contrastive loss cannot run without values; the embedding's mean stands in for it (it copies a few thousand of the
embedding's cells, some MB).

Attention is planned with a fused kernel, which never stores the n x n weights of n tokens. torch takes one on every
CUDA device for these heads (16 wide, half precision, no mask). The plain kernel stores them, heads x n^2 values per
sample and layer, several times over. Traced at batch 2, 20 classes, mixed precision, in GB (10^9 bytes):

    patch                                tokens   fused   plain
    640x320                                 800    0.68    0.87
    896x896                                3136    2.41    5.82
    16x320x320 at 4.4 x 0.34 x 0.34 mm     6400    4.82   21.80
    128x128x64 isotropic                    256    1.97    1.99

Planning with the plain kernel would shrink such patches to a fraction, for memory that is never used. The plain figure
is given beside the planned one, for devices without a fused kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.planning import CONTEXT_BYTES

# CUDA's autocast keeps layer norms and interpolation in float32 where a CPU's does not: 7 to 9 % more after the forward
# pass, traced on fake CUDA tensors (whose backward pass needs a device). The rest is assumed, for the allocator's gaps.
CUDA_FACTOR = 1.12

_TRACED_BATCHES = 2, 3  # batch norm refuses one sample where a map has shrunk to a single cell


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of a training step, in bytes, which is linear in the batch: `fixed` + batch size x `per_sample`."""

    fixed: float
    per_sample: float

    def at(self, batch_size: int) -> float:
        return self.fixed + batch_size * self.per_sample

    def largest_batch(self, limit: float) -> int:
        """The most samples whose step stays within `limit` bytes; 0 if none does."""
        return max(0, int((limit - self.fixed) // self.per_sample))


def training_memory(
    patch_size: Sequence[int],
    architecture: Mapping[str, Any],
    input_channels: int,
    num_classes: int,
    *,
    fused_attention: bool = True,
) -> TrainingMemory:
    """What our trainers' step is expected to take of a CUDA device, all in, as nnU-Net trains: in mixed precision.

    Arguments are those of `traced_peak`.
    """
    smaller, larger = (
        traced_peak(patch_size, architecture, input_channels, num_classes, batch_size, fused_attention=fused_attention)
        for batch_size in _TRACED_BATCHES
    )
    per_sample = larger - smaller
    fixed = smaller - _TRACED_BATCHES[0] * per_sample
    return TrainingMemory(CUDA_FACTOR * fixed + CONTEXT_BYTES, CUDA_FACTOR * per_sample)


def traced_peak(
    patch_size: Sequence[int],
    architecture: Mapping[str, Any],
    input_channels: int,
    num_classes: int,
    batch_size: int,
    *,
    mixed_precision: bool = True,
    fused_attention: bool = True,
) -> int:
    """Bytes of all tensors alive at the worst moment of a training step.

    Args:
        patch_size: spatial size of the patch, in voxels.
        architecture: keyword arguments of `CAFRNet` with its contrastive head, as our trainers train it.
        input_channels: channels of the patch.
        num_classes: channels of the logits.
        batch_size: samples, 2 or more.
        mixed_precision: activations of two bytes where autocast makes them so; False is float32.
        fused_attention: attention by a fused kernel, which does not store its weights; False stores them.
    """
    kernel = SDPBackend.FLASH_ATTENTION if fused_attention else SDPBackend.MATH
    with FakeTensorMode(), LiveStorages() as storages, sdpa_kernel(kernel):
        network = CAFRNet(input_channels, num_classes, deep_supervision=True, **architecture)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        dice_ce = DeepSupervisionWrapper(
            DC_and_CE_loss(
                {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False},
                {},
                dice_class=MemoryEfficientSoftDiceLoss,
            ),
            [1, 1 / 2, 1 / 4, 0],  # nnU-Net's, not yet of sum 1
        )
        image = torch.empty(batch_size, input_channels, *patch_size)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed_precision):
                logits, embedding = network(image)
                targets = [torch.empty(batch_size, 1, *level.shape[2:], dtype=torch.int16) for level in logits]
                loss = dice_ce(logits, targets) + embedding.mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
            optimizer.step()
    return storages.peak


class LiveStorages(TorchDispatchMode):
    """Adds up the storages that operations put out, each once and until it dies; `peak` is the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._total = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self._total += storage.nbytes()
            finalize(storage, self._remove, key)
            self.peak = max(self.peak, self._total)

    def _remove(self, key: int) -> None:
        self._total -= self._alive.pop(key)
