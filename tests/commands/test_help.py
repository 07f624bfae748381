"""The --help of every verb."""

import importlib

import pytest

from nnunetv2_cafr.cli import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_and_the_exit_status(verb):
    examples = importlib.import_module(f"nnunetv2_cafr.commands.{verb}").EXAMPLES
    assert f"  nnUNetv2_cafr {verb} " in examples or f"  nnUNetv2_cafr {verb}\n" in examples
    assert "exit status:" in examples
