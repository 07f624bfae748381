"""Files that are there completely or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

# What network and FUSE folders, and Windows for a folder, answer to fsync: they have no such thing. A full or broken
# disk answers otherwise.
_NO_FSYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT)


def partial_of(target: Path) -> Path:
    """The name under which `write_atomically` writes; a kill leaves such a file, and the next writing takes it up."""
    return target.with_name(f".{target.name}.partial")


def write_atomically(target: Path, write: Callable[[Path], object]) -> bool:
    """Lets `write` fill a file beside `target`, brings it to the disk, and gives it the name in one step.

    Returns:
        Whether it was brought to the disk. Where the folder knows no fsync, the file is there all the same, but a power
        failure could still take it.

    Raises:
        OSError, RuntimeError: as `write` does (torch.save has both for a full disk); `target` is then what it was.
    """
    partial = partial_of(target)
    try:
        write(partial)
        flushed = _flush(partial)
        partial.replace(target)
        return _flush(target.parent) and flushed
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> bool:
    """Waits until `path` is on the disk; False where there is no way to ask for that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_FSYNC:
            return False
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _NO_FSYNC:
            return False
        raise
    finally:
        os.close(descriptor)
    return True


def describe_failure(target: Path, error: OSError) -> str:
    """Why `target` could not be written, and what to do."""
    remedy = "Make room on that disk" if error.errno in FULL else "Give another place, or the right to write there"
    return f"{target} could not be written ({error.strerror or error}). {remedy}, then give the same line again"
