"""Names and colours of labels for viewers: 3D Slicer's colour table, ITK-SNAP's label descriptions, NIfTI's header.

In the header of a NIfTI file they are an extension in Connectome Workbench's XML, where TotalSegmentator has its own.
Slicer: https://slicer.readthedocs.io/en/latest/developer_guide/modules/colors.html. ITK-SNAP: its menu Segmentation,
Import Label Descriptions. Colours are those of the project's own pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as Xml

from nnunetv2_cafr.spine import BACKGROUND, IGNORE, colour_of

SLICER_FILE, ITKSNAP_FILE = "labels.ctbl", "labels.txt"
ITKSNAP_HEADER = """################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def colour_files(labels: Mapping[str, int]) -> dict[str, str]:
    """Contents of the two files, by their names.

    Args:
        labels: of a dataset.json without regions.
    """
    named = _named(labels)
    slicer = [f"# Color table file {SLICER_FILE}", f"# {len(named) + 1} values", "0 background 0 0 0 0"]
    snap = [f'{0:5d} {0:5d} {0:4d} {0:4d} {0:8d} {0:2d} {0:2d}    "Clear Label"']
    for label, name in named:
        red, green, blue = colour_of(name, label)
        slicer.append(f"{label} {'_'.join(name.split())} {red} {green} {blue} 255")
        quoted = name.replace('"', "'")
        snap.append(f'{label:5d} {red:5d} {green:4d} {blue:4d} {1:8d} {1:2d} {1:2d}    "{quoted}"')
    return {SLICER_FILE: "\n".join(slicer) + "\n", ITKSNAP_FILE: ITKSNAP_HEADER + "\n".join(snap) + "\n"}


def name_labels(file: Path, labels: Mapping[str, int]) -> None:
    """Writes names and colours into the header of a NIfTI label map, whose voxels and geometry stay as they are.

    Args:
        labels: as for `colour_files`.
    """
    import nibabel
    import numpy as np

    root = Xml.Element("CaretExtension")
    volume = Xml.SubElement(root, "VolumeInformation", Index="0")
    table = Xml.SubElement(volume, "LabelTable")
    for label, name in _named(labels):
        colours = zip(("Red", "Green", "Blue"), colour_of(name, label), strict=True)
        shares = {colour: f"{value / 255:.4f}" for colour, value in colours}
        Xml.SubElement(table, "Label", {"Key": str(label), **shares, "Alpha": "1"}).text = name
    Xml.SubElement(volume, "StudyMetaDataLinkSet")
    Xml.SubElement(volume, "VolumeType").text = "Label"
    image = nibabel.Nifti1Image.from_filename(file)
    voxels = np.array(image.dataobj)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, Xml.tostring(root, encoding="utf-8")))
    nibabel.Nifti1Image(voxels, image.affine, image.header).to_filename(file)


def _named(labels: Mapping[str, int]) -> list[tuple[int, str]]:
    return sorted((int(label), name) for name, label in labels.items() if name not in (BACKGROUND, IGNORE))
