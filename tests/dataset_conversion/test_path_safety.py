"""No name in a source makes a converter write outside its target."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import SimpleITK as sitk
from hypothesis import example, given
from hypothesis import strategies as st

from dataset_conversion.cases import Case
from dataset_conversion.collection import Collection
from dataset_conversion.conversion import convert
from dataset_conversion.labels import Structure
from dataset_conversion.problems import ConversionError

TABLE = {1: Structure("L5", "vertebrae"), 2: Structure("L4", "vertebrae")}
names = (
    st.text(st.characters(codec="utf-8"), max_size=30)
    | st.text("./\\ ~-ab\0", max_size=12)
    | st.text("é\u0301e", max_size=3)
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_pair: Callable[..., tuple[sitk.Image, sitk.Image]]) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for volume, name in zip(make_pair(), ("image", "mask"), strict=True):
        sitk.WriteImage(volume, str(folder / f"{name}.nii.gz"))
    return folder


@given(first=names, second=names)
@example("../../outside", "a")
@example("/tmp/outside", "a")
@example("..", ".")
@example("a/b", "a\\b")
@example("a", "A")
@example("é", "e\u0301")
@example("~", "a\0b")
@example("x" * 300, "ü" * 120)
@example("\udc80", "")
def test_identifiers(source: Path, first: str, second: str) -> None:
    image, mask = source / "image.nii.gz", source / "mask.nii.gz"
    cases = [Case(first, image, mask, patient="1"), Case(second, image, None, patient="2")]
    collection = Collection("Mine", source, cases, TABLE, "T2", "", "", "")
    with TemporaryDirectory() as name:
        root = Path(name)
        target = root / "raw" / "nnunet" / "Dataset001_Mine"
        try:
            convert(collection, target, "levels", 1, "test")
        except ConversionError as error:
            assert "identifier" in str(error) or "a second case named" in str(error)
            assert list(root.iterdir()) == []
            return
        written = sorted(path.relative_to(target).as_posix() for path in root.rglob("*") if path.is_file())
        assert written == sorted(
            [f"imagesTr/{first}_0000.nii.gz", f"imagesTs/{second}_0000.nii.gz", f"labelsTr/{first}.nii.gz",
             "dataset.json", "provenance.json"]
        )  # fmt: skip
        assert list(json.loads((target / "provenance.json").read_text())["cases"]) == [first, second]


def test_harmless_names_are_accepted(source: Path, tmp_path: Path) -> None:
    image, mask = source / "image.nii.gz", source / "mask.nii.gz"
    harmless = [*string.ascii_lowercase, "a b", "a.b", "a-1", "007", "7", "Müller", "病例 4", "x" * 200]
    cases = [Case(name, image, mask, patient=name) for name in harmless]
    convert(Collection("Mine", source, cases, TABLE, "T2", "", "", ""), tmp_path / "Dataset001_M", "levels", 1, "test")
    assert len(list((tmp_path / "Dataset001_M" / "labelsTr").iterdir())) == len(harmless)
