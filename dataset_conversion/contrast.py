"""What kind of image a DICOM series is, as far as its header says: CT or MR, T1- or T2-weighted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

TAGS = ("Modality", "SeriesDescription", "ScanningSequence", "EchoTime", "RepetitionTime")
WEIGHTING = re.compile(r"(?<![a-z0-9])t([12])(?![0-9])", re.IGNORECASE)  # also in t1_tse_sag and T2w, not in T12
MR = re.compile(r"(?<![a-z0-9])(t[12](?![0-9])|mri?(?![a-z])|stir|flair|pd|dixon)", re.IGNORECASE)
CT = re.compile(r"(?<![a-z0-9])ct(?![a-z0-9])", re.IGNORECASE)
# ms, of a spin echo; between them lies proton density, and what cannot be told by two numbers
LONG_ECHO, SHORT_ECHO, SHORT_REPETITION = 60, 30, 1200


@dataclass(frozen=True)
class Acquisition:
    """How a series was made.

    Args:
        modality: in DICOM's letters; empty where the header has none.
        weighting: T1 or T2, or empty where the header does not say.
        evidence: what the weighting is known by.
    """

    modality: str
    weighting: str = ""
    evidence: str = ""


def acquisition_of(header: Dataset) -> Acquisition:
    """By the series' name, or the times of a spin echo; of TAGS, the header has those that the file has."""
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
    """Why a series is none of a channel of this name; None where it may be one, or one of the two does not say.

    Names of vertebrae are no weighting: a channel or a series is taken for neither if it holds T1 and T2.
    """
    modality, weighting = acquisition.modality, weighting_in(channel)
    if (modality == "CT" and MR.search(channel)) or (modality == "MR" and CT.search(channel)):
        found = f"a {modality} series"
    elif weighting and acquisition.weighting and acquisition.weighting != weighting:
        found = f"a {acquisition.weighting}-weighted series ({acquisition.evidence})"
    else:
        return None
    return f"{found}, and the network was trained on {channel}"
