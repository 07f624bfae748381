"""The verbs of `nnUNetv2_cafr`, below `main`, which makes errors into messages."""

import argparse
import importlib


def run_verb(verb: str, *arguments: object) -> int:
    """Runs a verb of the command line in this process."""
    module = importlib.import_module(f"nnunetv2_cafr.commands.{verb}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(argument) for argument in arguments]))
