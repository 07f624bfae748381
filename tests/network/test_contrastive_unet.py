"""nnU-Net's network with the contrastive head; what it shares with the others is in test_contract.py."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from nnunetv2_cafr.network import CAFRNet
from nnunetv2_cafr.network.contrastive_unet import ContrastiveUNet


def plain(strides=((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)), norm_op: type[nn.Module] | None = nn.InstanceNorm2d):
    """A small one of nnU-Net's, of 4 classes."""
    stages = len(strides)
    return PlainConvUNet(
        1,
        n_stages=stages,
        features_per_stage=[8] * stages,
        conv_op={2: nn.Conv2d, 3: nn.Conv3d}[len(strides[0])],
        kernel_sizes=[[3] * len(strides[0])] * stages,
        strides=strides,
        n_conv_per_stage=[2] * stages,
        num_classes=4,
        n_conv_per_stage_decoder=[2] * (stages - 1),
        norm_op=norm_op,
        nonlin=nn.LeakyReLU,
        deep_supervision=True,
    )


def test_weights_and_inference_are_the_stock_networks():
    stock, ours = plain().eval(), ContrastiveUNet(plain()).eval()
    missing = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("projection.") for key in missing.missing_keys)
    ours.projection.register_forward_hook(lambda *_: pytest.fail("the CLR head ran in eval()"))
    x = torch.randn(2, 1, 32, 48)
    torch.testing.assert_close(ours(x), stock(x), rtol=0, atol=0)


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_logits_in_training_are_the_stock_networks(deep_supervision):
    stock, ours = plain(), ContrastiveUNet(plain())
    ours.load_state_dict(stock.state_dict(), strict=False)
    stock.decoder.deep_supervision = ours.decoder.deep_supervision = deep_supervision
    x = torch.randn(2, 1, 32, 48)
    logits, _ = ours.train()(x)
    torch.testing.assert_close(logits, stock.train()(x), rtol=0, atol=0)


def test_embedding_reads_the_decoder_at_a_quarter():
    """It has seen the whole patch: the far corner reaches every cell, as it doesn't in the encoder's skip."""
    network = ContrastiveUNet(plain(norm_op=None)).train()
    network.projection.eval()
    x = torch.randn(1, 1, 64, 64, requires_grad=True)
    _, embedding = network(x)
    assert embedding.shape[2:] == (16, 16)
    embedding[0, 0, 0, 0].backward()
    assert x.grad[0, 0, 40:, 40:].abs().sum() > 0


def test_thick_slices_in_3d():
    strides = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    network = ContrastiveUNet(plain(strides, nn.InstanceNorm3d)).train()
    logits, embedding = network(torch.randn(2, 1, 8, 32, 48))
    assert logits[0].shape == (2, 4, 8, 32, 48)
    assert embedding.shape == (2, 256, 8, 8, 12)


def test_networks_without_a_quarter_are_refused():
    with pytest.raises(ValueError, match="UNetDecoder"):
        ContrastiveUNet(CAFRNet(1, 4))
    with pytest.raises(ValueError, match="ends at 1/2"):
        ContrastiveUNet(plain(((1, 1), (2, 2))))
