"""Work on many cases in parallel, and an orderly end on signals."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TypeVar

from tqdm import tqdm

from dataset_conversion.cases import Case

Result = TypeVar("Result")


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


def for_each_case(
    work: Callable[[Case], Result], cases: Sequence[Case], num_processes: int, description: str
) -> Iterator[Result]:
    """Apply `work` to all cases, in `num_processes` processes which hold one case each; results come in any order.

    Raises:
        MemoryError: if a worker process was killed.
    """
    progress = partial(tqdm, total=len(cases), desc=description, unit="case")
    num_processes = min(num_processes, len(cases))
    if num_processes <= 1:
        yield from map(work, progress(cases))
        return
    executor = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    try:
        for future in progress(as_completed([executor.submit(work, case) for case in cases])):
            yield future.result()
    except BrokenProcessPool as error:
        raise MemoryError(
            f"a worker process ended unexpectedly while {description}, most likely for lack of memory; "
            f"use fewer than {num_processes} processes"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def exit_on_signal(number: int, _frame: FrameType | None) -> None:
    """A signal handler which ends the program as an exception does, so that it cleans up."""
    raise SystemExit(128 + number)


@contextmanager
def on_signal(
    number: signal.Signals, handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """Handle a signal in this way for a while. Only the main thread may do so; in others this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)
