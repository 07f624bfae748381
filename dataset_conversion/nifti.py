"""NIfTI headers that can be read in two ways, of which SimpleITK, nibabel and viewers each choose one.

A NIfTI header can say twice where its axes run, in the qform and in the sform, and gives its spacing once more in
`pixdim`. Where these contradict each other, one of them turns the patient, in the worst case left to right. And in a
header that breaks the rules (a spacing that is not a number, an intercept without a slope), SimpleITK silently repairs
what nibabel refuses, or repairs differently. So SimpleITK's reading of a header is compared with nibabel's.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.quaternions import quat2mat
from nibabel.spatialimages import HeaderDataError

from dataset_conversion.problems import Problem
from nnunetv2_cafr.errors import millimetres

NIFTI2_SIZE = 540  # bytes of the longer one of the two kinds of header
COSINE_TOLERANCE = 0.01  # between unit vectors of qform and sform; a quaternion of float32 may be 0.001 off
SPACING_TOLERANCE = 0.01  # relative
SHIFT_TOLERANCE = 0.01  # of the smallest spacing, between the first voxel's place by SimpleITK and by nibabel
ONE_PLACE = 1.0  # mm between the places of the first voxel by qform and sform
FIRST_VOXEL = 352  # bytes: header and the four that say whether it is extended
NO_SLOPE = 1e-15  # of scl_slope: SimpleITK takes less for none
HIGHEST_CODE = 5  # of a qform or sform
FARTHEST = 1e9  # of a header's numbers; beyond it, they are none of mm
IN_MM = {1: 1000.0, 3: 0.001}  # by NIfTI's code of units; all other codes are taken for mm
CONVERT_AGAIN = "convert again from DICOM, or write the right value into the header"
MAGIC = {348: (slice(344, 348), (b"n+1\0", b"ni1\0")), NIFTI2_SIZE: (slice(4, 8), (b"n+2\0", b"ni2\0"))}


def check_header(path: Path, content: bytes) -> Problem | None:
    """Check what SimpleITK takes on trust: kind of file, data type, where voxels begin, and how values are scaled.

    Args:
        content: of the file, decompressed.
    """
    if int.from_bytes(content[:4], "little") == NIFTI2_SIZE or int.from_bytes(content[:4], "big") == NIFTI2_SIZE:
        found, remedy = "a NIfTI-2 file", "write it as NIfTI-1, for example by nibabel, or as .mha"
        return Problem(path, found, "NIfTI-1: SimpleITK, by which nnU-Net reads, knows no other", remedy)
    header = parse(content)
    if header is None:
        remedy = "export it again as one .nii.gz file, from the source"
        if content.startswith(b"\x1f\x8b"):
            return Problem(path, "a file that gzip has compressed, and that is not named so", "x.nii.gz", "rename it")
        return Problem(path, "no NIfTI header (its mark n+1 is missing)", "a NIfTI-1 file", remedy)
    if header["magic"].item() == b"ni1":
        found = "a header that takes its voxels from another file (its mark is ni1)"
        remedy = "write both into one .nii.gz file"
        return Problem(path, found, "header and voxels in one file", remedy)
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= 7 or (header["dim"][1 : 1 + dimensions] < 1).any():
        found = f"the dimensions {header['dim'].tolist()}, of which the first is their number"
        return Problem(path, found, "1 voxel or more along each", CONVERT_AGAIN)
    try:
        bits = 8 * header.get_data_dtype().itemsize
    except (HeaderDataError, KeyError):
        found = f"the data type {int(header['datatype'])}, which is none"
        return Problem(path, found, "integers or floats", CONVERT_AGAIN)
    if int(header["bitpix"]) != bits:
        found = f"bitpix {int(header['bitpix'])} with a data type of {bits} bits"
        return Problem(path, found, f"bitpix {bits}", CONVERT_AGAIN)
    begins = float(header["vox_offset"])
    if not FIRST_VOXEL <= begins <= len(content) or begins % 1:
        found = f"voxels that begin at byte {begins:g} (vox_offset) of {len(content)}"
        return Problem(path, found, f"a whole number, from {FIRST_VOXEL} to the end of the file", CONVERT_AGAIN)
    scaling = _check_scaling(path, float(header["scl_slope"]), float(header["scl_inter"]))
    return scaling or check_orientations(path, content) or _check_numbers(path, header)


def has_no_codes(content: bytes) -> bool:
    """Whether a header holds neither a qform nor an sform: all that readers make of its orientation is their own."""
    header = parse(content)
    return header is not None and int(header["qform_code"]) == int(header["sform_code"]) == 0


def _check_numbers(path: Path, header: nibabel.Nifti1Header) -> Problem | None:
    """Check the numbers that say where voxels lie: of infinite ones, SimpleITK may go on for ever."""
    forms = {"qform_code": [*(f"quatern_{name}" for name in "bcd"), *(f"qoffset_{name}" for name in "xyz")],
             "sform_code": [f"srow_{name}" for name in "xyz"]}  # fmt: skip
    for code in forms:
        if not 0 <= int(header[code]) <= HIGHEST_CODE:
            found = f"{code} {int(header[code])}, which some readers take for an orientation and others for none"
            return Problem(path, found, f"0 to {HIGHEST_CODE}", CONVERT_AGAIN)
    used = {"pixdim": np.asarray(header["pixdim"][:4], dtype=float)}
    for code, names in forms.items():
        if int(header[code]) > 0:
            used |= {name: np.asarray(header[name], dtype=float) for name in names}
    wrong = [f"{name} {values.tolist()}" for name, values in used.items() if not (np.abs(values) < FARTHEST).all()]
    if not used["pixdim"][1 : 1 + int(header["dim"][0])].all():
        wrong.append(f"pixdim {used['pixdim'].tolist()}")
    if wrong:
        return Problem(path, f"a header with {', '.join(wrong)}", "spacings and places in mm", CONVERT_AGAIN)
    if int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0:
        try:
            _affine_of(header)
        except (HeaderDataError, ValueError) as error:
            return Problem(path, f"a header whose orientation is none ({error})", "an orientation", CONVERT_AGAIN)
    return None


def _affine_of(header: nibabel.Nifti1Header) -> np.ndarray:
    """The affine (4, 4) in mm, as nibabel finds it.

    Raises:
        HeaderDataError, ValueError: if there is none.
    """
    if header["pixdim"][0] == 0:  # as the standard has it, 1
        header = header.copy()
        header["pixdim"][0] = 1
    return np.diag([IN_MM.get(int(header["xyzt_units"]) & 7, 1.0)] * 3 + [1.0]) @ header.get_best_affine()


def _check_scaling(path: Path, slope: float, intercept: float) -> Problem | None:
    """A slope of 0, or one that is no number, means by the standard that values are not scaled: nor shifted."""
    scaled = np.isfinite(slope) and slope != 0
    if scaled and abs(slope) < NO_SLOPE:
        return Problem(path, f"scl_slope {slope:g}, which is nearly none", "a slope, or 0 for none", CONVERT_AGAIN)
    if scaled and np.isfinite(intercept):
        return None
    if not scaled and (intercept == 0 or not np.isfinite(intercept)):
        return None
    found = f"scl_slope {slope:g} with scl_inter {intercept:g}: some readers add it, others do not"
    return Problem(path, found, "numbers in both, or 0 in both where values are not scaled", CONVERT_AGAIN)


def check_place(path: Path, content: bytes, found: np.ndarray) -> Problem | None:
    """Check that SimpleITK and nibabel find the voxels in the same place.

    Args:
        content: of the file, decompressed; its beginning is enough.
        found: SimpleITK's affine (4, 4), from the index (x, y, z) to mm towards right, front and head.
    """
    header = parse(content)
    assert header is not None
    affine = _affine_of(header)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        turned = np.abs(found[:3, :3] - affine[:3, :3]) / lengths
        moved = np.abs(found[:3, 3] - affine[:3, 3]) / lengths.min()
    if (turned <= COSINE_TOLERANCE).all() and (moved <= SHIFT_TOLERANCE).all():
        return None
    by_itk, by_nibabel = (
        np.array2string(one[:3], precision=4, separator=", ").replace("\n", "") for one in (found, affine)
    )
    return Problem(
        path,
        f"a header of which SimpleITK makes the affine {by_itk}, and nibabel {by_nibabel} (in mm)",
        "a header that is read in one way: pixdim[0] 1 or -1, spacings above 0, only numbers, and mm as its unit",
        CONVERT_AGAIN,
    )


def check_orientations(path: Path, content: bytes) -> Problem | None:
    """Check that a header holds one orientation and one spacing.

    Args:
        content: of the file, decompressed; its beginning is enough.
    """
    header = parse(content)
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
        found = f"two spacings in one header: {millimetres(spacing)} by pixdim, {millimetres(lengths)} by the sform"
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


def doubt_about_place(content: bytes) -> str | None:
    """What is to be said of a header that gives two places; None if it gives one.

    Args:
        content: of the file, decompressed; its beginning is enough.
    """
    header = parse(content)
    if header is None or min(int(header["qform_code"]), int(header["sform_code"])) <= 0:
        return None
    by_qform = np.array([float(header[f"qoffset_{axis}"]) for axis in "xyz"])
    apart = np.linalg.norm(by_qform - np.asarray(header.get_sform(), dtype=float)[:3, 3])
    return f"its qform and its sform lie {apart:.0f} mm apart: the sform was taken" if apart > ONE_PLACE else None


def parse(content: bytes) -> nibabel.Nifti1Header | None:
    """The header at the beginning of a decompressed file; None where there is none."""
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


def _remedy(what: str) -> str:
    return (
        f"find out which {what} is right (convert again from DICOM, or look which one shows the patient rightly), and "
        "write it into both, for example by nibabel's set_sform and set_qform of the right affine"
    )
