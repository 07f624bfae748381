"""Swin-Unet: a U-shaped network of Swin Transformer blocks alone, written from the paper.

Source: Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", ECCV 2022 Workshops,
arXiv 2105.05537; window attention and patch merging are timm's. With 3 input channels and 9 classes (Synapse, a grey
image repeated three times) it has exactly the 27,168,900 parameters of the authors' network; with the 1 channel and 20
classes of SpineMRI, 27,166,884.

The authors start from Swin-T weights of ImageNet, encoder and decoder alike, and call pretraining very important. No
network here is pretrained: equal for all arms, and a handicap against printed figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers import DropPath, Mlp
from timm.models.swin_transformer import PatchMerging, WindowAttention, window_partition, window_reverse
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.network.convolution import crop_to, pad_to_multiple


class SwinBlock(nn.Module):
    """Attention in windows, then an MLP, both residual: (b, h, w, dim) -> the same, for any h and w.

    The grid is padded to whole windows, and moved by half a window if `shifted`. Tokens that have met only through the
    wrap-around, and padding, are kept from each other; so unlike in timm's own block, padding changes nothing and
    opposite borders never meet, whatever the size.
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float, *, window: int, shifted: bool) -> None:
        super().__init__()
        self.shift = window // 2 if shifted else 0
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, num_heads, window_size=window)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.drop_path(self.attend(self.attention_norm(tokens)))
        return tokens + self.drop_path(self.mlp(self.mlp_norm(tokens)))

    def attend(self, tokens: torch.Tensor) -> torch.Tensor:
        height, width = tokens.shape[1:3]
        window = self.attention.window_size[0]
        # A single window has nothing to be shifted against.
        shifts = [self.shift if size > window else 0 for size in (height, width)]
        tokens = F.pad(tokens, (0, 0, 0, -width % window, 0, -height % window))
        padded = tokens.shape[1:3]
        windows = window_partition(tokens.roll([-shift for shift in shifts], (1, 2)), (window, window)).flatten(1, 2)
        mask = None
        if any(shifts) or padded != (height, width):
            mask = separation((height, width), padded, shifts, window, tokens)
        attended = self.attention(windows, mask=mask).unflatten(1, (window, window))
        tokens = window_reverse(attended, (window, window), *padded).roll(shifts, (1, 2))
        return tokens[:, :height, :width].contiguous()


def separation(
    size: tuple[int, int], padded: torch.Size, shifts: list[int], window: int, like: torch.Tensor
) -> torch.Tensor:
    """What is added to the attention of (windows, tokens, tokens): -inf where those are no neighbours, else 0."""
    areas = []
    for own, whole, shift in zip(size, padded, shifts, strict=True):
        place = torch.arange(whole, device=like.device).roll(-shift)
        wrapped = torch.arange(whole, device=like.device) >= whole - shift
        areas.append(torch.where(place < own, wrapped.long(), 2))
    area = (3 * areas[0][:, None] + areas[1]).view(1, *padded, 1)
    of_window = window_partition(area, (window, window)).flatten(1)
    apart = of_window[:, :, None] != of_window[:, None, :]
    return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(apart, float("-inf"))


@dataclass(frozen=True)
class SwinSizes:
    """Sizes that encoder and decoder share; see SwinUNet."""

    patch_size: int
    window: int
    widths: Sequence[int]
    heads: Sequence[int]
    depth: int
    drop_path: float

    def blocks(self, level: int) -> nn.Sequential:
        """The blocks of one resolution, every second one shifted."""
        rates = torch.linspace(0, self.drop_path, self.depth * len(self.widths))[self.depth * level :].tolist()
        width, heads = self.widths[level], self.heads[level]
        return nn.Sequential(
            *(
                SwinBlock(width, heads, rates[index], window=self.window, shifted=index % 2 == 1)
                for index in range(self.depth)
            )
        )


