"""Checkpoints that survive whatever ends a training: SIGKILL while saving, a full disk, SIGTERM before a time limit.

nnU-Net writes checkpoints straight to their names, every 50 epochs. A training that is killed while it saves leaves a
file that does not load, and one that is terminated loses all epochs since the last save.
"""

import contextlib
import io
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_cafr.checkpoint_names import BEST, FINAL, LATEST
from nnunetv2_cafr.errors import Signalled
from nnunetv2_cafr.files import write_atomically
from nnunetv2_cafr.processes import on_signal
from nnunetv2_cafr.training.preflight import refuse

# What nnU-Net's checkpoints hold besides tensors and plain values: numbers of the logged curves.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),  # written under numpy 1
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")),
]

# What nnU-Net writes into every checkpoint, as far as a prediction, and --c or --val, read it.
OF_PREDICTION = ("network_weights", "init_args.configuration", "trainer_name")
OF_TRAINING = (
    "network_weights",
    *(f"init_args.{name}" for name in ("plans", "configuration", "dataset_json")),
    *("current_epoch", "logging", "_best_ema", "optimizer_state"),
)


class Terminated(Exception):  # noqa: N818 - an exit, not an error
    """Leaves nnU-Net's epoch loop after SIGTERM or Ctrl-C, between two steps."""


ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
_reacts = False
_fork = threading.local()


@contextlib.contextmanager
def on_end(react: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Calls `react` when this process gets a signal of ENDING; what it forks meanwhile ends by it as ever."""
    global _reacts
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows handlers in the main thread only
        return
    before, _reacts = _reacts, True
    try:
        with contextlib.ExitStack() as handlers:
            for ending in ENDING:
                handlers.enter_context(on_signal(ending, lambda number, frame: react(signal.Signals(number))))
            yield
    finally:
        _reacts = before


# A child inherits the handlers, and Python drops what reaches the child before its first line: a pool of nnU-Net's that
# ends at once would wait for ever for a worker that never heard of it. So signals wait until the child has none.
def _hold_signals() -> None:
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING if _reacts else ())


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _release_signals_in_child() -> None:
    global _reacts
    if _reacts:
        for ending in ENDING:
            if signal.getsignal(ending) != signal.SIG_IGN:
                signal.signal(ending, signal.SIG_DFL)
        _reacts = False
    _release_signals()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_release_signals, after_in_child=_release_signals_in_child
    )


def read_values(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU, as far as it is looked at, if it is whole and holds nothing that could run.

    Raises:
        ValueError: if it is damaged, or holds anything but tensors, numbers, text and containers of these.
    """
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} holds more than weights and settings, so loading it could run a stranger's code; it was not "
            f"loaded. nnU-Net's own trainers write no such file: find out where it comes from. ({error})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{checkpoint} is damaged and was not loaded. Delete it: --c then goes on from the next one that is there "
            f"({LATEST}, else {BEST}). ({error})"
        ) from error


def read_checkpoint(file: Path, entries: Sequence[str]) -> dict[str, Any]:
    """A checkpoint's content by `read_values`, with these of nnU-Net's entries.

    Raises:
        ValueError: as `read_values`, and if any is missing; names them, and what is there.
    """
    content: Any = read_values(file)
    missing = [entry for entry in entries if not _holds(content, entry)]
    if missing:
        there = list(content) if isinstance(content, Mapping) else []
        shown = ", ".join(map(str, there[:5])) + (", ..." if there[5:] else "")
        held = f"has {shown}" if shown else f"is a {type(content).__name__}"
        raise ValueError(
            f"{file} is no checkpoint of nnU-Net v2 and was not loaded: it lacks {', '.join(missing)}; it {held}. "
            "Expected is the file as nnUNetv2_train wrote it: put that in its place, or move it away"
        )
    return content


def _holds(content: Any, entry: str) -> bool:
    """Whether an entry is there, its path given as names with dots between them."""
    for name in entry.split("."):
        if not isinstance(content, Mapping) or name not in content:
            return False
        content = content[name]
    return True


