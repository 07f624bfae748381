"""Errors that the user can correct, told in a sentence, and the end by a signal. All else is a bug: a traceback.

And the small words of such sentences: lists that are shortened, plurals, ranges, lengths.
"""

import sys
from collections.abc import Iterable, Sequence


class UserError(SystemExit):
    """What was found, what was expected and what to do.

    A program that nobody catches it in ends by the sentence, without a traceback: so do nnU-Net's own commands, with
    status 1. Ours end with status 2, as argparse does for wrong arguments, see `tell`.

    Examples:
        >>> raise UserError("scan.nii has 2 channels, the network takes 1: give one of them")
        Traceback (most recent call last):
        nnunetv2_cafr.errors.UserError: scan.nii has 2 channels, the network takes 1: give one of them
    """

    def tell(self) -> None:
        """Prints the sentence to stderr, and makes 2 the exit status. For the `main` of a command, which raises on."""
        print(self, file=sys.stderr)
        self.code = 2


class Signalled(SystemExit):
    """The end by a signal as an exception, so that things are cleaned up; shells show its exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


def shorten(names: Sequence[str], shown: int = 5) -> str:
    """The names, or the first few and how many there are more."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def counted(number: int, word: str) -> str:
    """The number and the word, in the plural where it has one."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def last_line(error: BaseException) -> str:
    """What an error ends with, which tells most where a library's is long; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def ranges(numbers: Iterable[int]) -> str:
    """Sorted whole numbers, runs of them in short: 0, 1, 2, 5 as 0 to 2, 5."""
    runs: list[list[int]] = []
    for number in map(int, numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in runs)


def millimetres(lengths: Iterable[float]) -> str:
    """Lengths along axes: 0.5 x 0.5 x 4 mm."""
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"
