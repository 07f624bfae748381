"""Every known fault of a numbering, one by one, with the right answer: repaired, or named and left as it was."""

import time

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunetv2_cafr.levels.components import Grid
from nnunetv2_cafr.levels.decoding import (
    BEYOND,
    LOWER_END,
    MISSED,
    TILTED,
    TRANSITIONAL,
    UNCERTAIN,
    UPSIDE_DOWN,
    Decoding,
    Evidence,
    decode,
)
from nnunetv2_cafr.levels.files import grid_of
from nnunetv2_cafr.phantom import make_case
from nnunetv2_cafr.spine import USUAL, VERTEBRAE, read_spine

from .drawn import BACK, GAP, GRID, HEIGHT, LABELS, LEVELS, SPINE, STEP, UP, Drawn, draw

ABOVE_SACRUM = LEVELS[1:]


def decoded(drawn: Drawn, evidence: Evidence | None = None, grid: Grid = GRID) -> Decoding:
    before = drawn.labels.copy()
    found = decode(drawn.labels, SPINE, grid, evidence)
    np.testing.assert_array_equal(drawn.labels, before)
    assert ((found.labels > 0) <= (before > 0)).all()  # nothing grows
    return found


def renamed(drawn: Drawn, **names: str) -> Drawn:
    """With structures under other names, told by their present ones."""
    new = drawn.copy()
    for old, name in names.items():
        new.labels[drawn.of(old)] = LABELS[name]
    return new


def shifted(drawn: Drawn, above: float, by: int, to: float = np.inf) -> Drawn:
    """With every block from the place `above` up to `to` called `by` levels higher."""
    new = drawn.copy()
    order = ["S", "L5/S", "L5", "L4/L5", "L4", "L3/L4", "L3", "L2/L3", "L2", "L1/L2", "L1", "T12/L1", "T12"]
    order += ["T11/T12", "T11", "T10/T11", "T10"]
    for index, name in enumerate(order):
        if 0 <= index + 2 * by < len(order):
            new.labels[drawn.of(name) & (drawn.block >= above) & (drawn.block <= to)] = LABELS[order[index + 2 * by]]
    return new


def assert_untouched(found: Decoding, drawn: Drawn) -> None:
    np.testing.assert_array_equal(found.labels, drawn.labels)
    assert found.changed == 0


def assert_repaired(found: Decoding, truth: Drawn) -> None:
    np.testing.assert_array_equal(found.labels, truth.labels)
    assert not found.flags
    assert found.changed > 0


