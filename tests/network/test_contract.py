"""What every network that a trainer of ours builds has to meet: CAFR-Net, the baselines and nnU-Net's own alike.

They are built as the trainers build them for 2-D plans; nnU-Net's own for a small patch, the others at their full size.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.benchmark.forward_pass import plain_conv_unet
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.contrastive_unet import ContrastiveUNet
from nnunetv2_cafr.network.swin_unet import SwinUNet
from nnunetv2_cafr.network.trans_unet import TransUNet
from nnunetv2_cafr.training import nnUNetTrainer_AttentionUNet, nnUNetTrainer_UNet


def plain(input_channels: int, num_classes: int) -> nn.Module:
    """As nnU-Net plans a patch of 32x32."""
    return plain_conv_unet([32, 32], input_channels, num_classes)[0]


def residual(input_channels: int, num_classes: int) -> nn.Module:
    """As nnU-Net's ResEnc planners describe a patch of 32x32, with fewer blocks."""
    return ResidualEncoderUNet(
        input_channels,
        n_stages=4,
        features_per_stage=[32, 64, 128, 256],
        conv_op=nn.Conv2d,
        kernel_sizes=[[3, 3]] * 4,
        strides=[[1, 1], [2, 2], [2, 2], [2, 2]],
        n_blocks_per_stage=[1, 2, 2, 2],
        num_classes=num_classes,
        n_conv_per_stage_decoder=[1] * 3,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


@dataclass(frozen=True)
class Contract:
    """How a network is built for (channels, classes), and where it differs from the others."""

    build: Callable[[int, int], nn.Module]
    granularity: int = 16  # pixels, whose multiples it works on: its size_multiple, if it pads

    pads: bool = True  # nnU-Net's own take what their plans say
    embeds: bool = False  # returns (logits, embedding) in training


CONTRACTS = {
    "CAFRNet": Contract(CAFRNet, embeds=True),
    "CAFRNet without CLR": Contract(partial(CAFRNet, use_clr=False)),
    "UNet": Contract(partial(nnUNetTrainer_UNet.build_network, dimensions=2)),
    "AttentionUNet": Contract(partial(nnUNetTrainer_AttentionUNet.build_network, dimensions=2)),
    "SwinUNet": Contract(SwinUNet, granularity=32),
    "TransUNet": Contract(TransUNet),
    "PlainConvUNet": Contract(plain, granularity=8, pads=False),
    "PlainConvUNet with CLR": Contract(lambda *s: ContrastiveUNet(plain(*s)), granularity=8, pads=False, embeds=True),
    "ResEnc with CLR": Contract(lambda *s: ContrastiveUNet(residual(*s)), granularity=8, pads=False, embeds=True),
}


@pytest.fixture(scope="module", params=CONTRACTS)
def contract(request: pytest.FixtureRequest) -> Contract:
    return CONTRACTS[request.param]


@pytest.fixture(scope="module")
def built(contract: Contract) -> nn.Module:
    torch.manual_seed(0)
    return contract.build(1, 20)


@pytest.fixture
def network(built: nn.Module) -> nn.Module:
    """In eval(), with one output, as at inference; of one channel and 20 classes. No test may change its weights."""
    if hasattr(decoder := getattr(built, "decoder", None), "deep_supervision"):
        decoder.deep_supervision = False
    return built.eval()


def outputs_in_training(network: nn.Module, contract: Contract, x: torch.Tensor) -> list[torch.Tensor]:
    """All that the trainer's loss sees, finest logits first, the embedding last; changes the network."""
    if not contract.pads:
        network.decoder.deep_supervision = True
    output = network.train()(x)
    logits, *embedding = output if contract.embeds else (output,)
    return [*(logits if isinstance(logits, list) else [logits]), *embedding]


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (56, 40), (128, 32), (80, 160)], ids=str)
@torch.no_grad()
def test_logits_have_the_size_of_the_patch(network, contract, size):
    if not contract.pads:
        size = tuple(axis + -axis % contract.granularity for axis in size)
    logits = network(torch.randn(1, 1, *size))
    assert logits.shape == (1, 20, *size)
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_eval_repeats_itself_and_sees_each_sample_alone(network):
    x = torch.randn(2, 1, 64, 48)
    both = network(x)
    torch.testing.assert_close(network(x), both, rtol=0, atol=0)
    torch.testing.assert_close(network(x[1:]), both[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("contract", [name for name, of in CONTRACTS.items() if of.pads], indirect=True)
@torch.no_grad()
def test_padding_inside_is_zero_padding_outside(network, contract):
    assert tuple(network.size_multiple) == (contract.granularity,) * 2
    x = torch.randn(1, 1, 40, 24)
    padded = F.pad(x, [pad for size in (24, 40) for pad in (0, -size % contract.granularity)])
    torch.testing.assert_close(network(x), network(padded)[..., :40, :24])


def test_every_parameter_receives_a_finite_gradient(network, contract):
    """nnU-Net's distributed training does not look for unused parameters."""
    network = copy.deepcopy(network)
    outputs = outputs_in_training(network, contract, torch.randn(2, 1, 32, 48))
    assert outputs[0].shape == (2, 20, 32, 48)
    sum((output * torch.randn_like(output)).mean() for output in outputs).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@pytest.mark.parametrize("contract", [name for name, of in CONTRACTS.items() if of.embeds], indirect=True)
def test_embedding_has_unit_length_at_a_quarter(network, contract):
    embedding = outputs_in_training(copy.deepcopy(network), contract, torch.randn(2, 1, 32, 48))[-1]
    assert embedding.shape == (2, 256, 8, 12)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2, 8, 12))


