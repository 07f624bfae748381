"""A benchmark on a real SLURM: a training that hits its time limit is submitted again, and goes on where it was.

Needs a cluster whose node is this machine: see cluster.sh beside this file.
"""

import json
import shutil
import subprocess

import pytest

from nnunetv2_cafr.training.record import CURVES_FILE, RECORD_FILE

EPOCHS = 20
# A minute is SLURM's shortest limit; the training takes longer than that on any two cores.
LIMITED = "runtime=1", "mem_mb=3000", "cpus_per_task=2"
UNLIMITED = "--set-resources", "cost:runtime=10"  # which cannot go on where it was
WITHOUT_ACCOUNTING = "--slurm-status-command", "squeue", "--slurm-no-account"
EAGER = "--slurm-init-seconds-before-status-checks", "5", "--seconds-between-status-checks", "5"


def idle_node() -> bool:
    if shutil.which("sinfo") is None:
        return False
    states = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, encoding="utf-8")
    return states.returncode == 0 and "idle" in states.stdout


@pytest.mark.slow
def test_a_job_that_hits_its_time_limit_goes_on(phantom_dataset, tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra [cluster] is not installed")
    if not idle_node():
        pytest.skip("no SLURM with an idle node: tests/slurm/cluster.sh start FOLDER makes one")
    phantom_dataset.run("nnUNetv2_cafr", "split", "-d", 511)
    folder = tmp_path / "benchmark"
    benchmark = ["-d", 511, "--arms", "CAFR", "-f", 0, "--budget", f"{EPOCHS}x20", "-device", "cpu", "-o", folder]
    cluster = ["--executor", "slurm", "--default-resources", *LIMITED, *UNLIMITED, "--retries", 9]
    cluster += [*WITHOUT_ACCOUNTING, *EAGER]
    phantom_dataset.run("nnUNetv2_cafr", "benchmark", *benchmark, "--", *cluster, timeout=1800)

    (record,) = phantom_dataset.results.glob(f"*/nnUNetTrainer_CAFR_seed0_budget{EPOCHS}x20__*/fold_0/{RECORD_FILE}")
    starts = json.loads(record.read_text())
    assert len(starts) > 1, "the training was faster than its time limit: raise EPOCHS"
    logs = "".join(log.read_text() for log in record.parent.glob("training_log_*.txt"))
    assert "SIGTERM" in logs
    # Every epoch once, whatever was cut: as many values as epochs.
    assert len(json.loads((record.parent / CURVES_FILE).read_text())["train_losses"]) == EPOCHS
    assert (record.parent / "validation" / "summary.json").is_file()
    assert (folder / "report" / "report.html").is_file()
