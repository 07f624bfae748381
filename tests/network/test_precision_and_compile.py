"""Network and loss in half precision and under torch.compile, as nnU-Net runs them on a GPU."""

from collections.abc import Sequence

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from nnunetv2_cafr.loss import DiceCECLRLoss, PixelInfoNCE
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.convolution import strides_of_tokens

SMALL = {"embed_dim": 48, "num_heads": 4, "ffn_dim": 64, "channels": [4, 8, 16, 16, 32], "tap_channels": 16}
IN_PLANE, THICK_SLICES = (16, 16), (4, 16, 16)


def build(token_size: Sequence[int]) -> CAFRNet:
    network = CAFRNet(1, 3, strides=strides_of_tokens(token_size), tap_scale=1.0, **SMALL)
    return network.apply(network.initialize)


def build_loss() -> DiceCECLRLoss:
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    dice_ce = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    return DiceCECLRLoss(dice_ce, PixelInfoNCE())


def batch_of(spatial: Sequence[int], batch_size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and target of three classes, of which the image tells something."""
    target = torch.zeros(batch_size, 1, *spatial, dtype=torch.int16)
    target[..., 8:16, :] = 1
    target[..., 16:28, 4:20] = 2
    return torch.randn(target.shape) + target, target


@pytest.mark.parametrize(
    ("token_size", "spatial"), [(IN_PLANE, (32, 32)), (THICK_SLICES, (6, 64, 48))], ids=["2-D", "3-D"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_trains_without_a_nan(dtype, token_size, spatial):
    """As nnU-Net's train_step under autocast, with its gradient scaling for float16.

    Torch 2.14's bfloat16 convolution gave NaN in the gradient of its weights now and then on a CPU, of sound inputs: of
    a deepest map of 2x2x2 cells once in 200 steps, of 2x4x3 once in some thousand. So a step with such a gradient is
    tried once more.
    """
    network, loss_fn = build(token_size).train(), build_loss()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    losses: list[float] = []
    tried_again = False
    while len(losses) < 12:
        image, target = batch_of(spatial)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=dtype):
            logits, embedding = network(image)
            loss = loss_fn((logits, embedding), target)
        assert logits.dtype == dtype
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones_like(embedding[:, 0]))
        assert torch.isfinite(logits).all()
        assert all(torch.isfinite(term) for term in (loss, *loss_fn.last_terms.values()))
        scaler.scale(loss).backward()
        gradients = [values.grad for values in network.parameters() if values.grad is not None]
        if dtype == torch.bfloat16 and not all(torch.isfinite(gradient).all() for gradient in gradients):
            assert not tried_again
            tried_again = True
            continue
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert losses[-1] < losses[0] - 0.5
    # A step is left out only until the scale has settled.
    assert scaler.get_scale() >= 2**12 or not scaler.is_enabled()

    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        assert torch.isfinite(network.eval()(image)).all()


class Compiled:
    """A network and its Dice compiled as nnU-Net compiles them; one counter counts the graphs of both."""

    def __init__(self, token_size: Sequence[int], backend: str = "aot_eager") -> None:
        torch._dynamo.reset()
        counters.clear()
        self._counter = CompileCounterWithBackend(backend)
        self.eager = build(token_size)
        self.network = torch.compile(self.eager, backend=self._counter)
        self._loss_fn = build_loss()
        self._loss_fn.dice_ce.dc.loss = torch.compile(self._loss_fn.dice_ce.dc.loss, backend=self._counter)

    @property
    def graphs(self) -> int:
        return self._counter.frame_count

    def train(self, spatial: Sequence[int], steps: int = 1) -> None:
        self.network.train()
        for _ in range(steps):
            image, target = batch_of(spatial)
            self._loss_fn(self.network(image), target).backward()

    @torch.no_grad()
    def validate(self, spatial: Sequence[int], steps: int = 1) -> None:
        self.network.eval()
        for _ in range(steps):
            image, target = batch_of(spatial)
            self._loss_fn(self.network(image), target)

    @torch.inference_mode()
    def predict(self, spatial: Sequence[int]) -> None:
        self.network.eval()
        image, _ = batch_of(spatial, batch_size=1)
        torch.testing.assert_close(self.network(image), self.eager(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("token_size", "spatial"),
    [
        pytest.param(IN_PLANE, (32, 32), id="2-D"),
        pytest.param(THICK_SLICES, (6, 32, 24), id="3-D", marks=pytest.mark.slow),
    ],
)
def test_a_training_compiles_once_for_each_of_its_phases(token_size, spatial):
    """Whole graphs without breaks: network and Dice in training, in validation, and the network for prediction."""
    compiled = Compiled(token_size)
    compiled.train(spatial)
    assert compiled.graphs == 2
    compiled.train(spatial, steps=3)
    assert compiled.graphs == 2
    compiled.validate(spatial, steps=2)
    assert compiled.graphs == 4
    for _ in range(2):  # further epochs
        compiled.train(spatial, steps=2)
        compiled.validate(spatial, steps=2)
    assert compiled.graphs == 4
    compiled.predict(spatial)
    settled = compiled.graphs
    assert settled == 5
    compiled.predict(spatial)
    assert compiled.graphs == settled
    assert not counters["graph_break"]


def test_a_second_patch_size_adds_a_graph_but_not_one_per_step():
    compiled = Compiled(IN_PLANE, backend="eager")
    compiled.train((32, 32), steps=2)
    assert compiled.graphs == 2
    compiled.train((48, 32))
    with_second = compiled.graphs
    assert with_second <= 4
    compiled.train((48, 32), steps=2)
    compiled.train((32, 32), steps=2)
    assert compiled.graphs == with_second
    assert not counters["graph_break"]