SHAPES = {
    "straight": {},
    "bent by 40 degrees": {"bend": 40.0},
    "bent the other way": {"bend": -40.0},
    "scoliosis": {"scoliosis": 14.0, "shape": (18, 240, 160)},
    "vertebrae only": {"discs": False},
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def spine(request: pytest.FixtureRequest) -> Drawn:
    return draw(**request.param)


def test_consistent_labels_are_not_touched(spine):
    found = decoded(spine)
    assert_untouched(found, spine)
    assert found.confidence > 0.99
    assert not found.flags
    assert [level.decoded for level in found.levels if level.kind == "vertebra"] == list(LEVELS)


@pytest.mark.parametrize("seed", range(4))
def test_phantoms_are_not_touched(seed):
    _, mask = make_case(seed, size=(192, 144, 12))
    labels = sitk.GetArrayFromImage(mask).astype(np.uint8)
    grid = grid_of(
        {"sitk_stuff": {"direction": mask.GetDirection(), "spacing": mask.GetSpacing(), "origin": mask.GetOrigin()}}
    )
    found = decode(labels, SPINE, grid)
    assert found.changed == 0
    assert not found.flags


def test_swap(spine):
    assert_repaired(decoded(renamed(spine, L3="L4", L4="L3")), spine)


def test_one_wrong_at_either_end(spine):
    assert_repaired(decoded(renamed(spine, T11="T12")), spine)
    assert_repaired(decoded(renamed(spine, L5="L4")), spine)


def test_body_in_two_labels(spine):
    new = spine.copy()
    rows = np.flatnonzero(spine.of("L3").any((0, 2)))
    upper = np.zeros_like(spine.labels, bool)
    upper[:, : int(rows.mean()) + 1] = True
    new.labels[spine.of("L3") & upper] = LABELS["L2"]
    assert_repaired(decoded(new), spine)


def test_body_in_two_pieces():
    truth = draw()
    rows = np.flatnonzero(truth.of("L3").any((0, 2)))
    truth.labels[:, int(rows.mean()) - 1 : int(rows.mean()) + 2] = 0
    new = truth.copy()
    new.labels[:, : int(rows.mean())][truth.of("L3")[:, : int(rows.mean())]] = LABELS["L2"]
    assert_repaired(decoded(new), truth)


def test_a_chip_above_a_missed_body_is_named_too():
    """It is in no row, but the label map holds T12 directly above L2."""
    truth = draw()
    labels = truth.labels.copy()
    for level in ("L1", "T11", "L1/L2", "T12/L1", "T11/T12"):
        labels[truth.of(level)] = 0
    chip = np.argwhere(truth.of("T12"))[:300]
    labels[truth.of("T12")] = 0
    labels[tuple(chip.T)] = LABELS["T12"]
    found = decode(labels, SPINE, GRID)
    assert (found.labels == LABELS["T12"]).sum() == 300
    assert found.flags == {MISSED: "L1"}


def test_missed_body_leaves_a_gap_in_the_numbering(spine):
    truth = spine.copy()
    truth.labels[spine.of("L3")] = 0
    found = decoded(truth)
    assert_untouched(found, truth)
    assert found.flags == {MISSED: "L3"}
    found = decoded(renamed(truth, L1="L2"))
    np.testing.assert_array_equal(found.labels, truth.labels)
    assert found.flags == {MISSED: "L3"}


def test_distance_decides_where_votes_are_divided():
    """Above a missed L4 every body is in two labels: counted on from L5, or with L4 left out."""
    truth = draw(("S", "L5", "L4", "L3", "L2", "L1"), discs=False)
    truth.labels[truth.of("L4")] = 0
    new = truth.copy()
    for level, lower in (("L3", "L4"), ("L2", "L3"), ("L1", "L2")):
        body = np.argwhere(truth.of(level))
        half = body[body[:, 2] < np.median(body[:, 2])]
        new.labels[tuple(half.T)] = LABELS[lower]
    found = decode(new.labels, SPINE, GRID, threshold=-1)
    np.testing.assert_array_equal(found.labels, truth.labels)


def test_a_body_that_the_edge_cuts_lies_farther_away_than_what_is_seen_of_it():
    """Half of L1 is visible above a missed L2, and most of that called L2; if it were all of L1, it would be L2."""
    truth = draw(("S", "L5", "L4", "L3", "L2", "L1"), discs=False)
    truth.labels[truth.of("L2")] = 0
    rows = np.flatnonzero(truth.of("L1").any((0, 2)))
    truth = Drawn(truth.labels[:, rows[-1] - 8 :].copy(), truth.block[:, rows[-1] - 8 :])
    new = truth.copy()
    body = np.argwhere(truth.of("L1"))
    new.labels[tuple(body[body[:, 2] < np.quantile(body[:, 2], 0.7)].T)] = LABELS["L2"]
    found = decode(new.labels, SPINE, GRID, threshold=-1)
    np.testing.assert_array_equal(found.labels, truth.labels)


def test_body_in_a_front_and_a_back_piece_is_one():
    truth = draw()
    columns = np.flatnonzero(truth.of("L3").any((0, 1)))
    middle = int(columns.mean())
    truth.labels[:, :, middle - 1 : middle + 1][truth.of("L3")[:, :, middle - 1 : middle + 1]] = 0
    new = truth.copy()
    new.labels[:, :, :middle][truth.of("L3")[:, :, :middle]] = LABELS["L4"]
    found = decoded(new)
    assert_repaired(found, truth)
    assert len(found.levels) == len(decoded(draw()).levels)


def test_level_that_is_labelled_but_has_no_place():
    new = draw()
    body = new.of("L3")
    rows, columns = (np.flatnonzero(body.any(axes)) for axes in ((0, 2), (0, 1)))
    new.labels[body] = 0
    new.labels[3:9, rows[0] : rows[-1], columns[-1] + 6 : columns[-1] + 20] = LABELS["L3"]
    new.labels[new.of("L1")] = LABELS["L2"]
    found = decoded(new)
    assert_untouched(found, new)
    assert "L3 is labelled" in found.flags[UNCERTAIN]


def test_a_level_that_is_labelled_in_a_body_as_long_as_two_has_no_place():
    """L3 and what is left of L2 in one piece, less high than two bodies."""
    new = draw(discs=False)
    below = int(np.flatnonzero(new.of("L3").any((0, 2)))[-1])
    outline = new.of("L3")[:, below]
    new.labels[new.of("L2")] = 0
    for row in range(28):
        new.labels[:, below - row][outline] = LABELS["L3" if row < 20 else "L2"]
    found = decoded(new)
    assert_untouched(found, new)
    assert found.flags[UNCERTAIN].startswith("L2 is labelled")


def test_no_body_becomes_the_sacrum_by_its_place_alone():
    """Two whole bodies called L5, and none S: what fits best is that the lower one is S."""
    new = renamed(draw(discs=False), S="L5")
    found = decoded(new)
    assert_untouched(found, new)
    assert found.flags[UNCERTAIN] == "the lowest vertebra is labelled L5, but lies where S would"


@pytest.mark.parametrize("left", [0, 60], ids=["all", "most"])
def test_no_cervical_vertebra_is_taken_away(left):
    """Bodies of the neck are half as high as the others, by which sizes and distances are judged."""
    table = {name: number for number, name in enumerate(USUAL, 1)}
    drawn = draw(USUAL[12:], discs=False, shape=(12, 500, 160))
    labels = np.where(drawn.block >= 0, drawn.block + 13, 0).astype(np.uint8)
    labels.ravel()[np.flatnonzero(labels == table["C1"])[left:]] = 0
    labels[5:8, 20:32, 30:40] = table["C1"]  # in front of the row
    found = decode(labels, read_spine({"background": 0, **table}), GRID)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.flags[UNCERTAIN].startswith("C1 would be lost")


@pytest.mark.parametrize("canal", [1, 200], ids=["below", "above"])
def test_labels_that_are_no_level_may_have_any_number(canal):
    """SPIDER's converter numbers the canal first, other tools last."""
    table = {"background": 0, "canal": canal, **{name: label + 1 for name, label in LABELS.items() if label}}
    drawn = shifted(draw(), 4, 1, 5)
    labels = np.where(drawn.labels > 0, drawn.labels + 1, 0).astype(np.uint8)
    labels[5:8, :, 8:12] = canal
    found = decode(labels, read_spine(table), GRID)
    assert found.changed > 0
    expected = np.where(labels == canal, canal, np.where(labels > 0, decoded(drawn).labels + 1, 0))
    np.testing.assert_array_equal(found.labels, expected)


@pytest.mark.parametrize("gone", ["L4", "L1"])
def test_room_for_a_body_that_the_numbering_does_not_know(gone):
    """Metal, or a sixth lumbar vertebra without a label: the numbers go on above the hole."""
    truth = draw()
    new = truth.copy()
    index = LEVELS.index(gone)
    for name in (gone, f"{gone}/{LEVELS[index - 1]}", f"{LEVELS[index + 1]}/{gone}"):
        new.labels[truth.of(name)] = 0
    for upper, lower in zip(LEVELS[index + 1 :], LEVELS[index:], strict=False):
        new.labels[truth.of(upper)] = LABELS[lower]
    for place in range(index + 1, len(LEVELS) - 1):
        above, below = (f"{LEVELS[one + 1]}/{LEVELS[one]}" for one in (place, place - 1))
        new.labels[truth.of(above)] = LABELS[below]
    found = decoded(new)
    assert_untouched(found, new)
    words = f"there is room for another vertebra between {LEVELS[index - 1]} and {gone}"
    assert found.flags[UNCERTAIN] == words


@pytest.mark.parametrize("filled", [False, True], ids=["bridge", "filled"])
def test_merged_bodies_are_parted(filled):
    truth = draw(discs=False)
    new = truth.copy()
    rows, columns = (np.flatnonzero((truth.of("L3") | truth.of("L4")).any(axes)) for axes in ((0, 2), (0, 1)))
    bridge = np.zeros_like(truth.labels, bool)
    bridge[:, rows[0] : rows[-1] + 1, columns[0] if filled else columns[-4] : columns[-1] + 1] = truth.of("L3").any(
        (1, 2)
    )[:, None, None]
    new.labels[bridge] = LABELS["L3"]
    new.labels[truth.of("L3")] = new.labels[truth.of("L4")] = LABELS["L3"]
    found = decoded(new)
    assert not found.flags
    for level in LEVELS:
        right = (found.labels == LABELS[level]) & truth.of(level)
        assert right.sum() > 0.97 * truth.of(level).sum(), level


def test_touching_bodies_keep_the_border_between_them():
    truth = draw(discs=False)
    rows = np.flatnonzero(truth.of("L3").any((0, 2)))
    below = slice(rows[-1] + 1, rows[-1] + 6)  # L3 reaches down to L4
    truth.labels[:, below] = truth.labels[:, rows[-1] : rows[-1] + 1]
    assert_untouched(decoded(truth), truth)
    assert_repaired(decoded(renamed(truth, L4="L5", L3="L4")), truth)


def test_cut_off_at_the_upper_edge():
    whole = draw()
    rows = np.flatnonzero(whole.of("T11").any((0, 2)))
    truth = Drawn(whole.labels[:, rows[-1] - 4 :].copy(), whole.block[:, rows[-1] - 4 :])
    assert_untouched(decoded(truth), truth)
    assert_repaired(decoded(renamed(truth, T11="T12")), truth)


def test_cut_off_at_the_lower_edge():
    whole = draw(ABOVE_SACRUM)
    rows = np.flatnonzero(whole.of("L5").any((0, 2)))
    seen = slice(int(np.flatnonzero(whole.labels.any((0, 2)))[0]), int(rows[0]) + 5)
    truth = Drawn(whole.labels[:, seen].copy(), whole.block[:, seen])
    assert_untouched(decoded(truth), truth)
    assert_repaired(decoded(renamed(truth, L5="L4")), truth)


def test_a_corner_of_the_next_body_at_the_edge_keeps_its_label():
    """It lies off the curve of the others, but is no part of its neighbour."""
    whole = draw(ABOVE_SACRUM, discs=False)
    rows, columns = (np.flatnonzero(whole.of("L5").any(axes)) for axes in ((0, 2), (0, 1)))
    truth = Drawn(whole.labels[:, : rows[0] + 5].copy(), whole.block[:, : rows[0] + 5])
    truth.labels[truth.of("L5")] = 0
    truth.labels[3:9, rows[0] :, columns[-1] + 2 : columns[-1] + 12] = LABELS["L5"]
    found = decoded(truth)
    assert_untouched(found, truth)
    assert UNCERTAIN not in found.flags


def test_a_piece_at_the_edge_behind_a_missed_body_is_not_the_next_one():
    """T12 and its discs were missed, and what is seen of T11 is called T12."""
    truth = draw(("L5", "L4", "L3", "L2", "L1", "T12", "T11"))
    rows = np.flatnonzero(truth.of("T11").any((0, 2)))
    new = Drawn(truth.labels[:, rows[-1] - 4 :].copy(), truth.block[:, rows[-1] - 4 :])
    for name in ("T12", "T12/L1", "T11/T12"):
        new.labels[new.of(name)] = 0
    new = renamed(new, T11="T12")
    found = decoded(new)
    assert_untouched(found, new)
    assert found.flags[UNCERTAIN] == "there is room for another vertebra between L1 and T12"


@pytest.mark.parametrize("between", ["background", "L2/L3"], ids=["cleft", "disc"])
def test_one_body_in_two_with_all_above_it_one_too_high(between):
    truth = draw(ABOVE_SACRUM[:-1])
    new = shifted(truth, ABOVE_SACRUM.index("L3") + 0.25, 1)
    rows = np.flatnonzero(truth.of("L3").any((0, 2)))
    body, middle = truth.of("L3"), int(rows.mean())
    new.labels[:, :middle][body[:, :middle]] = LABELS["L2"]
    new.labels[:, middle - 1 : middle + 2][body[:, middle - 1 : middle + 2]] = LABELS[between]
    found = decoded(new)
    assert_untouched(found, new)
    words = "L3 and L2 are no higher together than others alone: pieces of one vertebra?"
    assert found.flags[UNCERTAIN] == words


def test_one_body_in_two_among_those_of_its_height():
    """Half of a lumbar body is as high as others are farther up."""
    names = ("L5", "L4", "L2", "L1", "T12", "T11", "T10", "T9")  # of L5 to T10, one too high from L3 on
    new = draw(names, discs=False, shape=(12, 260, 160))
    for place, name in enumerate(names):
        rows = np.flatnonzero((new.block == place).any((0, 2)))
        if place == 1:
            new.labels[:, : int(rows.mean())][new.of(name)[:, : int(rows.mean())]] = LABELS["L3"]
            new.labels[:, int(rows.mean()) - 1 : int(rows.mean()) + 1] = 0
        elif place > 3:
            new.labels[:, rows[-6:]] = 0
    found = decoded(new)
    assert_untouched(found, new)
    words = "L4 and L3 are no higher together than others alone: pieces of one vertebra?"
    assert found.flags[UNCERTAIN] == words


def test_two_fractured_vertebrae_are_not_one():
    truth = draw(ABOVE_SACRUM)
    for name in ("L2", "L1"):
        rows = np.flatnonzero(truth.of(name).any((0, 2)))
        truth.labels[:, rows[-7:]] = 0  # 0.6 of their height are left, and the discs are higher for it
    assert_untouched(decoded(truth), truth)
    assert not decoded(truth).flags
    assert_repaired(decoded(renamed(truth, L4="L3", L3="L4")), truth)


def test_loose_spinous_processes_leave_no_room_for_a_vertebra():
    """As large as a fifth of a body, behind and below its middle."""
    truth = draw(LEVELS[:-1], shape=(12, 200, 160))
    for level in LEVELS[1:-1]:
        rows, columns = (np.flatnonzero(truth.of(level).any(axes)) for axes in ((0, 2), (0, 1)))
        middle = int(rows.mean())
        truth.labels[4:8, middle + 2 : middle + 16, columns[-1] + 8 : columns[-1] + 26] = LABELS[level]
    found = decoded(truth)
    assert_untouched(found, truth)
    assert not found.flags
    assert_repaired(decoded(renamed(truth, L2="L3", L3="L2")), truth)


def test_room_for_a_vertebra_where_most_gaps_have_it():
    """Of three gaps two are of missed vertebrae, so that their median is no gap between neighbours."""
    truth = draw(("L5", "L4", "L3", "L2", "L1", "T12"), discs=False)
    new = truth.copy()
    new.labels[truth.of("L4") | truth.of("L2")] = 0
    new = renamed(new, L3="L4", L1="L3", T12="L2")
    found = decoded(new, grid=Grid(GRID.steps * 0.6, UP, BACK))
    assert_untouched(found, new)
    assert "there is room for another vertebra between" in found.flags[UNCERTAIN]


def test_a_piece_beside_the_highest_body_is_a_part_of_it():
    truth = draw(("L5", "L4", "L3", "L2", "L1"))
    rows, columns = (np.flatnonzero(truth.of("L1").any(axes)) for axes in ((0, 2), (0, 1)))
    beside = (slice(4, 8), slice(rows[0] + 4, rows[0] + 8), slice(columns[-1] + 5, columns[-1] + 12))
    new = truth.copy()
    truth.labels[beside], new.labels[beside] = LABELS["L1"], LABELS["T12"]
    assert_repaired(decoded(new), truth)


def test_island_in_the_belly_is_taken_out(spine):
    new = spine.copy()
    rows = np.flatnonzero(spine.of("L2").any((0, 2)))
    new.labels[4:8, rows[0] : rows[-1], 8:20] = LABELS["L2"]
    found = decoded(new)
    np.testing.assert_array_equal(found.labels, spine.labels)
    assert not found.flags
    assert [island.found for island in found.islands] == ["L2"]
    assert len(found.levels) == len(decoded(spine).levels)


@pytest.mark.parametrize(
    ("levels", "bottom", "islands"),
    [(LEVELS[:7], 70.0, {"L5": 50.0, "L5/S": 35.0}), (LEVELS[:6], 40.0, {"L1": 285.0, "L1/L2": 300.0})],
    ids=["below", "above"],
)
def test_islands_where_the_spine_would_go_on_are_taken_out(levels, bottom, islands):
    """Networks draw them in the sacrum, for one; they are no vertebra more."""
    truth = draw(levels, bottom=bottom)
    truth.labels[truth.of("S")] = 0
    new = truth.copy()
    for name, height in islands.items():
        row = truth.labels.shape[1] - round(height / STEP)
        new.labels[4:8, row - 3 : row + 4, 74:86] = LABELS[name]
    assert_repaired(decoded(new), truth)


def test_spinous_processes_follow_their_body():
    def with_processes(drawn: Drawn) -> Drawn:
        new = drawn.copy()
        for level in LEVELS[1:]:
            rows, columns = (np.flatnonzero(drawn.of(level).any(axes)) for axes in ((0, 2), (0, 1)))
            middle = int(rows.mean()) + 9  # they slope downwards
            new.labels[5:7, middle : middle + 8, columns[-1] + 12 : columns[-1] + 30] = LABELS[level]
        return new

    truth = with_processes(draw())
    assert_untouched(decoded(truth), truth)
    assert_repaired(decoded(renamed(truth, L3="L4", L4="L3")), truth)


def test_a_spinous_process_of_a_missed_body_keeps_its_label():
    truth = draw()
    rows, columns = (np.flatnonzero(truth.of("L3").any(axes)) for axes in ((0, 2), (0, 1)))
    for level in ("L3", "L3/L4", "L2/L3"):
        truth.labels[truth.of(level)] = 0
    middle = int(rows.mean())
    truth.labels[5:7, middle - 4 : middle + 4, columns[-1] + 8 : columns[-1] + 26] = LABELS["L3"]
    found = decoded(truth)
    assert_untouched(found, truth)
    assert found.flags == {MISSED: "L3"}


def test_everything_one_too_high_cannot_be_seen_but_for_the_lower_end():
    """Such labels are consistent. Without a sacrum nothing but what lies below the lowest vertebra speaks against."""
    truth = draw(ABOVE_SACRUM, bottom=80)
    new = shifted(truth, 0, 1)
    found = decoded(new)
    assert_untouched(found, new)
    assert found.flags.keys() == {LOWER_END}
    assert not decoded(truth).flags
    assert not decoded(shifted(draw(ABOVE_SACRUM, bottom=10), 0, 1)).flags


@pytest.mark.parametrize(("levels", "flagged"), [(0.5, False), (2, True)])
def test_image_below_the_lowest_vertebra(levels, flagged):
    """L4 is called the lowest one, and the image goes on for half a level, or for two."""
    new = draw(LEVELS[2:], bottom=levels * (HEIGHT + GAP))
    found = decoded(new)
    assert_untouched(found, new)
    assert found.flags.keys() == ({LOWER_END} if flagged else set())


def test_up_and_down_swapped():
    """A network that tells levels by where they lie: its row goes on to the lower end, and ends where the head is."""
    new = draw(("L5", "L4", "L3", "L2", "L1"), bottom=0)
    found = decoded(new)
    assert_untouched(found, new)
    assert found.flags.keys() == {UPSIDE_DOWN} and "nothing found above L1" in found.flags[UPSIDE_DOWN]


@pytest.mark.parametrize(("growth", "flagged"), [(-0.05, False), (0.0, False), (0.05, True)])
def test_vertebrae_that_grow_upwards_are_upside_down(growth, flagged):
    """As a network that counts from the image's lower end numbers a spine that stands on its head."""
    drawn = draw(("L5", "L4", "L3", "L2", "L1", "T12", "T11"), shape=(12, 260, 160))
    axis = np.arange(260) * STEP
    scale = np.exp(growth * (axis[::-1] - axis.mean()) / (HEIGHT + GAP))  # mm of a row, from the top downwards
    rows = np.interp(np.arange(0, scale.sum(), 1), np.cumsum(scale), np.arange(260)).round().astype(int)
    labels = drawn.labels[:, rows]
    found = decode(labels, SPINE, GRID)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.flags.keys() == ({UPSIDE_DOWN} if flagged else set())


@pytest.mark.parametrize(("degrees", "flagged"), [(-30, True), (-10, False), (10, False), (30, True)])
def test_a_spine_that_is_turned_in_the_image(degrees, flagged):
    """Of which the header says nothing; a network that tells levels by where they lie may call all of them wrong."""
    turned = draw(ABOVE_SACRUM)
    turned.labels = ndimage.rotate(turned.labels, degrees, axes=(1, 2), order=0)
    found = decoded(turned)
    assert_untouched(found, turned)
    assert found.flags.keys() == ({TILTED} if flagged else set())
    assert not flagged or "turned by 30 degrees" in found.flags[TILTED]


def test_the_lowest_label_is_not_given_up():
    new = shifted(draw(ABOVE_SACRUM), 0.25, 1)  # L5, then L3: rather a missing L4 than an L5 that is none
    found = decoded(new)
    assert_untouched(found, new)
    assert "L5 is the lowest level that is labelled" in found.flags[UNCERTAIN]


@pytest.mark.parametrize("share", [0.25, 0.4])
def test_a_lowest_body_whose_lower_part_has_the_label_below_is_mended(share):
    truth = draw(LEVELS[2:])
    new = truth.copy()
    rows = np.flatnonzero(truth.of("L4").any((0, 2)))
    lower = truth.of("L4")
    lower[:, : rows[-1] - int(share * len(rows))] = False
    new.labels[lower] = LABELS["L5"]
    assert_repaired(decoded(new), truth)


def test_two_bodies_that_follow_one_another_are_not_one_level():
    new = draw(("L5", "L4", "L3", "L2", "L1", "T12", "T12", "T11"))
    low, high = (np.flatnonzero((new.block == place).any((0, 2))) for place in (5, 6))
    for rows in (low[-6:], high[:6]):  # too low for one vertebra more
        new.labels[:, rows] = 0
    found = decoded(new)
    assert_untouched(found, new)
    assert "would both be T12" in found.flags[UNCERTAIN]


def test_a_piece_of_the_sacrum_is_no_l5():
    new = draw(ABOVE_SACRUM)
    rows = np.flatnonzero(new.of("L5").any((0, 2)))
    new.labels[:, rows[0] + 7 : rows[-1] + 1][new.of("L5")[:, rows[0] + 7 : rows[-1] + 1]] = 0
    found = decoded(new)
    assert_untouched(found, new)
    assert "L5, the lowest vertebra, has" in found.flags[UNCERTAIN]


def test_no_spine_has_vertebrae_so_far_apart():
    new = draw(discs=False)
    grid = Grid(GRID.steps * 1.6, UP, BACK)
    assert "mm apart" in decoded(new, grid=grid).flags[UNCERTAIN]


@pytest.mark.parametrize("depth", [0.8, 1.0, 5.0])
def test_everything_one_too_low_above_the_sacrum_is_one_vertebra_more(depth):
    """The lowest vertebra is called S, as the sacrum below it is, of which a part, S1 or much more is seen."""
    new = draw(("S", *LEVELS[:-1]))
    columns = np.flatnonzero((new.block == 0).any((0, 1)))
    sacrum = slice(columns[0], columns[0] + int(depth * len(columns)))
    new.labels[new.block == 0] = 0
    new.labels[1:-1, (new.block == 0).any((0, 2)), sacrum] = LABELS["S"]
    found = decoded(new)
    assert_untouched(found, new)
    assert UNCERTAIN in found.flags
    assert found.flags[TRANSITIONAL] == "one vertebra more at L5 (L6?)"


@pytest.mark.parametrize(
    ("levels", "gap", "bridge", "heights", "depths"),
    [
        (LEVELS, 1, 0, [30], [20]),
        (LEVELS, 5, 2, [30], [20]),
        (LEVELS, 3, 0, [14, 12, 11, 9], [17, 14, 11, 8]),
        (LEVELS[:3], 0, 0, [40], [45]),
        (LEVELS[:4], 0, 0, [50], [16]),
    ],
    ids=["two near", "bridge", "S1 to S5", "one, wide", "one, long"],
)
def test_a_sacrum_of_any_bones_and_size(levels, gap, bridge, heights, depths):
    truth = draw(levels, discs=False, bottom=130.0, shape=(12, 300, 160))
    row = np.flatnonzero(truth.of("S").any((0, 2)))[-1] + 1
    for height, depth in zip(heights, depths, strict=True):
        truth.labels[1:-1, row : row + gap, 75 : 75 + bridge] = LABELS["S"]
        row += gap
        truth.labels[1:-1, row : row + height, 70 : 70 + depth] = LABELS["S"]
        row += height
    assert_untouched(decoded(truth), truth)
    assert not decoded(truth).flags
    assert_repaired(decoded(renamed(truth, L4="L5", L5="L4")), truth)


def test_everything_above_the_sacrum_one_too_high_looks_like_a_sacralised_l5():
    new = shifted(draw(), 0.25, 1)
    found = decoded(new)
    assert_untouched(found, new)
    assert "sacralised L5" in found.flags[TRANSITIONAL]


def test_shift_in_the_middle_is_uncertain():
    new = shifted(draw(ABOVE_SACRUM), 3, -1)
    found = decoded(new)
    assert_untouched(found, new)
    assert UNCERTAIN in found.flags
    assert found.confidence < 0.25


def test_shift_of_a_few_is_repaired():
    truth = draw(ABOVE_SACRUM)
    assert_repaired(decoded(shifted(truth, 2, 1, to=3.5)), truth)
    assert_repaired(decoded(shifted(truth, 2, -1, to=3.5)), truth)
    assert_repaired(decoded(shifted(truth, 5.5, -1)), truth)


def test_probabilities_settle_what_labels_cannot():
    truth = draw(ABOVE_SACRUM)
    new = shifted(truth, 3, -1)
    probabilities = np.full((len(LABELS), *truth.labels.shape), 0.0)
    for drawn, share in (
        (truth, 0.45),
        (new, 0.55),
    ):  # the network hardly prefers the wrong ones, and is sure of the right
        for label in range(len(LABELS)):
            probabilities[label] += share * (drawn.labels == label)
    found = decoded(new, Evidence.of_volume(new.labels, probabilities))
    np.testing.assert_array_equal(found.labels, truth.labels)
    assert not found.flags


def test_a_body_without_any_probability_votes_by_its_labels():
    """Of a map that was changed after prediction; float16 rounds small probabilities to 0."""
    truth = draw(ABOVE_SACRUM)
    new = renamed(truth, L3="L4", L4="L3")
    labels = np.arange(len(LABELS))[:, None, None, None]
    probabilities = ((labels == truth.labels) & ~truth.of("L1")).astype(np.float16)
    found = decoded(new, Evidence.of_volume(new.labels, probabilities))
    assert_repaired(found, truth)
    assert found.confidence > 0.5


SEVEN = ("S", "L5", "L4", "L3", "L2", "L1", "T12")


@pytest.mark.parametrize(
    ("true", "predicted", "words"),
    [
        (("S", "L6", *SEVEN[1:]), ("S", "L5", *SEVEN[1:]), "L6"),
        ((*SEVEN[:6], "T13", "T12", "T11", "T10"), (*SEVEN[:6], "T12", "T12", "T11", "T10"), "T13"),
        (("S", "L4", "L3", "L2", "L1", "T12", "T11"), ("S", "L4", "L3", "L2", "L1", "T12", "T11"), "sacralised L5"),
        ((*SEVEN[:6], "T11", "T10", "T9"), (*SEVEN[:6], "T11", "T10", "T9"), "eleven thoracic"),
    ],
)
def test_transitional_anatomy_is_named_and_left(true, predicted, words):
    new = draw(true, discs=False, shape=(12, 270, 160))
    for index, name in enumerate(predicted):
        new.labels[new.block == index] = LABELS[name]
    found = decoded(new)
    assert_untouched(found, new)
    assert words in found.flags[TRANSITIONAL]


def test_l6_that_the_labels_know():
    labels = {**LABELS, "L6": 20}
    new = draw(("S", "L6", *SEVEN[1:]), discs=False)
    new.labels[new.block == 1] = 20
    found = decode(new.labels, read_spine(labels), GRID)
    assert_untouched(found, new)
    assert found.flags == {TRANSITIONAL: "L6 is there"}


def test_l6_and_t13_that_the_labels_know():
    table = {name: number for number, name in enumerate(VERTEBRAE, 1)}
    drawn = draw(VERTEBRAE[:10], discs=False, shape=(12, 280, 160))
    labels = np.where(drawn.block >= 0, drawn.block + 1, 0).astype(np.uint8)
    found = decode(labels, read_spine({"background": 0, **table}), GRID)
    assert {"L6", "T13"} < {level.decoded for level in found.levels}
    np.testing.assert_array_equal(found.labels, labels)
    assert found.flags == {TRANSITIONAL: "L6 and T13 are there"}


def test_the_lowest_level_twice_is_none_below_the_table():
    """Of a network that knows L5 to L2: L5 twice, the upper one partly L4, and L4; the lowest stays L5."""
    truth = draw(("L5", "L4", "L3"), discs=False)
    new = renamed(truth, L4="L5", L3="L4")
    body = np.argwhere(truth.of("L4"))
    new.labels[tuple(body[body[:, 2] < np.quantile(body[:, 2], 0.4)].T)] = LABELS["L4"]
    table = {name: LABELS[name] for name in ("background", "L5", "L4", "L3", "L2")}
    found = decode(new.labels, read_spine(table), GRID, threshold=-1)
    np.testing.assert_array_equal(found.labels, truth.labels)


def test_network_that_knows_three_levels():
    """What it calls L3 above L3 is none of its levels."""
    truth = draw(("L5", "L4", "L3"))
    new = draw(("L5", "L4", "L3", "L2"))
    new.labels[new.of("L2")] = LABELS["L3"]
    new.labels[new.of("L2/L3")] = 0
    names = ("background", "L5", "L4", "L3", "L4/L5", "L3/L4")
    found = decode(new.labels, read_spine({name: LABELS[name] for name in names}), GRID)
    np.testing.assert_array_equal(found.labels, truth.labels)
    assert found.flags.keys() == {BEYOND}


def test_too_little_to_judge():
    new = draw(("L5", "L4"))
    found = decoded(renamed(new, L4="L2"))
    assert found.changed == 0
    assert np.isnan(found.confidence)
    assert "fewer than 3" in found.flags[UNCERTAIN]
    assert UNCERTAIN in decode(np.zeros((3, 4, 5), np.uint8), SPINE, GRID).flags


def test_up_is_told_by_the_labels_where_the_header_is_silent():
    truth = draw()
    silent = Grid(GRID.steps)
    assert_repaired(decoded(renamed(truth, L3="L4", L4="L3"), grid=silent), truth)
    flipped = Drawn(truth.labels[:, ::-1].copy(), truth.block[:, ::-1])
    assert_repaired(decoded(renamed(flipped, L3="L4", L4="L3"), grid=silent), flipped)
    found = decoded(flipped)
    assert_untouched(found, flipped)
    assert "header" in found.flags[UNCERTAIN]


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_any_order_of_axes_and_an_oblique_series(axes):
    turn = np.deg2rad(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    truth = draw(bend=20)
    moved = Drawn(truth.labels.transpose(axes).copy(), truth.block.transpose(axes))
    grid = Grid((rotation @ GRID.steps)[:, axes], UP, BACK)
    assert_repaired(decoded(renamed(moved, L3="L4", L4="L3"), grid=grid), moved)


@pytest.mark.parametrize("grid", [GRID, Grid(np.diag([999.0, STEP, STEP]))], ids=["NIfTI", "picture"])
def test_one_slice(grid):
    """Of a picture nnU-Net's readers know no directions, and call the third spacing 999."""
    truth = draw(shape=(1, 240, 160))
    assert_untouched(decoded(truth, grid=grid), truth)
    assert_repaired(decoded(renamed(truth, L3="L4", L4="L3"), grid=grid), truth)


@pytest.mark.parametrize("level", ["L3", "L4/L5"])
def test_one_label_only(level):
    """A network that found a single structure, and one that calls everything the same."""
    single, same = draw(), draw()
    single.labels[~single.of(level)] = 0
    same.labels[same.labels > 0] = LABELS[level]
    for drawn in (single, same):
        found = decoded(drawn)
        assert_untouched(found, drawn)
        assert UNCERTAIN in found.flags


def test_another_spine_is_not_taken_out():
    """Of a second person, or wrapped around; each piece of it alone would be an island."""
    truth = draw()
    smaller = truth.labels[:, ::2, ::2]
    aside = np.pad(smaller, ((0, 0), (0, truth.labels.shape[1] - smaller.shape[1]), (0, 0)))
    both = Drawn(np.concatenate([truth.labels, aside], 2), truth.block)
    found = decoded(both)
    assert_untouched(found, both)
    assert "another spine" in found.flags[UNCERTAIN]


def test_lines_of_single_voxels():
    """Levels marked by lines have no thickness of which the spine's could be told."""
    lines = draw(discs=False)
    lines.labels[:6] = lines.labels[7:] = 0
    lines.labels[:, :, :80] = lines.labels[:, :, 81:] = 0
    assert_untouched(decoded(lines), lines)


@pytest.mark.slow
def test_a_large_volume_takes_less_than_two_seconds():
    _, mask = make_case(3, size=(880, 880, 15))
    truth = sitk.GetArrayFromImage(mask).astype(np.uint8)
    swapped = truth.copy()
    swapped[truth == 4], swapped[truth == 5] = 5, 4
    grid = grid_of(
        {"sitk_stuff": {"direction": mask.GetDirection(), "spacing": mask.GetSpacing(), "origin": mask.GetOrigin()}}
    )
    start = time.process_time()
    found = decode(swapped, SPINE, grid)
    assert time.process_time() - start < 2
    np.testing.assert_array_equal(found.labels, truth)
