"""PixelInfoNCE against a slow twin, its sampling against rules checked cell by cell, and each known trap."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nnunetv2_cafr.loss import PixelInfoNCE
from nnunetv2_cafr.loss.info_nce import SampledPairs

# Pixels, cells, and the pixels per cell that these two mean.
GRIDS = [
    pytest.param((16, 24), (4, 6), (4, 4), id="2d"),
    pytest.param((18, 23), (5, 6), (4, 4), id="2d-ragged"),
    pytest.param((3, 16, 20), (3, 4, 5), (1, 4, 4), id="3d-thick-slices"),
    pytest.param((8, 13, 16), (4, 4, 4), (2, 4, 4), id="3d-ragged"),
]
LAYOUTS = ["blocks", "bands", "rare", "padded"]
PADDING, IGNORE = -1, 9


def make_labels(layout: str, size: tuple[int, ...], batch: int = 3, seed: int = 0) -> Tensor:
    """Label maps (b, *size) with cells that are pure and cells that are not."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 5, (batch, *(math.ceil(s / 4) for s in size)), generator=generator)
    labels = coarse
    for axis, pixels in enumerate(size, start=1):
        labels = labels.repeat_interleave(4, dim=axis).narrow(axis, 0, pixels)
    labels = labels.clone()
    if layout == "blocks":  # a few single pixels make their cells impure
        labels[torch.rand(labels.shape, generator=generator) < 0.01] = 6
    elif layout == "bands":  # not aligned with the cells
        columns = torch.arange(size[-1])
        for sample in range(batch):
            labels[sample] = (columns + 3 * sample) // 7
    elif layout == "rare":  # classes in one sample only, one of them in a single cell
        labels[:] = 0
        labels[0, ..., 0:8, 0:8] = 3
        labels[1, ..., 4:12, 4:12] = 3
        labels[2, ..., 0:8, 8:16] = 7
        labels[1].view(-1, *size[-2:])[0, :4, :4] = 8
    elif layout == "padded":
        labels[0, ..., :6] = PADDING
        labels[1, ..., 8:, :] = IGNORE
    return labels


