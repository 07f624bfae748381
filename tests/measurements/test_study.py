"""Known heights, angles and slips come out within 5 % or one voxel; what cannot be known is empty and says why."""

import re

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_cafr import phantom
from nnunetv2_cafr.measurements.label_map import LabelMap
from nnunetv2_cafr.measurements.study import HEIGHTS, MEASURES, Level, StudyMeasurements, measure
from nnunetv2_cafr.spine import read_spine

from ..levels.drawn import LABELS, SPINE
from .drawn import DEPTH, LUMBAR, WEDGE, WIDTH, Block, draw, draw_coronal, scoliosis, stack


def measured(image: sitk.Image) -> StudyMeasurements:
    return measure(LabelMap.of(image), SPINE)


def by_name(study: StudyMeasurements) -> dict[str, Level]:
    return {level.name: level for level in study.levels}


def with_labels(image: sitk.Image, labels: np.ndarray) -> sitk.Image:
    """Other labels (s, p, l) on the same grid."""
    new = sitk.GetImageFromArray(labels)
    new.CopyInformation(image)
    return new


BLOCKS: dict[str, Block] = {block.name: block for block in LUMBAR}


def test_a_spinous_process_is_no_body():
    """In the neck its section may be the larger one."""
    image = draw()
    labels = sitk.GetArrayFromImage(image)  # (s, p, l)
    place = np.argwhere(labels == LABELS["L3"]).max(0)
    larger = np.zeros_like(labels)
    larger[place[0] - 40 : place[0], place[1] + 6 : place[1] + 36] = LABELS["L3"]
    larger[labels > 0] = 0
    new = with_labels(image, labels + larger)
    expected, found = (by_name(measured(one))["L3"].values for one in (image, new))
    assert {name: found[name] for name in HEIGHTS} == {name: expected[name] for name in HEIGHTS}
    assert found["slip_mm"] == expected["slip_mm"]


