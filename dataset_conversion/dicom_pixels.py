"""The pixels of a DICOM file as values: decompressed, without padding, rescaled.

pydicom rescales each slice by its own slope and intercept. GDCM, in SimpleITK, only decompresses: its own rescaling
casts all slices to the pixel type of the first, and turns MONOCHROME1 around within 16 bits.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from dataset_conversion.problems import Problem
from nnunetv2_cafr.errors import last_line

COPY_AGAIN = "copy the series again from its source, or leave the case out"
RESCALING = ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "PixelRepresentation")
PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
PIXEL_TAGS = (*RESCALING, *PADDING)  # of a header, which `pixels_of` asks for
FAR = 0.1  # of the other values' range, by which padding lies below them where it is no dark background
LAYOUT = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip


class Pixels(NamedTuple):
    """Values (rows, columns) of a slice, and which of them its header calls padding."""

    values: np.ndarray
    padding: np.ndarray


class UnreadableError(Exception):
    """A file without intact pixels; `problem` says which, and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.found)
        self.problem = problem


def unreadable(path: Path, error: Exception) -> UnreadableError:
    found = f"a slice that cannot be read ({last_line(error)})"
    return UnreadableError(Problem(path, found, "an intact DICOM slice", COPY_AGAIN))


def pixels_of(stored: np.ndarray, header: Dataset, path: Path) -> Pixels:
    """Stored pixels (rows, columns), rescaled by what the header says itself; as stored where it says nothing.

    Raises:
        UnreadableError: if what it says is odd; `path` is for its message.
    """
    said = Dataset()
    for key in RESCALING:  # present but empty: nothing is said
        if key in header and not header[key].is_empty:
            said[key] = header[key]
    try:
        if said.get("RescaleSlope") == 0:
            raise ValueError("RescaleSlope 0, which would make all its values alike")
        if ("RescaleSlope" in said) != ("RescaleIntercept" in said):  # pydicom would apply neither
            said.setdefault("RescaleSlope", 1)
            said.setdefault("RescaleIntercept", 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Pixels(smallest_type(np.asarray(apply_modality_lut(stored, said))), _padding(stored, header))
    except Exception as error:  # of odd values, pydicom raises nearly anything
        raise unreadable(path, error) from error


def _padding(stored: np.ndarray, header: Dataset) -> np.ndarray:
    """Which stored pixels have the value, or one in the range, that a scanner filled up with."""
    first, limit = (header.get(key) for key in PADDING)
    if not isinstance(first, int):
        return np.zeros(stored.shape, bool)
    last = limit if isinstance(limit, int) else first
    # Its type may be another one than the pixels': 63536 for -2000.
    low, high = sorted(int(np.int64(one).astype(stored.dtype)) for one in (first, last))
    return (stored >= low) & (stored <= high)


def without_padding(slices: Sequence[Pixels]) -> tuple[np.ndarray, int]:
    """Values (slices, rows, columns) with padding that is no signal set to the darkest other value, and how much it is.

    Only padding above all other values of the series, or FAR below them; any other is a dark background.
    """
    values, padding = (np.stack(parts) for parts in zip(*slices, strict=True))
    if not padding.any() or padding.all():
        return values, 0
    filled, image = values[padding], values[~padding]
    low, high = float(image.min()), float(image.max())
    if filled.min() <= high and filled.max() >= low - FAR * (high - low):
        return values, 0
    return np.where(padding, image.min(), values), len(filled)


def stored_values(path: Path) -> np.ndarray:
    """Pixels (frames, rows, columns) of a file as they are stored.

    Raises:
        UnreadableError: if there are none, or they are damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True)
            syntax = dataset.file_meta.get("TransferSyntaxUID")
            if syntax is None:  # a file without preamble
                implicit, little = dataset.original_encoding
                explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                syntax = dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
            if "Rows" not in dataset:
                raise ValueError("it ends before its image")
            if (high := dataset.get("HighBit")) is not None and high != dataset.BitsStored - 1:
                raise ValueError(f"HighBit {high} of {dataset.BitsStored} bits, expected {dataset.BitsStored - 1}")
            values = _decompressed(dataset) if syntax.is_encapsulated else dataset.pixel_array
            frames = int(dataset.get("NumberOfFrames") or 1)
            if values.size != frames * dataset.Rows * dataset.Columns:
                raise ValueError(f"pixels of shape {values.shape}")
            return values.reshape(frames, dataset.Rows, dataset.Columns)
    except Exception as error:  # of a damaged file, pydicom and GDCM raise nearly anything
        raise unreadable(path, error) from error


def _decompressed(dataset: Any) -> np.ndarray:
    """Pixels (frames, rows, columns) by GDCM, which sees nothing by which it would rescale them or turn them round."""
    plain = Dataset()
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    plain.SOPClassUID, plain.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    plain.PhotometricInterpretation = "MONOCHROME2"
    for key in LAYOUT:
        plain[key] = dataset[key]
    number = int(dataset.get("NumberOfFrames") or 1)
    frames = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slice.dcm"
        for frame in generate_frames(dataset.PixelData, number_of_frames=number):
            plain.PixelData = encapsulate([frame])
            plain.save_as(file, enforce_file_format=True)
            try:
                frames.append(sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))[0])
            except RuntimeError as error:
                raise ValueError(f"GDCM does not decompress it: {plain.file_meta.TransferSyntaxUID.name}") from error
    return np.stack(frames)


def smallest_type(values: np.ndarray) -> np.ndarray:
    """The same values in 16 or 32 bits: integers where all are, else float32."""
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        return values.astype(np.float32)
    lowest, highest = values.min(), values.max()
    for kind in (np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.float32)
