"""`python -m nnunetv2_cafr.benchmark.gpu LOCKS GPU[,GPU...] COMMAND`: one job per GPU of a node.

Takes the first GPU that no other job holds and runs the shell command on it alone. The hold is a file lock, so it ends
with the job, however that ends.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout


def take(locks: Path, gpus: Sequence[str]) -> tuple[str, AcquireReturnProxy]:
    """Waits for a free GPU; it is held as long as the context that comes with it."""
    locks.mkdir(parents=True, exist_ok=True)
    while True:
        for gpu in gpus:
            with suppress(Timeout):
                return gpu, FileLock(locks / gpu).acquire(timeout=0)
        time.sleep(1)


def main(locks: str, gpus: str, command: str) -> int:
    gpu, hold = take(Path(locks), gpus.split(","))
    with hold:
        print(f"On GPU {gpu}", flush=True)
        return subprocess.call(["bash", "-c", command], env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu})


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
