"""The command `nnUNetv2_cafr <verb>`."""

import argparse
from collections.abc import Sequence

EPILOG = """examples:
  nnUNetv2_cafr demo --out cafr_demo          phantom -> convert -> plan -> train -> predict -> score, 6 minutes
  nnUNetv2_cafr cost --size 256 256           MACs, parameters, latency beside nnU-Net
  nnUNetv2_cafr doctor                        versions, device, folders, trainers

Training and inference are nnU-Net's own commands: nnUNetv2_train DATASET 2d 0 -tr nnUNetTrainer_CAFR
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_cafr",
        description="CAFR-Net for nnU-Net v2: everything that is not nnU-Net's own command.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="the whole chain on synthetic spines, in minutes on a CPU")
    cost = verbs.add_parser("cost", help="MACs, parameters and latency beside nnU-Net's network")
    verbs.add_parser("doctor", help="versions, device, folders, and whether nnU-Net finds the trainers")

    # torch takes seconds to import; `--help` should not.
    from nnunetv2_cafr import cost as cost_verb
    from nnunetv2_cafr import demo as demo_verb

    for verb, module in ((demo, demo_verb), (cost, cost_verb)):
        verb.formatter_class = argparse.RawDescriptionHelpFormatter
        verb.description = module.__doc__
        verb.epilog = module.EXAMPLES
        module.add_arguments(verb)

    arguments = parser.parse_args(argv)
    if arguments.verb == "demo":
        return demo_verb.run(arguments)
    if arguments.verb == "cost":
        return cost_verb.run(arguments)
    from nnunetv2_cafr import doctor

    return doctor.run()