class SafeCheckpoints(nnUNetTrainer):
    """Mixin: no checkpoint is ever lost or half-written.

    - A checkpoint is written beside its name and renamed when it is on the disk.
    - Where it can't be written, the previous one stays, the log says so, and training goes on; only a final checkpoint
      that can't be written is an error.
    - SIGTERM, as SLURM sends it before a time limit, Ctrl-C and a closed terminal end the training between two steps.
      `checkpoint_latest` then holds the state at the start of the running epoch: `--c` repeats that epoch, so that a
      training in pieces has exactly as many iterations as one in a piece. A second Ctrl-C ends it at once.
    - `checkpoint_latest` is written every 10 epochs (ours; nnU-Net: 50), and knows the best epoch so far, also where
      that is its own.
    - A checkpoint that is damaged, holds more than values or lacks an entry is refused by name.

    Attributes:
        best_is_trustworthy: whether this epoch may replace `checkpoint_best`; others set it to False.
    """

    # nnU-Net's
    save_every: int
    current_epoch: int
    _best_ema: float | None

    epochs_between_saves = 10
    best_is_trustworthy = True
    _best_was_saved = True
    _told_of_fsync = False
    _ended_by: signal.Signals | None = None
    _ended_at_once = False
    _epochs_began = False
    _epoch_start: io.BytesIO | None = None

    def initialize(self) -> None:
        super().initialize()
        self.save_every = min(self.save_every, self.epochs_between_saves)

    def save_checkpoint(self, filename: str) -> None:
        save = super().save_checkpoint
        if self.local_rank != 0 or self.disable_checkpointing:
            save(filename)
            return
        self._write_checkpoint(Path(filename), lambda partial: save(str(partial)))

    def _write_checkpoint(self, target: Path, write: Callable[[Path], object]) -> None:
        is_best = target.name == BEST
        if is_best and not self.best_is_trustworthy:
            self._best_was_saved = False
            self.print_to_log_file(f"{target.name} stays as it was, because of this epoch's alarm")
            return
        try:
            flushed = write_atomically(target, write)
        except (OSError, RuntimeError) as error:
            self._best_was_saved &= not is_best
            before = "the previous one stays" if target.exists() else "there is no previous one"
            message = f"{target} could not be written ({error}); {before}. Is the disk full?"
            if target.name == FINAL:
                refuse(self, f"{message} Make room, then: {self.command_to_go_on()}")
            self.print_to_log_file(f"ALARM: {message} Training goes on.")
            return
        if not flushed and not self._told_of_fsync:
            self._told_of_fsync = True
            self.print_to_log_file(
                f"{target.parent} lies where files cannot be flushed to the disk (fsync is refused): checkpoints are "
                "written all the same, but a power failure could take the last one. This is said once."
            )

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        if not isinstance(filename_or_checkpoint, dict):
            try:
                read_checkpoint(Path(filename_or_checkpoint), OF_TRAINING)
            except ValueError as error:
                refuse(self, str(error))
        super().load_checkpoint(filename_or_checkpoint)

    def on_epoch_start(self) -> None:
        self._epochs_began = True
        self.best_is_trustworthy = True
        self._remember_epoch_start()
        self._end_if_terminated()
        super().on_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self._end_if_terminated()
        return super().train_step(batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self._end_if_terminated()
        return super().validation_step(batch)

    def on_epoch_end(self) -> None:
        epoch, best, every = self.current_epoch, self._best_ema, self.save_every
        self._best_was_saved = True
        self.save_every = self.num_epochs + 1  # nnU-Net would save before it knows whether this epoch is the best
        try:
            super().on_epoch_end()
        except OSError as error:
            self.print_to_log_file(f"ALARM: the curves could not be drawn ({error}). Training goes on.")
        self.save_every = every
        if not self._best_was_saved:
            self._best_ema = best  # so that the next good epoch is tried again
        self.current_epoch = epoch  # nnU-Net saves at the end of an epoch, and stores the next one's number
        if (epoch + 1) % every == 0 and epoch + 1 != self.num_epochs:
            self.save_checkpoint(str(Path(self.output_folder) / LATEST))
        self.current_epoch = epoch + 1

    def run_training(self) -> None:
        with on_end(self._request_termination):
            try:
                super().run_training()
            except Terminated:
                self._exit_terminated()
            except (RuntimeError, KeyboardInterrupt):
                # SLURM also terminates the data loading processes, for lack of which nnU-Net raises, and the parent of
                # distributed ranks, whose end interrupts these; so does Ctrl-C.
                if self._ended_by is None or self._ended_at_once:
                    raise
                self._exit_terminated()
        if self._ended_by is not None:
            self._say_validation_is_left(self._ended_by)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with on_end(self._say_validation_is_left):
            super().perform_actual_validation(save_probabilities)

    def command_to_go_on(self, option: str = "--c") -> str:
        """The command line that continues this training (`--c`), or only validates it (`--val`)."""
        gpus = f" -num_gpus {torch.distributed.get_world_size()}" if self.is_ddp else ""
        # Of these a trainer knows nothing, so they are taken from the command line.
        of_validation = [given for given in ("--val_best", "--npz") if given in sys.argv]
        options = " ".join([option, *of_validation])
        return (
            f"nnUNetv2_train {self.plans_manager.dataset_name} {self.configuration_name} {self.fold} "
            f"-tr {type(self).__name__} -p {self.plans_manager.plans_name} -device {self.device.type}{gpus} {options}"
        )

    def _remember_epoch_start(self) -> None:
        """Keeps the checkpoint of this moment in memory; it goes to the disk only if the epoch is interrupted."""
        if self.local_rank == 0 and not self.disable_checkpointing:
            self._epoch_start = io.BytesIO()
            self.current_epoch -= 1  # nnU-Net saves at the end of an epoch, and stores the next one's number
            super().save_checkpoint(self._epoch_start)
            self.current_epoch += 1

    def _request_termination(self, by: signal.Signals) -> None:
        if not self._epochs_began:  # nothing to save, and the start may wait for processes that the signal has ended
            raise Signalled(by)
        if by == self._ended_by == signal.SIGINT:
            self._ended_at_once = True
            raise KeyboardInterrupt
        if by == signal.SIGINT:  # not by print, which may be what it interrupts
            os.write(2, b"\nThe training ends after this step, with a checkpoint; Ctrl-C again ends it at once.\n")
        self._ended_by = by

    def _end_if_terminated(self) -> None:
        # Other ranks go on until rank 0 has ended: it would wait for ever for their share of its last step.
        if self._ended_by is not None and self.local_rank == 0:
            raise Terminated

    def _exit_terminated(self) -> None:
        assert self._ended_by is not None
        if self.local_rank != 0:
            raise Signalled(self._ended_by)
        ended = f"Terminated by {self._ended_by.name} in epoch {self.current_epoch}."
        state = None if self._epoch_start is None else self._epoch_start.getvalue()
        latest = Path(self.output_folder) / LATEST
        if state is not None:
            self._write_checkpoint(latest, lambda partial: partial.write_bytes(state))
        # As nnU-Net ends them; else their threads would have the last word, about processes that are gone.
        for loader in (self.dataloader_train, self.dataloader_val):
            with contextlib.suppress(Exception):
                loader._finish()
        if state is None:
            self.print_to_log_file(f"{ended} No checkpoint was written: checkpointing is off")
        else:
            self.print_to_log_file(
                f"{ended} {latest.name} holds the state at its start; go on with:\n{self.command_to_go_on()}"
            )
        raise Signalled(self._ended_by)

    def _say_validation_is_left(self, by: signal.Signals) -> None:
        self.print_to_log_file(
            f"Terminated by {by.name}. The training is complete, its validation is not; repeat that with:\n"
            f"{self.command_to_go_on('--val')}"
        )
        raise Signalled(by)
