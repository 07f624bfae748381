"""All that a training of several days needs besides its method, in one mixin."""

from nnunetv2_cafr.training.alarms import AlarmedTraining
from nnunetv2_cafr.training.checkpoints import SafeCheckpoints
from nnunetv2_cafr.training.continuation import ContinuedTraining
from nnunetv2_cafr.training.preflight import CheckedTraining
from nnunetv2_cafr.training.record import RecordedTraining


class RobustTraining(AlarmedTraining, SafeCheckpoints, ContinuedTraining, RecordedTraining, CheckedTraining):
    """Mixin: checked, seeded, recorded, watched, never lost, gone on with as it began.

    Changes no result.
    """
