"""The contrastive term (CLR) of CAFR-Net's loss: InfoNCE between pixels, paired by their ground-truth label.

Source: CAFR-Net, PLOS ONE 20(7), 2025, doi 10.1371/journal.pone.0327642, its section on the loss function. The paper
published no code; what it leaves open is decided here and named as ours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Classes of regions are bit patterns in an int64, whose sign bit stays free.
_MAX_REGIONS = 63
_UNUSED = -1
HARD_WITHIN = 2  # places along the spine: the next vertebra, the disc beside
WITHOUT_PLACE = 4.0  # how far away a class counts that has no place, such as background


class SampledPairs(NamedTuple):
    """Cells to compare, as indices into the batch's cells in the order (sample, *cell): `sample * cells + cell`.

    Attributes:
        anchor: (p,)
        positive: (p,), a cell of the anchor's class, never the anchor itself.
        negatives: (p, num_negatives), cells of other classes; without that number all cells drawn of other classes.
    """

    anchor: Tensor
    positive: Tensor
    negatives: Tensor


class PixelInfoNCE(nn.Module):
    """Class-aware InfoNCE on the pixel embeddings of a mini-batch.

    For an anchor a, a positive p and negatives n_1 ... n_k, all of unit length, the loss is

        -log( exp(a.p / t) / (exp(a.p / t) + sum_i exp(a.n_i / t)) ),    t = temperature

    averaged over the anchors. Anchors, positives and negatives are chosen by ground-truth label on the embedding's
    grid, within the mini-batch, five negatives to a positive, with class-aware sampling (the paper). How that is read
    here:

    - A cell of the grid counts only if all its pixels carry the same label, and never if that label is padding or the
      ignore label. Nearest-neighbour downsampling would put wrong labels on structures a few pixels thin, as discs are.
    - Every class, background included, gives the same number of anchors, drawn with replacement, so rare and small
      classes weigh as much as the others. There is no least size: a disc covers 15 to 20 cells of a 256x256 slice.
    - The paper's positives are the same class "under different augmentations". Every sample of an nnU-Net batch is
      augmented on its own, so a positive comes from another sample of the batch if the class has a cell there, else
      from another cell of the same sample. A class with one cell in the whole batch gives no anchors, only negatives.
    - A negative is drawn in two steps, a class uniformly among the others, then a cell uniformly in it. With
      `num_negatives=None` the negatives are instead all cells drawn of other classes, hundreds instead of five (as in
      Wang et al. 2021, "Exploring Cross-Image Pixel Contrast for Semantic Segmentation", arXiv 2101.11939).
    - With `hard_anchors` every second anchor of a class is drawn where the network is wrong, if it is wrong anywhere in
      that class (half of them, as Wang et al.). Without, and in the paper, all are drawn alike.
    - With `level_distance` what is confused counts most (ours): a negative d places away on the spine weighs 1 / d, a
      class without a place as one 4 places away, the mean over an anchor's negatives being 1. Hard anchors are then
      only those where the network names a class at most 2 places away: the next vertebra, the disc beside.

    Random numbers come from torch's default generator of the labels' device: `torch.manual_seed` makes a call
    repeatable.

    Attributes:
        temperature:
            Divides the dot products; lower values look at the hardest negatives more. The paper's value is lost; 0.1 is
            ours, the usual one of contrastive learning on pixels.
        num_negatives:
            Negatives per positive; 5 is the paper's. None takes every cell drawn of another class.
        anchors_per_class:
            Anchors drawn from each class per call. Ours: 64 sees most of a disc's cells in a batch of 16 every few
            steps, and with 20 classes keeps the loss far below 5 % of a training step.
        ignore_label:
            Label that is left out, nnU-Net's `label_manager.ignore_label`. With `regions`, any integer says that the
            last channel of the labels marks ignored pixels.
        regions:
            Labels are nnU-Net's regions (overlapping, one channel each) instead of a label map. The class of a cell is
            then the combination of regions that it lies in. A cell outside all regions is never used: it can be
            background or padding, and the regions do not tell which.
        hard_anchors:
            Draw half of the anchors where the prediction is wrong; calls then need the logits.
        level_distance:
            (c, c), places along the spine between two labels; 0 where one has none. A buffer that no checkpoint holds.
        last_negative_cosine:
            Mean cosine between anchors and negatives of the last call, a detached scalar; NaN where there were none.
            Near 1 all vectors are alike: the embedding has collapsed.

    Raises:
        ValueError: If an argument is out of its range.

    Examples:
        >>> target = torch.zeros(2, 1, 32, 32, dtype=torch.long)  # (b, 1, h, w), full resolution
        >>> target[:, :, 16:] = 1
        >>> embedding = torch.nn.functional.normalize(torch.randn(2, 256, 8, 8), dim=1)  # one cell for 4x4 pixels
        >>> PixelInfoNCE()(embedding, target).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.1,
        num_negatives: int | None = 5,
        anchors_per_class: int = 64,
        *,
        ignore_label: int | None = None,
        regions: bool = False,
        hard_anchors: bool = False,
        level_distance: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be a finite number above 0, got {temperature!r}")
        if num_negatives is not None:
            _require_whole_number("num_negatives", num_negatives, least=1)
        _require_whole_number("anchors_per_class", anchors_per_class, least=1)
        if ignore_label is not None:
            _require_whole_number("ignore_label", ignore_label, least=0)
        if regions and (hard_anchors or level_distance is not None):
            raise ValueError("hard anchors and level distances need a label map: regions overlap")
        self.temperature = temperature
        self.num_negatives = num_negatives
        self.anchors_per_class = anchors_per_class
        self.ignore_label = ignore_label
        self.regions = regions
        self.hard_anchors = hard_anchors
        self.level_distance: Tensor | None
        self.register_buffer("level_distance", level_distance, persistent=False)
        self.last_negative_cosine = torch.tensor(math.nan)

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, num_negatives={self.num_negatives}, "
            f"anchors_per_class={self.anchors_per_class}, ignore_label={self.ignore_label}, regions={self.regions}"
        )

    def forward(self, embedding: Tensor, labels: Tensor, logits: Tensor | None = None) -> Tensor:
        """Compute the loss in float32, also inside autocast.

        Args:
            embedding:
                (b, d, *cells), two or three spatial axes, of unit length along d. Cell i of an axis covers the pixels
                i * factor to (i + 1) * factor - 1.
            labels:
                (b, 1, *size) or (b, *size), integer label map at full resolution; negative values are padding. With
                `regions` (b, R, *size), 1 inside and 0 outside, or (b, R + 1, *size) with the ignore channel last. On
                every axis cells = ceil(size / factor) for a whole factor, which may differ from axis to axis (the
                smallest one is meant, where several fit: a factor of 4 is clear from 10 pixels on). A border cell that
                reaches over the edge is judged by the pixels it has.
            logits:
                (b, c, *size), the network's at full resolution; read for hard anchors only.

        Returns:
            A scalar. Where there is nothing to pair (no pure cell, a single class, no class with two cells) it is 0,
            and a backward pass still reaches the embedding, with zeros: distributed training waits for that gradient.

        Raises:
            ValueError: If the shapes do not fit together.
        """
        if embedding.ndim not in (4, 5):
            raise ValueError(
                f"embedding has shape {tuple(embedding.shape)}, needed is (b, d, h, w) or (b, d, depth, h, w)"
            )
        if embedding.shape[0] != labels.shape[0]:
            raise ValueError(
                f"embedding holds {embedding.shape[0]} samples and labels {labels.shape[0]}: both need the same batch"
            )
        hard = None
        if self.hard_anchors:
            if logits is None:
                raise ValueError("hard anchors are drawn where the prediction is wrong: logits are needed")
            hard = self._mistaken(labels, logits)
        pairs = self.sample_pairs(labels, embedding.shape[2:], hard)
        if len(pairs.anchor) == 0:
            self.last_negative_cosine = torch.tensor(math.nan)
            # An empty slice: a product with 0 would turn an inf or NaN anywhere in the embedding into NaN.
            return embedding[:0].float().sum()

        # Off, because the operations that autocast lowers differ between devices.
        with torch.autocast(embedding.device.type, enabled=False):
            positive, negatives = self._similarities(embedding, pairs)
            self.last_negative_cosine = negatives.detach().mean()
            if self.level_distance is not None:
                negatives = negatives + self.temperature * self._log_weights(pairs, labels, embedding.shape[2:])
            similarity = torch.cat([positive[:, None], negatives], dim=1)
            return F.cross_entropy(similarity / self.temperature, torch.zeros_like(pairs.anchor))

    def _similarities(self, embedding: Tensor, pairs: SampledPairs) -> tuple[Tensor, Tensor]:
        """Cosines of the anchors with their positives (p,) and their negatives (p, n)."""
        cells_per_sample = embedding.shape[2:].numel()
        cells = embedding.flatten(2).movedim(1, 2)

        def vectors(used: Tensor) -> Tensor:
            # Only the cells in use are copied, in one read, and converted after that.
            return cells[used // cells_per_sample, used % cells_per_sample].float()

        if self.num_negatives is None:
            # Whole classes are negatives, so a product of all cells with all is less than a read for each pair.
            used, where = torch.cat([pairs.anchor, pairs.negatives.flatten()]).unique(return_inverse=True)
            every = vectors(used)
            anchor, negatives = where[: len(pairs.anchor)], where[len(pairs.anchor) :].view_as(pairs.negatives)
            positive = (every[anchor] * vectors(pairs.positive)).sum(dim=-1)
            return positive, (every[anchor] @ every.T).gather(1, negatives)
        chosen = vectors(torch.cat([pairs.anchor[:, None], pairs.positive[:, None], pairs.negatives], dim=1))
        # Multiplied and summed, not a matrix product: on a GPU that one may be set to run in TF32.
        similarity = (chosen[:, :1] * chosen[:, 1:]).sum(dim=-1)
        return similarity[:, 0], similarity[:, 1:]

    @torch.no_grad()
    def _mistaken(self, labels: Tensor, logits: Tensor) -> Tensor:
        """(b, 1, *size), where the network names another class; with level distances, one at most 2 places away."""
        truth = labels.view(len(labels), *labels.shape[-(logits.ndim - 2) :]).long()
        named = logits.argmax(dim=1)
        if self.level_distance is None:
            return (named != truth)[:, None]
        distance = self.level_distance[truth.clamp(0, len(self.level_distance) - 1), named]
        return ((distance > 0) & (distance <= HARD_WITHIN))[:, None]

    @torch.no_grad()
    def _log_weights(self, pairs: SampledPairs, labels: Tensor, cell_shape: Sequence[int]) -> Tensor:
        """Logarithm of each negative's weight, (p, n)."""
        assert self.level_distance is not None
        pixels = self._with_channels(labels, len(cell_shape))[:, 0]
        first = tuple(slice(None, None, factor) for factor in _factors(pixels.shape[1:], cell_shape))
        label = pixels[(slice(None), *first)].flatten().long()  # a cell's first pixel: where it is pure, as all are
        distance = self.level_distance[label[pairs.anchor][:, None], label[pairs.negatives]]
        weight = 1 / torch.where(distance > 0, distance, WITHOUT_PLACE)
        return (weight / weight.mean(dim=1, keepdim=True)).log()

    @torch.no_grad()
    def sample_pairs(self, labels: Tensor, cell_shape: Sequence[int], hard: Tensor | None = None) -> SampledPairs:
        """Draw anchors with a positive and negatives each.

        Args:
            labels: As in `forward`.
            cell_shape: The embedding's spatial size.
            hard: (b, 1, *size), pixels whose cells every second anchor of a class is drawn from; None draws all alike.

        Returns:
            `anchors_per_class` anchors for each class that has two cells or more, the classes one after the other;
            empty where there are fewer than two classes or no class has two cells.

        Raises:
            ValueError: If the labels do not fit the cells.
        """
        cell_class = self._classes_of_pure_cells(labels, cell_shape)
        device = cell_class.device
        batch_size, cells_per_sample = cell_class.shape

        used_cell = (cell_class.flatten() != _UNUSED).nonzero()[:, 0]
        classes, class_of_used = cell_class.flatten()[used_cell].unique(return_inverse=True)
        num_classes = len(classes)
        # Sorted by (class, sample), a class is one contiguous range of ranks, and its share in a sample a range in it.
        group, order = (class_of_used * batch_size + used_cell // cells_per_sample).sort(stable=True)
        cell_at_rank = used_cell[order]
        group_start = torch.searchsorted(group, torch.arange(num_classes * batch_size + 1, device=device))
        class_start = group_start[:-1:batch_size]
        class_count = group_start[batch_size::batch_size] - class_start

        # The same number of cells from each class. Those of classes with two cells or more are anchors.
        drawn_class = torch.arange(num_classes, device=device).repeat_interleave(self.anchors_per_class)
        drawn = class_start[drawn_class] + _draw_below(class_count[drawn_class])
        if hard is not None:
            is_hard = _largest_in_cell(hard.float(), cell_shape).flatten()[cell_at_rank] > 0
            drawn = self._with_hard_half(drawn, drawn_class, class_start, is_hard)
        is_anchor = class_count[drawn_class] > 1
        anchor, anchor_class = drawn[is_anchor], drawn_class[is_anchor]
        if num_classes < 2 or len(anchor) == 0:
            nothing = cell_at_rank[:0]
            return SampledPairs(nothing, nothing, nothing.new_empty(0, self.num_negatives or 0))
        start, count = class_start[anchor_class], class_count[anchor_class]

        # The positive is any cell of the class but a range that is skipped: the anchor's sample where other samples
        # hold the class, else the anchor alone.
        own_group = group[anchor]
        own_start = group_start[own_group]
        own_count = group_start[own_group + 1] - own_start
        elsewhere = own_count < count
        skip_start = torch.where(elsewhere, own_start, anchor)
        skip_count = torch.where(elsewhere, own_count, 1)
        positive = start + _draw_below(count - skip_count)
        positive = positive + skip_count * (positive >= skip_start)

        if self.num_negatives is None:
            negatives = drawn.expand(len(anchor), -1)[anchor_class[:, None] != drawn_class].view(len(anchor), -1)
            return SampledPairs(cell_at_rank[anchor], cell_at_rank[positive], cell_at_rank[negatives])
        others = torch.full((len(anchor), self.num_negatives), num_classes - 1, device=device)
        negative_class = _draw_below(others)
        negative_class = negative_class + (negative_class >= anchor_class[:, None])
        negatives = class_start[negative_class] + _draw_below(class_count[negative_class])

        return SampledPairs(cell_at_rank[anchor], cell_at_rank[positive], cell_at_rank[negatives])

    @staticmethod
    def _with_hard_half(drawn: Tensor, drawn_class: Tensor, class_start: Tensor, hard: Tensor) -> Tensor:
        """`drawn` ranks with every second one drawn anew from the hard ranks of its class, where that has any."""
        ranks = hard.nonzero()[:, 0]
        start = torch.searchsorted(ranks, class_start.contiguous())
        count = torch.cat([start[1:], start.new_tensor([len(ranks)])]) - start
        redrawn = (torch.arange(len(drawn), device=drawn.device) % 2 == 1) & (count[drawn_class] > 0)
        of_class = drawn_class[redrawn]
        result = drawn.clone()
        result[redrawn] = ranks[start[of_class] + _draw_below(count[of_class])]
        return result

    def _classes_of_pure_cells(self, labels: Tensor, cell_shape: Sequence[int]) -> Tensor:
        """The class of each cell, (b, cells) int64, `_UNUSED` where pixels differ, are padding or are ignored."""
        pixels = self._with_channels(labels, len(cell_shape))
        largest, smallest_negated = _largest_in_cell(torch.cat([pixels, -pixels], dim=1), cell_shape).chunk(2, dim=1)
        channels = largest.long().flatten(2)
        pure = (largest == -smallest_negated).flatten(2).all(dim=1)

        if self.regions:
            if self.ignore_label is not None:
                pure &= channels[:, -1] == 0
                channels = channels[:, :-1]
            bits = torch.arange(channels.shape[1], device=channels.device)
            cell_class = (channels << bits[:, None]).sum(dim=1)
            pure &= cell_class != 0
        else:
            cell_class = channels[:, 0]
            pure &= cell_class >= 0
            if self.ignore_label is not None:
                pure &= cell_class != self.ignore_label
        return torch.where(pure, cell_class, _UNUSED)

    def _with_channels(self, labels: Tensor, num_axes: int) -> Tensor:
        """Check the labels' axes and channels; return (b, channels, *size), float32 for the pooling."""
        if not self.regions:
            if labels.ndim == num_axes + 1:
                labels = labels[:, None]
            if labels.ndim != num_axes + 2 or labels.shape[1] != 1:
                raise ValueError(
                    f"labels have shape {tuple(labels.shape)}, needed is a label map (b, 1, *size) or (b, *size) with "
                    f"{num_axes} spatial axes as the embedding has; for one channel per region set regions=True"
                )
            return labels.float()

        least = 1 if self.ignore_label is None else 2
        if labels.ndim != num_axes + 2 or not least <= labels.shape[1] < least + _MAX_REGIONS:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, needed is (b, channels, *size) with {num_axes} spatial axes "
                f"as the embedding has, and 1 to {_MAX_REGIONS} regions"
                + (" followed by the ignore channel" if self.ignore_label is not None else "")
            )
        return labels.float()


def _largest_in_cell(pixels: Tensor, cell_shape: Sequence[int]) -> Tensor:
    """The largest value in each cell, (b, c, *cells), of pixels (b, c, *size)."""
    factors = _factors(pixels.shape[2:], cell_shape)
    pool = F.max_pool2d if len(cell_shape) == 2 else F.max_pool3d
    # ceil_mode keeps the border cells that reach over the edge, and looks at their pixels inside only.
    return pool(pixels, kernel_size=factors, stride=factors, ceil_mode=True)


def _factors(size: Sequence[int], cell_shape: Sequence[int]) -> tuple[int, ...]:
    """Pixels per cell on each axis; raises ValueError where no whole number gives that many cells."""
    factors = tuple(math.ceil(pixels / cells) for pixels, cells in zip(size, cell_shape, strict=True))
    if any(math.ceil(p / f) != c for p, f, c in zip(size, factors, cell_shape, strict=True)):
        raise ValueError(
            f"embedding has {tuple(cell_shape)} cells and labels {tuple(size)} pixels: on every axis cells must be "
            f"ceil(pixels / factor) for a whole factor. Labels are needed at full resolution, not downsampled"
        )
    return factors


def _draw_below(upper: Tensor) -> Tensor:
    """A uniform whole number from 0 to upper - 1 for each element of `upper`, which is at least 1."""
    # The remainder of a 31-bit number: bounds differ per element, which torch.randint cannot do. It is uneven by
    # upper / 2^31, less than a thousandth for a million cells.
    return torch.randint(2**31, upper.shape, device=upper.device) % upper


def _require_whole_number(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
