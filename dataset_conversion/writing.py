"""Writing one case's files, each of which is there completely or not at all."""

from __future__ import annotations

import errno
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_cafr.files import flush

FILE_ENDING = ".nii.gz"
COMPRESSION = 6  # zlib's default, as ITK's


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a name beside `target` to write to, which becomes `target` at the end, when it is on the disk.

    As `write_atomically`, but for a name that ITK can write to, whose ending it must be able to tell. A worker process
    whose parent was killed may still be writing under its own name: so the process is part of it.
    """
    beside = target.parent / f".{os.getpid()}-{target.name}"
    try:
        yield beside
        flush(beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def write_image(image: sitk.Image, stored: bytes | None, target: Path) -> None:
    """Write an image; `stored`, a NIfTI file's own content, is written as it is (compressed if it is not yet).

    Raises:
        OSError: if the file could not be written completely.
    """
    if stored is None:
        _write(image, target)
        return
    with replacing(target) as path:
        path.write_bytes(stored if stored[:2] == b"\x1f\x8b" else gzip.compress(stored, COMPRESSION, mtime=0))


def write_mask(labels: np.ndarray, grid: sitk.Image, target: Path) -> None:
    """Write label values (uint8; z, y, x) on the grid of an image.

    Raises:
        OSError: if the file could not be written completely.
    """
    mask = sitk.GetImageFromArray(labels)
    mask.CopyInformation(grid)
    _write(mask, target)


def _write(image: sitk.Image, target: Path) -> None:
    with replacing(target) as path:
        try:
            sitk.WriteImage(image, path, useCompression=True)
            # On a full disk ITK may leave a part of the file without an error: the end of the stream must be there.
            gzip.decompress(path.read_bytes())
        except (RuntimeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            reason = "not written completely; is the disk full?"
            raise OSError(errno.ENOSPC, reason, str(target)) from error
