"""Runs the jobs of a benchmark by Snakemake: on this machine, one per GPU of a node, or on a cluster.

Snakemake knows what is done by the files that are there, goes on after a kill with what is missing, and talks to
clusters. It is the extra [cluster]; jobs of a plain shell need nothing but `--dry-run`.
"""

import contextlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import torch

from nnunetv2_cafr.benchmark.jobs import Job, missing
from nnunetv2_cafr.errors import Signalled, UserError
from nnunetv2_cafr.files import try_lock, write_json
from nnunetv2_cafr.processes import on_signal

LOCK = ".lock"
BENCHMARK = "NNUNETV2_CAFR_BENCHMARK"  # variable that tells Snakemake the process that began it
SNAKEFILE = Path(__file__).with_name("Snakefile")
LOG_LINES = 15
# Set to 1 by Snakemake for every job, which would make a training on CPUs slow and its measured cost no user's.
THREADS = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def require_snakemake() -> None:
    """Raises UserError where Snakemake is not installed."""
    if importlib.util.find_spec("snakemake") is None:
        raise UserError(
            "Snakemake runs the benchmark's jobs and is not installed: pip install 'nnunetv2-cafr[cluster]' (Python "
            "3.11 or newer). Without it, --dry-run prints the commands to run by hand"
        )


def run(jobs: Sequence[Job], folder: Path, parallel: int, gpus: Sequence[str], options: Sequence[str]) -> int:
    """Runs what is missing, in a folder that this process holds; returns Snakemake's exit status.

    Args:
        jobs: all jobs.
        folder: the benchmark's.
        parallel: jobs at a time.
        gpus: ids of this node's GPUs to give to one job each; none leaves the choice to the jobs or the cluster.
        options: passed on to Snakemake, such as --executor slurm.

    Raises:
        UserError: if a path has braces.
        Signalled: after a signal that ends this process; its jobs have ended by then.
    """
    for path in (folder, *(path for job in jobs for path in (job.output, *job.inputs))):
        if set("{}") & set(str(path)):
            raise UserError(f"{path} has braces, which Snakemake takes for its wildcards: rename that folder")
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    config = folder / "jobs.json"
    write_json(config, {"jobs": [_entry(job, folder, gpus) for job in jobs]})
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--configfile", str(config)]
    command += ["--directory", str(folder), "--cores", str(parallel), "--jobs", str(parallel), "--keep-going"]
    # A file that is there is done, whatever changed meanwhile in our code: trainings take days.
    command += ["--rerun-incomplete", "--rerun-triggers", "mtime", "--nolock", "--quiet", "host", "reason"]
    if gpus:
        command += ["--resources", f"gpu={len(gpus)}"]
    status = _call([*command, *options])
    for job in missing(list(jobs)) if status else []:
        log = logs / f"{job.name}.log"
        if log.is_file() and all(path.is_file() for path in job.inputs):
            last = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            print(f"\n{job.name} did not end well ({log}):", *last, sep="\n  ", file=sys.stderr)
    return status


def _call(command: Sequence[str]) -> int:
    """Runs a command whose whole process group gets the signals that would end this process, and ends before it.

    Raises:
        Signalled: after such a signal; trainings have saved by then.
    """
    came: list[int] = []
    groups: list[int] = []

    def pass_on(number: int, _frame: FrameType | None = None) -> None:
        came.append(number)
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)

    with contextlib.ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handlers.enter_context(on_signal(number, pass_on))
        environment = {**_environment(), BENCHMARK: str(os.getpid())}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        groups.append(process.pid)
        if came:  # before there was anything to pass it on to
            os.killpg(process.pid, came[0])
        status = process.wait()
    if came:
        raise Signalled(came[0])
    return status


def end_with_benchmark() -> None:
    """In Snakemake's process: ends it and its jobs, which save first, once the benchmark that began it is gone."""
    benchmark = os.getppid()
    if os.environ.get(BENCHMARK) != str(benchmark):
        return  # a job of it, maybe on another computer

    def watch() -> None:
        while os.getppid() == benchmark:
            time.sleep(1)
        # Nobody else will after a SIGKILL, and the same line would train beside these jobs.
        os.killpg(0, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _entry(job: Job, folder: Path, gpus: Sequence[str]) -> dict[str, object]:
    command = job.shell
    if job.gpu and gpus:
        slot = [sys.executable, "-m", "nnunetv2_cafr.benchmark.gpu", str(folder / ".gpus"), ",".join(gpus), command]
        command = shlex.join(slot)
    return {
        "name": job.name,
        "command": f"{_threads_of_this_shell()} {command}",
        "inputs": [str(path) for path in job.inputs],
        "output": str(job.output),
        "log": str(folder / "logs" / f"{job.name}.log"),
        "gpu": int(job.gpu),
    }


def _threads_of_this_shell() -> str:
    """Shell code: a job has the threads that the same command would have by hand."""
    kept = "".join(f" export {name}={shlex.quote(os.environ[name])};" for name in THREADS if name in os.environ)
    return f"unset {' '.join(THREADS)};{kept}"


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def _environment() -> dict[str, str]:
    """Idle threads that spin take the cores from the processes that work; output is to be seen while it happens."""
    return {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", **os.environ}


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps a second benchmark out of the folder while this one lives; nothing is left behind by a kill.

    Raises:
        UserError: if another one is at work there.
    """
    lock = try_lock(folder / LOCK)
    if lock is None:
        raise UserError(f"Another benchmark is at work in {folder}: wait for it, or choose another -o")
    try:
        yield
    finally:
        lock.release()
