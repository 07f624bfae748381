"""Strategies of small files, right and wrong ones, built field by field."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

import nibabel
import numpy as np
from hypothesis import strategies as st

SHAPE = (5, 6, 4)  # of volumes, (x, y, z)
SPACING = (0.75, 1.25, 4.0)  # mm
AXES = {
    "R": (1.0, 0, 0), "L": (-1.0, 0, 0), "A": (0, 1.0, 0), "P": (0, -1.0, 0), "S": (0, 0, 1.0), "I": (0, 0, -1.0)
}  # fmt: skip
ORDERS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
TYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")


def affine_of(order: str, tilt: float = 0.0, shift: tuple[float, float, float] = (10.5, -20.25, 30.0)) -> np.ndarray:
    """Of a volume stored in this order, such as PIR, turned by `tilt` degrees about the patient's long axis."""
    angle = np.radians(tilt)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.transpose([AXES[letter] for letter in order]) * SPACING
    affine[:3, 3] = shift
    return affine


def voxels_of(kind: str, seed: int) -> np.ndarray:
    """Voxels (x, y, z) of a data type, with its extremes where it is one of integers."""
    random = np.random.default_rng(seed)
    if kind[0] == "f":
        return random.normal(0, 300, SHAPE).astype(kind)
    limits = np.iinfo(kind)
    low, high = max(int(limits.min), -(2**31)), min(int(limits.max), 2**32)
    values = random.integers(low, high, SHAPE, endpoint=True).astype(kind)
    values[0, 0, 0], values[-1, -1, -1] = low, high
    return values


@dataclass(frozen=True)
class Nifti:
    """A NIfTI file: sound by itself, then spoilt field by field, in its bytes, and at its end.

    Attributes:
        forms: the codes of qform and sform; 0 leaves the form empty.
        fields: written over the header's.
        flips: bytes that are replaced, by their place from the file's beginning.
        length: of the file in thousandths, after which it is cut off.
    """

    order: str = "PIR"
    tilt: float = 0.0
    kind: str = "i2"
    seed: int = 0
    version: int = 1
    big_endian: bool = False
    compressed: bool = False
    forms: tuple[int, int] = (1, 1)
    extension: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    flips: Mapping[int, int] = field(default_factory=dict)
    length: int = 1000

    @property
    def ending(self) -> str:
        return ".nii.gz" if self.compressed else ".nii"

    def content(self, voxels: np.ndarray | None = None) -> bytes:
        """The file's bytes, with these voxels (x, y, z) or some of its kind."""
        voxels = voxels_of(self.kind, self.seed) if voxels is None else voxels
        endianness = ">" if self.big_endian else "<"
        header = (nibabel.Nifti2Header if self.version == 2 else nibabel.Nifti1Header)(endianness=endianness)
        header.set_data_dtype(voxels.dtype.newbyteorder(endianness))
        header.set_data_shape(voxels.shape)
        header.set_zooms(SPACING[: voxels.ndim])
        affine = affine_of(self.order, self.tilt)
        for code, place in zip(self.forms, (header.set_qform, header.set_sform), strict=True):
            if code:
                place(affine, code)
        begins = len(header.binaryblock) + 4 + 16 * self.extension
        header["vox_offset"] = begins
        header["magic"] = b"n+2" if self.version == 2 else b"n+1"
        with np.errstate(all="ignore"):
            for name, value in self.fields.items():
                kind = header.structarr.dtype[name]
                header.structarr[name] = (
                    value if kind.kind == "S" else np.asarray(value).astype(kind.base, casting="unsafe")
                )
        extension = bytes([bool(self.extension), 0, 0, 0])
        if self.extension:
            size, code = (np.array(number, f"{endianness}i4").tobytes() for number in (16 * self.extension, 6))
            extension += size + code + b" " * (16 * self.extension - 8)
        content = bytearray(header.binaryblock + extension)
        content += voxels.astype(voxels.dtype.newbyteorder(endianness)).tobytes(order="F")
        for place, value in self.flips.items():
            content[place % len(content)] = value
        whole = gzip.compress(bytes(content), 1, mtime=0) if self.compressed else bytes(content)
        return whole[: len(whole) * self.length // 1000]


def numbers() -> st.SearchStrategy[float]:
    """Of header fields: usual ones, and those at which software breaks."""
    return st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, 0.5, 0.75, 1.25, 4.0, -4.0, 1e-3, 1e-30, 1e30, 3.4e38, np.nan, np.inf, -np.inf]
    ) | st.floats(-400, 400, width=32)


