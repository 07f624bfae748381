"""Types of our commands' options for argparse: a meaningless value is refused before any work."""

import argparse
import math
import re
from collections.abc import Callable

from nnunetv2_cafr.processes import default_processes


def whole_number(what: str, low: int = 1, high: int | None = None) -> Callable[[str], int]:
    """A type for whole numbers from `low` to `high`; `what` names them in the message."""
    expected = f"a whole number from {low} to {high}" if high is not None else f"a whole number, {low} or more"

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or int(text) < low or (high is not None and int(text) > high):
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}; expected {expected}")
        return int(text)

    return parse


def number(what: str, low: float, high: float = math.inf, *, inclusive: bool = True) -> Callable[[str], float]:
    """A type for finite numbers from `low` to `high`; without `inclusive`, `low` itself is not one of them."""
    expected = f"a number {'from' if inclusive else 'above'} {low:g}" + (f" to {high:g}" if high < math.inf else "")

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value <= high and (value >= low if inclusive else value > low)):
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}; expected {expected}")
        return value

    return parse


processes = whole_number("number of processes")


def add_processes(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `-np`, the number of processes that do `what`; the same default for every command."""
    number = default_processes()
    parser.add_argument("-np", type=processes, default=number, metavar="N", help=f"{what} (default here: {number})")


fold = whole_number("fold", 0)
seed = whole_number("seed", 0)


def budget(text: str) -> str:
    """EPOCHSxITERATIONS, as a trainer's name carries it."""
    if not re.fullmatch(r"[1-9][0-9]*x[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no length; expected EPOCHSxITERATIONS, such as 8x90")
    return text


def dataset(text: str) -> str:
    """A data set's number, 1 to 999, or its full name; as nnU-Net takes them."""
    if re.fullmatch(r"Dataset[0-9]{3}_[^/\\]+", text):
        return text
    if re.fullmatch(r"[0-9]{1,3}", text) and int(text) > 0:
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is no data set; expected its number, 1 to 999, or its full name, such as Dataset511_SpineMRI"
    )


def name(what: str) -> Callable[[str], str]:
    """A type for names that become part of a file's or folder's name."""

    def parse(text: str) -> str:
        if not re.fullmatch(r"[\w.+-]+", text):
            raise argparse.ArgumentTypeError(f"{text!r} is no {what}; expected letters, digits, _, - and .")
        return text

    return parse


configuration = name("configuration")
plans = name("plans identifier")
trainer = name("trainer")
