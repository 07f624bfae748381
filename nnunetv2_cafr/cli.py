"""The command `nnUNetv2_cafr <verb>`."""

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence

from dataset_conversion.environment import fault_of_arguments, spell_strange_letters
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import FULL

EPILOG = """examples:
  nnUNetv2_cafr demo --out cafr_demo          phantom -> convert -> plan -> train -> predict -> score, 4 to 10 minutes
  nnUNetv2_cafr check -d 511                  every case on one page before you train: report.html, findings.csv
  nnUNetv2_cafr split -d 511                  folds by patient, rare levels spread over them
  nnUNetv2_cafr plan -d 511                   plans of CAFR-Net for a GPU's memory: -p nnUNetCAFRPlans
  nnUNetv2_cafr cost --size 256 256           MACs, parameters, latency beside nnU-Net
  nnUNetv2_cafr evaluate REF PRED             overlaps, surface distances in mm, level errors
  nnUNetv2_cafr benchmark -d 511 --dry-run    every network under equal conditions: one page, tables
  nnUNetv2_cafr export -d 511 -c 2d -f 0 -o model.onnx
  nnUNetv2_cafr predict -m model.onnx -i IN -o OUT --precision bf16
  nnUNetv2_cafr model install spine.zip       a network that somebody hands over, by name from then on
  nnUNetv2_cafr relabel -i MAPS -p MAPS -o OUT  consistent spine levels, after any network
  nnUNetv2_cafr measure -i MAPS -o OUT        heights, angles, volumes, lordosis; a page of all studies
  nnUNetv2_cafr doctor                        versions, device, folders, trainers

Training and inference are nnU-Net's own commands: nnUNetv2_train DATASET 2d 0 -tr nnUNetTrainer_CAFR
"""

# Summary of each verb. Its module in commands/ has its name: the docstring describes it, EXAMPLES ends its --help,
# `add_arguments` and `run` do the rest.
VERBS = {
    "demo": "the whole chain on synthetic spines, in minutes on a CPU",
    "check": "quality control of a raw data set: a page, a table, an exit status",
    "split": "splits by patient, with every label in every fold where possible",
    "plan": "plans of CAFR-Net's own that fit a GPU's memory",
    "evaluate": "Dice, surface distances and level errors of predictions, every way of averaging named",
    "benchmark": "all networks under equal conditions, in one report",
    "report": "the report of a finished benchmark, again",
    "cost": "MACs, parameters and latency beside nnU-Net's network",
    "export": "a trained network as one ONNX file, with all that prediction needs",
    "predict": "label maps from an exported network, without the training stack",
    "model": "hand a trained network over, install one by name, or say what it is",
    "relabel": "consistent spine levels in label maps, nnU-Net's or another tool's",
    "measure": "label maps of a spine in mm, ml and degrees, a page of all studies, colours for viewers",
    "doctor": "versions, device, folders, and whether nnU-Net finds the trainers",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit status: 0, what the verb's --help says of others, or 130 after Ctrl-C.

    Raises:
        SystemExit: with status 2, for wrong arguments and for every other error of the user's (`UserError`).
    """
    spell_strange_letters()
    argv = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_cafr",
        description="CAFR-Net for nnU-Net v2: everything that is not nnU-Net's own command.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if argv[:1] == ["--version"]:
        from importlib.metadata import version

        print(version("nnunetv2-cafr"))
        return 0
    if "-h" in argv or "--help" in argv:
        warnings.simplefilter("ignore")  # those of the packages that a verb imports
    parser.add_argument("--version", action="store_true", help="print the version, and end")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if argv[:1] == [name]:  # torch takes seconds to import, so no module is imported but the one that is asked for
            module = importlib.import_module(f"nnunetv2_cafr.commands.{name}")
            verb.description = module.__doc__
            verb.epilog = module.EXAMPLES
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)
    if fault := fault_of_arguments(argv):
        parser.error(fault)
    arguments = parser.parse_args(argv)
    try:
        return _run(arguments)
    except UserError as error:
        error.tell()
        raise
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    try:
        return arguments.run(arguments)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(f"The disk is full: {error}. Make room, then give the same line again") from error
