"""What is CAFR-Net's own; what it shares with the other networks is in test_contract.py."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from nnunetv2_cafr.benchmark.forward_pass import plain_conv_unet
from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.convolution import LevelGeometry, strides_of_tokens
from nnunetv2_cafr.network.decoder import Head
from nnunetv2_cafr.network.hierarchy import Fusion
from nnunetv2_cafr.network.lafr import LAFR
from nnunetv2_cafr.network.normalization import InstanceNorm
from nnunetv2_cafr.network.transformer import TransformerLayer, sine_cosine_positions
from nnunetv2_cafr.network_cost import count_macs

SMALL = {"embed_dim": 48, "num_heads": 4, "ffn_dim": 64, "channels": [4, 8, 16, 16, 32], "tap_channels": 16}
TRAINED = {"tap_scale": 1.0}  # some steps after they begin at 0, the taps are read


def build(input_channels: int = 1, num_classes: int = 5, **kwargs) -> CAFRNet:
    network = CAFRNet(input_channels, num_classes, **{**SMALL, **TRAINED, **kwargs})
    return network.apply(network.initialize)


@pytest.mark.parametrize("spatial", [(16, 16), (17, 31), (96, 160), (100, 77)])
@pytest.mark.parametrize(("input_channels", "num_classes"), [(1, 20), (3, 2)])
def test_2d_shapes_in_train_and_eval(spatial, input_channels, num_classes):
    network = build(input_channels, num_classes)
    x = torch.randn(2, input_channels, *spatial)
    logits, embedding = network.train()(x)
    assert logits.shape == (2, num_classes, *spatial)
    assert embedding.shape == (2, 256, *(-(-size // 4) for size in spatial))
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones_like(embedding[:, 0]))
    output = network.eval()(x)
    assert isinstance(output, torch.Tensor)
    assert output.shape == (2, num_classes, *spatial)


@pytest.mark.parametrize(
    ("token_size", "spatial", "cells"),
    [
        ((16, 16, 16), (32, 32, 48), (8, 8, 12)),
        ((4, 16, 16), (12, 48, 33), (12, 12, 9)),
        ((1, 16, 16), (5, 32, 32), (5, 8, 8)),
    ],
)
def test_3d_cells_follow_the_token_size(token_size, spatial, cells):
    logits, embedding = build(strides=strides_of_tokens(token_size), embed_dim=96).train()(torch.randn(2, 1, *spatial))
    assert logits.shape == (2, 5, *spatial)
    assert embedding.shape == (2, 256, *cells)


def test_strides_of_tokens_let_thick_axes_join_late():
    assert strides_of_tokens([1, 4, 16]) == [[1, 1, 1], [1, 1, 2], [1, 1, 2], [1, 2, 2], [1, 2, 2]]
    for bad in ([16], [16, 12], [16, 16, 16, 16]):
        with pytest.raises(ValueError, match="token_size"):
            strides_of_tokens(bad)


@pytest.mark.parametrize(("token_size", "spatial"), [((16, 16), (40, 33)), ((2, 16, 16), (5, 32, 20))])
def test_deep_supervision_gives_the_decoders_resolutions(token_size, spatial):
    """Switched by the attribute that nnU-Net sets, in eval() too, as nnU-Net's own networks do."""
    strides = strides_of_tokens(token_size)
    network = build(strides=strides, embed_dim=96, deep_supervision=True, use_clr=False).eval()
    x = torch.randn(2, 1, *spatial)
    outputs = network(x)
    scales = 1 / np.cumprod(strides, axis=0)
    for output, scale in zip(outputs, scales[:4], strict=True):
        assert output.shape == (2, 5, *(math.ceil(size * s) for size, s in zip(spatial, scale, strict=True)))
    network.decoder.deep_supervision = False
    torch.testing.assert_close(network(x), outputs[0])


def test_every_parameter_receives_a_gradient():
    """nnU-Net's distributed training does not look for unused parameters."""
    network = build()
    logits, embedding = network(torch.randn(2, 1, 32, 32))
    (logits.square().mean() + embedding.sum()).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without


@pytest.mark.parametrize("switch", ["use_transformer", "use_lafr", "use_clr"])
def test_switches_remove_exactly_their_part(switch):
    network = build(**{switch: False})
    gone = {"use_transformer": TransformerLayer, "use_lafr": LAFR, "use_clr": type(build().projection)}[switch]
    assert not any(isinstance(module, gone) for module in network.modules())
    assert any(isinstance(module, gone) for module in build().modules())
    output = network.train()(torch.randn(2, 1, 32, 32))
    assert isinstance(output, torch.Tensor if switch == "use_clr" else tuple)


