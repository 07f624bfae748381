"""Work on many items in parallel, and an orderly end on signals."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

from tqdm import tqdm

from nnunetv2_cafr.errors import Signalled, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_processes() -> int:
    """Processes of a command that is not told how many: nnU-Net's number (nnUNet_def_n_proc), at most the cores."""
    from nnunetv2.configuration import default_num_processes

    return min(default_num_processes, os.cpu_count() or 1)


def installed(program: str) -> str:
    """Full path of a command of this environment; its name where it is not there."""
    return shutil.which(program, path=str(Path(sys.executable).parent)) or program


def _follow_parent() -> None:
    """Ctrl-C reaches all processes of a terminal, and the parent alone decides what follows; its end is a worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # After a SIGKILL of the parent, nothing else would ever tell its workers.
    threading.Thread(target=end_with_parent, daemon=True).start()


def in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    num_processes: int,
    description: str,
    unit: str = "case",
    progress: bool = True,
) -> Iterator[tuple[Item, Result]]:
    """Applies `work` to all items, in `num_processes` processes which hold one each, under a progress bar.

    Args:
        description: what is being done, "converting".
        unit: what an item is.
        progress: whether the bar is shown.

    Returns:
        Each item with its result, in any order.

    Raises:
        UserError: if a process was killed.
    """
    num_processes = min(num_processes, len(items))
    bar = partial(tqdm, total=len(items), desc=description, unit=unit, disable=not progress)
    if num_processes <= 1:
        for item in bar(items):
            yield item, work(item)
        return
    executor = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    try:
        futures = {executor.submit(work, item): item for item in items}
        for future in bar(as_completed(futures)):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"A process ended unexpectedly while {description}, most likely for lack of memory: give fewer than "
            f"{num_processes} by -np"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def exit_on_signal(number: int, _frame: FrameType | None) -> None:
    """A signal handler which ends the program as an exception does, so that it cleans up."""
    raise Signalled(number)


@contextmanager
def on_signal(
    number: signal.Signals, handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """Handle a signal in this way for a while. Only the main thread may do so; in others this does nothing.

    Nor does it where the signal is ignored, as nohup and a script's background jobs have it.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) == signal.SIG_IGN:
        yield
        return
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)
