"""nnU-Net finds our trainers in fresh processes with no variable set, after every kind of installation."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FIND = """
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
names = ["nnUNetTrainer_CAFR", "nnUNetTrainer_CAFR_noLAFR_7epochs", "nnUNetTrainer_budget1x2"]
for name in names:
    print("FOUND", find(name).__name__)
import multiprocessing
with multiprocessing.get_context("spawn").Pool(1) as pool:  # a class comes back by its importable name
    print("SPAWNED", *(trainer.__name__ for trainer in pool.map(find, names)))
import nnunetv2_cafr, dataset_conversion.spinemri
print("FROM", nnunetv2_cafr.__file__)
"""
VARIABLE = "import os; print(os.environ.get('nnUNet_extTrainer'))"


class Environment:
    """A fresh virtual environment which sees this one's packages, but runs none of its start-up files."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"
        self.site_packages = Path(self.run("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (self.site_packages / "zz_parent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, code: str, **variables: str) -> str:
        """stdout of `code` in a fresh process; anything on stderr of the interpreter's start fails the test."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "PYTHON"))}
        return subprocess.run(
            [str(self.python), "-W", "ignore", "-c", code],
            env={**kept, **variables},
            cwd=self.python.parent,
            encoding="utf-8",
            check=True,
            stdout=subprocess.PIPE,
        ).stdout

    def start_up_errors(self) -> str:
        return subprocess.run([str(self.python), "-c", ""], encoding="utf-8", check=True, stderr=subprocess.PIPE).stderr

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *arguments]
        result = subprocess.run(
            command, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert result.returncode == 0, result.stdout

    def install(self, *how: str) -> None:
        self.pip("install", "--no-deps", "--no-build-isolation", "--quiet", *how, str(REPOSITORY))


@pytest.fixture(scope="module", params=["regular", pytest.param("editable", marks=pytest.mark.slow)])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp(request.param) / "venv")
    environment.install(*(["--editable"] if request.param == "editable" else []))
    environment.kind = request.param
    return environment


def test_trainers_are_found_with_no_variable_set(installed):
    output = installed.run(FIND)
    assert output.count("FOUND") == 3
    spawned = "SPAWNED nnUNetTrainer_CAFR nnUNetTrainer_CAFR_noLAFR_7epochs nnUNetTrainer_budget1x2"
    assert spawned in output
    root = REPOSITORY if installed.kind == "editable" else installed.site_packages
    assert f"FROM {root / 'nnunetv2_cafr' / '__init__.py'}" in output
    templates = [path.relative_to(REPOSITORY) for path in REPOSITORY.glob("nnunetv2_cafr/**/templates/*")]
    assert len(templates) > 20 and all((root / path).is_file() for path in templates)


def test_the_users_own_folders_come_first_and_stay(installed):
    folder = installed.run(VARIABLE).strip()
    assert folder.endswith("trainers")
    mine = os.pathsep.join(["/home/me/trainers", "/lab"])
    assert installed.run(VARIABLE, nnUNet_extTrainer=mine).strip() == os.pathsep.join([mine, folder])
    # a child process inherits the variable; the folder is not added twice
    assert installed.run(VARIABLE, nnUNet_extTrainer=folder).strip() == folder


def test_the_entry_point_of_python_3_15_does_the_same(installed):
    """As PEP 829 says: lines of a .start file, but blank ones and comments, are resolved and called."""
    file = installed.site_packages / "nnunetv2_cafr.start"
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    (entry,) = (line for line in lines if line.strip() and not line.startswith("#"))
    call = f"import os, pkgutil; os.environ.pop('nnUNet_extTrainer'); pkgutil.resolve_name('{entry}')(); {VARIABLE}"
    assert installed.run(call) == installed.run(VARIABLE)


def test_start_up_survives_a_half_removed_package_and_uninstalling_leaves_nothing(tmp_path):
    environment = Environment(tmp_path / "venv")
    before = set(environment.site_packages.rglob("*"))
    environment.install()
    package = environment.site_packages / "nnunetv2_cafr"
    assert (environment.site_packages / "nnunetv2_cafr.pth").is_file()

    package.rename(package.with_name("moved"))
    assert environment.start_up_errors() == ""
    (package.with_name("moved") / "trainers").rename(tmp_path / "trainers")
    package.with_name("moved").rename(package)
    assert environment.start_up_errors() == ""
    assert "None" in environment.run(VARIABLE) or str(REPOSITORY) in environment.run(VARIABLE)
    (tmp_path / "trainers").rename(package / "trainers")

    environment.pip("uninstall", "--yes", "--quiet", "nnunetv2-cafr")
    left = {path for path in environment.site_packages.rglob("*") if "__pycache__" not in path.parts} - before
    assert left == set()
    assert environment.run(VARIABLE).strip() == "None"
    assert environment.start_up_errors() == ""


def test_both_packages_import_from_the_root_of_a_clone(tmp_path):
    environment = Environment(tmp_path / "venv")
    code = "import nnunetv2_cafr.network, dataset_conversion.spinemri as s; print(s.__file__)"
    command = [str(environment.python), "-W", "ignore", "-c", code]
    result = subprocess.run(command, cwd=REPOSITORY, encoding="utf-8", check=True, stdout=subprocess.PIPE)
    assert result.stdout.strip() == str(REPOSITORY / "dataset_conversion" / "spinemri.py")
