"""The entry point that Python 3.15 and newer call at every start (PEP 829); nnunetv2_cafr.start names it.

Older versions run nnunetv2_cafr.pth, which does the same without importing this package.
"""
# pathlib takes longer to import than all of this:
# ruff: noqa: PTH100, PTH112, PTH118, PTH120

import os


def add_trainers() -> None:
    """Appends the folder of our trainers to nnUNet_extTrainer, where nnU-Net looks; keeps what the user put there."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trainers")
    known = os.environ.get("nnUNet_extTrainer", "")
    if os.path.isdir(folder) and folder not in known.split(os.pathsep):
        os.environ["nnUNet_extTrainer"] = known + os.pathsep + folder if known else folder
