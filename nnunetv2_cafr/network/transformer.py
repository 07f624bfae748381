"""The Transformer encoder: patch embedding, sine-cosine positions, pre-norm layers.

Paper, network section: non-overlapping 16x16 patches projected to D = 768, positions added, residual blocks of
LayerNorm, multi-head self-attention and a two-layer FFN with ReLU. Ours, as the paper leaves it open: pre-norm, three
layers, 12 heads, fixed sine-cosine positions, dropout on both residual branches and inside the FFN but not on the
attention weights (which would cost the fused attention kernels). Ours too: the Transformer is as small as D, tokens and
taps of the paper allow, with heads 16 wide instead of D / 12 = 64, an FFN of D / 2, and dropout 0.1 instead of the
paper's 0.3. It told the levels by their order as well with half the multiply-accumulates, and the other half gained
more in the pyramid (documentation/experiments.md).
"""

import torch
from torch import nn
from torch.nn import functional as F

from nnunetv2_cafr.network.convolution import LevelGeometry


class PatchEmbedding(nn.Module):
    """Tokens from raw pixels and from the pyramid's deepest features, one per cell at 1/16.

    The linear projection of the pixels is the paper's; the 1x1 projection of the features that is added is ours, since
    one linear map of 256 pixels is all that a token would otherwise know.

    Forward: x (b, in_channels, *spatial) and features (b, deep_channels, *spatial / token_size) ->
    (b, embed_dim, *spatial / token_size).
    """

    def __init__(self, geometry: LevelGeometry, in_channels: int, deep_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.projection = geometry.conv(in_channels, embed_dim, geometry.token_size, geometry.token_size)
        self.deep_projection = geometry.conv(deep_channels, embed_dim, 1, bias=False)

    def forward(self, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        return self.projection(x) + self.deep_projection(features)


def sine_cosine_positions(grid: tuple[int, ...], embed_dim: int, device: torch.device) -> torch.Tensor:
    """Fixed positions of a token grid, (prod(grid), embed_dim), values in [-1, 1].

    Each axis owns an equal share of the channels, half sine and half cosine, with the wavelengths of Vaswani et al.
    2017. Nothing is learnt and nothing depends on the patch size, so weights move between plans.
    """
    per_axis = embed_dim // len(grid)
    frequencies = 10000.0 ** -(torch.arange(per_axis // 2, device=device, dtype=torch.float32) / (per_axis // 2))
    axes = []
    for axis, size in enumerate(grid):
        angle = torch.arange(size, device=device, dtype=torch.float32)[:, None] * frequencies
        encoding = torch.cat([angle.sin(), angle.cos()], dim=1)
        shape = [1] * len(grid) + [per_axis]
        shape[axis] = size
        axes.append(encoding.view(shape).expand(*grid, per_axis))
    return torch.cat(axes, dim=-1).flatten(0, -2)


class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens of a patch, (b, n, embed_dim) -> (b, n, embed_dim)."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(embed_dim, 3 * num_heads * head_dim)
        self.output = nn.Linear(num_heads * head_dim, embed_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self.query_key_value(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + FFN(norm(x)); (b, n, embed_dim) -> (b, n, embed_dim)."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention = SelfAttention(embed_dim, num_heads, head_dim)
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.ffn = nn.Sequential(
            nn.Linear(embed_dim, ffn_dim),
            # Dropout and ReLU commute, and in this order both keep the same map for the gradient.
            nn.Dropout(dropout),
            nn.ReLU(inplace=True),
            nn.Linear(ffn_dim, embed_dim),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        return tokens + self.dropout(self.ffn(self.ffn_norm(tokens)))
