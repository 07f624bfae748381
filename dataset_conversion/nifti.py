"""NIfTI headers that hold two orientations, of which readers choose one each: SimpleITK, nibabel and viewers differ.

A NIfTI header can say twice where its axes run, in the qform and in the sform, and gives its spacing once more in
`pixdim`. Where these contradict each other, one of them turns the patient, in the worst case left to right.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.quaternions import quat2mat

from dataset_conversion.report import Problem

NIFTI2_SIZE = 540  # bytes of the longer one of the two kinds of header
COSINE_TOLERANCE = 0.01  # between unit vectors of qform and sform; a quaternion of float32 may be 0.001 off
SPACING_TOLERANCE = 0.01  # relative
MAGIC = {348: (slice(344, 347), (b"n+1", b"ni1")), NIFTI2_SIZE: (slice(4, 7), (b"n+2", b"ni2"))}


def check_orientations(path: Path, content: bytes) -> Problem | None:
    """Check that a header holds one orientation and one spacing.

    Args:
        content: of the file, decompressed; its beginning is enough.
    """
    header = _parse(content)
    if header is None or int(header["sform_code"]) <= 0:
        return None
    spacing = np.abs(np.asarray(header["pixdim"][1:4], dtype=float))
    sform = np.asarray(header.get_sform(), dtype=float)[:3, :3]
    lengths = np.linalg.norm(sform, axis=0)
    if not (np.isfinite(lengths).all() and lengths.all() and abs(np.linalg.det(sform / lengths)) > COSINE_TOLERANCE):
        return Problem(
            path,
            "an sform that is no orientation (axes without length, or in one plane)",
            "three axes in patient coordinates",
            "convert again from DICOM, or write the right affine into the header",
        )
    if not np.allclose(lengths, spacing, rtol=SPACING_TOLERANCE, atol=0):
        found = f"two spacings in one header: {_mm(spacing)} by pixdim, {_mm(lengths)} by the sform"
        return Problem(path, found, "one spacing", _remedy("spacing"))
    if int(header["qform_code"]) <= 0:
        return None
    axes, others = sform / lengths, _qform_axes(header)
    if np.allclose(axes, others, rtol=0, atol=COSINE_TOLERANCE):
        return None
    found = f"two orientations in one header: {_order(others)} by the qform, {_order(axes)} by the sform"
    if _order(others) == _order(axes):
        angle = np.degrees(np.arccos(np.clip((axes * others).sum(axis=0), -1, 1))).max()
        found += f", {angle:.0f} degrees apart" if angle >= 1 else f", {angle:.1f} degrees apart"
    return Problem(path, found, "one orientation in both, or the code of the other one 0", _remedy("orientation"))


def _parse(content: bytes) -> nibabel.Nifti1Header | None:
    for size, (place, marks) in MAGIC.items():
        if len(content) >= size and content[place] in marks:
            kind = nibabel.Nifti2Header if size == NIFTI2_SIZE else nibabel.Nifti1Header
            return kind(content[:size], check=False)
    return None


def _qform_axes(header: nibabel.Nifti1Header) -> np.ndarray:
    """Unit vectors of the axes as columns, as NIfTI's own library makes them of the quaternion."""
    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    rotation = quat2mat([np.sqrt(max(0.0, 1 - b * b - c * c - d * d)), b, c, d])
    return rotation * [1, 1, -1 if header["pixdim"][0] < 0 else 1]


def _order(axes: np.ndarray) -> str:
    """What the axes run towards, as three letters; ? where there is no telling."""
    if not np.isfinite(axes).all():
        return "???"
    affine = np.eye(4)
    affine[:3, :3] = axes
    return "".join(letter or "?" for letter in nibabel.aff2axcodes(affine))


def _mm(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"


def _remedy(what: str) -> str:
    return (
        f"find out which {what} is right (convert again from DICOM, or look which one shows the patient rightly), and "
        "write it into both, for example by nibabel's set_sform and set_qform of the right affine"
    )
