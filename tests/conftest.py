"""Shared fixtures: a small phantom data set, converted and preprocessed by the real commands."""

import io
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import entry_points
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nnunetv2_cafr import phantom

NNUNET_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# nnU-Net and our trainers draw all curves anew after every epoch, which takes longer than the epoch.
PROGRESS = "nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png"
LOSS_TERMS = "nnunetv2_cafr.training.contrastive.ContrastiveTraining._plot_loss_terms"
DATASET_ID = 511
DATASET = "Dataset511_SpineMRI"

# Else nnU-Net, which reads it once, starts eight processes wherever it validates, each of which imports torch.
os.environ["nnUNet_def_n_proc"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker and for the commands that it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for folders; named files and the slow tests, which use every core themselves, stay in one."""
    only_folders = all(Path(argument).is_dir() for argument in config.args)
    return min(2, os.cpu_count() or 1) if only_folders and config.getoption("markexpr") == "not slow" else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """File by file, and tests/deployment as one: what its files share, exported networks, takes longer than most."""
    from xdist.scheduler import LoadFileScheduling

    class LoadFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = "tests/deployment/"
            return folder if nodeid.startswith(folder) else super()._split_scope(nodeid)

    return LoadFileOrFolder(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, else one process would still be at them when the other has nothing left to do."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A failure repeats itself."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def unlistable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder one that may not be listed, to root too."""
    scandir = os.scandir

    def refuse(folder: Path) -> None:
        def listed(path: Any = ".") -> Any:
            if str(path) == str(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", listed)

    return refuse


def make_pools_threads(patch: pytest.MonkeyPatch) -> None:
    """nnU-Net's pools: a spawned process imports torch, and a fork copies the memory tables of this one."""
    get_context = multiprocessing.get_context
    threads = SimpleNamespace(Pool=ThreadPool)
    patch.setattr(multiprocessing, "get_context", lambda name=None: threads if name == "spawn" else get_context(name))
    patch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)  # twelve forks wherever cases are listed


def draw_no_curves(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Fresh processes still draw them, and so do tests that are marked `loss_terms`."""
    for name in names:
        patch.setattr(name, lambda *_: None)


@dataclass(frozen=True)
class NNUNetFolders:
    """nnU-Net's three folders, and its commands over them: in fresh processes, or in this one."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "nnUNet_results"

    @property
    def environment(self) -> dict[str, str]:
        """What a user's shell holds: the three folders, and nothing about our trainers."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet_")}
        return {
            **kept,
            **{name: str(self.root / name) for name in NNUNET_VARIABLES},
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def run(
        self, command: str, *arguments: object, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Runs an installed command of this environment; its output stands in the failure message."""
        program = Path(sys.executable).parent / command
        result = subprocess.run(
            [str(program), *map(str, arguments)],
            env=self.environment,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        if check:
            assert result.returncode == 0, f"{command} {arguments}\n{result.stdout[-4000:]}"
        return result

    @contextmanager
    def in_this_process(self) -> Iterator[pytest.MonkeyPatch]:
        """nnU-Net over these folders in this process: it loads without workers, and its pools are threads."""
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in {**self.environment, "nnUNet_n_proc_DA": "0"}.items():
                if variable.startswith("nnUNet_"):
                    patch.setenv(variable, value)
            make_pools_threads(patch)
            patch.setattr(torch, "set_num_threads", lambda _: None)  # the commands take all, and planning none
            draw_no_curves(patch, PROGRESS, LOSS_TERMS)
            yield patch

    def call(self, command: str, *arguments: object) -> str:
        """As `run`, in this process, for what needs none of its own: each takes seconds to import torch.

        Returns its output.
        """
        (program,) = entry_points(group="console_scripts", name=command)
        output = io.StringIO()
        with self.in_this_process() as patch, redirect_stdout(output), redirect_stderr(output):
            patch.setattr(sys, "argv", [command, *map(str, arguments)])
            status = program.load()()
        assert not status, f"{command} {arguments}\n{output.getvalue()[-4000:]}"
        return output.getvalue()


@pytest.fixture(scope="session")
def make_nnunet_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], NNUNetFolders]:
    def make() -> NNUNetFolders:
        folders = NNUNetFolders(tmp_path_factory.mktemp("nnunet"))
        for name in NNUNET_VARIABLES:
            (folders.root / name).mkdir()
        return folders

    return make


@pytest.fixture(scope="session")
def phantom_dataset(make_nnunet_folders: Callable[[], NNUNetFolders]) -> NNUNetFolders:
    """Six tiny phantoms as Dataset511_SpineMRI: converted, planned and preprocessed in 2-D."""
    folders = make_nnunet_folders()
    # Slices are the thickest axis, as in SpineMRI, so that nnU-Net's 2-D patches are sagittal.
    source = phantom.write_dataset(
        folders.root / "phantom", num_train=6, num_test=1, size=(64, 56, 4), spacing=(4.4, 4.4, 9.0), progress=False
    )
    folders.call("nnUNetv2_convert_SpineMRI", "-i", source, "-d", DATASET_ID, "-np", 1)
    folders.call(
        "nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "-c", "2d", "--verify_dataset_integrity", "-np", 1, "-npfp", 1
    )
    return folders


@pytest.fixture
def nnunet_environment(
    phantom_dataset: NNUNetFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """The phantom's preprocessed data in this process' environment, with an empty results folder (returned)."""
    results = tmp_path / "nnUNet_results"
    results.mkdir()
    for name, value in phantom_dataset.environment.items():
        if name.startswith("nnUNet_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_results", str(results))
    make_pools_threads(monkeypatch)
    marked = request.node.get_closest_marker("loss_terms")
    draw_no_curves(monkeypatch, PROGRESS, *(() if marked else (LOSS_TERMS,)))
    return results


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Opens a page without a network and returns its elements after the scripts ran; fails on any console message."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    profile = tmp_path_factory.mktemp("browser")

    def open_page(page: Path, query: str = "") -> str:
        result = subprocess.run(
            [
                browser,
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"),
                *("--proxy-server=127.0.0.1:9", "--enable-logging=stderr", "--dump-dom", f"{page.as_uri()}{query}"),
            ],
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=True,
        )
        assert "CONSOLE" not in result.stderr, result.stderr
        return result.stdout

    return open_page
