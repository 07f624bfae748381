"""Real Snakemake over small shell jobs: what is done is never repeated, whatever ended the run before."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("snakemake", reason="the extra [cluster] is not installed (it needs Python 3.11)")

from nnunetv2_cafr.benchmark import workflow
from nnunetv2_cafr.benchmark.jobs import Job


def job(folder: Path, name: str, inputs: tuple[Path, ...] = (), command: str = "true", gpu: bool = False) -> Job:
    """Writes a line into the diary when it runs, and its output when its command ends well."""
    output = folder / f"{name}.done"
    line = f"echo {name} $CUDA_VISIBLE_DEVICES >> {folder / 'diary'}; {command} && echo x > {output}"
    return Job(name, ("bash", "-c", line), output, inputs, gpu)


def diary(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "diary").read_text().splitlines()]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_rerun_does_what_is_left_and_a_new_arm_its_own_jobs(tmp_path, capfd):
    folder = tmp_path / "my benchmark"
    folder.mkdir()
    broken = job(tmp_path, "broken", command="echo the reason; false")
    jobs = [job(tmp_path, "first"), broken, job(tmp_path, "scores-of-broken", (broken.output,))]
    assert workflow.run(jobs, folder, 1, [], []) != 0
    assert sorted(diary(tmp_path)) == ["broken", "first"]
    assert "the reason" in capfd.readouterr().err
    assert (folder / "logs" / "broken.log").read_text() == "the reason\n"

    jobs[1] = job(tmp_path, "broken")
    assert workflow.run([*jobs, job(tmp_path, "new")], folder, 1, [], []) == 0
    assert sorted(diary(tmp_path)) == ["broken", "broken", "first", "new", "scores-of-broken"]
    assert workflow.run([*jobs, job(tmp_path, "new")], folder, 1, [], []) == 0
    assert len(diary(tmp_path)) == 5


def test_after_a_kill_only_the_interrupted_job_runs_again(tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_workflow import job, workflow
folder = Path({str(tmp_path)!r})
first = job(folder, "first")
long = job(folder, "long", (first.output,), command="sleep ${{SLEEP:-0}}")
with workflow.hold(folder):
    sys.exit(workflow.run([first, long], folder, 1, [], []))
"""
    run = [sys.executable, "-c", script]
    process = subprocess.Popen(run, env={**os.environ, "SLEEP": "60"}, start_new_session=True)
    wait_until(lambda: (tmp_path / "diary").is_file() and len(diary(tmp_path)) >= 2)
    second = subprocess.run(run, capture_output=True, encoding="utf-8")
    assert "Another benchmark is at work" in second.stderr
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert subprocess.run(run, capture_output=True).returncode == 0
    assert diary(tmp_path) == ["first", "long", "long"]


@pytest.mark.parametrize(
    ("ending", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_jobs_end_with_their_benchmark(tmp_path, ending, status):
    """Signals to the parent alone, as a scheduler, a timeout or a lack of memory sends them: trainings save."""
    saves = f"trap 'echo x > {tmp_path / 'saved'}; exit 1' TERM; sleep 60 & wait"
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_workflow import job, workflow
workflow.run([job(Path({str(tmp_path)!r}), "long", command={saves!r})], Path({str(tmp_path)!r}), 1, [], [])
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_until((tmp_path / "diary").is_file)
    time.sleep(0.5)
    process.send_signal(ending)
    assert process.wait(120) == status
    if ending == signal.SIGKILL:  # nobody waits for the jobs
        wait_until((tmp_path / "saved").is_file)
    assert (tmp_path / "saved").is_file()


def test_a_signal_that_is_ignored_ends_nothing(tmp_path):
    """As under nohup, when its terminal is closed."""
    script = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from nnunetv2_cafr.benchmark import workflow; "
        f"open({str(tmp_path / 'ready')!r}, 'w').close(); raise SystemExit(workflow._call(['sleep', '2']))"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_until((tmp_path / "ready").is_file)
    time.sleep(0.5)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0


def test_each_job_has_a_gpu_of_its_own(tmp_path):
    # A job that finds another one on its GPU fails.
    alone = f"mkdir {tmp_path}/on$CUDA_VISIBLE_DEVICES && sleep 1 && rmdir {tmp_path}/on$CUDA_VISIBLE_DEVICES"
    jobs = [job(tmp_path, f"job{number}", command=alone, gpu=True) for number in range(4)]
    assert workflow.run(jobs, tmp_path, 4, ["3", "5"], []) == 0
    used = [line.split()[1] for line in (tmp_path / "diary").read_text().splitlines()]
    assert sorted(used) == ["3", "3", "5", "5"]


def test_jobs_have_the_threads_of_the_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    written = tmp_path / "threads"
    jobs = [job(tmp_path, "first", command=f"echo ${{OMP_NUM_THREADS-unset}} $MKL_NUM_THREADS > {written}")]
    assert workflow.run(jobs, tmp_path, 1, [], []) == 0
    assert written.read_text().split() == ["unset", "3"]


def test_braces_are_refused_before_anything_runs(tmp_path):
    folder = tmp_path / "a{b}"
    folder.mkdir()
    with pytest.raises(SystemExit, match="has braces"):
        workflow.run([job(folder, "first")], tmp_path, 1, [], [])
    assert not list(folder.iterdir())


def test_options_reach_snakemake(tmp_path, capfd):
    assert workflow.run([job(tmp_path, "first")], tmp_path, 1, [], ["--dry-run"]) == 0
    assert not (tmp_path / "diary").exists()


def test_visible_gpus_are_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert workflow.visible_gpus() == ["2", "GPU-abc"]
