"""Swin-Unet: a U-shaped network of Swin Transformer blocks alone, written from the paper.

Source: Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", ECCV 2022 Workshops,
arXiv 2105.05537; window attention and patch merging are timm's. With 3 input channels and 9 classes (Synapse, a grey
image repeated three times) it has exactly the 27,168,900 parameters of the authors' network; with the 1 channel and 20
classes of SpineMRI, 27,166,884.

The authors start from Swin-T weights of ImageNet, encoder and decoder alike, and call pretraining very important. No
network here is pretrained: equal for all arms, and a handicap against printed figures.
"""

import torch
from timm.layers import DropPath, Mlp
from timm.models.swin_transformer import PatchMerging, WindowAttention, window_partition, window_reverse
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.network.convolution import crop_to, pad_to_multiple

PATCH = 4  # pixels along the side of a token, paper
WINDOW = 7  # tokens along the side of a window, paper (Swin-T)
WIDTHS = (96, 192, 384, 768)  # paper (Swin-T)
HEADS = (3, 6, 12, 24)
DEPTH = 2  # blocks at each resolution, encoder and decoder
DROP_PATH = 0.2  # of the deepest block, rising linearly from 0; the authors' configuration


class SwinBlock(nn.Module):
    """Attention in windows, then an MLP, both residual: (b, h, w, dim) -> the same, for any h and w.

    The grid is padded to whole windows, and moved by half a window if `shifted`. Tokens that have met only through the
    wrap-around, and padding, are kept from each other; so unlike in timm's own block, padding changes nothing and
    opposite borders never meet, whatever the size.
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float, *, shifted: bool) -> None:
        super().__init__()
        self.shift = WINDOW // 2 if shifted else 0
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, num_heads, window_size=WINDOW)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.drop_path(self.attend(self.attention_norm(tokens)))
        return tokens + self.drop_path(self.mlp(self.mlp_norm(tokens)))

    def attend(self, tokens: torch.Tensor) -> torch.Tensor:
        height, width = tokens.shape[1:3]
        # A single window has nothing to be shifted against.
        shifts = [self.shift if size > WINDOW else 0 for size in (height, width)]
        tokens = F.pad(tokens, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        padded = tokens.shape[1:3]
        windows = window_partition(tokens.roll([-shift for shift in shifts], (1, 2)), (WINDOW, WINDOW)).flatten(1, 2)
        mask = separation((height, width), padded, shifts, tokens) if any(shifts) or padded != (height, width) else None
        attended = self.attention(windows, mask=mask).unflatten(1, (WINDOW, WINDOW))
        tokens = window_reverse(attended, (WINDOW, WINDOW), *padded).roll(shifts, (1, 2))
        return tokens[:, :height, :width].contiguous()


def separation(size: tuple[int, int], padded: torch.Size, shifts: list[int], like: torch.Tensor) -> torch.Tensor:
    """What is added to the attention of (windows, 49, 49): -inf between tokens that are not neighbours, else 0."""
    areas = []
    for own, whole, shift in zip(size, padded, shifts, strict=True):
        place = torch.arange(whole, device=like.device).roll(-shift)
        wrapped = torch.arange(whole, device=like.device) >= whole - shift
        areas.append(torch.where(place < own, wrapped.long(), 2))
    area = (3 * areas[0][:, None] + areas[1]).view(1, *padded, 1)
    of_window = window_partition(area, (WINDOW, WINDOW)).flatten(1)
    apart = of_window[:, :, None] != of_window[:, None, :]
    return torch.zeros(apart.shape, dtype=like.dtype, device=like.device).masked_fill(apart, float("-inf"))


def swin_blocks(level: int) -> nn.Sequential:
    """The blocks of one resolution, every second one shifted."""
    rates = torch.linspace(0, DROP_PATH, DEPTH * len(WIDTHS))[DEPTH * level :].tolist()
    return nn.Sequential(
        *(SwinBlock(WIDTHS[level], HEADS[level], rates[index], shifted=index % 2 == 1) for index in range(DEPTH))
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

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        levels = range(len(WIDTHS) - 1)
        self.expand = nn.ModuleList(PatchExpanding(WIDTHS[level + 1], WIDTHS[level], 2) for level in levels)
        self.reduce = nn.ModuleList(nn.Linear(2 * WIDTHS[level], WIDTHS[level]) for level in levels)
        self.stages = nn.ModuleList(swin_blocks(level) for level in levels)
        self.norm = nn.LayerNorm(WIDTHS[0])
        self.to_pixels = PatchExpanding(WIDTHS[0], WIDTHS[0], PATCH)
        self.seg_layers = nn.Conv2d(WIDTHS[0], num_classes, 1, bias=False)

    def forward(self, tokens: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        for level in reversed(range(len(skips))):
            joined = torch.cat([self.expand[level](tokens), skips[level]], dim=-1)
            tokens = self.stages[level](self.reduce[level](joined))
        return self.seg_layers(self.to_pixels(self.norm(tokens)).permute(0, 3, 1, 2))


class SwinUNet(nn.Module):
    """Swin-Unet with the widths of Swin-T and two blocks at each resolution; 2-D.

    Forward: x (b, input_channels, h, w) of any size, zero-padded inside to multiples of 32 and cropped back; returns
    logits (b, num_classes, h, w). No weight depends on the size. A skip is what enters the blocks of its resolution.
    """

    def __init__(self, input_channels: int, num_classes: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(input_channels, WIDTHS[0], PATCH, PATCH)
        self.embedding_norm = nn.LayerNorm(WIDTHS[0])
        self.merge = nn.ModuleList(PatchMerging(width) for width in WIDTHS[:-1])
        self.stages = nn.ModuleList(swin_blocks(level) for level in range(len(WIDTHS)))
        self.norm = nn.LayerNorm(WIDTHS[-1])
        self.decoder = SwinUNetDecoder(num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spatial = x.shape[2:]
        x = pad_to_multiple(x, [PATCH * 2 ** len(self.merge)] * 2)
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
