"""`evaluate` on pairs of label maps: the Dice that nibabel's voxels have, or a refusal and nothing written."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from hypothesis import strategies as st

from nnunetv2_cafr import cli
from nnunetv2_cafr.errors import UserError

from .datasets import GONE, LABELS, MASK_VALUES, compressed, mask_of, some_fields
from .files import Nifti, niftis, sound_niftis
from .harness import fuzz

TYPES = st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8"])


def _values(path: Path) -> np.ndarray:
    return nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()


def _evaluate(maps: tuple[bytes, bytes], fields: dict[str, object]) -> str:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder, content in zip(("references", "predictions"), maps, strict=True):
            (root / folder).mkdir()
            (root / folder / "a.nii.gz").write_bytes(content)
        description = {"labels": LABELS, "file_ending": ".nii.gz", **fields}
        content = {key: value for key, value in description.items() if value != GONE}
        (root / "dataset.json").write_text(json.dumps(content))
        arguments = [str(root / "references"), str(root / "predictions"), "-o", str(root / "out"), "-np", "1"]
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                assert cli.main(["evaluate", *arguments]) == 0
        except UserError as refusal:
            assert str(root) in str(refusal), refusal
            assert not (root / "out").exists()
            return "refused"
        table = pd.read_csv(root / "out" / "classes.csv")
        rows = table[table["view"] == "volume"].set_index("name")["dice"]
        reference, prediction = (_values(root / folder / "a.nii.gz") for folder in ("references", "predictions"))
        ignored = content["labels"].get("ignore")
        if ignored is not None:
            prediction = np.where(reference == ignored, 0, prediction)
        for label, value in content["labels"].items():
            if label not in rows.index:
                continue
            one, other = np.isin(reference, value), np.isin(prediction, value)
            total = one.sum() + other.sum()
            expected = 2 * (one & other).sum() / total if total else np.nan
            np.testing.assert_allclose(rows[label], expected, atol=1e-6)
        return "scored"


@fuzz(30, nifti=sound_niftis(), reference=MASK_VALUES, prediction=MASK_VALUES, kinds=st.tuples(TYPES, TYPES))
def test_values(
    nifti: Nifti, reference: tuple[float, ...], prediction: tuple[float, ...], kinds: tuple[str, str]
) -> str:
    one = compressed(Nifti(order=nifti.order, tilt=nifti.tilt, forms=nifti.forms, big_endian=nifti.big_endian))
    maps = one.content(mask_of(reference, kinds[0])), one.content(mask_of(prediction, kinds[1]))
    return _evaluate(maps, {})


@fuzz(30, spoilt=niftis().map(compressed), sound=sound_niftis().map(compressed), swap=st.booleans())
def test_headers(spoilt: Nifti, sound: Nifti, swap: bool) -> str:
    first = spoilt.content(mask_of((1, 2, 3)))
    second = Nifti(order=spoilt.order, tilt=spoilt.tilt, forms=sound.forms, compressed=True).content(mask_of((1, 3, 2)))
    return _evaluate((second, first) if swap else (first, second), {})


@fuzz(30, fields=some_fields())
def test_description(fields: dict[str, object]) -> str:
    one, other = (Nifti(compressed=True).content(mask_of(values)) for values in ((1, 2, 3), (1, 3, 3)))
    return _evaluate((one, other), {key: value for key, value in fields.items() if key in ("labels", "file_ending")})


def test_found() -> None:
    """A label map of which SimpleITK reads beyond its memory, and with it the process ended; one that is cut off."""
    sound = Nifti(compressed=True).content(mask_of((1, 2)))
    for wrong in (
        Nifti(compressed=True, kind="i4", fields={"datatype": 1792, "intent_code": 1007}),
        Nifti(compressed=True, fields={"dim": [3, 5, 6, 9, 1, 1, 1, 1]}),
    ):
        assert _evaluate((wrong.content(), sound), {}) == "refused"
        assert _evaluate((sound, wrong.content()), {}) == "refused"
