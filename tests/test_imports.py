"""The layout's rules, which pyproject.toml states as import-linter's contracts, hold; and they cover every module."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_imports_keep_to_the_layout():
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    result = subprocess.run(linter, cwd=REPOSITORY, encoding="utf-8", capture_output=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_has_its_layer():
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.findall(r"nnunetv2_cafr\.(\w+)", text[text.index("\nlayers = [") : text.index('id = "plain-torch"')])
    package = REPOSITORY / "nnunetv2_cafr"
    modules = {path.stem for path in package.glob("*.py") if path.stem != "__init__"}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert modules <= set(layers)
