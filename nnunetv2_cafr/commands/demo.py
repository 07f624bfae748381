"""`nnUNetv2_cafr demo`: the whole chain on synthetic spines, through the commands that a user types.

phantom -> nnUNetv2_convert_SpineMRI -> nnUNetv2_plan_and_preprocess -> nnUNetv2_train -> nnUNetv2_predict ->
nnUNetv2_cafr relabel -> score and picture. Everything lies in one folder; an interrupted demo goes on where it stopped.
The training is far too short for a result: it shows that the chain works and that the network learns.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from nnunetv2_cafr import options

EXAMPLES = """examples:
  nnUNetv2_cafr demo                          4 to 10 minutes on two CPU cores, result in ./cafr_demo
  nnUNetv2_cafr demo --out /tmp/demo --trainer nnUNetTrainer_LevelSafe --budget 10x50

exit status: 0 the network has learnt, 1 its foreground Dice is low, 2 the call was refused or a step failed
"""

MIN_FOREGROUND_DICE = 0.8  # below it nothing was learnt worth showing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("cafr_demo"), help="folder of the demo (default ./cafr_demo)")
    parser.add_argument(
        "--trainer", type=options.trainer, default="nnUNetTrainer_CAFR", help="default nnUNetTrainer_CAFR"
    )
    parser.add_argument(
        "--budget", type=options.budget, default="5x70", metavar="EPOCHSxITERATIONS", help="of training (default 5x70)"
    )
    parser.add_argument(
        "--cases",
        type=options.whole_number("number of phantoms"),
        nargs=2,
        default=(26, 4),
        metavar=("TRAIN", "HELD_OUT"),
        help="phantoms (default 26 4)",
    )
    parser.add_argument(
        "--size",
        type=options.whole_number("number of voxels"),
        nargs=3,
        default=(96, 80, 5),
        metavar=("ROWS", "COLUMNS", "SLICES"),
        help="of a phantom, at least 69 32 1 (default 96 80 5)",
    )
    parser.add_argument("-device", default=None, choices=["cpu", "cuda", "mps"], help="default: cuda if there is one")


def run(arguments: argparse.Namespace) -> int:
    import torch

    from nnunetv2_cafr.demo import Demo, DemoSettings

    settings = DemoSettings(
        trainer=arguments.trainer,
        budget=arguments.budget,
        num_train=arguments.cases[0],
        num_held_out=arguments.cases[1],
        size=tuple(arguments.size),
        device=arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    settings.check()
    start = time.monotonic()
    scores = Demo(arguments.out.resolve(), settings).run()
    print(f"\nThe whole demo took {(time.monotonic() - start) / 60:.1f} minutes.")
    foreground = float(scores["foreground_dice"].mean())
    if foreground < MIN_FOREGROUND_DICE:
        print(f"Foreground Dice {foreground:.3f} is below {MIN_FOREGROUND_DICE}: this budget taught it too little.")
        return 1
    return 0
