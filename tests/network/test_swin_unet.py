"""What is Swin-Unet's own; the rest is in test_contract.py."""

import pytest
import torch

from nnunetv2_cafr.network.swin_unet import PatchExpanding, SwinBlock, SwinUNet

WINDOW = 7


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(16, 9), (5, 14), (7, 2)], ids=str)
@torch.no_grad()
def test_swin_windows_hold_neighbours_only(grid, shifted):
    """Which tokens a token reaches, found by changing it, against windows written down: no wrap-around, no padding."""
    block = SwinBlock(6, 3, 0.0, window=WINDOW, shifted=shifted).eval()
    tokens = torch.randn(1, *grid, 6)
    before = block(tokens)
    moved = [WINDOW // 2 if shifted and size > WINDOW else 0 for size in grid]
    place = torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(*grid, 2)
    window = (place - torch.tensor(moved)).div(WINDOW, rounding_mode="floor")
    for row, column in [(0, 0), (grid[0] - 1, grid[1] - 1), (grid[0] // 2, 1)]:
        changed = tokens.clone()
        changed[0, row, column] += 10 * torch.randn(6)
        reached = (block(changed) - before)[0].abs().amax(dim=-1) > 1e-7
        torch.testing.assert_close(reached, (window == window[row, column]).all(dim=-1))


@torch.no_grad()
def test_swin_ignores_how_its_grid_is_padded():
    """The softmax of a token counts real tokens only: a window of one token returns its own value."""
    block = SwinBlock(6, 3, 0.0, window=WINDOW, shifted=False).eval()
    token = torch.randn(1, 1, 1, 6)
    value = block.attention.qkv(token)[..., 12:]
    torch.testing.assert_close(block.attend(token), block.attention.proj(value))


@torch.no_grad()
def test_skips_are_what_enters_the_blocks_of_their_resolution():
    network = SwinUNet(1, 2).eval()
    entered, skips = [], []
    for blocks in network.stages[:-1]:
        blocks.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    network.decoder.register_forward_pre_hook(lambda _, inputs: skips.extend(inputs[1]))
    network(torch.randn(1, 1, 64, 64))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(16, 16, 96), (8, 8, 192), (4, 4, 384)]
    torch.testing.assert_close(skips, entered, rtol=0, atol=0)


@pytest.mark.parametrize("factor", [2, 4])
@torch.no_grad()
def test_patch_expanding_stays_in_place(factor):
    expanding = PatchExpanding(6, 3, factor)
    tokens = torch.randn(1, 4, 5, 6)
    changed = tokens.clone()
    changed[0, 2, 3] += torch.randn(6)
    reached = (expanding(changed) != expanding(tokens))[0].any(dim=-1)
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[2, 3] = True
    assert torch.equal(reached, expected.repeat_interleave(factor, 0).repeat_interleave(factor, 1))
