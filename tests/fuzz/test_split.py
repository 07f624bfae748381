"""`split` over small raw data sets: folds that divide the cases by patient, or a refusal and nothing written."""

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

from nnunetv2_cafr.commands import split
from nnunetv2_cafr.errors import UserError

from .datasets import GONE, RawDataset, datasets
from .harness import fuzz


@fuzz(40, dataset=datasets(7))
def test_split(dataset: RawDataset) -> str:
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "raw"
        folder = dataset.write(raw)
        os.environ["nnUNet_raw"] = str(raw)
        os.environ.pop("nnUNet_preprocessed", None)
        before = set(raw.rglob("*"))
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                status = split.run(argparse.Namespace(d="42", scheme="folds", t=None, seed=1, np=1))
        except UserError as refusal:
            assert folder.name in str(refusal), refusal
            assert set(raw.rglob("*")) == before
            return "refused"
        assert status == 0
        assert set(raw.rglob("*")) - before == {folder / "splits_final.json"}
        folds = json.loads((folder / "splits_final.json").read_text())
        validated = sorted(case for fold in folds for case in fold["val"])
        listed = dataset.fields.get("dataset", GONE)
        cases = sorted(dataset.identifiers if listed == GONE else listed)
        assert validated == cases and len(folds) == 5
        patients = (dataset.provenance or {}).get("cases", {})
        for fold in folds:
            assert sorted(fold["train"] + fold["val"]) == cases
            sides = [
                {patients.get(case, {"patient": case})["patient"] for case in fold[side]} for side in ("train", "val")
            ]
            assert not sides[0] & sides[1]
        return "split"
