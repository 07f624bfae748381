"""Strategies of small raw data sets, right and wrong ones: dataset.json field by field, masks and provenance."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .files import SHAPE, Nifti, niftis

NAME = "Dataset042_Tiny"
LABELS = {"background": 0, "L5": 1, "L4": 2, "L5/S": 3}
GONE = "<gone>"  # a field that is left out

SCALARS = st.sampled_from(
    [None, True, False, 0, 1, 2, 3, -1, 1.0, 1.5, 10**12, np.nan, np.inf, "", "0", "1", "x", "ignore", ".nii"]
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab01"), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["background", "L5", "L4", "L5/S", "ignore", "spine", "0", ""])
ODD_VALUES = st.sampled_from(["1", 1.0, 2.5, None, True, 10**9, np.inf])
VALUES = st.integers(-1, 5) | st.lists(st.integers(-1, 4), max_size=4) | ODD_VALUES
ENDINGS = [".nii", ".nii.gz", "nii.gz", ".NII.GZ", ".png", ".mha", "", ".", "z", "/", "*"]
READERS = ["SimpleITKIO", "NibabelIO", "NaturalImage2DIO", "Tiff3DIO", "Nope", ""]
LISTED = ["imagesTr/c0_0000.nii.gz", "nope.nii.gz", "/", ""]
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "labels": st.dictionaries(NAMES, VALUES, max_size=5).map(lambda more: {"background": 0, **more})
    | st.dictionaries(NAMES, VALUES, max_size=5)
    | JSON,
    "channel_names": st.dictionaries(st.sampled_from(["0", "1", "2", "T2", ""]), SCALARS, max_size=3) | JSON,
    "file_ending": st.sampled_from(ENDINGS) | JSON,
    "numTraining": st.integers(-1, 8) | JSON,
    "overwrite_image_reader_writer": st.sampled_from(READERS) | JSON,
    "regions_class_order": st.lists(st.integers(-1, 4), max_size=4) | JSON,
    "dataset": JSON
    | st.dictionaries(
        st.sampled_from(["c0", "c1", "c 2"]),
        st.fixed_dictionaries(
            {},
            optional={
                "images": st.lists(st.sampled_from(LISTED), max_size=2) | JSON,
                "label": st.sampled_from(["labelsTr/c0.nii.gz", "labelsTr", "nope"]) | JSON,
            },
        ),
        max_size=3,
    ),
    "name": JSON,
}  # fmt: skip


def some_fields() -> st.SearchStrategy[dict[str, Any]]:
    """One or two fields of dataset.json that are other ones, or gone."""
    names = st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=2, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: st.just(GONE) | FIELDS[name] for name in chosen}))


def mask_of(values: tuple[float, ...], kind: str = "u1") -> np.ndarray:
    """A mask (x, y, z) of a block for each value."""
    mask = np.zeros(SHAPE, "f8")
    for place, value in enumerate(values):
        mask[1:4, place % SHAPE[1], 1:3] = value
    with np.errstate(all="ignore"):
        return mask.astype(kind)


MASK_VALUES = st.lists(st.sampled_from([1, 2, 3]), max_size=3).map(tuple) | st.lists(
    st.sampled_from([1, 2, 3, 4, 9, 255, -1, 0.9999, 1.0004, 1.5, 1e9, np.nan, np.inf]), max_size=3
).map(tuple)


@dataclass(frozen=True)
class RawDataset:
    """A data set of sound cases, then spoilt.

    Attributes:
        fields: over those of dataset.json.
        text: instead of dataset.json, if not None.
        masks: values of each case's mask, and its type.
        images, files: in place of some cases' image, of some cases' mask.
        provenance: content of provenance.json, or None.
        lost: files that are not there.
    """

    cases: int = 2
    fields: Mapping[str, Any] = field(default_factory=dict)
    text: bytes | None = None
    masks: Mapping[int, tuple[tuple[float, ...], str]] = field(default_factory=dict)
    images: Mapping[int, Nifti] = field(default_factory=dict)
    files: Mapping[int, Nifti] = field(default_factory=dict)
    provenance: Any = None
    lost: frozenset[str] = frozenset()

    @property
    def identifiers(self) -> list[str]:
        return [f"c{number}" for number in range(self.cases)]

    def write(self, raw: Path) -> Path:
        folder = raw / NAME
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True)
        for number, name in enumerate(self.identifiers):
            image = self.images.get(number, Nifti(seed=number, compressed=True))
            (folder / "imagesTr" / f"{name}_0000.nii.gz").write_bytes(image.content())
            values, kind = self.masks.get(number, ((1, 2, 3), "u1"))
            mask = self.files.get(number, Nifti(compressed=True))
            (folder / "labelsTr" / f"{name}.nii.gz").write_bytes(mask.content(mask_of(values, kind)))
        for name in self.lost:
            (folder / name).unlink(missing_ok=True)
        description = {
            "labels": LABELS,
            "channel_names": {"0": "T2"},
            "file_ending": ".nii.gz",
            "numTraining": self.cases,
            **self.fields,
        }
        text = json.dumps({key: value for key, value in description.items() if value != GONE}).encode()
        (folder / "dataset.json").write_bytes(text if self.text is None else self.text)
        if self.provenance is not None:
            (folder / "provenance.json").write_text(json.dumps(self.provenance))
        return folder


def compressed(nifti: Nifti) -> Nifti:
    return Nifti(**{**nifti.__dict__, "compressed": True})


def datasets(cases: int) -> st.SearchStrategy[RawDataset]:
    """With one part wrong: dataset.json, its text, masks' values, a file, or the provenance."""
    one = st.integers(0, cases - 1)
    patients = st.sampled_from(["p0", "p1", "p2", "", None, 7])
    entries = st.fixed_dictionaries(
        {f"c{number}": st.fixed_dictionaries({"patient": patients}) | JSON for number in range(cases)}
    )
    spoilt: dict[str, st.SearchStrategy[Any]] = {
        "fields": some_fields(),
        "text": st.binary(max_size=20)
        | st.sampled_from([b"[]", b"null", b'{"labels": {', b"\xef\xbb\xbf{}", b"1e999"]),
        "masks": st.dictionaries(
            one, st.tuples(MASK_VALUES, st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8"])), min_size=1, max_size=2
        ),
        "images": st.dictionaries(one, niftis().map(compressed), min_size=1, max_size=1),
        "files": st.dictionaries(one, niftis().map(compressed), min_size=1, max_size=1),
        "provenance": JSON | st.fixed_dictionaries({"cases": entries | JSON}),
        "lost": st.frozensets(
            st.sampled_from(["imagesTr/c0_0000.nii.gz", "labelsTr/c1.nii.gz", "dataset.json"]), min_size=1, max_size=2
        ),
    }
    kinds = st.sampled_from(["fields", "fields", "fields", *spoilt])
    return kinds.flatmap(lambda name: st.builds(RawDataset, cases=st.just(cases), **{name: spoilt[name]}))
