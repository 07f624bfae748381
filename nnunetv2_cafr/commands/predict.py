"""`nnUNetv2_cafr predict`: label maps from an exported network, the same as nnUNetv2_predict's, in less time.

Images are NIfTI, MetaImage or NRRD files, or folders with a DICOM series each, voxels in any order. Reading,
preprocessing, sliding window, mirroring and the way back to the image's grid are nnU-Net's; trainers, checkpoints and
PyTorch's networks are not needed. Images are checked as by the converters. A study that fails does not stop the others:
it is listed at the end, and the exit status is 1. Nothing is overwritten but what this network wrote, which
predict.json knows.

Beside the label maps of a folder lie preview.html, all studies on one page with contours and the doubtful first; of
spines, measurements.csv and .json (see nnUNetv2_cafr measure --help); names and colours for 3D Slicer and ITK-SNAP.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_cafr import options
from nnunetv2_cafr.deployment.runtime import PRECISIONS, RUNTIMES
from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.spine import read_spine, unread_levels

if TYPE_CHECKING:
    from nnunetv2_cafr.deployment.description import Description
    from nnunetv2_cafr.deployment.label_maps import LabelMaps
    from nnunetv2_cafr.deployment.studies import Study

EXAMPLES = """examples:
  nnUNetv2_cafr predict -m model.onnx -i imagesTs -o predictions
  nnUNetv2_cafr predict -m model.onnx -i imagesTs -o predictions --levels
  nnUNetv2_cafr predict -m model.onnx -i scan.mha dicom_folder -o predictions --precision bf16
  nnUNetv2_cafr predict -m model.onnx -i imagesTs -o predictions --png
  nnUNetv2_cafr predict -m model.onnx -i dicom_folder -o predictions --dicom-seg
  nnUNetv2_cafr predict -m model.onnx -i scan.nii.gz -o labels.nii.gz

exit status: 0 all studies were predicted, 1 some failed, 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m", required=True, metavar="MODEL", help="a network, by nnUNetv2_cafr export, or an installed one's name"
    )
    parser.add_argument(
        "-i", type=Path, required=True, nargs="+", metavar="PATH", help="images, or folders of images or DICOM series"
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="FOLDER", help="where the label maps go; for one image also a new file"
    )
    parser.add_argument("--runtime", choices=RUNTIMES, default="openvino", help="default openvino")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="default float32; bf16 by openvino")
    parser.add_argument("--disable_tta", action="store_true", help="no mirroring; faster, less accurate")
    parser.add_argument(
        "-step_size",
        type=options.number("step size", 0, 1, inclusive=False),
        default=0.5,
        help="of the sliding window, in patches (default 0.5)",
    )
    parser.add_argument("--threads", type=options.whole_number("number of threads"), metavar="N", help="default all")
    parser.add_argument(
        "--levels", action="store_true", help="consistent spine levels, see nnUNetv2_cafr relabel --help"
    )
    parser.add_argument(
        "--png", action="store_true", help="also a picture of each study with contours, FOLDER/preview/STUDY.png"
    )
    parser.add_argument(
        "--dicom-seg",
        action="store_true",
        help="also a DICOM segmentation of each DICOM series, FOLDER/STUDY.seg.dcm, that refers to it; needs "
        "nnunetv2-cafr[dicom]",
    )
    parser.add_argument(
        "--continue_prediction", action="store_true", help="skip studies whose label map is there, by this network"
    )


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2_cafr.deployment.description import Description
    from nnunetv2_cafr.deployment.label_maps import LabelMaps
    from nnunetv2_cafr.deployment.library import find_model
    from nnunetv2_cafr.deployment.studies import find_studies, series_of

    # All that can be refused is refused here, before torch is imported.
    try:
        arguments.m = find_model(arguments.m)
    except ValueError as error:
        raise UserError(str(error)) from error
    description = Description.read(arguments.m)
    try:
        studies = find_studies(arguments.i, description, arguments.o)
    except OSError as error:
        where = error.filename or ", ".join(map(str, arguments.i))
        raise UserError(f"{where} cannot be read ({error.strerror or error}), and scans may be in it") from error
    if arguments.dicom_seg:
        if importlib.util.find_spec("highdicom") is None:
            raise UserError("--dicom-seg needs highdicom: pip install 'nnunetv2-cafr[dicom]'")
        if all(series_of(study) is None for study in studies):
            raise UserError("--dicom-seg refers to the DICOM series that is read, and none is: give folders with one")
    settings = {name: getattr(arguments, name) for name in ("precision", "disable_tta", "step_size", "levels")}
    maps = LabelMaps(arguments.o, description, arguments.m, settings, arguments.png, arguments.dicom_seg)
    try:
        todo = maps.choose(studies, arguments.i, arguments.continue_prediction)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    if not todo:
        print(f"All {len(studies)} label maps are in {arguments.o} already")
    failed = _predict(arguments, description, maps, todo, len(studies) - len(todo)) if todo else {}
    status = int(bool(failed))
    if maps.file is None:
        from nnunetv2_cafr.deployment.beside import write_beside

        status |= write_beside(studies, failed, maps)
    return status


def _predict(
    arguments: argparse.Namespace, description: Description, maps: LabelMaps, todo: Sequence[Study], done: int
) -> dict[str, str]:
    """Predicts the studies that are to be done; returns why some failed."""
    from nnunetv2_cafr.deployment.model import prepare
    from nnunetv2_cafr.deployment.orders import warning_of_unknown_order
    from nnunetv2_cafr.deployment.prediction import predict_all
    from nnunetv2_cafr.deployment.record import PredictionRecord, writing_beside
    from nnunetv2_cafr.levels.files import STATISTICS_FILE, TABLE_FILE, Record

    record = None
    settings = {"network": str(arguments.m)}
    if arguments.levels:
        labels = description.dataset_json["labels"]
        try:
            unread = unread_levels(labels, read_spine(labels))
        except ValueError as error:
            raise UserError(f"--levels cannot be used with {arguments.m}: {error}. Predict without it") from error
        if unread:
            raise UserError(
                f"--levels cannot be used with {arguments.m}: it has names that are read as no level, and would keep "
                f"their numbers where vertebrae get others: {shorten(unread)}. Predict without it, and give "
                "nnUNetv2_cafr relabel a dataset.json with names such as L5 and L4/L5 by --labels"
            )
        try:
            record = Record(maps.folder if maps.file is None else None, settings, writing_beside)
        except ValueError as error:
            raise UserError(str(error)) from error
    elif maps.file is None and all(map(PredictionRecord(maps.folder).has, (STATISTICS_FILE, TABLE_FILE))):
        record = Record(maps.folder, settings, writing_beside)
    if warning := warning_of_unknown_order(description.reader, description.training_voxel_orders):
        print(warning)

    model = prepare(
        arguments.m,
        description,
        runtime=arguments.runtime,
        precision=arguments.precision,
        threads=arguments.threads,
        mirroring=not arguments.disable_tta,
        step_size=arguments.step_size,
    )
    return predict_all(todo, done, model, maps, record)
