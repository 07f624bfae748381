"""What kind of image a DICOM series is, as far as its header says: CT or MR, T1- or T2-weighted, a map of something."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

TAGS = ("Modality", "SeriesDescription", "ScanningSequence", "EchoTime", "RepetitionTime", "ImageType")
WEIGHTING = re.compile(r"(?<![a-z0-9])t([12])(?![0-9])", re.IGNORECASE)  # also in t1_tse_sag and T2w, not in T12
MR = re.compile(r"(?<![a-z0-9])(t[12](?![0-9])|mri?(?![a-z])|stir|flair|pd|dixon)", re.IGNORECASE)
CT = re.compile(r"(?<![a-z0-9])ct(?![a-z0-9])", re.IGNORECASE)
# Values of ImageType, as several vendors write them, of images whose grey is no signal as it was measured.
MAPS = {
    **dict.fromkeys(("P", "PHASE", "PHASE MAP"), "phase"),
    **dict.fromkeys(("MIP", "MAX_IP", "MIN_IP", "MNIP"), "projection"),
    **dict.fromkeys(("R", "REAL", "I", "IMAGINARY"), "real or imaginary part"),
    **{"ADC": "ADC", "FA": "FA", "SUBTRACTION": "subtraction", "T1 MAP": "T1 map", "T2 MAP": "T2 map"},
}
# ms, of a spin echo; between them lies proton density, and what cannot be told by two numbers
LONG_ECHO, SHORT_ECHO, SHORT_REPETITION = 60, 30, 1200


@dataclass(frozen=True)
class Acquisition:
    """How a series was made.

    Args:
        modality: in DICOM's letters; empty where the header has none.
        weighting: T1 or T2, or empty where the header does not say.
        evidence: what the weighting is known by.
        derived: which map or image it is, such as ADC; empty for a plain one.
    """

    modality: str
    weighting: str = ""
    evidence: str = ""
    derived: str = ""


def acquisition_of(header: Dataset) -> Acquisition:
    """By the series' name, or the times of a spin echo; of TAGS, the header has those that the file has."""
    return replace(_weighted(header), derived=_derived(header))


def _derived(header: Dataset) -> str:
    values = header.get("ImageType") or ()
    values = [values] if isinstance(values, str) else [str(value).upper() for value in values]
    return next((MAPS[value] for value in values[2:] if value in MAPS), "")


def _weighted(header: Dataset) -> Acquisition:
    modality = str(header.get("Modality") or "")
    name = str(header.get("SeriesDescription") or "")
    if weighting := weighting_in(name):
        return Acquisition(modality, weighting, f"it is called {name!r}")
    try:
        echo, repetition = float(header.get("EchoTime")), float(header.get("RepetitionTime"))
    except (TypeError, ValueError):
        return Acquisition(modality)
    if header.get("ScanningSequence") != "SE":  # with inversion (IR) or of gradients (GR), the times say less
        return Acquisition(modality)
    evidence = f"a spin echo of TE {echo:g} ms and TR {repetition:g} ms"
    if echo >= LONG_ECHO:
        return Acquisition(modality, "T2", evidence)
    if echo <= SHORT_ECHO and repetition <= SHORT_REPETITION:
        return Acquisition(modality, "T1", evidence)
    return Acquisition(modality)


def weighting_in(name: str) -> str:
    """T1 or T2, if the name of a series or of a channel holds one of them alone."""
    found = {match[1] for match in WEIGHTING.finditer(name)}
    return f"T{found.pop()}" if len(found) == 1 else ""


def doubt_about_contrast(acquisition: Acquisition, channel: str) -> str | None:
    """What a series is, if it is none of a channel of this name; None where it may be one, or one does not say.

    Names of vertebrae are no weighting: a channel or a series is taken for neither if it holds T1 and T2.
    """
    modality, weighting = acquisition.modality, weighting_in(channel)
    if (modality == "CT" and MR.search(channel)) or (modality == "MR" and CT.search(channel)):
        return f"a {modality} series"
    if acquisition.derived and acquisition.derived.lower() not in channel.lower():
        return f"a series of the kind {acquisition.derived!r}, by its ImageType"
    if weighting and acquisition.weighting and acquisition.weighting != weighting:
        return f"a {acquisition.weighting}-weighted series ({acquisition.evidence})"
    return None
