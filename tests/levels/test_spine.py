"""Names of levels as several tools write them, and label tables without an order."""

import pytest

from nnunetv2_cafr.spine import disc_of, is_spine_table, level_names, position, read_spine, unread_levels, vertebra_of


def test_spinemri_and_other_tools_names():
    plain = read_spine({"background": 0, "S": 1, "L5": 2, "L4": 3, "L5/S": 4, "L4/L5": 5})
    other = read_spine(
        {
            "background": 0,
            "sacrum": 1,
            "vertebrae_L5": 2,
            "vertebrae_L4": 3,
            "disc_L5_S1": 4,
            "disc_L4_L5": 5,
            "cord": 6,
        }
    )
    assert plain.vertebrae == other.vertebrae == ("S", "L5", "L4")
    assert plain.labels == other.labels == {"S": (1,), "L5": (2,), "L4": (3,)}
    assert plain.discs == other.discs == {("S", "L5"): (4,), ("L5", "L4"): (5,)}
    assert 6 not in other.names


def test_a_disc_named_by_one_level_is_no_vertebra():
    assert vertebra_of("disc_L5") is vertebra_of("IVD-L4") is None
    assert vertebra_of("vertebra_L5") == vertebra_of("l5") == "L5" and disc_of("disc_L4_L5") == ("L5", "L4")


def test_sacrum_in_two_labels():
    assert read_spine({"sacrum": 25, "vertebrae_S1": 26, "vertebrae_L5": 27, "vertebrae_L4": 28}).labels["S"] == (
        25,
        26,
    )


def test_vertebrae_that_few_people_have_are_not_missed():
    spine = read_spine({name: number for number, name in enumerate(("S", "L6", "L5", "L4", "L3"), 1)})
    assert spine.gaps(["S", "L5", "L4"]) == []
    assert spine.gaps(["S", "L4"]) == ["L5"]


def test_spiders_numbers_from_the_bottom():
    spine = read_spine(
        {
            "background": 0,
            "canal": 1,
            **{f"{kind}_{n}": 2 * n + (kind == "disc") for n in (1, 2, 3) for kind in ("vertebra", "disc")},
        }
    )
    assert spine.vertebrae == ("vertebra_1", "vertebra_2", "vertebra_3")
    assert [spine.positions[label] for label in (3, 2, 5, 4)] == [-1, 0, 1, 2]


def test_names_of_other_tools_by_level():
    named = level_names({1: "vertebrae_L5", 2: "L4", 3: "disc_L4_L5", 4: "sacrum", 5: "canal", 6: "L5-S1", 7: "Th12"})
    assert named == {1: "L5", 2: "L4", 3: "L4/L5", 4: "S", 5: "canal", 6: "L5/S", 7: "T12"}
    numbers = level_names(
        {1: "vertebra_1", 2: "vertebra_2", 3: "disc_1", 4: "disc_2", 5: "vertebra_99", 6: "vertebra_6", 7: "disc_6"}
    )
    assert numbers == {1: "L5", 2: "L4", 3: "L5/S", 4: "L4/L5", 5: "vertebra_99", 6: "T12", 7: "T12/L1"}
    assert level_names({1: "S1", 2: "sacrum", 3: "L5"}) == {1: "S1", 2: "sacrum", 3: "L5"}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "Anterior": 1, "Posterior": 2}, "name 0 levels of a spine"),
        ({"background": 0, "vertebrae": 1, "discs": 2}, "name 0 levels of a spine"),
        ({"background": 0, "vertebrae": [1, 2, 3], "L5": 1, "L4": 2, "L3": 3}, "regions"),
        ({"background": 0, "L5": 1, "L4": 2}, "name 2 levels of a spine"),
        ({"background": 0, "L5": 1, "vertebrae_L5": 2, "L4": 3, "L3": 4}, "several labels stand for L5"),
        ({"background": 0, "L5": 1, "L4": 2, "L3": 2, "T12": 3}, "L4 and L3 have one value"),
        ({"background": 0, "L5": 1, "L4": 2.6, "L3": 3}, "L4 is 2.6"),
        ({"background": 0, "L5": 1, "L4": 2, "L3": 3, "T12": 0}, "T12 is 0"),
    ],
)
def test_tables_without_order(labels, words):
    with pytest.raises(ValueError, match=words):
        read_spine(labels)


def test_two_names_of_one_level_are_one_vertebra():
    assert not is_spine_table(["vertebrae_S1", "sacrum", "vertebrae_L5"])
    assert is_spine_table(["vertebrae_S1", "sacrum", "vertebrae_L5", "vertebrae_L4"])


def test_a_numbered_disc_has_no_place_of_its_own():
    assert position("disc_1") is None
    assert position("L4/L5") == position("vertebrae_L5_L4") == position("L5") + 1


def test_names_that_hold_a_level_and_are_read_as_none():
    read = ("S", "L5", "L4", "vertebrae_L3", "sacrum", "disc_L4_L5", "L3/L4")
    unread = (
        "D12",
        "L_2",
        "L-1",
        "T11 ",
        "T09",
        "LWK5",
        "lumbar_5",
        "L5_vertebra",
        "VertebraL5",
        "IVD_L5",
        "L5S1",
        "rib_T12",
    )
    others = ("rib_left_1", "canal", "lesion1", "spinal_cord", "background", "kidney_cyst_left", "class12", "S2")
    others += ("disc_herniation_2", "vertebral_artery_1")
    labels = {name: value for value, name in enumerate((*read, *unread, *others), start=1)}
    assert unread_levels(labels, read_spine(labels)) == list(unread)
