"""The command line that all converters share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset_conversion.collection import Collection
from dataset_conversion.conversion import convert
from dataset_conversion.environment import fault_of_arguments, folder_of, spell_strange_letters
from dataset_conversion.labels import SCHEMES
from nnunetv2_cafr import options
from nnunetv2_cafr.errors import UserError


def make_parser(command: str, *, description: str, source: str, example: str) -> argparse.ArgumentParser:
    """The options of every converter; a source may add its own.

    Args:
        command: the command's name.
        source: what the folder is that `-i` names.
        example: arguments that work, and what they do.
    """
    parser = argparse.ArgumentParser(
        prog=command,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{description}\nThe data set appears complete or not at all; all problems are reported at once.",
        epilog=f"example: {command} {example}",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="SRC", help=source)
    parser.add_argument(
        "-d",
        type=options.whole_number("data set number", 1, 999),
        required=True,
        metavar="ID",
        help="data set number, 1 to 999",
    )
    parser.add_argument("-o", type=Path, metavar="DIR", help="where to write the data set; default: $nnUNet_raw")
    parser.add_argument(
        "--labels",
        choices=SCHEMES,
        default="levels",
        help="; ".join(f"{name}: {meaning}" for name, meaning in SCHEMES.items()) + "; default: levels",
    )
    options.add_processes(parser, "number of processes that convert")
    return parser


def run(
    parser: argparse.ArgumentParser,
    collect: Callable[[argparse.Namespace], Collection],
    argv: Sequence[str] | None,
) -> int:
    """Run a converter; returns 0, or 130 after Ctrl-C.

    Args:
        collect: lists what the parsed arguments ask for. It may raise `ConversionError` or `OSError`.

    Raises:
        SystemExit: with status 2, for wrong arguments and for data that cannot be converted (`UserError`).
    """
    spell_strange_letters()
    argv = sys.argv[1:] if argv is None else list(argv)
    if fault := fault_of_arguments(argv):
        parser.error(fault)
    arguments = parser.parse_args(argv)
    if not arguments.i.is_dir():
        parser.error(f"-i {arguments.i}: no such folder")
    output = arguments.o
    if output is None:
        try:
            output = folder_of("nnUNet_raw")
        except ValueError as error:
            parser.error(f"{error}; or say by -o where the data set should go")
    try:
        collection, target = _convert(collect, arguments, output, parser.prog)
    except UserError as error:
        error.tell()
        raise
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return 130
    tests = len(collection.cases) - collection.num_training
    print(f"{target}: {collection.num_training} training and {tests} test cases")
    return 0


def _convert(
    collect: Callable[[argparse.Namespace], Collection], arguments: argparse.Namespace, output: Path, converter: str
) -> tuple[Collection, Path]:
    """Returns what was converted, and the data set's folder."""
    try:
        collection = collect(arguments)
        target = output / f"Dataset{arguments.d:03d}_{collection.name}"
        convert(collection, target, arguments.labels, arguments.np, converter)
    except (OSError, MemoryError) as error:
        raise UserError(f"The conversion failed, and nothing was written: {error}") from error
    return collection, target