def test_state_dict_loads_strictly_and_reproduces_the_output(network, contract):
    trained = copy.deepcopy(network)
    trained.train()(torch.randn(4, 1, 32, 32))  # moves batch-norm statistics
    fresh = contract.build(1, 20)
    fresh.load_state_dict(trained.state_dict(), strict=True)
    x = torch.randn(1, 1, 48, 32)
    torch.testing.assert_close(fresh.eval()(x), trained.eval()(x), rtol=0, atol=0)


def test_channels_and_classes(contract):
    network = contract.build(3, 2)
    assert outputs_in_training(network, contract, torch.randn(2, 3, 32, 32))[0].shape == (2, 2, 32, 32)


def test_half_precision_stays_finite(network, contract):
    """As nnU-Net trains and predicts on a GPU."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = outputs_in_training(copy.deepcopy(network), contract, torch.randn(2, 1, 32, 32))
        assert all(torch.isfinite(output).all() for output in outputs)
        with torch.no_grad():
            assert torch.isfinite(network(torch.randn(1, 1, 32, 32))).all()


@torch.no_grad()
def test_exports_as_one_graph(network):
    x = torch.randn(1, 1, 64, 48)
    program = torch.export.export(network, (x,), strict=False)  # torch 2.7 is strict unless told
    torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("contract", "parameters"),
    [
        ("CAFRNet", 6_700_820),
        ("UNet", 31_113_300),
        ("AttentionUNet", 31_740_420),
        ("SwinUNet", 27_166_884),
        ("TransUNet", 105_272_404),
    ],
    indirect=["contract"],
)
def test_parameters_at_one_channel_and_20_classes(network, parameters):
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(("architecture", "published"), [(SwinUNet, 27_168_900), (TransUNet, 105_277_081)])
def test_parameters_are_the_published_ones_on_synapse(architecture, published):
    """The authors' input has 3 channels, a grey image three times, and Synapse 9 classes."""
    assert sum(parameter.numel() for parameter in architecture(3, 9).parameters()) == published


@pytest.mark.parametrize(
    ("network", "multiple", "blocks"),
    [
        (SwinUNet(1, 2, patch_size=2, window=4, widths=(8, 16, 32), heads=(1, 2, 4), depth=1, drop_path=0.5), 8, 1),
        (TransUNet(1, 2, embed_dim=24, num_layers=1, num_heads=3, widths=(16, 8, 8, 4, 4), dropout=0.5), 16, 1),
    ],
    ids=["SwinUNet", "TransUNet"],
)
def test_sizes_are_keyword_arguments(network, multiple, blocks):
    assert network(torch.randn(2, 1, 33, 48)).shape == (2, 2, 33, 48)
    assert tuple(network.size_multiple) == (multiple, multiple)
    stack = network.stages[0] if isinstance(network, SwinUNet) else network.encoder.blocks
    assert len(stack) == blocks
    dropping = [getattr(module, "p", getattr(module, "drop_prob", 0)) for module in network.modules()]
    assert max(dropping) == 0.5
