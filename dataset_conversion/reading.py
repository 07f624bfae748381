"""Reading one volume completely, or saying what is wrong with its file.

SimpleITK alone is not enough. It returns the missing part of a truncated NIfTI file as zeros or noise, with no more
than a warning on stderr; it silently turns NaN and infinity into 0; of two orientations in one header it takes one; and
headers of other formats can point to files elsewhere. So the content is checked here first. Converters and prediction
read alike.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import stat
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from dataset_conversion import metaimage
from dataset_conversion.contrast import Acquisition
from dataset_conversion.dicom import list_dicom, read_series
from dataset_conversion.environment import is_text
from dataset_conversion.nifti import check_header, check_place, doubt_about_place, has_no_codes, parse
from dataset_conversion.problems import Problem
from nnunetv2_cafr.errors import last_line

ENDINGS = (".nii", ".nii.gz", ".mha", ".nrrd")  # of the files that are understood, in lower case
FILE_ENDINGS = (*ENDINGS, ".mhd")  # MetaImage's header with its voxels in a file beside it; converters want one file
PICTURE_ENDINGS = (".png", ".bmp", ".tif")  # of nnU-Net's reader of pictures; a file may hold several channels
DATA_FILE = re.compile(rb"^ElementDataFile\s*=\s*([^\r\n]*?)\s*?(?:\n|$)", re.MULTILINE)  # ends a MetaImage header
NO_ORIENTATION = "a header without orientation"  # what is found begins so
EXPECTED_ORIENTATION = "voxel axes in patient coordinates: which way is up, and which is left?"
ORIENT = "convert again from DICOM, or write the right affine into the header"
HEAD = 1 << 16  # bytes, in which the headers end
NRRD_SPACES = tuple(
    name
    for spaces in ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior")
    for name in (spaces, "".join(word[0] for word in spaces.split("-")))
)
COPY_AGAIN = "copy the file again from its source, or leave the case out"
BYTES = {
    sitk.sitkInt8: 1, sitk.sitkUInt8: 1, sitk.sitkInt16: 2, sitk.sitkUInt16: 2, sitk.sitkInt32: 4, sitk.sitkUInt32: 4,
    sitk.sitkInt64: 8, sitk.sitkUInt64: 8, sitk.sitkFloat32: 4, sitk.sitkFloat64: 8,
}  # fmt: skip


@dataclass(frozen=True)
class Volume:
    """A scalar 3-D volume.

    Attributes:
        stored: the NIfTI file as it lies on the disk, compressed or not; None where it is more or less than the volume.
        notes: what was left out or taken for granted.
        squeezed: whether the file has a fourth axis, of length one.
        acquisition: how it was made; None of files that are not DICOM.
    """

    image: sitk.Image
    sha256: str
    stored: bytes | None
    notes: tuple[str, ...] = ()
    squeezed: bool = False
    acquisition: Acquisition | None = None


def read_volume(path: Path, flat: bool = False) -> tuple[Volume | None, list[Problem]]:
    """Read a volume file (NIfTI, MetaImage, NRRD), or a folder with one DICOM series.

    A file with a fourth axis of length one holds a volume as well.

    Args:
        flat: whether an image of two dimensions will do.

    Returns:
        The volume, or None, and what is wrong. NaN and infinity are a problem of a volume that is returned: its
        geometry can still be looked at.
    """
    if not is_text(str(path)):
        found, remedy = (
            "a name in another encoding than UTF-8",
            "rename it, and whatever folder of its path is named so",
        )
        return None, [Problem(path, found, "a name in UTF-8", remedy)]
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what ITK would warn about is checked and reported here
    if path.is_dir() and not path.name.lower().endswith(ENDINGS):
        return _read_folder(path)
    if not (ending := ending_of(path.name)):
        found = f"a file of the format {path.suffix!r}"
        remedy = "write the volume in one of these formats"
        return None, [Problem(path, found, f"{', '.join(ENDINGS)}, or a folder with a DICOM series", remedy)]
    stored = _read_file(path)
    if isinstance(stored, Problem):
        return None, [stored]
    nifti = ending in (".nii", ".nii.gz")
    if nifti and path.name[-len(ending) :] not in (ending, ending.upper()):  # some capitals, which ITK does not know
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, f"volume{ending}")
            file.write_bytes(stored)
            volume, problems = read_volume(file, flat)
        return volume, [replace(problem, path=path) for problem in problems]
    content = _decompress(path, stored) if ending == ".nii.gz" else stored
    if isinstance(content, Problem):
        return None, [content]

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NiftiImageIO" if nifti else "NrrdImageIO" if ending == ".nrrd" else "MetaImageIO")
    if nifti:
        problem = check_header(path, content)
    elif ending == ".nrrd":
        problem = None
    else:
        problem = metaimage.check_header(path, content[: _begin_of_voxels(content)])
    if problem:
        return None, [problem]
    try:
        reader.ReadImageInformation()
        if problem := _check_kind(path, reader, flat):
            return None, [problem]
        voxels: _Voxels | Problem | int
        if nifti:
            voxels = _not_finite_in_nifti(path, reader, content)
        else:
            voxels = (_nrrd_voxels if ending == ".nrrd" else _metaimage_voxels)(path, reader, content)
        if isinstance(voxels, Problem):
            return None, [voxels]
        image = reader.Execute()
        not_finite = _not_finite(sitk.GetArrayViewFromImage(image))
        if isinstance(voxels, _Voxels):
            problem = _check_values(path, image, voxels) or _lack_of_orientation(path, voxels, image)
        else:
            not_finite = max(not_finite, voxels)
            problem = _check_orientation(path, content, image)
        if problem:
            return None, [problem, *_check_finite(path, image, not_finite)]
    except RuntimeError as error:
        return None, [_itk_problem(path, error)]
    digest = hashlib.sha256(stored)
    for beside in files_of(path)[1:]:
        digest.update(beside.read_bytes())
    doubt = doubt_about_place(content) if nifti else None
    volume = Volume(image, digest.hexdigest(), stored if nifti else None, (doubt,) if doubt else ())
    if image.GetDimension() == 4:
        volume = replace(volume, image=image[:, :, :, 0], stored=None, squeezed=True)
    return volume, _check_finite(path, image, not_finite)


def files_of(volume: Path) -> list[Path]:
    """What a volume is stored in: a file, with that of the voxels where it is a header; the files of a DICOM folder.

    Raises:
        OSError: if a folder cannot be read.
    """
    if volume.is_dir():
        return list_dicom(volume)
    header = _read_file(volume) if volume.suffix.lower() == ".mhd" else b""
    voxels = _voxels_beside(volume, header) if isinstance(header, bytes) else None
    return [volume, voxels] if voxels is not None and voxels.is_file() else [volume]


def _voxels_beside(path: Path, header: bytes) -> Path | None:
    """The file of an .mhd header's voxels; None where they are in the header itself, elsewhere, or in several files."""
    match = DATA_FILE.search(header) if path.suffix.lower() == ".mhd" else None
    name = match[1].decode(errors="replace") if match else "LOCAL"
    is_beside = name not in ("LOCAL", "LIST") and re.fullmatch(r"[^/\\%:]+", name)
    return path.with_name(name) if is_beside else None


