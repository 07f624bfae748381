"""What kind of image a DICOM series is, as far as its header says: CT or MR, T1- or T2-weighted, a map of something."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

TAGS = (
    "Modality", "SeriesDescription", "ProtocolName", "ScanningSequence", "EchoPulseSequence", "EchoTime",
    "EffectiveEchoTime", "RepetitionTime", "ImageType", "FrameType", "AcquisitionContrast",
)  # fmt: skip
GROUPS_OF_CONTRAST = (  # of enhanced files; they hold some of TAGS
    "MRImageFrameTypeSequence", "MREchoSequence", "MRTimingAndRelatedParametersSequence",
)  # fmt: skip
# Also in t1_tse_sag, sT1W and T2w, not in T12 or T2*.
WEIGHTING = re.compile(r"(?<![a-z0-9])(?:s|sag|cor|tra|ax)?t([12])(?![0-9]|[ _-]*(?:\*|star))", re.IGNORECASE)
RANGE = re.compile(r"(?<![a-z0-9])[ctls]\d{1,2} *(?:-|/|to) *[ctls]\d{1,2}(?![a-z0-9])", re.IGNORECASE)  # C7-T1, T1-T12
MR = re.compile(r"(?<![a-z0-9])(t[12](?![0-9])|mri?(?![a-z])|stir|flair|pd|dixon)", re.IGNORECASE)
CT = re.compile(r"(?<![a-z0-9])ct(?![a-z0-9])", re.IGNORECASE)
# Values of ImageType, as several vendors write them, of images whose grey is no signal as it was measured.
MAPS = {
    **dict.fromkeys(("P", "PHASE", "PHASE MAP"), "phase"),
    **dict.fromkeys(("MIP", "MAX_IP", "MIN_IP", "MNIP"), "projection"),
    **dict.fromkeys(("R", "REAL", "I", "IMAGINARY"), "real or imaginary part"),
    **dict.fromkeys(("SUBTRACTION", "SUBTRACT"), "subtraction"),
    **dict.fromkeys(("DIFFUSION", "TRACEW"), "diffusion"),
    **dict.fromkeys(("OPP_PHASE", "OUT_PHASE", "OP"), "opposed phase"),
    **dict.fromkeys(("T1 MAP", "T1_MAP"), "T1 map"),
    **dict.fromkeys(("T2 MAP", "T2_MAP"), "T2 map"),
    **dict.fromkeys(("FAT", "F"), "fat"),
    **{"ADC": "ADC", "FA": "FA"},
}
# Neither plain T1 nor plain T2, by AcquisitionContrast and by parts of a series' name.
CONTRASTS = {
    "T2_STAR": "T2*", "PROTON_DENSITY": "PD", "DIFFUSION": "diffusion", "PERFUSION": "perfusion", "STIR": "STIR",
    "FLUID_ATTENUATED": "FLAIR",
}  # fmt: skip
NAMED = {
    "T2*": re.compile(r"t2[ _-]*(\*|star)", re.IGNORECASE),
    "STIR": re.compile(r"(?<![a-z])stir(?![a-z])", re.IGNORECASE),
    "TIRM": re.compile(r"(?<![a-z])tirm(?![a-z])", re.IGNORECASE),
    "ADC": re.compile(r"(?<![a-z])adc(?![a-z])", re.IGNORECASE),
    "diffusion": re.compile(r"(?<![a-z])(dwi|diffusion|ep2d_diff|tracew)(?![a-z])", re.IGNORECASE),
    "PD": re.compile(r"(?<![a-z])pdw?(?![a-z])", re.IGNORECASE),
}
PULSES = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}  # enhanced files' words for ScanningSequence
# ms, of a spin echo; between them lies proton density, and what cannot be told by two numbers
LONG_ECHO, SHORT_ECHO, SHORT_REPETITION = 60, 30, 1200


@dataclass(frozen=True)
class Acquisition:
    """How a series was made.

    Args:
        modality: in DICOM's letters; empty where the header has none.
        weighting: T1 or T2, or empty where the header does not say.
        evidence: what the weighting is known by.
        derived: which map, image or other contrast it is, such as ADC or STIR; empty for a plain one.
    """

    modality: str
    weighting: str = ""
    evidence: str = ""
    derived: str = ""


def acquisition_of(header: Dataset) -> Acquisition:
    """By the series' name, or the times of a spin echo; of TAGS, the header has those that the file has."""
    return replace(_weighted(header), derived=_derived(header))