def _several(strategy: st.SearchStrategy[Any], count: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=count, max_size=count)


def _one_of_several(plain: tuple[float, ...], strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """The usual values but for one."""
    return st.builds(
        lambda place, value: [*plain[:place], value, *plain[place + 1 :]], st.integers(0, len(plain) - 1), strategy
    )


_CODES = st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 1000])
_LENGTHS = st.sampled_from([-32768, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 300, 32767])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "sizeof_hdr": st.sampled_from([0, -1, 348, 540, 1543569408, 469893120]),
    "dim": _one_of_several((3, *SHAPE, 1, 1, 1, 1), _LENGTHS)
    | st.sampled_from(
        [(2, 5, 6, 1, 1, 1, 1, 1), (4, *SHAPE, 1, 1, 1, 1), (4, 5, 6, 2, 2, 1, 1, 1), (5, *SHAPE, 1, 1, 1, 1)]
    )
    | _several(_LENGTHS, 8),
    "pixdim": _one_of_several((1.0, *SPACING, 1.0, 1.0, 1.0, 1.0), numbers()) | _several(numbers(), 8),
    "qform_code": _CODES,
    "sform_code": _CODES,
    **{name: numbers() for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")},
    **{name: _several(numbers(), 4) for name in ("srow_x", "srow_y", "srow_z")},
    "scl_slope": numbers(),
    "scl_inter": numbers(),
    "datatype": st.sampled_from(
        [-1, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2304, 9999]
    ),
    "bitpix": st.sampled_from([-8, 0, 1, 8, 16, 24, 32, 64, 128]),
    "magic": st.sampled_from([b"n+1", b"ni1", b"n+2", b"ni2", b"", b"abc", b"n+1 "]),
    "vox_offset": st.sampled_from(
        [0, 1, 347, 348, 351, 352, 353, 360, 368, 540, 544, 5000, -1, -352, 352.5, np.nan, np.inf, 3e38]
    ),
    "xyzt_units": st.integers(0, 255),
    "intent_code": st.sampled_from([0, 2, 1002, 1005, 1007, 1011, 2003, 9999]),
    "dim_info": st.integers(0, 255),
    "slice_code": st.integers(0, 255),
    "cal_max": numbers(),
    "toffset": numbers(),
}


def sound_niftis() -> st.SearchStrategy[Nifti]:
    """What scanners and converters write: any order, data type and form."""
    scaling = st.fixed_dictionaries(
        {"scl_slope": st.sampled_from([1.0, 0.5, 2.0, 0.00390625]), "scl_inter": st.sampled_from([0.0, -1024.0, 7.5])}
    )
    return st.builds(
        Nifti,
        order=st.sampled_from(ORDERS),
        tilt=st.sampled_from([0.0, 12.0, -30.0]),
        kind=st.sampled_from(TYPES),
        seed=st.integers(0, 9),
        big_endian=st.booleans(),
        compressed=st.booleans(),
        forms=st.sampled_from([(1, 1), (1, 0), (0, 1), (2, 4), (0, 3)]),
        extension=st.sampled_from([0, 0, 1, 4]),
        fields=st.just({}) | scaling,
    )


def niftis() -> st.SearchStrategy[Nifti]:
    """Files with up to three fields or bytes that are wrong, or cut off."""
    names = st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3, unique=True)
    fields = names.flatmap(lambda chosen: st.fixed_dictionaries({name: FIELDS[name] for name in chosen}))
    flips = st.dictionaries(st.integers(0, 600), st.integers(0, 255), min_size=1, max_size=3)
    spoilt = {"fields": fields, "flips": flips, "length": st.integers(0, 999)}
    usual = {
        "order": st.sampled_from(("PIR", "RAS", "LPS", "SPL")),
        "tilt": st.sampled_from([0.0, 12.0]),
        "kind": st.sampled_from(TYPES),
        "version": st.sampled_from([1, 1, 1, 2]),
        "big_endian": st.booleans(),
        "compressed": st.booleans(),
        "forms": st.sampled_from([(1, 1), (1, 0), (0, 1), (0, 0)]),
    }
    kinds = [("fields",), ("fields",), ("flips",), ("length",), ("fields", "length"), ("fields", "flips")]
    return st.sampled_from(kinds).flatmap(
        lambda names: st.builds(Nifti, **usual, **{name: spoilt[name] for name in names})
    )
