"""A label map by the reader of nnU-Net that its data set names, or a sentence that says why it cannot be read."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from dataset_conversion.reading import fault_of
from nnunetv2_cafr.errors import last_line, ranges, shorten


def refuse_foreign_labels(path: Path, found: np.ndarray, allowed: Collection[int]) -> None:
    """Raises ValueError if a label map's values are others than `allowed` and 0; names them and the file."""
    if foreign := [f"{value:g}" for value in found if value != 0 and value not in allowed]:
        raise ValueError(
            f"{path} holds {shorten(foreign)}, but the labels are {ranges(sorted(allowed))}. Give the dataset.json "
            "that it belongs to"
        )


def read_label_file(
    path: Path, reader: type[BaseReaderWriter], oriented: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """A label map (channels, z, y, x), and what nnU-Net's writer needs to know of its grid.

    Args:
        oriented: whether it has to say how it lies in the patient.

    Raises:
        ValueError: if it cannot be read; in a sentence that names it.
    """
    if fault := fault_of(path, oriented):  # SimpleITK returns zeros for what is missing of a truncated file
        raise ValueError(fault)
    try:
        return reader().read_seg(str(path))
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        by = f"nnU-Net's {reader.__name__}, the data set's reader"
        raise ValueError(
            f"{path} cannot be read by {by} ({last_line(error)}): restore it from its source; give one of two "
            "dimensions as a volume of one slice, which every reader knows"
        ) from error
