"""All that a training of several days needs besides its method, in one mixin."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunetv2_cafr.files import try_lock
from nnunetv2_cafr.training.alarms import AlarmedTraining
from nnunetv2_cafr.training.checkpoints import SafeCheckpoints
from nnunetv2_cafr.training.continuation import ContinuedTraining
from nnunetv2_cafr.training.preflight import CheckedTraining, refuse
from nnunetv2_cafr.training.record import RecordedTraining

LOCK = ".training.lock"


class RobustTraining(AlarmedTraining, SafeCheckpoints, ContinuedTraining, RecordedTraining, CheckedTraining):
    """Mixin: checked, seeded, recorded, watched, never lost, gone on with as it began, alone in its folder.

    Changes no result.
    """

    def run_training(self) -> None:
        with self._alone():
            super().run_training()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self._alone():
            super().perform_actual_validation(save_probabilities)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other trainings and validations of this fold out: both would write the same files."""
        if self.local_rank != 0:
            yield
            return
        file = Path(self.output_folder) / LOCK
        held = try_lock(file)
        if held is None:
            refuse(
                self, f"another training or validation writes into {self.output_folder}: wait for it, or end it first"
            )
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps what is open
                file.unlink()
            held.release()
