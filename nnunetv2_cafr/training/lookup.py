"""Trainers by name, as nnU-Net's commands find them."""

import contextlib
import functools
import io
import os

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name


def find_trainer(name: str) -> type | None:
    """The class that nnU-Net's own lookup returns for this name; None if it finds none."""
    return _find(name, os.environ.get("nnUNet_extTrainer"))


@functools.cache  # a lookup in a folder of trainers goes through all modules of the process, which takes up to a second
def _find(name: str, _folders: str | None) -> type | None:
    with contextlib.redirect_stdout(io.StringIO()):  # the lookup prints what it scans
        try:
            trainer: type = recursive_find_trainer_class_by_name(name)
        except RuntimeError:
            return None
    return trainer
