"""Strategies of MetaImage and NRRD files, whose headers are lines of text, and what these lines say."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from .files import SHAPE, SPACING, affine_of, voxels_of

GONE = "<gone>"  # a field that is left out
LPS = np.diag([-1.0, -1.0, 1.0])
SPACES = {  # what turns them into SimpleITK's
    "right-anterior-superior": (-1.0, -1.0, 1.0), "RAS": (-1.0, -1.0, 1.0), "left-anterior-superior": (1.0, -1.0, 1.0),
    "LAS": (1.0, -1.0, 1.0), "left-posterior-superior": (1.0, 1.0, 1.0), "LPS": (1.0, 1.0, 1.0),
}  # fmt: skip
META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
NRRD_TYPES = {
    "int8": "i1",
    "uint8": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
}


class Meaning(NamedTuple):
    """What a header says: voxels (x, y, z), and spacing, origin and direction (columns) as SimpleITK has them."""

    voxels: np.ndarray
    spacing: np.ndarray
    origin: np.ndarray
    direction: np.ndarray


@dataclass(frozen=True)
class TextFile:
    """A file: sound by itself, then spoilt field by field, in its bytes, and at its end; see `files.Nifti`."""

    ending: str = ".mha"
    order: str = "PIR"
    kind: str = "i2"
    big_endian: bool = False
    compressed: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    flips: Mapping[int, int] = field(default_factory=dict)
    length: int = 1000

    def _all_fields(self) -> dict[str, str]:
        affine = affine_of(self.order)
        steps, place = LPS @ affine[:3, :3], LPS @ affine[:3, 3]
        if self.ending == ".mha":
            names = {kind: name for name, kind in META_TYPES.items()}
            sound = {
                "ObjectType": "Image", "NDims": "3", "BinaryData": "True",
                "BinaryDataByteOrderMSB": str(self.big_endian), "CompressedData": str(self.compressed),
                "TransformMatrix": _words((steps / SPACING).T), "Offset": _words(place), "CenterOfRotation": "0 0 0",
                "AnatomicalOrientation": "RAI", "ElementSpacing": _words(np.array(SPACING)),
                "DimSize": _words(np.array(SHAPE)), "ElementType": names[self.kind], "ElementDataFile": "LOCAL",
            }  # fmt: skip
        else:
            names = {kind: name for name, kind in NRRD_TYPES.items()}
            sound = {
                "type": names[self.kind], "dimension": "3", "space": "left-posterior-superior",
                "sizes": _words(np.array(SHAPE)),
                "space directions": " ".join(f"({','.join(map(str, column.tolist()))})" for column in steps.T),
                "kinds": "domain domain domain", "endian": "big" if self.big_endian else "little",
                "encoding": "gzip" if self.compressed else "raw",
                "space origin": f"({','.join(map(str, place.tolist()))})",
            }  # fmt: skip
        fields = {key: value for key, value in {**sound, **self.fields}.items() if value != GONE}
        if "ElementDataFile" in fields:  # a MetaImage header ends with it
            fields["ElementDataFile"] = fields.pop("ElementDataFile")
        return fields

    def _voxels(self) -> np.ndarray:
        return voxels_of(self.kind, 0)

    def _data(self) -> bytes:
        voxels = self._voxels()
        return voxels.astype(voxels.dtype.newbyteorder(">" if self.big_endian else "<")).tobytes(order="F")

    def content(self) -> bytes:
        data = self._data()
        if self.compressed:
            packer = zlib.compressobj(wbits=31 if self.ending == ".nrrd" else 15)
            data = packer.compress(data) + packer.flush()
        fields = self._all_fields()
        if self.ending == ".mha" and self.compressed and "CompressedDataSize" not in self.fields:
            fields = {"CompressedDataSize": str(len(data)), **fields}
        if self.ending == ".mha":
            text = "".join(f"{key} = {value}\n" for key, value in fields.items())
        else:
            text = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in fields.items()) + "\n"
        content = bytearray(text.encode() + data)
        for place, value in self.flips.items():
            content[place % len(content)] = value
        return bytes(content[: len(content) * self.length // 1000])

    def meaning(self) -> Meaning | None:
        """None where the fields mean no volume, or none that is known here."""
        fields = self._all_fields()
        try:
            if self.ending == ".mha":
                spacing, origin = _numbers(fields["ElementSpacing"]), _numbers(fields.get("Offset", "0 0 0"))
                direction = _numbers(fields["TransformMatrix"], 9).reshape(3, 3).T
                size, kind = _numbers(fields["DimSize"]), META_TYPES[fields["ElementType"]]
            else:
                steps = _numbers(fields["space directions"].translate(BRACKETS), 9).reshape(3, 3).T
                said = fields.get("space origin", "none")  # no other place than that of the first voxel is known then
                origin = _numbers(("(0,0,0)" if said == "none" else said).translate(BRACKETS))
                to_lps = np.diag(SPACES[fields["space"]])
                steps, origin = to_lps @ steps, to_lps @ origin
                spacing = np.linalg.norm(steps, axis=0)
                direction = steps / spacing
                size, kind = _numbers(fields["sizes"]), NRRD_TYPES[fields["type"]]
        except (KeyError, ValueError):
            return None
        if fields.get("BinaryDataByteOrderMSB", fields.get("endian")) in ("True", "big"):
            kind = f">{kind}"
        data = self._data()
        if (size % 1).any() or size.prod() * np.dtype(kind).itemsize != len(data):
            return None
        if not (spacing > 0).all() or abs(np.linalg.det(direction)) < 0.5:
            return None
        voxels = np.frombuffer(data, kind)
        return Meaning(voxels.reshape(size.astype(int), order="F"), spacing, origin, direction)


BRACKETS = str.maketrans("(),", "   ")


def _words(values: np.ndarray) -> str:
    return " ".join(map(str, values.ravel().tolist()))


def _numbers(text: str, count: int = 3) -> np.ndarray:
    found = np.array([float(word) for word in text.split()])
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError(text)
    return found


_VALUES = st.lists(
    st.sampled_from(["0", "1", "-1", "2", "3", "5", "6", "4", "0.75", "1e30", "nan", "inf", "x", "99999", "-5"]),
    max_size=4,
).map(" ".join)
MATRICES = [
    "1 0 0 0 1 0 0 0 0", "1 0 0 0 1 0 0 0 2", "0 0 0 0 0 0 0 0 0", "nan 0 0 0 1 0 0 0 1", "1 0.1 0 0 1 0 0 0 1",
    "-1 0 0 0 -1 0 0 0 1",
]  # fmt: skip
DIRECTIONS = [
    "(1,0,0) (0,1,0) (0,0,1)", "(1,0,0) (0,1,0) none", "(1,0,0) (0,1,0) (0,0,0)", "(1,0,0) (1,0,0) (0,0,1)",
    "(1,0,0) (0.1,1,0) (0,0,1)", "(nan,0,0) (0,1,0) (0,0,1)", "(1,0) (0,1)", "(0,0,2) (1e30,0,0) (0,1,0)",
]  # fmt: skip
KINDS = ["domain", "vector domain domain", "list domain domain", "space space space", "x y z"]
META_NUMBERS = (
    "NDims", "Offset", "Position", "Origin", "CenterOfRotation", "ElementSpacing", "ElementSize", "DimSize",
    "HeaderSize", "CompressedDataSize", "ElementNumberOfChannels", "ElementMin", "ID", "Orientation",
    "ElementToIntensityFunctionSlope",
)  # fmt: skip
NRRD_NUMBERS = (
    "dimension", "sizes", "spacings", "space dimension", "thicknesses", "byte skip", "line skip", "axis mins",
    "centers", "sample units", "units",
)  # fmt: skip
FIELDS: dict[str, dict[str, st.SearchStrategy[str]]] = {
    ".mha": {
        **dict.fromkeys(META_NUMBERS, _VALUES),
        **dict.fromkeys(("BinaryData", "CompressedData"), st.sampled_from(["True", "False", "", "1"])),
        "TransformMatrix": st.sampled_from(MATRICES) | _VALUES,
        "ObjectType": st.sampled_from(["Tube", "", "Image", "Scene"]),
        "ElementType": st.sampled_from(["MET_OTHER", "MET_LONG_LONG", "MET_CHAR_ARRAY", "", *META_TYPES]),
        "ElementDataFile": st.sampled_from(["LIST", "", "other.raw", "/etc/passwd", "local", "%03d.raw 1 3 1"]),
        "AnatomicalOrientation": st.sampled_from(["RAI", "LPS", "???", ""]),
    },
    ".nrrd": {
        **dict.fromkeys(NRRD_NUMBERS, _VALUES),
        "space origin": st.sampled_from(["(1,2,3)", "(nan,0,0)", "(1,2)", "none", "(1e30,0,0)"]),
        "space directions": st.sampled_from(DIRECTIONS),
        "space": st.sampled_from([*SPACES, "scanner-xyz", "3D-right-handed"]),
        "type": st.sampled_from(["block", "double", "uint8", "", *NRRD_TYPES]),
        "kinds": st.sampled_from(KINDS),
        "encoding": st.sampled_from(["raw", "gzip", "gz", "ascii", "hex", "bzip2", ""]),
        "endian": st.sampled_from(["little", "big", "", "x"]),
        "data file": st.sampled_from(["other.raw", "LIST", "/etc/passwd"]),
    },
}


def text_files(ending: str) -> st.SearchStrategy[TextFile]:
    """With up to two fields or bytes that are wrong, or cut off."""
    names = st.lists(st.sampled_from(sorted(FIELDS[ending])), min_size=1, max_size=2, unique=True)
    of_names = names.flatmap(
        lambda chosen: st.fixed_dictionaries({name: st.just(GONE) | FIELDS[ending][name] for name in chosen})
    )
    spoilt = {
        "fields": of_names,
        "flips": st.dictionaries(st.integers(0, 700), st.integers(0, 255), min_size=1, max_size=3),
        "length": st.integers(0, 999),
    }
    usual = {
        "ending": st.just(ending),
        "order": st.sampled_from(["PIR", "RAS", "LPS", "SPL"]),
        "kind": st.sampled_from(["u1", "i2", "u2", "i4", "f4"]),
        "big_endian": st.booleans(),
        "compressed": st.booleans(),
    }
    kinds = st.sampled_from(["none", "fields", "fields", "fields", "flips", "length"])
    return kinds.flatmap(lambda name: st.builds(TextFile, **usual, **({name: spoilt[name]} if name in spoilt else {})))