def lacks_orientation(path: Path) -> bool:
    """Whether the header of a volume file does not say how its voxels lie in the patient; nnU-Net's readers invent it.

    False for formats without such headers, and where the header cannot be read.
    """
    if (ending := ending_of(path.name)) is None:
        return False
    try:
        with (gzip.open if ending == ".nii.gz" else open)(path, "rb") as file:
            head = file.read(HEAD)
    except (OSError, EOFError, zlib.error):
        return False
    if ending in (".nii", ".nii.gz"):
        return has_no_codes(head)
    if ending == ".nrrd":
        return bool(_unplaced_nrrd(_nrrd_fields(head)[0]))
    return bool(metaimage.unplaced(dict(metaimage.header_fields(head[: _begin_of_voxels(head)]))))


def fault_of(path: Path, oriented: bool = False) -> str | None:
    """What is wrong with the file of a label map, in a sentence; None where nothing is, or its format is not looked at.

    It may be of two dimensions.

    Args:
        oriented: whether it has to say how it lies in the patient; nnU-Net reads files that do not.
    """
    if not ending_of(path.name):
        return None
    _, problems = read_volume(path, flat=True)
    faults = [
        f"{problem.path} cannot be read: {problem.words}"
        for problem in problems
        if oriented or not problem.found.startswith(NO_ORIENTATION)
    ]
    return "; ".join(faults) or None


def ending_of(name: str) -> str | None:
    """The ending of a file name among those that are understood, in whatever letters; None if it has none of them."""
    return next((ending for ending in FILE_ENDINGS if name.lower().endswith(ending)), None)


def _read_folder(path: Path) -> tuple[Volume | None, list[Problem]]:
    series, problems = read_series(path)
    if series is None:
        return None, problems
    not_finite = _not_finite(sitk.GetArrayViewFromImage(series.image))
    volume = Volume(series.image, series.sha256, None, series.notes, acquisition=series.acquisition)
    return volume, _check_finite(path, series.image, not_finite)


