"""Label schemes as nnU-Net reads them, and masks of any values."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from dataset_conversion.labels import IGNORE, SCHEMES, Labelling, Structure, make_labelling, make_lookup, map_labels
from dataset_conversion.spinemri import STRUCTURES, TABLE

PATH = Path("mask.nii.gz")

kinds = st.sampled_from(["vertebrae", "discs", "canal"])
structures = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=12, unique=True).flatmap(
    lambda names: st.tuples(*(st.builds(Structure, st.just(f"_{name}"), kinds) for name in names))
)
tables = structures.flatmap(
    lambda known: st.dictionaries(st.integers(1, 400), st.sampled_from((*known, IGNORE)), min_size=1, max_size=20)
)


@given(structures, st.sampled_from(sorted(SCHEMES)), st.booleans())
def test_nnunet_understands_every_scheme(known: tuple[Structure, ...], scheme: str, ignore: bool) -> None:
    try:
        labelling = make_labelling([*known, IGNORE] if ignore else known, scheme)
    except ValueError:
        assert scheme == "regions"  # no kind of several structures
        assert len({structure.kind for structure in known}) == len(known)
        return
    order = labelling.regions_class_order
    manager = LabelManager(dict(labelling.labels), None if order is None else list(order))
    assert manager.has_regions == (scheme == "regions")
    assert manager.has_ignore_label == ignore
    values = manager.all_labels + [manager.ignore_label] * ignore
    assert values == list(range(len(values)))
    assert set(labelling.values.values()) <= set(values[1:])


def test_table_of_spinemri() -> None:
    labels = make_labelling(STRUCTURES, "levels").labels
    assert list(labels.values()) == list(range(20))
    assert {name: labels[name] for name in ("S", "L5", "L1", "T12", "T9", "L5/S", "L1/L2", "T12/L1", "T9/T10")} == {
        "S": 1, "L5": 2, "L1": 6, "T12": 7, "T9": 10, "L5/S": 11, "L1/L2": 15, "T12/L1": 16, "T9/T10": 19
    }  # fmt: skip
    assert make_labelling(STRUCTURES, "kinds").labels == {"background": 0, "vertebrae": 1, "discs": 2}


def test_regions_of_spinemri_give_back_the_levels() -> None:
    """One-hot regions of each voxel, through nnU-Net's own conversion, are the labels again; a kind alone is none."""
    labelling = make_labelling(STRUCTURES, "regions")
    assert labelling.regions_class_order is not None
    manager = LabelManager(dict(labelling.labels), list(labelling.regions_class_order))
    values = np.arange(22)
    regions = [np.isin(values, region) for region in manager.foreground_regions]
    assert len(regions) == 21
    logits = np.where(np.stack(regions)[:, :, None, None], 9.0, -9.0)
    segmentation = np.asarray(manager.convert_logits_to_segmentation(logits))
    assert segmentation[:, 0, 0].tolist() == values.tolist()
    assert labelling.labels["vertebrae"] == [*range(1, 11), 20]
    assert labelling.labels["discs"] == [*range(11, 20), 21]


def slow_mapping(values: np.ndarray, table: Mapping[int, Structure], labelling: Labelling) -> np.ndarray:
    written = np.zeros(values.shape, np.uint8)
    for place, value in np.ndenumerate(values):
        written[place] = labelling.values[table[round(float(value))].name] if round(float(value)) else 0
    return written


@given(
    tables,
    st.data(),
    st.sampled_from(["levels", "kinds"]),
    st.sampled_from([np.uint16, np.int16, np.int32, np.float32, np.float64]),
)
def test_every_mask_of_known_values_is_mapped(
    table: dict[int, Structure], data: st.DataObject, scheme: str, dtype: type
) -> None:
    labelling = make_labelling(list(dict.fromkeys(table.values())), scheme)
    values = data.draw(arrays.arrays(np.int32, (2, 3, 4), elements=st.sampled_from([0, *table])))
    values[0, 0, :2] = 0, next(iter(table))
    mask = sitk.GetImageFromArray(values.astype(dtype))
    written, problems = map_labels(PATH, mask, make_lookup(table, labelling.values))
    assert problems == []
    np.testing.assert_array_equal(written, slow_mapping(values, table, labelling))


@given(
    arrays.arrays(np.float32, (2, 3, 4), elements=st.sampled_from([0.0, 1.0, 19.0])),
    st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3)),
    st.floats(-1e9, 1e9, width=32).filter(
        lambda value: not 0 <= round(value) <= 19 or abs(value - round(value)) > 2e-3
    ),
)
def test_one_foreign_voxel_is_found_and_named(values: np.ndarray, place: tuple[int, int, int], wrong: float) -> None:
    values[place] = wrong
    lookup = make_lookup(TABLE, make_labelling(STRUCTURES, "levels").values)
    written, problems = map_labels(PATH, sitk.GetImageFromArray(values), lookup)
    assert written is None
    assert [f"{wrong:g} (1 voxels)" in problem.found for problem in problems] == [True]
    assert problems[0].expected == "integers, of 0 to 19"


def test_a_mask_in_which_nothing_is_annotated_is_empty() -> None:
    table = {1: Structure("L5", "vertebrae"), 2: IGNORE}
    mask = np.zeros((2, 3, 4), np.uint8)
    mask[0] = 2
    for vertebra, problems in ((0, 1), (1, 0)):
        mask[1, 1, 1] = vertebra
        found = map_labels(PATH, sitk.GetImageFromArray(mask), make_lookup(table, {"L5": 1, "ignore": 2}), 2)[1]
        assert len(found) == problems


@pytest.mark.parametrize("name", ["background", "ignore", "L5"])
def test_names_are_unique(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        make_labelling([Structure("L5", "vertebrae"), Structure(name, "discs")], "levels")
