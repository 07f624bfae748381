"""`check` over small raw data sets: a page and a table, or a refusal; no errors only where nnU-Net has none either."""

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunetv2_cafr.commands import check
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.quality.findings import EXIT_ERRORS

from .datasets import RawDataset, datasets
from .harness import fuzz


def assert_nnunet_agrees(folder: Path) -> None:
    """What nnUNetv2_plan_and_preprocess --verify_dataset_integrity asks, but for starting processes."""
    description = json.loads((folder / "dataset.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        reader = determine_reader_writer_from_dataset_json(description, verbose=False)
        files = get_filenames_of_train_images_and_targets(str(folder), description)
    assert len(files) == description["numTraining"]
    manager = LabelManager(description["labels"], description.get("regions_class_order"))
    ignore = [] if manager.ignore_label is None else [manager.ignore_label]
    for case in files.values():
        assert len(case["images"]) == len(description["channel_names"])
        images, _ = reader().read_images(case["images"])
        mask, _ = reader().read_seg(case["label"])
        assert np.isfinite(images).all() and np.isfinite(mask).all()
        assert set(np.unique(mask)) <= {*manager.all_labels, *ignore, 0}
        assert images.shape[1:] == mask.shape[1:]


@fuzz(60, dataset=datasets(2))
def test_check(dataset: RawDataset) -> str:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = dataset.write(root / "raw")
        os.environ["nnUNet_raw"] = str(root / "raw")
        try:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                status = check.run(argparse.Namespace(d="42", o=root / "out", np=1))
        except UserError as refusal:
            assert not (root / "out").exists() and folder.name in str(refusal), refusal
            return "refused"
        left = sorted(path.name for path in root.rglob("*") if path.is_relative_to(root / "out"))
        assert left == ["findings.csv", "out", "report.html"], left
        if status == EXIT_ERRORS:
            return "errors"
        assert_nnunet_agrees(folder)
        return "no errors"