def _check_finite(path: Path, image: sitk.Image, not_finite: int) -> list[Problem]:
    if not not_finite:
        return []
    found = f"NaN or infinity in {not_finite} of {image.GetNumberOfPixels()} voxels"
    remedy = "replace them by a value that makes sense, or leave the case out"
    return [Problem(path, found, "finite values only", remedy)]


def _itk_problem(path: Path, error: RuntimeError) -> Problem:
    reason = last_line(error)
    if "orthonormal" in reason:
        return Problem(
            path,
            "a header whose voxel axes are not perpendicular to each other (sheared)",
            "three perpendicular voxel axes",
            "resample the volume to a grid without shear, or correct the header",
        )
    found = f"a file that SimpleITK cannot read ({reason})"
    return Problem(path, found, "a readable volume", "export it again, or leave the case out")


def _read_file(path: Path) -> bytes | Problem:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading from a pipe or a device may never end
            raise OSError("a folder, pipe or device instead of a file")
        content = path.read_bytes()
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror or error})"
        return Problem(path, found, "a readable volume", "check the link, the permissions and the disk")
    return content or Problem(path, "an empty file (0 bytes)", "a volume", COPY_AGAIN)


def _decompress(path: Path, stored: bytes) -> bytes | Problem:
    """Decompress a gzip file. The end of its stream proves by length and CRC-32 that it is complete."""
    expected = "an intact gzip-compressed NIfTI volume"
    try:
        return gzip.decompress(stored)
    except gzip.BadGzipFile as error:
        remedy = f"{COPY_AGAIN}; if it was never compressed, name it .nii"
        return Problem(path, f"no intact gzip file ({error})", expected, remedy)
    except EOFError:
        return Problem(path, "a truncated gzip file", expected, COPY_AGAIN)
    except zlib.error as error:
        return Problem(path, f"a damaged gzip file ({error})", expected, COPY_AGAIN)


def _check_kind(path: Path, reader: sitk.ImageFileReader, flat: bool) -> Problem | None:
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) != 3 and not (len(size) == 4 and size[3] == 1) and not (flat and len(size) == 2):
        found = f"{len(size)} dimensions, size {tuple(size)}"
        return Problem(path, found, "one 3-D volume", "export the volume alone, as 3-D")
    if components != 1 or reader.GetPixelID() not in BYTES:
        found = f"{components} values per voxel (RGB, vectors or complex numbers)"
        return Problem(path, found, "one grey value or label per voxel", "export it as a scalar volume")
    return None


def _truncated(path: Path, found: int, expected: int, size: tuple[int, ...]) -> Problem:
    return Problem(
        path, f"truncated voxel data ({found} bytes)", f"{expected} bytes for size {tuple(size)}", COPY_AGAIN
    )


def _not_finite_in_nifti(path: Path, reader: sitk.ImageFileReader, content: bytes) -> Problem | int:
    """How many voxels are NaN or infinite, which is still to be seen in the file; or that some are missing."""
    header, size = parse(content), reader.GetSize()
    assert header is not None
    kind, offset, voxels = header.get_data_dtype(), int(header["vox_offset"]), int(np.prod(size, dtype=np.int64))
    expected = offset + voxels * kind.itemsize
    if len(content) < expected:
        return _truncated(path, len(content), expected, size)
    return _not_finite(np.frombuffer(content, kind, voxels, offset)) if kind.kind == "f" else 0


def _check_orientation(path: Path, content: bytes, image: sitk.Image) -> Problem | None:
    if has_no_codes(content):
        return Problem(path, f"{NO_ORIENTATION} (qform_code and sform_code are 0)", EXPECTED_ORIENTATION, ORIENT)
    return check_place(path, content, _affine_in_ras(image)) if image.GetDimension() > 2 else None


