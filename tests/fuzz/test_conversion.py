"""Cases as converters check and write them, held against nibabel's reading of source and result."""

import tempfile
from pathlib import Path

import nibabel
import numpy as np
from hypothesis import strategies as st

from dataset_conversion import staging
from dataset_conversion.cases import Case
from dataset_conversion.conversion import process_case
from dataset_conversion.folder import main
from dataset_conversion.labels import Structure
from nnunetv2_cafr.errors import UserError

from .files import SHAPE, Nifti, niftis, sound_niftis
from .harness import assert_named, fuzz, outcome_of

TABLE = {1: Structure("L5", "vertebrae"), 2: Structure("L4", "vertebrae"), 7: Structure("L5/S", "discs")}
VALUES = {"L5": 1, "L4": 2, "L5/S": 3}
WRITTEN = {0: 0, 1: 1, 2: 2, 7: 3}
LAYOUT = """name: Tiny
channel: T2
images: images/{id}.nii*
masks: masks/{id}.nii*
labels:
  vertebrae: {1: L5, 2: L4}
  discs: {7: L5/S}
"""


def masks() -> st.SearchStrategy[np.ndarray]:
    """Masks of some values, right and wrong ones, in some type."""
    right = st.lists(st.sampled_from([1, 2, 7]), min_size=1, max_size=3)
    odd = st.sampled_from(
        [0.9999, 1.0005, 1.01, 1.5, -1, 3, 8, 255, 256, 300, 65535, 65537, 2**31, 1e20, np.nan, np.inf]
    )
    values = right | st.builds(lambda one, other: [*one, other], right, odd)
    return st.builds(_mask, values, st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8"]), st.booleans())


def _mask(values: list[float], kind: str, full: bool) -> np.ndarray:
    mask = np.zeros(SHAPE, "f8")
    mask.ravel()[20 : 20 + 9 * len(values)] = np.repeat(values, 9)
    if full:
        mask[mask == 0] = values[0]
    with np.errstate(all="ignore"):
        return mask.astype(kind)


def _canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return image.get_fdata().reshape(image.shape[:3]), image.affine


def _convert(image: Nifti, mask: Nifti, labels: np.ndarray) -> str:
    with tempfile.TemporaryDirectory() as name:
        source, result = Path(name) / "source", Path(name) / "result"
        case = Case("a", source / f"image{image.ending}", source / f"mask{mask.ending}", patient="a")
        for folder in (source, result / "imagesTr", result / "labelsTr", result / staging.RECORDS):
            folder.mkdir(parents=True)
        case.image.write_bytes(image.content())
        case.mask.write_bytes(mask.content(labels))
        _, record, problems = process_case(case, TABLE, VALUES, "T2", result)
        files = {path.relative_to(result).as_posix() for path in result.rglob("*") if path.is_file()}
        if problems:
            assert_named(problems, source)
            assert not files and not record
            return outcome_of(problems)
        written = [staging.image_path(result, case), staging.mask_path(result, case)]
        assert files == {*(path.relative_to(result).as_posix() for path in written), f"{staging.RECORDS}/a.json"}
        for before, after in zip((case.image, case.mask), written, strict=True):
            (values, affine), (found, place) = _canonical(before), _canonical(after)
            if before == case.mask:
                values = np.vectorize(WRITTEN.get)(np.rint(values).astype(int))
            np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5 * np.abs(values).max())
            np.testing.assert_allclose(place, affine, atol=0.11)
        return "converted"


@fuzz(40, image=sound_niftis(), labels=masks())
def test_labels(image: Nifti, labels: np.ndarray) -> str:
    """Masks of any values and type: each voxel's label is that of the table, or the mask is refused."""
    return _convert(image, Nifti(order=image.order, tilt=image.tilt, compressed=True), labels)


@fuzz(40, image=niftis(), mask=st.just(Nifti()) | niftis())
def test_pair(image: Nifti, mask: Nifti) -> str:
    """Spoilt images and masks: both in their place, or nothing written."""
    return _convert(image, mask, _mask([1, 2, 7], "u1", False))


@fuzz(6, image=sound_niftis() | niftis(), labels=masks())
def test_command(image: Nifti, labels: np.ndarray) -> str:
    """The command over a sound case and another: a complete data set, or none and nothing left."""
    with tempfile.TemporaryDirectory() as name:
        source, raw = Path(name) / "source", Path(name) / "raw"
        for case, scan, values in (("good", Nifti(), _mask([1, 2, 7], "u1", False)), ("other", image, labels)):
            for kind, content in (
                ("images", scan.content()),
                ("masks", Nifti(order=scan.order, tilt=scan.tilt).content(values)),
            ):
                (source / kind).mkdir(parents=True, exist_ok=True)
                ending = scan.ending if kind == "images" else ".nii"
                (source / kind / f"{case}{ending}").write_bytes(content)
        layout = Path(name) / "layout.yaml"
        layout.write_text(LAYOUT)
        try:
            status = main(["-i", str(source), "--layout", str(layout), "-d", "7", "-o", str(raw), "-np", "1"])
        except UserError:
            assert not raw.exists() or not list(raw.iterdir())
            return "refused"
        assert status == 0
        assert [path.name for path in raw.iterdir()] == ["Dataset007_Tiny"]
        return "converted"