def test_weights_do_not_depend_on_the_patch_size():
    network = build().eval()
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    network(torch.randn(1, 1, 160, 64))
    assert shapes == {name: tensor.shape for name, tensor in network.state_dict().items()}


def test_weights_of_the_first_version_are_refused_by_name():
    network = build()
    old = {name.replace("pyramid.stages", "stem"): value for name, value in network.state_dict().items()}
    old["stem.0.0.weight"] = old.pop("stem.0.0.0.weight")
    with pytest.raises(RuntimeError, match=r"nnunetv2-cafr 0\.1"):
        build().load_state_dict(old)


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 5, 3, 4, 5)])
def test_instance_norm_is_torchs_own(shape):
    """Both ways of computing it, in and out of training; torch's refuses a single cell, ours returns the shift."""
    ours = InstanceNorm(5)
    theirs = {4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[len(shape)](5, affine=True)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    torch.testing.assert_close(ours.train()(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs(x))
    cell = torch.randn(*shape[:2], *[1] * (len(shape) - 2))
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(cell).flatten(1), ours.bias.expand(shape[0], -1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("cells", [[(8, 12), (4, 6), (2, 3)], [(2, 8, 7), (2, 4, 4), (1, 2, 2)]])
def test_fusion_is_the_papers_concatenation_and_convolution(cells):
    geometry = LevelGeometry(strides_of_tokens((16,) * len(cells[0])))
    fusion = Fusion(geometry, (5, 4, 3), 6)
    levels = [torch.randn(2, width, *size) for width, size in zip((5, 4, 3), cells, strict=True)]
    upsampled = [nn.functional.interpolate(level, cells[0], mode=geometry.interpolation) for level in levels]
    torch.testing.assert_close(fusion(levels), fusion.fuse(torch.cat(upsampled, dim=1)), atol=1e-5, rtol=1e-4)


def test_the_decoder_sees_transformer_and_pyramid():
    """Each level that the decoder reads changes with the tokens and with the convolutions."""
    network = build(use_clr=False).eval()
    x = torch.randn(1, 1, 64, 64)
    whole = network.encode(x)
    for tap in network.taps:
        nn.init.zeros_(tap.to_level[-1].weight)
    alone = network.encode(x)
    changed = [not torch.equal(a, b) for a, b in zip(whole, alone, strict=True)]
    assert changed == [False, False, True, True, True]
    for a, b in zip(alone, network.pyramid(x), strict=True):
        torch.testing.assert_close(a, b)


def test_taps_begin_at_0_and_one_step_opens_them():
    network = CAFRNet(1, 5, use_clr=False, **SMALL)
    network.apply(network.initialize)
    x = torch.randn(2, 1, 64, 64)
    for level, of_pyramid in zip(network.encode(x), network.pyramid(x), strict=True):
        torch.testing.assert_close(level, of_pyramid)
    network(x).square().mean().backward()
    torch.optim.AdamW(network.parameters(), 3e-3).step()
    changed = [not torch.allclose(a, b) for a, b in zip(network.encode(x), network.pyramid(x), strict=True)]
    assert changed == [False, False, True, True, True]


def test_projection_head_does_not_run_in_eval():
    network = build().eval()
    network.projection.register_forward_hook(lambda *_: pytest.fail("the CLR head ran in eval()"))
    network(torch.randn(1, 1, 32, 32))


def test_embedding_has_a_direction_where_no_hidden_unit_is_active():
    head = build().projection
    embedding = head.train()(torch.zeros(2, 16, 4, 4))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2, 4, 4))


def test_lafr_is_the_papers_formula():
    network = build()
    lafr = network.decoder.stages[0].recalibrate
    features = torch.randn(2, 4, 9, 7)
    pointwise, depthwise, _ = lafr.gate
    gate = torch.sigmoid(
        nn.functional.conv2d(
            nn.functional.conv2d(features, pointwise.weight, pointwise.bias),
            depthwise.weight,
            depthwise.bias,
            padding=1,
            groups=4,
        )
    )
    torch.testing.assert_close(lafr(features), features + features * gate)


@pytest.mark.parametrize("spatial", [(6, 5), (4, 6, 5)])
def test_head_is_a_scaled_convolution_on_top_of_the_upsampled_logits(spatial):
    geometry = LevelGeometry(strides_of_tokens([16] * len(spatial)))
    head = Head(geometry, 7, 3, logit_scale=4.0)
    nn.init.normal_(head.bias)
    features = torch.randn(2, 7, *(2 * size for size in spatial))
    coarser = torch.randn(2, 3, *spatial)
    convolve = {2: nn.functional.conv2d, 3: nn.functional.conv3d}[len(spatial)]
    alone = 4 * convolve(features, head.weight, head.bias)
    torch.testing.assert_close(head(features), alone)
    upsampled = nn.functional.interpolate(coarser, scale_factor=2, mode=geometry.interpolation)
    torch.testing.assert_close(head(features, coarser), alone + upsampled)


def test_positions_tell_all_tokens_apart():
    positions = sine_cosine_positions((7, 5), 48, torch.device("cpu"))
    assert positions.shape == (35, 48)
    distances = torch.cdist(positions, positions) + 10 * torch.eye(35)
    assert distances.min() > 0.1
    # the same place in a larger grid has the same position: weights move between patch sizes
    larger = sine_cosine_positions((9, 11), 48, torch.device("cpu")).view(9, 11, 48)
    torch.testing.assert_close(larger[:7, :5].reshape(35, 48), positions)


def test_cost_stays_within_the_papers_5_12_gmacs():
    assert count_macs(CAFRNet(1, 20), torch.randn(1, 1, 256, 256)) <= 5.12e9


def test_macs_counter_agrees_with_closed_forms():
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    assert count_macs(convolution, torch.randn(1, 3, 10, 12)) == 3 * 8 * 9 * 120
    layer = TransformerLayer(48, 4, 16, 64, 0.0)
    tokens, width, heads, ffn = 10, 48, 4 * 16, 64
    expected = tokens * (4 * width * heads + 2 * width * ffn) + 2 * tokens**2 * heads
    assert count_macs(layer, torch.randn(1, tokens, width)) == expected


def test_baseline_is_the_unet_that_nnunet_plans():
    network, padded = plain_conv_unet([256, 256], 1, 20)
    assert padded == [256, 256]
    assert count_macs(network, torch.randn(1, 1, 256, 256)) / 1e9 == pytest.approx(14.8, abs=0.05)


def test_keyword_arguments_are_json_values():
    kwargs = {**SMALL, "strides": strides_of_tokens([16, 8]), "dropout": 0.3, "use_lafr": True}
    assert isinstance(CAFRNet(1, 2, **json.loads(json.dumps(kwargs))), nn.Module)


def test_initialisation_keeps_the_signal():
    network = CAFRNet(1, 20)
    network.apply(network.initialize)
    logits, _ = network(torch.randn(2, 1, 64, 64))
    assert 0.05 < logits.std() < 20
    # of the pixels and of the features, each of unit variance
    tokens = network.patch_embedding(torch.randn(2, 1, 64, 64), torch.randn(2, 256, 4, 4))
    assert tokens.std().item() == pytest.approx(2**0.5, abs=0.2)


def test_feature_map_size_counts_every_convolution_and_linear_output():
    network = build()
    counted = 0

    def count(_module, _inputs, output):
        nonlocal counted
        counted += output.numel()

    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | Head):
            module.register_forward_hook(count)
    network(torch.randn(1, 1, 48, 32))
    expected, counted = counted, 0
    assert network.compute_conv_feature_map_size((48, 32)) == expected


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strides": [[1, 1], [2, 2], [2, 2], [2, 2]]}, "strides"),
        ({"strides": [[1, 1], [2, 2], [2, 2], [2, 2], [2, 3]]}, "strides"),
        ({"strides": [[2, 2], [2, 2], [2, 2], [2, 2], [2, 2]]}, "strides"),
        ({"strides": [[1], [2], [2], [2], [2]]}, "strides"),
        ({"num_layers": 4}, "multiple of 3"),
        ({"embed_dim": 50}, "embed_dim"),
        ({"channels": [4, 8]}, "channels"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 1, 32), (1, 1, 32, 32, 32)])
def test_bad_input_is_refused_with_what_came(shape):
    with pytest.raises(ValueError, match=r"built for \(b, 1"):
        build()(torch.randn(*shape))