def blocks(size: tuple[int, ...], factors: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The pixels of each cell, in the order of the flattened grid."""
    if not size:
        yield ()
        return
    for start in range(0, size[0], factors[0]):
        for rest in blocks(size[1:], factors[1:]):
            yield (slice(start, start + factors[0]), *rest)


def classes_by_hand(labels: Tensor, factors: tuple[int, ...], ignore_label: int | None = None) -> list[int | None]:
    """For each cell of the batch its class, None where it must not be used; labels (b, *size)."""
    classes: list[int | None] = []
    for sample in labels:
        for block in blocks(tuple(sample.shape), factors):
            values = set(sample[block].flatten().tolist())
            usable = len(values) == 1 and min(values) >= 0 and ignore_label not in values
            classes.append(values.pop() if usable else None)
    return classes


def unit_embedding(batch: int, cells: tuple[int, ...], dim: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(batch, dim, *cells, generator=generator), dim=1)


def slow_loss(embedding: Tensor, pairs: SampledPairs, temperature: float) -> float:
    """InfoNCE as it is written on paper."""
    cells = [vector.tolist() for sample in embedding for vector in sample.flatten(1).T]
    losses = []
    for anchor, positive, negatives in zip(*(index.tolist() for index in pairs), strict=True):

        def similarity(other: int, anchor: int = anchor) -> float:
            dot = sum(x * y for x, y in zip(cells[anchor], cells[other], strict=True))
            return math.exp(dot / temperature)

        positive_part = similarity(positive)
        losses.append(-math.log(positive_part / (positive_part + sum(similarity(n) for n in negatives))))
    return sum(losses) / len(losses)


def spine_slices(batch: int = 4) -> Tensor:
    """256x256 slices with 10 bodies of about 40 cells and 9 discs of about 20, none aligned with the cells."""
    labels = torch.zeros(batch, 1, 256, 256, dtype=torch.int16)
    for sample in range(batch):
        top, left = 3 + sample, 97 + 2 * sample
        for level in range(10):
            labels[sample, 0, top : top + 16, left : left + 44] = level + 1
            if level < 9:
                labels[sample, 0, top + 16 : top + 25, left : left + 44] = level + 11
            top += 25
    return labels


# --- the value ---


@pytest.mark.parametrize("num_negatives", [3, None])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("size", "cells"), [grid.values[:2] for grid in GRIDS])
def test_loss_equals_slow_twin(
    size: tuple[int, ...],
    cells: tuple[int, ...],
    layout: str,
    temperature: float,
    num_negatives: int | None,
) -> None:
    loss_fn = PixelInfoNCE(temperature, num_negatives, anchors_per_class=6, ignore_label=IGNORE)
    labels, embedding = make_labels(layout, size), unit_embedding(3, cells)
    torch.manual_seed(1)
    pairs = loss_fn.sample_pairs(labels, cells)
    torch.manual_seed(1)
    loss = loss_fn(embedding, labels)
    assert len(pairs.anchor) > 0
    assert loss.shape == ()
    assert loss.item() == pytest.approx(slow_loss(embedding, pairs, temperature), rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_a_number_all_other_classes_are_negatives_alike(layout: str) -> None:
    """Each class gives as many negatives as it gives anchors, a class with a lone cell too."""
    labels = make_labels(layout, (16, 24))
    pairs = PixelInfoNCE(num_negatives=None, anchors_per_class=4, ignore_label=IGNORE).sample_pairs(labels, (4, 6))
    classes = classes_by_hand(labels, (4, 4), IGNORE)
    present = {name for name in classes if name is not None}
    for anchor, negatives in zip(pairs.anchor.tolist(), pairs.negatives.tolist(), strict=True):
        drawn = Counter(classes[cell] for cell in negatives)
        assert drawn == dict.fromkeys(present - {classes[anchor]}, 4)


def test_loss_of_vectors_that_are_known() -> None:
    """Two classes with opposite vectors: the positive has similarity 1, every negative -1."""
    labels = torch.zeros(2, 1, 16, 16)
    labels[..., 8:] = 1
    embedding = torch.zeros(2, 3, 4, 4)
    embedding[:, 0, :, :2] = 1
    embedding[:, 0, :, 2:] = -1
    loss = PixelInfoNCE(temperature=0.5, num_negatives=5)(embedding, labels)
    assert loss.item() == pytest.approx(math.log(1 + 5 * math.exp(-4)), rel=1e-5)


def test_defaults_are_those_of_the_paper_and_ours() -> None:
    loss_fn = PixelInfoNCE()
    assert (loss_fn.temperature, loss_fn.num_negatives, loss_fn.anchors_per_class) == (0.1, 5, 64)
    assert "temperature=0.1" in repr(loss_fn)


@pytest.mark.parametrize("num_negatives", [3, None])
def test_negatives_weigh_by_their_distance_along_the_spine(num_negatives: int | None) -> None:
    """Held against sums in which every negative has its weight by hand; class 0 has no place."""
    labels, embedding, temperature = make_labels("blocks", (16, 24)), unit_embedding(3, (4, 6)), 0.1
    distance = torch.tensor([[0.0 if 0 in (i, j) else float(abs(i - j)) for j in range(10)] for i in range(10)])
    loss_fn = PixelInfoNCE(temperature, num_negatives, anchors_per_class=6, level_distance=distance)
    torch.manual_seed(1)
    pairs = loss_fn.sample_pairs(labels, (4, 6))
    torch.manual_seed(1)
    loss = loss_fn(embedding, labels)

    classes = classes_by_hand(labels, (4, 4))
    cells = embedding.flatten(2).movedim(1, 2).flatten(0, 1)
    losses = []
    for anchor, positive, negatives in zip(*(index.tolist() for index in pairs), strict=True):
        weights = [
            1 / 4 if 0 in (classes[anchor], classes[n]) else 1 / abs(classes[anchor] - classes[n]) for n in negatives
        ]
        mean = sum(weights) / len(weights)
        terms = [
            w / mean * math.exp(cells[anchor] @ cells[n] / temperature) for w, n in zip(weights, negatives, strict=True)
        ]
        match = math.exp(cells[anchor] @ cells[positive] / temperature)
        losses.append(-math.log(match / (match + sum(terms))))
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert set(loss_fn.state_dict()) == set()


# --- the sampling ---


@pytest.mark.parametrize("by_level", [False, True])
def test_every_second_anchor_is_drawn_where_the_prediction_is_wrong(by_level: bool) -> None:
    """Class 1 is called 2 in one of its cells and 3 in another; with levels, only the next one counts as hard."""
    labels = torch.ones(2, 1, 16, 16, dtype=torch.int16)
    labels[..., 8:] = 2
    named = labels[:, 0].long()
    named[0, 0, 0], named[1, 15, 0] = 2, 3  # cells 0 and 28
    logits = F.one_hot(named, 4).movedim(-1, 1).float()
    distance = torch.tensor([[0.0, 0, 0, 0], [0, 0, 2, 4], [0, 2, 0, 2], [0, 4, 2, 0]]) if by_level else None
    loss_fn = PixelInfoNCE(anchors_per_class=400, hard_anchors=True, level_distance=distance)
    drawn = []
    loss_fn.sample_pairs = lambda *given: drawn.append(PixelInfoNCE.sample_pairs(loss_fn, *given)) or drawn[0]  # type: ignore[method-assign, assignment, func-returns-value]
    loss_fn(unit_embedding(2, (4, 4)), labels, logits)

    of_class_1, of_class_2 = drawn[0].anchor[:400], drawn[0].anchor[400:]
    assert set(of_class_1[1::2].tolist()) == ({0} if by_level else {0, 28})
    assert len(set(of_class_1[::2].tolist())) == 16
    assert len(set(of_class_2[1::2].tolist())) == 16  # right everywhere
    assert (drawn[0].anchor != drawn[0].positive).all()
    with pytest.raises(ValueError, match="logits are needed"):
        PixelInfoNCE(hard_anchors=True)(unit_embedding(2, (4, 4)), labels)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("size", "cells", "factors"), GRIDS)
def test_pairs_obey_the_rules(
    size: tuple[int, ...], cells: tuple[int, ...], factors: tuple[int, ...], layout: str
) -> None:
    loss_fn = PixelInfoNCE(num_negatives=5, anchors_per_class=40, ignore_label=IGNORE)
    labels = make_labels(layout, size)
    classes = classes_by_hand(labels, factors, IGNORE)
    cells_per_sample = math.prod(cells)
    torch.manual_seed(0)
    pairs = loss_fn.sample_pairs(labels, cells)
    assert all(index.dtype == torch.int64 for index in pairs)
    assert pairs.negatives.shape == (len(pairs.anchor), 5)

    for anchor, positive, negatives in zip(*(index.tolist() for index in pairs), strict=True):
        anchor_class = classes[anchor]
        assert anchor_class is not None
        assert classes[positive] == anchor_class
        assert positive != anchor
        sample = anchor // cells_per_sample
        elsewhere = any(c == anchor_class and i // cells_per_sample != sample for i, c in enumerate(classes))
        assert (positive // cells_per_sample != sample) == elsewhere
        for negative in negatives:
            assert classes[negative] not in (None, anchor_class)

    cells_of_class = Counter(c for c in classes if c is not None)
    anchors_of_class = Counter(classes[anchor] for anchor in pairs.anchor.tolist())
    assert anchors_of_class == {c: 40 for c, count in cells_of_class.items() if count > 1}


def labels_of_uneven_classes() -> Tensor:
    """16, 8, 4 and 4 cells per sample for classes 0 to 3; class 4 in 4 cells of sample 0 alone, from class 0."""
    labels = torch.zeros(3, 24, 24, dtype=torch.int64)
    labels[:, :, 16:20] = 1
    labels[:, :8, 20:] = 1
    labels[:, 8:16, 20:] = 2
    labels[:, 16:, 20:] = 3
    labels[0, :8, :8] = 4
    return labels


def assert_uniform(drawn: Sequence[int | None], over: Sequence[int]) -> None:
    """Each value of `over` as often as the others, within six standard deviations, and no other value."""
    counts = Counter(drawn)
    assert set(counts) == set(over)
    expected = len(drawn) / len(over)
    for value in over:
        assert abs(counts[value] - expected) < 6 * math.sqrt(expected)


def test_draws_are_uniform() -> None:
    labels = labels_of_uneven_classes()
    classes = classes_by_hand(labels, (4, 4))
    of_class = {c: [i for i, other in enumerate(classes) if other == c] for c in range(5)}
    torch.manual_seed(0)
    pairs = PixelInfoNCE(anchors_per_class=6000).sample_pairs(labels, (6, 6))
    anchor, positive, negatives = (index.tolist() for index in pairs)

    for wanted in range(5):
        rows = [row for row, cell in enumerate(anchor) if classes[cell] == wanted]
        assert_uniform([anchor[row] for row in rows], of_class[wanted])

        drawn = [negative for row in rows for negative in negatives[row]]
        others = [c for c in range(5) if c != wanted]
        assert_uniform([classes[cell] for cell in drawn], others)
        for other in others:
            assert_uniform([cell for cell in drawn if classes[cell] == other], of_class[other])

        for sample in range(3):
            own = [row for row in rows if anchor[row] // 36 == sample]
            elsewhere = [cell for cell in of_class[wanted] if cell // 36 != sample]
            if own and elsewhere:
                assert_uniform([positive[row] for row in own], elsewhere)

    # A class of a single sample: every cell but the anchor, for each of its cells as the anchor.
    for cell in of_class[4]:
        drawn = [positive[row] for row in range(len(anchor)) if anchor[row] == cell]
        assert_uniform(drawn, [other for other in of_class[4] if other != cell])


def test_channel_axis_of_the_labels_is_optional() -> None:
    labels, embedding = make_labels("blocks", (16, 24)), unit_embedding(3, (4, 6))
    losses = []
    for form in (labels, labels[:, None], labels[:, None].to(torch.int16), labels[:, None].float()):
        torch.manual_seed(0)
        losses.append(PixelInfoNCE()(embedding, form).item())
    assert len(set(losses)) == 1


def test_manual_seed_makes_it_repeatable() -> None:
    labels, embedding = make_labels("blocks", (16, 24)), unit_embedding(3, (4, 6))
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(PixelInfoNCE()(embedding, labels).item())
    assert losses[0] == losses[1] != losses[2]


# --- the traps ---


def test_small_structures_are_not_dropped() -> None:
    """At 1/4 a disc has some 20 pure cells, here fewer: no class may be lost to a least number of cells."""
    labels = spine_slices()
    classes = classes_by_hand(labels[:, 0], (4, 4))
    pairs = PixelInfoNCE().sample_pairs(labels, (64, 64))
    anchors = Counter(classes[cell] for cell in pairs.anchor.tolist())
    assert anchors == dict.fromkeys(range(20), 64)


def test_thin_structure_never_enters_a_pair() -> None:
    """A disc two pixels high: nearest-neighbour downsampling would hand its label to cells that are mostly bone."""
    labels = torch.ones(2, 1, 32, 32, dtype=torch.int64)
    labels[:, :, 12:14] = 2
    labels[:, :, 20:] = 3
    pairs = PixelInfoNCE(anchors_per_class=500).sample_pairs(labels, (8, 8))
    rows = {int(cell) % 64 // 8 for index in pairs for cell in index.flatten()}
    assert rows == set(range(8)) - {3}


def test_padding_and_ignore_never_enter_a_pair() -> None:
    labels = torch.zeros(2, 1, 32, 32, dtype=torch.int16)
    labels[:, :, 8:16] = 1
    labels[:, :, 16:20] = PADDING
    labels[:, :, 20:26] = -2
    labels[:, :, 26:] = IGNORE
    pairs = PixelInfoNCE(anchors_per_class=500, ignore_label=IGNORE).sample_pairs(labels, (8, 8))
    rows = {int(cell) % 64 // 8 for index in pairs for cell in index.flatten()}
    assert rows == {0, 1, 2, 3}
    # Without an ignore label the same number is a class like any other.
    pairs = PixelInfoNCE(anchors_per_class=500).sample_pairs(labels, (8, 8))
    assert {int(cell) % 64 // 8 for cell in pairs.anchor} == {0, 1, 2, 3, 7}


def no_pairs() -> dict[str, Tensor]:
    stripes = (torch.arange(16) % 2).expand(2, 1, 16, 16)
    one_cell_each = torch.full((2, 1, 16, 16), PADDING)
    one_cell_each[0, :, :4, :4] = 1
    one_cell_each[1, :, :4, 4:8] = 2
    return {
        "single class": torch.full((2, 1, 16, 16), 3),
        "all padding": torch.full((2, 1, 16, 16), PADDING),
        "all ignored": torch.full((2, 1, 16, 16), IGNORE),
        "no pure cell": stripes,
        "one cell per class": one_cell_each,
    }


@pytest.mark.parametrize("poison", [0.0, math.inf, math.nan])
@pytest.mark.parametrize("case", no_pairs())
def test_nothing_to_pair_gives_zero_with_a_gradient(case: str, poison: float) -> None:
    head = torch.nn.Conv2d(3, 8, 1)
    embedding = head(torch.ones(2, 3, 4, 4)) + poison
    embedding.retain_grad()
    loss = PixelInfoNCE(ignore_label=IGNORE)(embedding, no_pairs()[case])
    loss.backward()
    assert loss.item() == 0
    for gradient in (embedding.grad, head.weight.grad):
        assert gradient is not None
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("samples", [(0, 1), (1, 1)])
def test_two_cells_are_enough(samples: tuple[int, int]) -> None:
    labels = torch.zeros(2, 16, 16, dtype=torch.int64)
    labels[samples[0], :4, :4] = 5
    labels[samples[1], 8:12, :4] = 5
    pairs = PixelInfoNCE().sample_pairs(labels, (4, 4))
    first, second = 16 * samples[0], 16 * samples[1] + 8
    assert len(pairs.anchor) == 128
    assert set(zip(pairs.anchor[64:].tolist(), pairs.positive[64:].tolist(), strict=True)) == {
        (first, second),
        (second, first),
    }


def test_lone_cell_is_a_negative_only() -> None:
    labels = torch.zeros(2, 16, 16, dtype=torch.int64)
    labels[1, :4, :4] = 5
    pairs = PixelInfoNCE().sample_pairs(labels, (4, 4))
    assert len(pairs.anchor) == 64
    assert 16 not in pairs.anchor
    assert (pairs.negatives == 16).all()


def test_unused_cells_may_be_anything() -> None:
    """Padding can lead to inf and NaN in cells that no pair holds."""
    labels = torch.zeros(2, 1, 32, 32, dtype=torch.int64)
    labels[:, :, 8:16] = 1
    labels[:, :, 16:] = PADDING
    embedding = unit_embedding(2, (8, 8))
    embedding[:, :, 4:6] = math.nan
    embedding[:, :, 6:] = math.inf
    embedding.requires_grad_()
    loss = PixelInfoNCE()(embedding, labels)
    loss.backward()
    assert loss.isfinite()
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    labels, embedding = make_labels("blocks", (16, 24)), unit_embedding(3, (4, 6)).to(dtype)
    torch.manual_seed(0)
    expected = PixelInfoNCE()(embedding.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(0)
        loss = PixelInfoNCE()(embedding, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()


def test_large_half_precision_values_stay_finite() -> None:
    """Products of these overflow half precision; a gradient scaler can lead there."""
    labels = make_labels("blocks", (16, 24))
    embedding = (unit_embedding(3, (4, 6)) * 6e4).half().requires_grad_()
    loss = PixelInfoNCE(temperature=1.0)(embedding, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()


# --- gradients ---


def test_gradient_reaches_the_used_cells_and_only_them() -> None:
    loss_fn = PixelInfoNCE(anchors_per_class=4)
    labels, embedding = make_labels("blocks", (16, 24)), unit_embedding(3, (4, 6)).requires_grad_()
    torch.manual_seed(0)
    pairs = loss_fn.sample_pairs(labels, (4, 6))
    torch.manual_seed(0)
    loss_fn(embedding, labels).backward()
    assert embedding.grad is not None
    moved = embedding.grad.flatten(2).movedim(1, 2).flatten(0, 1).abs().sum(1) > 0
    used = {int(cell) for index in pairs for cell in index.flatten()}
    assert set(moved.nonzero().flatten().tolist()) == used


def test_descent_separates_the_classes() -> None:
    labels = labels_of_uneven_classes()
    parameters = unit_embedding(3, (6, 6)).requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=0.05)
    loss_fn = PixelInfoNCE()
    torch.manual_seed(0)
    losses = []
    for _ in range(60):
        loss = loss_fn(F.normalize(parameters, dim=1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


# --- regions ---


def region_labels() -> Tensor:
    """Three regions (b, 3, h, w): whole, core inside it, and one that overlaps both."""
    regions = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    regions[:, 0, 4:28, 2:28] = True
    regions[:, 1, 8:20, 8:24] = True
    regions[:, 2, 16:, 12:30] = True
    regions[1] = regions[1].roll(3, dims=-1)
    return regions


def region_classes_by_hand(regions: Tensor, ignored: Tensor) -> list[str | None]:
    """For each cell the regions it lies in, such as "02"; None where pixels differ, are ignored or in no region."""
    classes: list[str | None] = []
    for sample, ignored_sample in zip(regions, ignored, strict=True):
        for block in blocks((32, 32), (4, 4)):
            pixels = sample[(slice(None), *block)].flatten(1).T.tolist()
            names = {"".join(str(r) for r, inside in enumerate(pixel) if inside) for pixel in pixels}
            usable = len(names) == 1 and "" not in names and not ignored_sample[block].any()
            classes.append(names.pop() if usable else None)
    return classes


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.uint8])
@pytest.mark.parametrize("with_ignore", [False, True])
def test_overlapping_regions(with_ignore: bool, dtype: torch.dtype) -> None:
    regions = region_labels()
    ignored = torch.zeros(2, 32, 32, dtype=torch.bool)
    if with_ignore:
        ignored[0, :17, :14] = True
        labels = torch.cat([regions, ignored[:, None]], dim=1)
    else:
        labels = regions
    classes = region_classes_by_hand(regions, ignored)
    loss_fn = PixelInfoNCE(anchors_per_class=200, ignore_label=IGNORE if with_ignore else None, regions=True)
    torch.manual_seed(0)
    pairs = loss_fn.sample_pairs(labels.to(dtype), (8, 8))
    anchors = Counter(classes[cell] for cell in pairs.anchor.tolist())
    assert anchors == {c: 200 for c, count in Counter(classes).items() if c is not None and count > 1}
    assert len(anchors) >= 4
    for anchor, positive, negatives in zip(*(index.tolist() for index in pairs), strict=True):
        assert classes[positive] == classes[anchor]
        assert all(classes[negative] not in (None, classes[anchor]) for negative in negatives)
    assert loss_fn(unit_embedding(2, (8, 8)), labels.to(dtype)).isfinite()


def test_many_regions_keep_apart() -> None:
    """As many as an int64 holds; neighbours in the highest bits would be one class in float32 or int32."""
    labels = torch.zeros(2, 63, 16, 16, dtype=torch.bool)
    labels[:, 62] = True
    labels[:, 0, 8:] = True
    pairs = PixelInfoNCE(regions=True).sample_pairs(labels, (4, 4))
    upper = pairs.anchor % 16 < 8
    assert upper.sum() == (~upper).sum() == 64
    assert ((pairs.positive % 16 < 8) == upper).all()
    assert ((pairs.negatives % 16 < 8) != upper[:, None]).all()


def test_disjoint_regions_equal_a_label_map_without_background() -> None:
    labels = make_labels("blocks", (16, 24))
    regions = torch.stack([labels == c for c in range(1, 7)], dim=1)
    torch.manual_seed(0)
    expected = PixelInfoNCE().sample_pairs(torch.where(labels == 0, PADDING, labels), (4, 6))
    torch.manual_seed(0)
    pairs = PixelInfoNCE(regions=True).sample_pairs(regions, (4, 6))
    for index, other in zip(pairs, expected, strict=True):
        assert torch.equal(index, other)


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"num_negatives": 0}, "num_negatives must be a whole number of at least 1, got 0"),
        ({"num_negatives": 2.5}, "num_negatives"),
        ({"anchors_per_class": 0}, "anchors_per_class"),
        ({"anchors_per_class": True}, "anchors_per_class"),
        ({"ignore_label": -1}, "ignore_label must be a whole number of at least 0, got -1"),
        ({"ignore_label": "9"}, "ignore_label"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelInfoNCE(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("embedding", "labels", "arguments", "message"),
    [
        ((2, 8, 4), (2, 1, 16), {}, r"\(2, 8, 4\), needed is \(b, d, h, w\)"),
        ((2, 8, 4, 4), (3, 1, 16, 16), {}, "embedding holds 2 samples and labels 3"),
        ((2, 8, 4, 4), (2, 1, 4, 16, 16), {}, r"\(2, 1, 4, 16, 16\), needed is a label map"),
        ((2, 8, 4, 4), (2, 3, 16, 16), {}, "for one channel per region set regions=True"),
        ((2, 8, 4, 4), (2, 1, 16, 3), {}, r"\(4, 4\) cells and labels \(16, 3\) pixels"),
        ((2, 8, 4, 7), (2, 1, 16, 17), {}, r"\(4, 7\) cells and labels \(16, 17\) pixels"),
        ((2, 8, 4, 4), (2, 16, 16), {"regions": True}, "1 to 63 regions"),
        ((2, 8, 4, 4), (2, 1, 16, 16), {"regions": True, "ignore_label": 2}, "followed by the ignore channel"),
        ((2, 8, 4, 4), (2, 64, 16, 16), {"regions": True}, r"\(2, 64, 16, 16\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    embedding: tuple[int, ...], labels: tuple[int, ...], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PixelInfoNCE(**arguments)(torch.zeros(embedding), torch.zeros(labels))  # type: ignore[arg-type]
