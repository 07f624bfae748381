"""`python -m nnunetv2_cafr.benchmark.gpu LOCKS GPU[,GPU...] COMMAND`: one job per GPU of a node.

Takes the first GPU that no other job holds and runs the shell command on it alone. The hold is a file lock, so it ends
with the job, however that ends.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_cafr.files import Lock, try_lock


def take(locks: Path, gpus: Sequence[str]) -> tuple[str, Lock]:
    """Waits for a free GPU; it is held until the lock that comes with it is released."""
    locks.mkdir(parents=True, exist_ok=True)
    while True:
        for gpu in gpus:
            if (lock := try_lock(locks / gpu)) is not None:
                return gpu, lock
        time.sleep(1)


def main(locks: str, gpus: str, command: str) -> int:
    gpu, lock = take(Path(locks), gpus.split(","))
    try:
        print(f"On GPU {gpu}", flush=True)
        return subprocess.call(["bash", "-c", command], env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu})
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