@pytest.mark.parametrize("fault", ["on half of L2", "cleft"])
def test_a_part_in_front_is_no_body(fault):
    image = draw()
    labels = sitk.GetArrayFromImage(image)  # (s, p, l)
    body = labels == LABELS["L3"]
    if fault == "cleft":
        columns = np.flatnonzero(body.any((0, 2)))
        middle = columns[int(0.4 * len(columns))]
        labels[:, middle : middle + 2][body[:, middle : middle + 2]] = 0
    else:
        rows = np.flatnonzero((labels == LABELS["L2"]).any((1, 2)))
        upper = labels[rows[len(rows) // 2] :]
        upper[upper == LABELS["L2"]] = LABELS["L3"]
    new = with_labels(image, labels)
    expected, found = (by_name(measured(one))["L3"].values for one in (image, new))
    assert [found[name] for name in HEIGHTS] == pytest.approx([expected[name] for name in HEIGHTS], abs=2)


def slip_of(upper: Block, lower: Block) -> float:
    along = (lower.corners[2] - lower.corners[3]) / DEPTH
    return float((lower.corners[2] - upper.corners[1]) @ along)


@pytest.mark.parametrize(
    ("spacing", "turn", "arch"),
    [
        ((1.0, 1.0, 4.0), (0, 0, 0), False),
        ((0.5, 0.5, 3.3), (0, 0, 0), True),
        ((0.9, 1.6, 2.0), (12, 0, 0), False),
        ((1.0, 1.0, 1.0), (-30, 6, -9), True),
        ((2.0, 2.0, 4.4), (0, 8, 12), False),
    ],
)
def test_drawn_spines(spacing, turn, arch):
    study = measured(draw(spacing=spacing, turn=turn, arch=arch))
    levels, voxel = by_name(study), max(spacing[:2])
    degrees = float(np.degrees(np.arctan(voxel / DEPTH)))
    assert [level.name for level in study.levels] == [block.name for block in LUMBAR]
    for name, block in BLOCKS.items():
        values = dict(levels[name].values)
        if arch:  # processes reach the image's edge; bodies are measured all the same
            del values["volume_ml"]
        assert None not in values.values(), levels[name].reasons
        mean = (block.anterior + block.posterior) / 2
        if not arch:
            assert values["volume_ml"] == pytest.approx(mean * DEPTH * WIDTH / 1000, rel=0.08)
        if name == "S":
            continue
        assert values["width_mm"] == pytest.approx(WIDTH, abs=spacing[2])
        if "/" in name:
            upper, lower = (BLOCKS[one] for one in name.split("/"))
            bodies = [upper] + [lower] * (lower.name != "S")
            height = np.mean([(body.anterior + body.posterior) / 2 for body in bodies])
            assert values["disc_height_mm"] == pytest.approx(mean, rel=0.05, abs=voxel)
            assert values["disc_height_index"] == pytest.approx(
                mean / height, abs=0.05 * mean / height + voxel / height
            )
        else:
            for measure_, height in zip(HEIGHTS, (block.anterior, mean, block.posterior), strict=True):
                assert values[measure_] == pytest.approx(height, rel=0.05, abs=voxel)
            assert values["wedge_angle_deg"] == pytest.approx(block.lower - block.upper, abs=degrees)
            below = LUMBAR[LUMBAR.index(block) - 2]
            assert values["slip_mm"] == pytest.approx(slip_of(block, below), abs=max(voxel, 1.0))
    assert study.lordosis.between == "L1-S1"
    truth = BLOCKS["S"].upper - BLOCKS["L1"].upper
    assert study.lordosis.degrees == pytest.approx(truth, rel=0.05, abs=degrees)
    assert study.cobb.degrees == pytest.approx(0, abs=0.1)


def test_any_voxel_order_gives_the_same_numbers():
    image = draw(turn=(9, 4, -6))
    first = measured(image)
    for order in ("PIR", "SLA"):
        assert measured(sitk.DICOMOrient(image, order)) == first


def test_phantom_of_known_anatomy():
    """Rounded bodies with concave plates: 0.87 of the height in the middle, 0.975 at the wall, as they are painted."""
    seed, rows = 3, 300
    rng = np.random.default_rng(seed)
    anatomy = phantom.dataset.draw_anatomy(rng)
    uppermost = anatomy.bodies[
        int(rng.choice(phantom.dataset.LEVELS_VISIBLE, p=phantom.dataset.LEVELS_PROBABILITY)) - 1
    ]
    top = uppermost.y + uppermost.half_height * (1 - 2 * rng.uniform(0.45, 0.95))
    scale = phantom.dataset.FIELD_OF_VIEW / (rng.uniform(45, 80) - top)
    study = measured(sitk.Cast(phantom.make_case(seed, size=(rows, 200, 15))[1], sitk.sitkUInt8))
    levels = by_name(study)
    for index, name in enumerate(("L5", "L4", "L3", "L2", "L1"), 1):
        height = 2 * anatomy.bodies[index].half_height * scale
        for measure_, share in zip(HEIGHTS, (0.975, 0.87, 0.975), strict=True):
            assert levels[name].values[measure_] == pytest.approx(share * height, rel=0.05)
    middle = np.mean([levels[name].values["height_middle_mm"] for name in ("L4", "L3")])
    disc = levels["L3/L4"].values
    assert disc["disc_height_index"] == pytest.approx(disc["disc_height_mm"] / middle, rel=0.02)
    lordosis = np.degrees(anatomy.bodies[0].tilt - anatomy.bodies[5].tilt)
    assert study.lordosis.degrees == pytest.approx(lordosis, rel=0.05)
    assert "upper edge" in levels["T10"].reasons["height_middle_mm"]


def test_any_label_that_is_no_level():
    image = draw()
    labels = sitk.GetArrayFromImage(image)
    beside = labels.copy()
    beside[:, -3:][beside[:, -3:] == 0] = 255
    assert measured(with_labels(image, beside)).lordosis == measured(image).lordosis


def test_the_crest_behind_the_sacrum_is_not_s1():
    image = draw()
    labels = sitk.GetArrayFromImage(image)  # (s, p, l)
    top, back, _ = np.argwhere(labels == LABELS["S"]).max(0)
    crest = np.zeros_like(labels)
    crest[max(top - 40, 0) : top + 9, back + 2 : back + 12] = LABELS["S"]
    crest[labels > 0] = 0
    assert measured(with_labels(image, labels + crest)).lordosis == measured(image).lordosis


def test_s1_that_is_drawn_apart_from_a_larger_rest_of_the_sacrum():
    """The lordosis is that of L1 and S1, not of L1 and S2."""
    whole = [(block.name, block.anterior, block.posterior) for block in LUMBAR]
    blocks = stack([("S", 40, 30), ("gap", 4, 2), *whole], tilt=40)
    upper, lower = (next(b for b in blocks[2:] if b.name == name) for name in ("L1", "S"))
    study = measured(draw([block for block in blocks if block.name != "gap"]))
    assert study.lordosis.degrees == pytest.approx(lower.upper - upper.upper, abs=3)


def test_without_sacrum():
    study = measured(draw(LUMBAR[2:]))
    assert study.lordosis.between == "L1-L5"
    assert study.lordosis.degrees == pytest.approx(BLOCKS["L5"].lower - BLOCKS["L1"].upper, abs=1.7)
    assert by_name(study)["L5"].reasons == {"slip_mm": "S below it is not in the label map"}


@pytest.mark.parametrize(
    ("image", "names", "words"),
    [
        (draw(margin=-6), ("L1", "S"), "cut by the image's"),
        (draw(margin=-6, width=30), ("L3",), "its middle is not known"),
        (draw(turn=(0, 0, 26)), ("L3", "L2/L3"), "oblique slices: 26 degrees off"),
        (draw(spacing=(2, 2, 2), sideways=0.5), ("L3",), "oblique slices: the spine leaves them by 2"),
        (draw(spacing=(6, 6, 5)), ("L3", "L2/L3"), "too few voxels"),
        (draw(spacing=(0.7, 3, 4)), ("L1", "L4"), "voxels too high: one is 5"),
    ],
    ids=["edge", "sides", "turned", "leaning", "coarse", "axial"],
)
def test_what_cannot_be_known_is_empty(image, names, words):
    study = measured(image)
    for name in names:
        level = by_name(study)[name]
        for measure_ in MEASURES[level.kind]:
            if measure_ == "volume_ml" and level.values[measure_] is not None:
                assert "oblique" in words or "voxels" in words  # voxels can be counted all the same
                continue
            assert level.values[measure_] is None
            assert words in level.reasons[measure_] or "edge" in words + level.reasons[measure_]
    assert study.lordosis.degrees is None
    assert study.lordosis.reason


def test_a_body_that_leans_to_a_side_is_not_measured():
    """At the ends of a curve it leans more than the line through its neighbours."""
    levels = by_name(measured(draw_coronal(scoliosis(24))))
    words = "oblique slices: it leans to a side by 24 degrees, at most 20 are measured"
    assert levels["L4"].values["height_middle_mm"] is None and levels["L4"].reasons["height_middle_mm"] == words
    assert levels["L2"].values["height_middle_mm"] == pytest.approx(27, abs=1)


@pytest.mark.parametrize(("tilt", "known"), [(4, True), (14, False)])
def test_the_width_of_a_disc_that_leans_to_a_side_is_empty(tilt, known):
    """A line across it then ends at its end plates."""
    disc = by_name(measured(draw_coronal(scoliosis(tilt))))["L4/L5"]
    if known:
        assert disc.values["width_mm"] == pytest.approx(DEPTH, abs=1.5)  # of blocks whose backs lie to the left
    else:
        assert disc.values["width_mm"] is None and "leans to a side" in disc.reasons["width_mm"]
    assert disc.values["disc_height_mm"] is not None


@pytest.mark.parametrize(("turned", "sideways"), [(15, 0.0), (0, 0.25), (15, 0.25)])
def test_the_slip_across_slices_that_are_turned_is_empty(turned, sideways):
    level = by_name(measured(draw(turn=(0, 0, turned), sideways=sideways, spacing=(1, 1, 2))))["L4"]
    if turned and sideways:
        assert level.values["slip_mm"] is None
        assert level.reasons["slip_mm"] == (
            "oblique slices: L5 below it has its middle 12 mm aside, in slices turned by 15 degrees"
        )
    else:
        assert level.values["slip_mm"] == pytest.approx(slip_of(BLOCKS["L4"], BLOCKS["L5"]), abs=1)


def test_no_height_is_more_than_there_is_of_a_body():
    """Concave plates with rounded corners, of which a line to the wall would overshoot."""
    image = draw(stack([("L4", 26, 26), ("L3/L4", 8, 8), ("L3", 26, 26), ("L2/L3", 8, 8), ("L2", 26, 26)], tilt=0))
    labels = sitk.GetArrayFromImage(image)  # (s, p, l)
    columns = np.flatnonzero((labels == LABELS["L3"]).any((0, 2)))
    for column in columns:
        share = abs(2 * (column - columns.mean()) / np.ptp(columns))  # 1 at both walls
        gone = 2 if share > 0.8 else round(5 * (0.8 - share) / 0.8)
        rows = np.flatnonzero((labels[:, column] == LABELS["L3"]).any(1))
        labels[np.r_[rows[:gone], rows[len(rows) - gone :]], column] = 0
    carved = with_labels(image, labels)
    level = by_name(measured(carved))["L3"]
    assert level.values["height_anterior_mm"] <= 27 and level.values["height_posterior_mm"] <= 27


def test_each_reason_is_said_once():
    level = by_name(measured(draw(margin=-6, width=30)))["L3"]
    assert level.distinct_reasons == ["cut by the image's right and left edges, so its middle is not known"]


def test_body_grown_together_with_its_arch():
    image = draw()
    labels = sitk.GetArrayFromImage(image)
    rows, columns, _ = np.nonzero(labels == LABELS["L3"])
    middle, back = int(rows.mean()), columns.max() - 5
    labels[middle - 5 : middle + 5, back : back + 16] = LABELS["L3"]
    joined = with_labels(image, labels)
    level = by_name(measured(joined))["L3"]
    assert level.values["height_anterior_mm"] is None
    assert level.reasons["height_anterior_mm"].startswith("no outline of a vertebra")


def test_levels_upside_down_are_refused():
    image = draw()
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
    with pytest.raises(ValueError, match="run downwards where the header says upwards"):
        measured(image)


@pytest.mark.parametrize(
    ("factor", "said"), [(0.1, r"vertebrae of 3\.\d+ mm"), (10, r"vertebrae of 3\d\d mm"), (1, None)]
)
def test_vertebrae_of_no_size_that_there_is_are_refused(factor, said):
    """A header in cm, for example."""
    image = draw()
    image.SetSpacing([factor * step for step in image.GetSpacing()])
    if said is None:
        measured(image)
        return
    with pytest.raises(ValueError, match=said):
        measured(image)


def test_scattered_labels_are_no_matter_of_the_spacing():
    image = draw()
    labels = sitk.GetArrayFromImage(image)
    middle = labels.shape[2] // 2
    for place, name in enumerate(("L5", "L4", "L3", "L2", "L1")):
        labels[[0, -1], place, middle] = LABELS[name]
    scattered = with_labels(image, labels)
    with pytest.raises(ValueError, match=r"scattered over .* look at the label map"):
        measured(scattered)


def test_levels_counted_from_the_bottom():
    """SPIDER's names: no level is known, so there is no lordosis; discs are still held against their bodies."""
    names = {"S": "sacrum", "L5/S": "disc_1", "L5": "vertebra_1", "L4/L5": "disc_2", "L4": "vertebra_2"}
    names |= {"L3/L4": "disc_3", "L3": "vertebra_3"}
    table = {name: LABELS[level] for level, name in names.items() if level != "S"}
    blocks = stack([("L5/S", 12, 8), ("L5", 28, 26), ("L4/L5", 12, 8), ("L4", 27, 27), ("L3/L4", 9, 9), ("L3", 27, 27)])
    study = measure(LabelMap.of(draw(blocks)), read_spine(table))
    levels = by_name(study)
    assert list(levels) == ["disc_1", "vertebra_1", "disc_2", "vertebra_2", "disc_3", "vertebra_3"]
    assert levels["disc_1"].values["disc_height_index"] == pytest.approx(10 / 27, abs=0.03)
    assert study.lordosis.reason == "the labels do not name L1"


def test_vertebrae_without_a_body():
    """The ring and the one with the dens have no heights; the vertebrae below have, and show no curve to the side."""
    names = dict(zip(("L5", "L4", "L3", "L2", "L1"), ("C5", "C4", "C3", "C2", "C1"), strict=True))
    blocks = [block for block in LUMBAR if block.name in names]
    study = measure(LabelMap.of(draw(blocks)), read_spine({name: LABELS[level] for level, name in names.items()}))
    levels = by_name(study)
    for name, words in (("C1", "a ring without a body"), ("C2", "its dens")):
        assert words in levels[name].reasons["height_middle_mm"] and words in levels[name].reasons["slip_mm"]
        assert levels[name].values["volume_ml"]
    assert levels["C3"].values["height_middle_mm"] == pytest.approx(26.5, abs=1)
    assert study.cobb.degrees == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    "spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 3.3), (4.0, 1.0, 1.0)], ids=["3-D", "sagittal", "coronal"]
)
@pytest.mark.parametrize("tilt", [5, 20, -26])
def test_curve_to_the_side(tilt, spacing):
    """The end vertebrae, the angle and the side of a drawn scoliosis, also in thick slices."""
    cobb = measured(draw_coronal(scoliosis(tilt), spacing)).cobb
    degrees = float(np.degrees(np.arctan(spacing[1] / DEPTH)))
    assert cobb.between == "T12-L4"
    assert cobb.degrees == pytest.approx(abs(2 * tilt + WEDGE), rel=0.05, abs=degrees)
    assert cobb.convex == ("right" if tilt > 0 else "left")


@pytest.mark.parametrize("end", [0, -1])
def test_a_stray_voxel_at_the_edge_hides_no_curve(end):
    image = draw_coronal(scoliosis(20))
    labels = sitk.GetArrayFromImage(image)
    labels[end, 0, 0] = LABELS["T12"]
    assert measured(with_labels(image, labels)).cobb == measured(image).cobb


def test_curve_to_the_side_in_lordosis():
    """A spine turned by 30 degrees about the left/right axis: the plates' traces in the coronal plane are steeper."""
    image = sitk.ConstantPad(draw_coronal(scoliosis(15)), (5, 80, 20), (5, 80, 20))
    middle = image.TransformContinuousIndexToPhysicalPoint([size / 2 for size in image.GetSize()])
    turned = sitk.Resample(image, sitk.Euler3DTransform(middle, np.radians(30), 0, 0), sitk.sitkNearestNeighbor)
    truth = 2 * np.degrees(np.arctan(np.tan(np.radians(15 + WEDGE / 2)) / np.cos(np.radians(30))))
    assert measured(turned).cobb.degrees == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (draw_coronal(scoliosis(12), (0.8, 0.8, 5)), "too few voxels: 6.* from right to left, at least 8"),
        (draw_coronal(scoliosis(12), (1, 3, 1)), "voxels too high: one is 5.* degrees of its end plates"),
        (draw_coronal(scoliosis(12))[20:], "L4 is not measured: cut by the image's right edge"),
        (draw_coronal(scoliosis(12))[:, :, :80], "2 whole vertebrae"),
        (draw(turn=(0, 0, 26)), "oblique slices"),
        (draw([block for block in LUMBAR if block.name != "L3"]), "L3 below L2 is not in the label map"),
    ],
    ids=["thick", "low", "side", "few", "oblique", "gap"],
)
def test_no_curve_to_the_side(image, words):
    cobb = measured(image).cobb
    assert cobb.degrees is None
    assert re.search(words, cobb.reason)
