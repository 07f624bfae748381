"""In which voxel orders the cases are stored that a network was trained on, from what its training left on the disk."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from dataset_conversion.reading import lacks_orientation
from nnunetv2_cafr.training.orientation import unoriented_cases
from nnunetv2_cafr.voxel_order import NO_ORDER, order_of, stored_order_of


def orders_of_training(
    folder: Path, dataset: str, data_identifier: str, description: Mapping[str, Any]
) -> dict[str, int]:
    """How many training cases are stored in which voxel order, or in none, from the first place that tells.

    These are the preprocessed cases, the raw images, and the label maps of the folds' validation, which are stored as
    their cases are.

    Args:
        folder: of the trained model.
        data_identifier: of the preprocessed cases.
        description: content of dataset.json.
    """
    ending = description["file_ending"]
    orders: list[str | None] = []
    if nnUNet_preprocessed.is_set():
        preprocessed = Path(nnUNet_preprocessed.get(), dataset, data_identifier)
        if preprocessed.is_dir() and any(preprocessed.iterdir()):
            cases = infer_dataset_class(str(preprocessed))(str(preprocessed))
            unknown = unoriented_cases(dataset, description)
            orders = [
                None if name in unknown else stored_order_of(cases.load_case(name)[3]) for name in cases.identifiers
            ]
    if not orders and nnUNet_raw.is_set():
        orders = [_order_of_file(file) for file in Path(nnUNet_raw.get(), dataset, "imagesTr").glob(f"*_0000{ending}")]
    if not orders:
        orders = [_order_of_file(file) for file in folder.glob(f"fold_*/validation/*{ending}")]
    return dict(Counter(order or NO_ORDER for order in orders).most_common())


def _order_of_file(file: Path) -> str | None:
    if lacks_orientation(file):
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return order_of({"sitk_stuff": {"direction": reader.GetDirection()}})