class PatchExpanding(nn.Module):
    """A linear layer whose output is rearranged into `factor` times the resolution, then LayerNorm (paper).

    (b, h, w, in_dim) -> (b, factor * h, factor * w, out_dim).
    """

    def __init__(self, in_dim: int, out_dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(in_dim, factor**2 * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        cells = self.expand(tokens).unflatten(-1, (self.factor, self.factor, -1))
        return self.norm(cells.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3))


class SwinUNetDecoder(nn.Module):
    """From the deepest tokens and the skips, finest first, to logits at full resolution.

    Skips are concatenated and reduced by a linear layer. The head is called `seg_layers` as in nnU-Net, which leaves
    modules of that name out when it fine-tunes to other classes.
    """

    def __init__(self, num_classes: int, sizes: SwinSizes) -> None:
        super().__init__()
        widths = sizes.widths
        levels = range(len(widths) - 1)
        self.expand = nn.ModuleList(PatchExpanding(widths[level + 1], widths[level], 2) for level in levels)
        self.reduce = nn.ModuleList(nn.Linear(2 * widths[level], widths[level]) for level in levels)
        self.stages = nn.ModuleList(sizes.blocks(level) for level in levels)
        self.norm = nn.LayerNorm(widths[0])
        self.to_pixels = PatchExpanding(widths[0], widths[0], sizes.patch_size)
        self.seg_layers = nn.Conv2d(widths[0], num_classes, 1, bias=False)

    def forward(self, tokens: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        for level in reversed(range(len(skips))):
            joined = torch.cat([self.expand[level](tokens), skips[level]], dim=-1)
            tokens = self.stages[level](self.reduce[level](joined))
        return self.seg_layers(self.to_pixels(self.norm(tokens)).permute(0, 3, 1, 2))


class SwinUNet(nn.Module):
    """Swin-Unet, by default with the sizes of Swin-T and two blocks at each resolution; 2-D.

    Forward: x (b, input_channels, h, w) of any size, zero-padded inside to multiples of `size_multiple` (32) and
    cropped back; returns logits (b, num_classes, h, w). No weight depends on the size. A skip is what enters the blocks
    of its resolution.

    Args:
        input_channels: channels of x.
        num_classes: channels of the logits.
        patch_size: pixels along the side of a token, 4 (paper).
        window: tokens along the side of a window, 7 (paper, Swin-T).
        widths: of the tokens at each resolution, each twice the one before (paper, Swin-T).
        heads: of the attention at each resolution (Swin-T).
        depth: blocks at each resolution, encoder and decoder.
        drop_path: of the deepest block, rising linearly from 0; 0.2 is the authors' configuration.

    Examples:
        >>> import torch
        >>> network = SwinUNet(input_channels=1, num_classes=20)
        >>> network(torch.zeros(2, 1, 64, 48)).shape
        torch.Size([2, 20, 64, 48])
    """

    free_sizes = False  # torch.export does not come to an end with windows in an unknown size

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: int = 4,
        window: int = 7,
        widths: Sequence[int] = (96, 192, 384, 768),
        heads: Sequence[int] = (3, 6, 12, 24),
        depth: int = 2,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        sizes = SwinSizes(patch_size, window, widths, heads, depth, drop_path)
        self.patch_embedding = nn.Conv2d(input_channels, widths[0], patch_size, patch_size)
        self.embedding_norm = nn.LayerNorm(widths[0])
        self.merge = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        self.stages = nn.ModuleList(sizes.blocks(level) for level in range(len(widths)))
        self.norm = nn.LayerNorm(widths[-1])
        self.decoder = SwinUNetDecoder(num_classes, sizes)

    @property
    def size_multiple(self) -> tuple[int, int]:
        """Pixels along the sides of a token of the deepest resolution."""
        pixels = self.patch_embedding.stride[0] * 2 ** len(self.merge)
        return pixels, pixels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spatial = x.shape[2:]
        x = pad_to_multiple(x, self.size_multiple)
        tokens = self.embedding_norm(self.patch_embedding(x).permute(0, 2, 3, 1))
        skips = []
        for merge, blocks in zip(self.merge, self.stages[:-1], strict=True):
            skips.append(tokens)
            tokens = merge(blocks(tokens))
        tokens = self.norm(self.stages[-1](tokens))
        return crop_to(self.decoder(tokens, skips), spatial)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Truncated normal for linear layers, as Swin; for `network.apply(network.initialize)`."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
