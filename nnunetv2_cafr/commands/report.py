"""`nnUNetv2_cafr report`: the report of a finished benchmark, from its scores, without running anything."""

import argparse
import shlex
import sys
from pathlib import Path

from nnunetv2_cafr.commands.benchmark import ENVIRONMENT
from nnunetv2_cafr.errors import UserError

EXAMPLES = """examples:
  nnUNetv2_cafr report benchmark_Dataset511_SpineMRI_short

exit status: 0 written, 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the benchmark")


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2_cafr.benchmark.matrix import MATRIX_FILE

    folder = arguments.folder.resolve()
    if not (folder / MATRIX_FILE).is_file():
        raise UserError(f"{folder} holds no benchmark ({MATRIX_FILE} is missing): run nnUNetv2_cafr benchmark first")
    from nnunetv2_cafr.raw_dataset import require_folders

    require_folders(*ENVIRONMENT)
    from nnunetv2_cafr.benchmark import collect  # takes seconds, which nobody waits for whose folder is refused

    print(f"Report: {collect.report(folder, shlex.join(['nnUNetv2_cafr', *sys.argv[1:]]))}")
    return 0
