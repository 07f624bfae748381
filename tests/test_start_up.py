"""The command answers at once: help and version need nothing that takes long to import."""

import subprocess
import sys

import pytest

from nnunetv2_cafr.cli import VERBS

HEAVY = ("torch", "scipy", "pandas", "SimpleITK", "nibabel", "skimage", "matplotlib", "batchgenerators")
CODE = """
import sys
from nnunetv2_cafr.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
print("LOADED", *(module for module in {heavy!r} if module in sys.modules))
"""


def loaded(*arguments: str) -> tuple[str, list[str]]:
    """What `nnUNetv2_cafr` prints, and the heavy packages that it imported."""
    command = [sys.executable, "-c", CODE.format(heavy=HEAVY), *arguments]
    result = subprocess.run(command, encoding="utf-8", capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    text, _, modules = result.stdout.rpartition("LOADED")
    return text, modules.split()


@pytest.mark.parametrize(
    "arguments", [[], ["--version"], ["--version", "doctor"], *([verb, "--help"] for verb in VERBS)]
)
def test_help_and_version_import_nothing_heavy(arguments):
    text, modules = loaded(*arguments)
    assert modules == []
    assert text.strip()


def test_alone_it_prints_its_help():
    assert loaded()[0] == loaded("--help")[0]
