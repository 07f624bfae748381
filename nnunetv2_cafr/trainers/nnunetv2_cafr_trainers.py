"""What nnU-Net's lookup finds here: our trainers, and any trainer of a given length or seed, by their importable path.

nnU-Net forgets this module right after the lookup, so nothing may be defined here.
"""

from nnunetv2_cafr.training import *  # noqa: F403
from nnunetv2_cafr.training.variants import __getattr__  # noqa: F401
