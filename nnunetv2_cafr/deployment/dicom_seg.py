"""A label map as a DICOM segmentation (SEG) that refers to the series it was predicted from, by highdicom.

Its frames lie on the slices of the source, or on the frames of a multi-frame file, voxel for voxel. Vertebrae and discs
have the SNOMED CT codes of the DICOM standard, PS3.16, context groups CID 7603 and CID 7604, as pydicom holds them; an
L6, a T13, and levels that are counted from the bottom are a vertebra or a disc without its number. What is no level is
an anatomical structure with its name.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from dataset_conversion.dicom import Series, list_dicom, read_series
from dataset_conversion.geometry import check_same_grid, orient, orientation_of
from nnunetv2_cafr.spine import SACRUM, colour_of, disc_of, vertebra_of

SERIES_NUMBER = 900  # ours: behind those of a scanner
DISC = Code("360499006", "SCT", "Intervertebral disc")  # of SNOMED CT; CID 7604 has no general one
# Of type 2: they may be empty, so that those of a series from which an anonymisation took them are.
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
IDENTITY = ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID")
UTF_8 = "ISO_IR 192"
LONGEST_LABEL = 64  # characters of DICOM's value representation LO


def code_of(name: str) -> Code:
    """What a label is, in SNOMED CT."""
    vertebra, disc = vertebra_of(name), disc_of(name)
    if vertebra == SACRUM:
        return codes.SCT.Sacrum
    if vertebra is not None:
        return codes.cid7603.concepts.get(f"{vertebra}Vertebra", codes.SCT.Vertebra)
    if disc is not None:
        lower, upper = ("S1" if one == SACRUM else one for one in disc)
        return codes.cid7604.concepts.get(f"{upper}{lower}Disc", DISC)
    return codes.cid7150.AnatomicalStructure


def refers_to(file: Path, folder: Path) -> bool:
    """Whether a segmentation is of the slices that lie in a folder now, and of their patient and examination."""
    of = pydicom.dcmread(file, stop_before_pixels=True)
    sources = {one.ReferencedSOPInstanceUID for one in of.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    for path in list_dicom(folder):
        one = pydicom.dcmread(path, specific_tags=["SOPInstanceUID", *IDENTITY], stop_before_pixels=True, force=True)
        if one.get("SOPInstanceUID") in sources and all(one.get(key, "") == of.get(key, "") for key in IDENTITY):
            sources.remove(one.SOPInstanceUID)
    return not sources


def segmentation(mask: sitk.Image, folder: Path, names: Mapping[int, str], network: str) -> bytes:
    """The file's content.

    Args:
        mask: label map on the grid of the series.
        folder: of the series.
        names: of the labels; the least is segment 1.
        network: by which it is.

    Raises:
        ValueError: if the series has another grid, or lacks what a segmentation refers to.
    """
    series, problems = read_series(folder)
    if series is not None:
        problems = check_same_grid(folder, mask, folder, series.image)
    if series is None or problems:
        raise ValueError("; ".join(problem.words for problem in problems))
    try:
        volume = _volume(mask, series, names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are not as the standard has them
            file = highdicom.seg.Segmentation(
                _sources(series, volume, f"{network}{''.join(names.values())}".isascii()),
                volume,  # of which highdicom finds the slices, or frames of a multi-frame file, in the series
                highdicom.seg.SegmentationTypeValues.BINARY,
                _descriptions(names, network),
                series_instance_uid=highdicom.UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="nnunetv2-cafr contributors",
                manufacturer_model_name="nnunetv2-cafr",
                software_versions=version("nnunetv2-cafr"),
                device_serial_number="none",
                content_description="Label map by a network, not a medical device",
                series_description="nnunetv2-cafr segmentation",
            )
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"its series lacks what a segmentation refers to ({error}): export the series again"
        ) from error
    content = io.BytesIO()
    file.save_as(content)
    return content.getvalue()


def _volume(mask: sitk.Image, series: Series, names: Mapping[int, str]) -> highdicom.Volume:
    """The numbers of the segments on the series' grid."""
    grid = series.image
    labels = sitk.GetArrayFromImage(orient(mask, orientation_of(grid)))
    segments = np.zeros(max(names) + 1, np.uint8 if len(names) < 256 else np.uint16)
    segments[sorted(names)] = np.arange(1, len(names) + 1)
    return highdicom.Volume.from_components(
        segments[labels],
        spacing=grid.GetSpacing()[::-1],
        direction=np.reshape(grid.GetDirection(), (3, 3))[:, ::-1].ravel().tolist(),
        position=grid.GetOrigin(),
        coordinate_system="PATIENT",
    )


def _descriptions(names: Mapping[int, str], network: str) -> list[highdicom.seg.SegmentDescription]:
    by = highdicom.AlgorithmIdentificationSequence(
        network[:LONGEST_LABEL], codes.cid7162.ArtificialIntelligence, version("nnunetv2-cafr")
    )
    return [
        highdicom.seg.SegmentDescription(
            number,
            names[label].replace("\\", "/")[:LONGEST_LABEL],  # a backslash parts values in DICOM
            codes.cid7150.AnatomicalStructure,
            code_of(names[label]),
            highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            by,
            display_color=highdicom.color.CIELabColor.from_rgb(*colour_of(names[label], label)),
        )
        for number, label in enumerate(sorted(names), 1)
    ]


def _sources(series: Series, volume: highdicom.Volume, is_ascii: bool) -> list[Dataset]:
    """The headers of the series, completed by what highdicom needs of them.

    Args:
        is_ascii: whether names of ours have no other letters.
    """
    headers: list[Dataset] = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in series.files]
    first = headers[0]  # which highdicom takes patient and examination from
    if "SharedFunctionalGroupsSequence" in first:  # a multi-frame file, which may say this frame by frame, or in part
        shared = first.SharedFunctionalGroupsSequence[0]
        shared.PixelMeasuresSequence = volume.get_pixel_measures()
        shared.PlaneOrientationSequence = volume.get_plane_orientation()
    for one in headers:
        if not one.get("SliceThickness"):  # which a segmentation has to have
            one.SliceThickness = volume.spacing_between_slices
    for keyword in MAY_BE_EMPTY:
        if keyword not in first:
            setattr(first, keyword, "")
    if not isinstance(first.get("SpecificCharacterSet", ""), str) or not is_ascii:
        first.decode()  # several sets, as in Japan, which highdicom refuses, or one that may lack letters of ours
        first.SpecificCharacterSet = UTF_8
    return headers
