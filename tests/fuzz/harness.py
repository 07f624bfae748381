"""Fuzzing by hypothesis: some examples whenever the tests run, minutes of others where they are asked for.

A target is a property that holds for any input: the right result, or a refusal by name. `python -m pytest tests/fuzz`
draws the same examples each time. `CAFR_FUZZ_MINUTES=10 CAFR_FUZZ_SEED=1 python -m pytest -m slow tests/fuzz` draws new
ones for so many minutes per target, in rounds whose seeds count up from the given one, and lists every kind of failure
once; what it finds becomes an `@example` of the target.
"""

import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy

from dataset_conversion.problems import Problem

ROUND = 200  # examples per seed of a long run
RULES = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@dataclass
class Target:
    """A property, what it is tried on, and how that ended.

    Attributes:
        check: returns in a word how an example ended.
        failures: an example and its error for each kind of failure in a long run.
    """

    name: str
    check: Callable[..., str]
    inputs: dict[str, SearchStrategy[Any]]
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def run_for(self, minutes: float, first_seed: int) -> str:
        """Draws examples for so many minutes; returns what was run and found."""
        rules = settings(RULES, max_examples=ROUND, phases=[Phase.generate])
        end, number = time.monotonic() + 60 * minutes, first_seed

        def collect(**drawn: Any) -> None:
            if time.monotonic() < end:
                self._try(drawn)

        while time.monotonic() < end:
            seed(number)(rules(given(**self.inputs)(lambda **drawn: collect(**drawn))))()
            number += 1
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        lines = [f"{self.name}: {self.outcomes.total()} examples of seeds {first_seed} to {number - 1}: {counts}"]
        return "\n".join([*lines, *self.failures.values()])

    def _try(self, drawn: dict[str, Any]) -> None:
        # A library in C may take the process along.
        (Path(gettempdir()) / f"cafr_fuzz_last_{self.name}").write_text(repr(drawn))
        try:
            self.outcomes[self.check(**drawn)] += 1
        except UnsatisfiedAssumption:
            raise
        except (Exception, SystemExit) as error:
            self.outcomes["FAILED"] += 1
            frame = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} {frame.filename}:{frame.lineno} {str(error)[:40]}"
            example = f"{drawn}\n    {''.join(traceback.format_exception(error)[-3:])}"
            if kind not in self.failures or len(example) < len(self.failures[kind]):
                self.failures[kind] = example


TARGETS: dict[str, Target] = {}


def fuzz(examples: int, **inputs: SearchStrategy[Any]) -> Callable[[Callable[..., str]], Callable[..., None]]:
    """Makes a test of a property, which returns in a word how the example ended; `examples` are drawn each time."""

    def decorate(check: Callable[..., str]) -> Callable[..., None]:
        TARGETS[check.__name__] = Target(check.__name__, check, inputs)

        def test(**drawn: Any) -> None:
            check(**drawn)

        test.__name__, test.__qualname__, test.__doc__ = check.__name__, check.__name__, check.__doc__
        return settings(RULES, max_examples=examples, derandomize=True)(given(**inputs)(test))

    return decorate


def assert_named(problems: Iterable[Problem], path: Path) -> None:
    """Each problem names the file or folder, or one in it, and says all that a user needs."""
    listed = list(problems)
    assert listed, "refused without a word"
    for problem in listed:
        assert problem.path.is_relative_to(path), problem
        assert problem.found and problem.expected and problem.remedy, problem


def outcome_of(problems: Sequence[Problem]) -> str:
    """What an example was refused for, in few enough words to be counted."""
    return f"refused: {re.split('[0-9(,:]', problems[0].found)[0].strip()[:30]}"
