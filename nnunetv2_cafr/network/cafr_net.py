"""CAFR-Net: Transformer encoder over a convolutional pyramid, LAFR on every skip, contrastive head.

Source: "CAFR-Net: A transformer-contrastive framework for robust spinal MRI segmentation via global-local synergy",
PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642, network section. No code was published; what the paper leaves
open is decided here and marked as ours in the docstrings.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from nnunetv2_cafr.network.convolution import NUM_HALVINGS, LevelGeometry, crop_to, pad_to_multiple
from nnunetv2_cafr.network.decoder import Decoder, Head
from nnunetv2_cafr.network.encoder import ConvPyramid
from nnunetv2_cafr.network.hierarchy import FUSED_LEVEL, TAPPED_LEVELS, Fusion, Tap
from nnunetv2_cafr.network.projection import ProjectionHead
from nnunetv2_cafr.network.transformer import PatchEmbedding, TransformerLayer, sine_cosine_positions

Logits: TypeAlias = torch.Tensor | list[torch.Tensor]


class CAFRNet(nn.Module):
    """CAFR-Net for 2-D or 3-D patches of any size.

    Forward: x is (b, input_channels, *spatial); any spatial size works, it is zero-padded to whole tokens inside and
    cropped back. In `train()` returns `(logits, embedding)`, logits (b, num_classes, *spatial), embedding
    (b, projection_dim, *ceil(spatial / 4)) float32 of unit length; the cells of an axis across thick slices are as
    many times larger than its pixels as that axis was halved. In `eval()`, or with `use_clr=False`, returns the
    logits alone, and the contrastive head is not run. Its weights exist in both, so that checkpoints load strictly.

    With deep supervision, logits are a list of the resolutions 1/1 to 1/8, finest first, as long as
    `decoder.deep_supervision` (nnU-Net sets it) is true; the paper has a single output. nnU-Net's own trainers can
    train this network from a plans file (with `use_clr` false: their loss takes no embedding).

    All arguments are JSON values, so that a plans file can hold them.

    Args:
        input_channels: channels of x.
        num_classes: channels of the logits.
        deep_supervision: the decoder returns logits at four resolutions.
        strides: strides from the pixels to the tokens, at five levels of 2 or 3 axes. Their product is what a token
            covers: 16x16 (paper); across thick slices 1, 2, 4 or 8.
        channels: channels of the pyramid and of the decoder at 1/1, 1/2, 1/4, 1/8 and 1/16; ours.
        convs: convolutions of the pyramid at each of these levels; ours.
        embed_dim: token width D = 768 (paper).
        num_layers: Transformer layers; ours, 3. They are tapped evenly in three, so it is a multiple of 3.
        num_heads: attention heads; ours, 12.
        head_dim: width of each head; ours, 16 (see `network/transformer.py`).
        ffn_dim: FFN width; ours, 384.
        dropout: in the Transformer; ours, 0.1 (the paper's is 0.3).
        norm: of the convolutions, "instance" with LeakyReLU (ours) or "batch" with ReLU (the paper's norm).
        logit_scale: what the heads' output is multiplied by; ours (see `network/decoder.py`).
        tap_channels: channels of a tap between two of its transposed convolutions; ours.
        tap_scale: of the taps when training begins; ours, 0 (see `network/hierarchy.py`).
        projection_dim: embedding dimensions of the contrastive head; ours, 256.
        use_transformer: False leaves out the Transformer layers; the taps then read the embedded tokens themselves.
        use_lafr: False passes the skips on unchanged.
        use_clr: False leaves out the contrastive head and the fusion that feeds it.

    Raises:
        ValueError: on an unfit argument, or an input with other channels or another number of axes.

    Examples:
        >>> import torch
        >>> network = CAFRNet(input_channels=1, num_classes=20)
        >>> logits, embedding = network(torch.zeros(2, 1, 64, 48))
        >>> logits.shape, embedding.shape
        (torch.Size([2, 20, 64, 48]), torch.Size([2, 256, 16, 12]))
        >>> network.eval()(torch.zeros(2, 1, 64, 48)).shape
        torch.Size([2, 20, 64, 48])
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        deep_supervision: bool = False,
        strides: Sequence[Sequence[int]] = ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)),
        channels: Sequence[int] = (16, 64, 96, 128, 256),
        convs: Sequence[int] = (1, 2, 2, 2, 2),
        embed_dim: int = 768,
        num_layers: int = 3,
        num_heads: int = 12,
        head_dim: int = 16,
        ffn_dim: int = 384,
        dropout: float = 0.1,
        norm: str = "instance",
        tap_channels: int = 64,
        tap_scale: float = 0.0,
        projection_dim: int = 256,
        logit_scale: float = 10.0,
        use_transformer: bool = True,
        use_lafr: bool = True,
        use_clr: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 3 or num_layers % 3:
            raise ValueError(f"num_layers must be a multiple of 3, one tap after each third, got {num_layers}")
        geometry = LevelGeometry(strides, norm)
        per_token = 2 * len(geometry.token_size)
        if embed_dim % per_token:
            raise ValueError(
                f"embed_dim must be divisible by twice the number of axes ({per_token}, sine and cosine of each), "
                f"got {embed_dim}"
            )
        num_levels = NUM_HALVINGS + 1
        for name, values in (("channels", channels), ("convs", convs)):
            if len(values) != num_levels or min(values) < 1:
                raise ValueError(f"{name} needs {num_levels} values from 1/1 to 1/16, got {list(values)}")
        self.input_channels = input_channels
        self.token_size = geometry.token_size
        self.memory_format = torch.channels_last if len(geometry.token_size) == 2 else torch.channels_last_3d
        self._geometry = geometry
        self.embed_dim = embed_dim
        self.layers_per_tap = num_layers // len(TAPPED_LEVELS)

        self.pyramid = ConvPyramid(geometry, input_channels, channels, convs)
        self.patch_embedding = PatchEmbedding(geometry, input_channels, channels[-1], embed_dim)
        self.layers = nn.ModuleList(
            TransformerLayer(embed_dim, num_heads, head_dim, ffn_dim, dropout) if use_transformer else nn.Identity()
            for _ in range(num_layers)
        )
        self.taps = nn.ModuleList(
            Tap(geometry, embed_dim, tap_channels, channels[level], level, tap_scale) for level in TAPPED_LEVELS
        )
        fused_channels = channels[FUSED_LEVEL]
        self.fusion = Fusion(geometry, channels[FUSED_LEVEL:], fused_channels) if use_clr else None
        self.projection = ProjectionHead(geometry, fused_channels, projection_dim) if use_clr else None
        self.decoder = Decoder(
            geometry,
            channels,
            num_classes,
            use_lafr=use_lafr,
            logit_scale=logit_scale,
            deep_supervision=deep_supervision,
        )

    @property
    def size_multiple(self) -> tuple[int, ...]:
        """Pixels that sizes are padded to multiples of, per axis: those of a token."""
        return self.token_size

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, but weights of version 0.1's network are refused by name instead of by their missing keys.

        Raises:
            RuntimeError: if the weights are of another network; as torch's for other differences.
        """
        if "stem.0.0.weight" in state_dict and "pyramid.stages.0.0.0.weight" not in state_dict:
            raise RuntimeError(
                "These weights are of the CAFR-Net of nnunetv2-cafr 0.1, which had a stem of three convolutions; this "
                "version's network has a pyramid of five levels, and cannot take them. Use them with that version, or "
                "train again with this one."
            )
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, x: torch.Tensor) -> Logits | tuple[Logits, torch.Tensor]:
        if x.ndim != 2 + len(self.token_size) or x.shape[1] != self.input_channels:
            raise ValueError(
                f"CAFRNet was built for (b, {self.input_channels}, *spatial) with {len(self.token_size)} spatial axes, "
                f"got {tuple(x.shape)}"
            )
        spatial = x.shape[2:]
        # Channels last throughout: no feature map is reordered for a convolution, nor for the tokens.
        x = pad_to_multiple(x, self.token_size).to(memory_format=self.memory_format)

        levels = self.encode(x)
        per_level = [
            crop_to(logits, self._geometry.cells(spatial, level)) for level, logits in enumerate(self.decoder(levels))
        ]
        logits: Logits = per_level if self.decoder.deep_supervision else per_level[0]
        if self.fusion is None or self.projection is None or not self.training:
            return logits
        fused = self.fusion(levels[FUSED_LEVEL:])
        return logits, self.projection(crop_to(fused, self._geometry.cells(spatial, FUSED_LEVEL)))

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The pyramid's levels with what the Transformer adds, (b, channels[level], *cells), finest first.

        Args:
            x: (b, input_channels, *spatial), padded to whole tokens.
        """
        levels = self.pyramid(x)
        embedded = self.patch_embedding(x, levels[-1])
        grid = tuple(embedded.shape[2:])
        tokens = embedded.flatten(2).transpose(1, 2)
        tokens = tokens + sine_cosine_positions(grid, self.embed_dim, x.device).to(tokens.dtype)
        for index, (level, tap) in enumerate(zip(TAPPED_LEVELS, self.taps, strict=True)):
            for layer in self.layers[index * self.layers_per_tap : (index + 1) * self.layers_per_tap]:
                tokens = layer(tokens)
            levels[level] = levels[level] + tap(tokens, grid)
        return levels

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Values in all feature maps of one forward pass of a (c, *input_size) patch, as nnU-Net's planner asks.

        Counts what the convolutions and linear layers put out, on the meta device, so it needs no memory. Unlike
        dynamic-network-architectures it includes the token maps; attention weights are not stored and not counted.
        """
        total = 0

        def add(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            nonlocal total
            total += output[0].numel()

        hooked = [m for m in self.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd | Head)]
        handles = [module.register_forward_hook(add) for module in hooked]
        on_meta = {name: value.to("meta") for name, value in [*self.named_parameters(), *self.named_buffers()]}
        try:
            # Two samples: batch norm refuses one where a map has shrunk to a single cell.
            x = torch.empty(2, self.input_channels, *input_size, device="meta")
            torch.func.functional_call(self, on_meta, (x,))
        finally:
            for handle in handles:
                handle.remove()
        return total

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """He normal for convolutions, truncated normal for the Transformer; for `network.apply(network.initialize)`."""
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            # Stride equals kernel: each output sees in_channels values, where torch would count out_channels.
            nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_channels))
        elif isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, PatchEmbedding):
            # A linear projection without a ReLU behind it: unit variance in, unit variance out. `apply` visits this
            # module after its convolution, so this is the value that stays.
            for projection in (module.projection, module.deep_projection):
                nn.init.trunc_normal_(projection.weight, std=projection.weight[0].numel() ** -0.5)
        elif isinstance(module, Tap):
            last: Any = module.to_level[-1]  # Any: to mypy its weight may be a module
            nn.init.constant_(last.weight, module._scale)
        elif isinstance(module, ProjectionHead):
            # Where no hidden unit is active only the bias is left, and a zero vector has no direction.
            nn.init.normal_(module.output.bias, std=0.01)
        elif isinstance(module, Head):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5 / module.logit_scale)
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd | Head) and module.bias is not None:
            nn.init.zeros_(module.bias)