def _affine_in_ras(image: sitk.Image) -> np.ndarray:
    """(4, 4), from the index (x, y, z) to mm towards right, front and head."""
    dimensions = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(image.GetDirection(), (dimensions, -1)) * image.GetSpacing())[:3, :3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _not_finite(values: np.ndarray) -> int:
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def _detached(path: Path, name: str) -> Problem:
    return Problem(
        path,
        f"a header that takes its voxels from another file, {name}",
        "header and voxels in one file",
        "write header and voxels into one .mha, .nrrd or .nii.gz file",
    )


class _Voxels(NamedTuple):
    """Voxels as a file holds them, decompressed.

    Attributes:
        unplaced: what the header does not say about their place in the patient.
    """

    content: bytes
    big_endian: bool
    unplaced: Sequence[str]


def _checked_voxels(path: Path, reader: sitk.ImageFileReader, voxels: _Voxels) -> _Voxels | Problem:
    size = reader.GetSize()
    expected = int(np.prod(size, dtype=np.int64)) * BYTES[reader.GetPixelID()]
    if len(voxels.content) < expected:
        return _truncated(path, len(voxels.content), expected, size)
    if voxels.content[expected:].strip():
        found = f"more voxel data ({len(voxels.content)} bytes) than the header speaks of"
        return Problem(path, found, f"{expected} bytes for size {tuple(size)}", "write it again, from its source")
    return voxels._replace(content=voxels.content[:expected])


def _check_values(path: Path, image: sitk.Image, voxels: _Voxels) -> Problem | None:
    """Check that SimpleITK has read what is in the file."""
    array = sitk.GetArrayViewFromImage(image)
    kind = array.dtype.newbyteorder(">" if voxels.big_endian else "<")
    if np.array_equal(np.frombuffer(voxels.content, kind).reshape(array.shape), array, equal_nan=kind.kind == "f"):
        return None
    found = "voxels of which SimpleITK, by which nnU-Net reads, makes other ones"
    return Problem(path, found, "the voxels that are in the file", "write the volume as .nii.gz, from its source")


def _lack_of_orientation(path: Path, voxels: _Voxels, image: sitk.Image) -> Problem | None:
    if image.GetDimension() < 3 or not voxels.unplaced:
        return None
    found = f"{NO_ORIENTATION} (no {', no '.join(voxels.unplaced)})"
    return Problem(path, found, EXPECTED_ORIENTATION, ORIENT)


def _begin_of_voxels(content: bytes) -> int | None:
    """Where a MetaImage header ends: after the line that names the file of the voxels."""
    match = DATA_FILE.search(content)
    return match.end() if match else None


def _metaimage_voxels(path: Path, reader: sitk.ImageFileReader, content: bytes) -> _Voxels | Problem:
    match = DATA_FILE.search(content)
    if match is None:
        return _detached(path, "which it does not name")
    if match[1] == b"LOCAL":
        stored: bytes | Problem = content[match.end() :]
    elif (beside := _voxels_beside(path, content)) is not None:
        stored = _read_file(beside)
    else:
        return _detached(path, match[1].decode(errors="replace"))
    if isinstance(stored, Problem):
        return stored
    voxels = stored
    fields = dict(metaimage.header_fields(content[: match.start()]))
    if fields.get("CompressedData", "").lower() == "true":
        stream = zlib.decompressobj()
        try:
            voxels = stream.decompress(voxels)
        except zlib.error as error:
            return Problem(path, f"damaged compressed voxel data ({error})", "an intact MetaImage volume", COPY_AGAIN)
        if not stream.eof:
            return Problem(path, "compressed voxel data that are cut off", "an intact MetaImage volume", COPY_AGAIN)
    return _checked_voxels(path, reader, _Voxels(voxels, metaimage.is_big_endian(fields), metaimage.unplaced(fields)))


def _nrrd_voxels(path: Path, reader: sitk.ImageFileReader, content: bytes) -> _Voxels | Problem:
    fields, voxels = _nrrd_fields(content)
    for key in (b"data file", b"datafile"):
        if key in fields:
            return _detached(path, fields[key].decode(errors="replace"))
    encoding = fields.get(b"encoding", b"").decode(errors="replace").strip()
    if encoding in ("gzip", "gz"):
        unpacked = _decompress(path, voxels)
        if isinstance(unpacked, Problem):
            return unpacked
        voxels = unpacked
    elif encoding != "raw":
        return Problem(path, f"NRRD encoding {encoding!r}", "raw or gzip", "write it again, gzip-compressed")
    big_endian = fields.get(b"endian", b"").strip().lower() == b"big"
    return _checked_voxels(path, reader, _Voxels(voxels, big_endian, _unplaced_nrrd(fields)))


def _nrrd_fields(content: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """The fields of a NRRD header, and what follows it."""
    end = re.search(rb"\r?\n\r?\n", content)
    header, voxels = (content[: end.start()], content[end.end() :]) if end else (content, b"")
    return dict(re.findall(rb"^([^#:\r\n]+): *([^\r\n]*)", header, re.MULTILINE)), voxels


def _unplaced_nrrd(fields: Mapping[bytes, bytes]) -> list[str]:
    """What a header's fields do not say about the voxels' place, and SimpleITK makes up."""
    placed = fields.get(b"space", b"").decode(errors="replace").strip().lower() in NRRD_SPACES
    missing = [] if placed else ["patient's space"]
    axes = fields.get(b"space directions", b"").count(b"(")  # "none" in place of one, and SimpleITK invents it
    return missing + ([] if axes >= 3 else ["space directions of three axes"])
