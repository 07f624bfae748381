"""`python -m nnunetv2_cafr.benchmark.gpu LOCKS GPU[,GPU...] COMMAND`: one job per GPU of a node.

Takes the first GPU that no other job holds and runs the shell command on it alone. The hold is a file lock, so it ends
with the job, however that ends.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO


def take(locks: Path, gpus: Sequence[str]) -> tuple[str, IO[str]]:
    """Waits for a free GPU; it is held until the file is closed."""
    locks.mkdir(parents=True, exist_ok=True)
    while True:
        for gpu in gpus:
            file = (locks / gpu).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return gpu, file
        time.sleep(1)


def main(locks: str, gpus: str, command: str) -> int:
    gpu, hold = take(Path(locks), gpus.split(","))
    with hold:
        print(f"On GPU {gpu}", flush=True)
        return subprocess.call(["bash", "-c", command], env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu})


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