def _derived(header: Dataset) -> str:
    values = header.get("FrameType") or header.get("ImageType") or ()
    values = [values] if isinstance(values, str) else [str(value).upper() for value in values]
    kinds = [MAPS[value] for value in values[2:] if value in MAPS]
    kinds += [CONTRASTS.get(str(header.get("AcquisitionContrast") or ""), "")]
    kinds += [kind for kind, words in NAMED.items() if words.search(_name(header))]
    if weighting := weighting_in(_name(header)):  # of two echoes, one is PD; with a long inversion TIRM is T1
        kinds = [kind for kind in kinds if kind not in ("PD", "TIRM")]
    if weighting == "T2" and "GR" in (sequences := _sequences(header)) and "SE" not in sequences:
        kinds.append("gradient echo")  # MEDIC, MERGE, mFFE and DESS, which weigh by T2*
    return min(filter(None, kinds), key=lambda kind: kind == "diffusion", default="")  # maps say more


def _name(header: Dataset) -> str:
    """What a series is called; else its protocol, which some scanners name after the whole examination."""
    return str(header.get("SeriesDescription") or header.get("ProtocolName") or "")


def _weighted(header: Dataset) -> Acquisition:
    modality = str(header.get("Modality") or "")
    if weighting := weighting_in(name := _name(header)):
        return Acquisition(modality, weighting, f"it is called {name!r}")
    if (contrast := header.get("AcquisitionContrast")) in ("T1", "T2"):
        return Acquisition(modality, contrast, f"its AcquisitionContrast is {contrast}")
    try:
        echo = float(header.get("EchoTime") or header.get("EffectiveEchoTime"))
        repetition = float(header.get("RepetitionTime"))
    except (TypeError, ValueError):
        return Acquisition(modality)
    # With inversion (IR) or of gradients (GR), the times say less.
    if _sequences(header) != {"SE"}:
        return Acquisition(modality)
    evidence = f"a spin echo of TE {echo:g} ms and TR {repetition:g} ms"
    if echo >= LONG_ECHO:
        return Acquisition(modality, "T2", evidence)
    if echo <= SHORT_ECHO and repetition <= SHORT_REPETITION:
        return Acquisition(modality, "T1", evidence)
    return Acquisition(modality)


def may_be_weighted(header: Dataset) -> bool:
    """Whether a series may be T1 or T2, though it does not say so: it is no map, gradient echo or echo planar image."""
    return not _derived(header) and not {"GR", "EP"} & _sequences(header)


def _sequences(header: Dataset) -> set[str]:
    values = header.get("ScanningSequence") or PULSES.get(str(header.get("EchoPulseSequence")), ())
    return {values} if isinstance(values, str) else set(values)


def weighting_in(name: str) -> str:
    """T1 or T2, if the name of a series or of a channel holds one of them alone, beside ranges of vertebrae."""
    found = {match[1] for match in WEIGHTING.finditer(RANGE.sub(" ", name))}
    return f"T{found.pop()}" if len(found) == 1 else ""


def doubt_about_contrast(acquisition: Acquisition, channel: str) -> str | None:
    """What a series is, if it is none of a channel of this name; None where it may be one, or one does not say.

    Names of vertebrae are no weighting: a channel or a series is taken for neither if it holds T1 and T2.
    """
    modality, weighting = acquisition.modality, weighting_in(channel)
    if (modality == "CT" and MR.search(channel)) or (modality == "MR" and CT.search(channel)):
        return f"a {modality} series"
    if acquisition.derived and acquisition.derived.lower() not in channel.lower():
        return f"a series of the kind {acquisition.derived!r}, by its header"
    if weighting and acquisition.weighting and acquisition.weighting != weighting:
        return f"a {acquisition.weighting}-weighted series ({acquisition.evidence})"
    return None
