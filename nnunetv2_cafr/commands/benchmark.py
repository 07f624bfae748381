"""`nnUNetv2_cafr benchmark`: every network under equal conditions, in one report.

Trains arms x folds x seeds with nnUNetv2_train, predicts and scores them, measures what they cost, and writes one page
with tables beside it. All arms share preprocessed data, plans, splits, length, inference and, within a family, the
augmentation; a report that would mix any of these is refused. A benchmark that was killed goes on where it stopped when
the same line is given again; an arm, fold or seed that is added trains alone. What follows `--` goes to Snakemake,
which runs the jobs: here, or on a cluster.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from nnunetv2_cafr import options
from nnunetv2_cafr.benchmark.arms import ARMS, BUDGETS, parse_budget
from nnunetv2_cafr.benchmark.clock import CLOCK_FOLDER, Clock
from nnunetv2_cafr.benchmark.matrix import MATRIX_FILE, Matrix, compared
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import check_folder
from nnunetv2_cafr.splits import FOLDS

EXAMPLES = """examples:
  nnUNetv2_cafr benchmark -d 511 --budget smoke --dry-run         the commands, nothing else
  nnUNetv2_cafr benchmark -d 511 --arms LevelSafe CAFR --budget short -f 0
  nnUNetv2_cafr benchmark -d 511 --budget full --jobs 4           4 GPUs of this node, one training each
  nnUNetv2_cafr benchmark -d 511 --train-fraction 0.1 0.25 1 --external 520
  nnUNetv2_cafr benchmark -d 511 -f 0 --budget 80x50 --budget-seconds LevelSafe --seeds 0 1 2
  nnUNetv2_cafr benchmark -d 511 --budget full --jobs 50 -- --executor slurm \\
      --default-resources slurm_partition=gpu runtime=2880 mem_mb=48000 cpus_per_task=12 --retries 5

exit status: 0 done, 1 a job failed (or what Snakemake ends with), 2 the call was refused
"""
ENVIRONMENT = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
# Parts of a benchmark that its folder stands for; arms, folds and the like may grow.
FIXED = ("dataset", "configuration", "plans", "budget")
SECONDS = "budget_seconds"  # may be added to a benchmark, and not be changed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=options.dataset, metavar="DATASET", required=True, help="id or name of the data set")
    parser.add_argument("-c", type=options.configuration, metavar="CONFIGURATION", default="2d", help="default 2d")
    parser.add_argument(
        "-p",
        type=options.plans,
        metavar="PLANS",
        default="nnUNetPlans",
        help="plans of all arms (default nnUNetPlans)",
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        metavar="ARM",
        help=f"default all that can train on these data: {', '.join(ARMS)}",
    )
    parser.add_argument(
        "-f", type=options.fold, nargs="+", default=list(range(FOLDS)), metavar="FOLD", help="default 0 1 2 3 4"
    )
    parser.add_argument("--seeds", type=options.seed, nargs="+", default=[0], metavar="SEED", help="default 0")
    parser.add_argument(
        "--budget",
        type=_budget,
        default="full",
        help=f"{', '.join(budget.words for budget in BUDGETS.values())}; or EPOCHSxITERATIONS (default full)",
    )
    parser.add_argument(
        "--budget-seconds",
        type=_seconds,
        metavar="S",
        help="compare a second time, with trainings that take as many seconds of stepping on this machine; or the arm "
        "whose training of --budget gives the seconds",
    )
    parser.add_argument(
        "--measure-seconds",
        action="store_true",
        help="with --budget-seconds: measure seconds per step, print each arm's length, and end. The machine has to be "
        "quiet for this, and need not be for the trainings",
    )
    parser.add_argument(
        "--train-fraction",
        type=_percent,
        nargs="+",
        default=[100],
        metavar="F",
        help="also train on this share of the patients, whole percents such as 0.1 0.25 (default 1)",
    )
    parser.add_argument(
        "--external",
        type=options.dataset,
        nargs="+",
        default=[],
        metavar="DATASET",
        help="raw data sets that every arm predicts untrained",
    )
    parser.add_argument("-device", default=None, choices=["cpu", "cuda", "mps"], help="default: cuda if there is one")
    parser.add_argument(
        "-o", type=Path, metavar="FOLDER", help="folder of the benchmark (default benchmark_DATASET_BUDGET)"
    )
    parser.add_argument(
        "--jobs",
        type=options.whole_number("number of jobs"),
        metavar="N",
        help="jobs at a time (default one per GPU, else 1)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are left to run, and end")
    parser.add_argument("snakemake", nargs="*", metavar="-- SNAKEMAKE OPTIONS", help="for example --executor slurm ...")


def _budget(text: str) -> str:
    try:
        return parse_budget(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> str:
    if text in ARMS or re.fullmatch(r"[1-9]\d*", text):
        return text
    raise argparse.ArgumentTypeError(f"whole seconds, or the name of an arm ({', '.join(ARMS)}), got {text!r}")


def _percent(text: str) -> int:
    try:
        percent = float(text) * 100
    except ValueError:
        percent = 0.0
    if not 1 <= percent <= 100 or abs(percent - round(percent)) > 1e-6:
        raise argparse.ArgumentTypeError(f"a share is 0.01, 0.02, ... 1, got {text}")
    return round(percent)


def run(arguments: argparse.Namespace) -> int:
    import torch

    from nnunetv2_cafr.benchmark import fairness, planning, workflow
    from nnunetv2_cafr.benchmark.jobs import jobs_of, missing
    from nnunetv2_cafr.raw_dataset import find_dataset, require_folders

    require_folders(*ENVIRONMENT)
    matrix = Matrix(
        dataset=find_dataset(arguments.d).name,
        configuration=arguments.c,
        plans=arguments.p,
        arms=tuple(dict.fromkeys(arguments.arms or ARMS)),
        folds=tuple(dict.fromkeys(arguments.f)),
        seeds=tuple(dict.fromkeys(arguments.seeds)),
        budget=arguments.budget,
        percents=tuple({100, *arguments.train_fraction}),
        externals=tuple(dict.fromkeys(find_dataset(dataset).name for dataset in arguments.external)),
        device=arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        budget_seconds=arguments.budget_seconds or "",
    )
    if arguments.measure_seconds and not matrix.budget_seconds:
        raise UserError("--measure-seconds belongs to --budget-seconds: the lengths that follow from the seconds")
    folder = (arguments.o or Path(f"benchmark_{matrix.dataset}_{matrix.budget}")).resolve()
    if problem := fairness.impossible_folds(matrix) or fairness.impossible_configuration(matrix):
        raise UserError(f"Nothing was started: {problem}")
    unfit = fairness.unfit_arms(matrix)
    if unfit and arguments.arms:
        raise UserError(f"Nothing was started: {'; '.join(f'{name} {reason}' for name, reason in unfit.items())}")
    for name, reason in unfit.items():
        print(f"{name} is left out: it {reason}", file=sys.stderr)
    matrix = replace(matrix, arms=tuple(name for name in matrix.arms if name not in unfit), clock=Clock.read(folder))
    names = [arm.name for arm in compared(matrix.selected_arms())]
    if matrix.budget_seconds in ARMS and matrix.budget_seconds not in names:
        raise UserError(f"--budget-seconds {matrix.budget_seconds} is no arm of this comparison: add it to --arms")
    if arguments.dry_run:
        jobs = missing(jobs_of(matrix, folder))
        for command in (*planning.missing_plans(matrix), *(job.command for job in jobs if job.is_of_nnunet)):
            print(shlex.join(command))
        if untimed := matrix.untimed():
            print(f"# And those of equal seconds, when the steps of {', '.join(untimed)} have been measured")
        print("# Scores, costs and the report: the same line without --dry-run")
        return 0
    workflow.require_snakemake()
    planning.make_missing_plans(matrix)
    fairness.check_before(matrix)
    with _claimed(folder, matrix):
        return _run(arguments, folder, matrix)


def _run(arguments: argparse.Namespace, folder: Path, matrix: Matrix) -> int:
    """Runs what is left of the benchmark in its folder, and writes the report; returns the exit status."""
    from nnunetv2_cafr.benchmark import collect, workflow
    from nnunetv2_cafr.benchmark.jobs import jobs_of, missing, timing

    gpus = _gpus(matrix, arguments.snakemake)
    if measurement := timing(matrix, folder):
        print(f"Measuring seconds per step of {', '.join(matrix.untimed())}, to be kept in {folder / CLOCK_FOLDER}")
        if status := workflow.run(measurement, folder, 1, gpus, arguments.snakemake):
            return status
        matrix = Matrix.read(folder)
    jobs = jobs_of(matrix, folder)
    for line in lengths(matrix):
        print(line)
    if arguments.measure_seconds:
        return 0
    print(
        f"{len(missing(jobs))} of {len(jobs)} jobs are left to do; their output goes to {folder / 'logs'}", flush=True
    )
    status = workflow.run(jobs, folder, arguments.jobs or max(1, len(gpus)), gpus, arguments.snakemake)
    if status:
        print("Give the same line again to go on with what is left.", file=sys.stderr)
        return status
    page = collect.report(folder, shlex.join(["nnUNetv2_cafr", *sys.argv[1:]]))
    print(f"Report: {page}")
    return 0


def lengths(matrix: Matrix) -> Iterator[str]:
    """A line for each arm's training of equal seconds."""
    took = matrix.stepping_seconds()
    for name, training in matrix.first_trainings(equal_seconds=True).items():
        step, steps = matrix.clock.step_seconds[name], matrix.length_of(training).steps
        yield f"{name}: {step:.3g} s a step, {steps} in {took[name]:,.0f} s, where {matrix.seconds:,.0f} s are asked"


@contextmanager
def _claimed(folder: Path, matrix: Matrix) -> Iterator[None]:
    """Marks a folder as this benchmark's, and keeps others out of it.

    Raises:
        UserError: if it holds something else, or a benchmark of other data, plans or budget, or one that is at work.
    """
    from nnunetv2_cafr.benchmark.collect import REPORT
    from nnunetv2_cafr.benchmark.workflow import LOCK, hold
    from nnunetv2_cafr.report.page import check_report_folder

    if (folder / MATRIX_FILE).is_file():
        found, wanted = (asdict(one) for one in (Matrix.read(folder), matrix))
        differing = [f"{name} {found[name]}, not {wanted[name]}" for name in FIXED if found[name] != wanted[name]]
        if found[SECONDS] and wanted[SECONDS] not in ("", found[SECONDS]):
            differing.append(f"{SECONDS} {found[SECONDS]}, not {wanted[SECONDS]}")
        if differing:
            raise UserError(f"{folder} holds a benchmark of {'; '.join(differing)}: choose another -o")
    try:
        if not (folder / MATRIX_FILE).is_file():
            check_folder(folder, "a benchmark's", {LOCK: Path.is_file})
        check_report_folder(folder / REPORT)
    except OSError as error:
        raise UserError(f"{error} (-o). Nothing was touched") from error
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        matrix.write(folder)
        yield


def _gpus(matrix: Matrix, options: Sequence[str]) -> list[str]:
    """Ids of this node's GPUs, for one job each; none where a cluster gives them out."""
    from nnunetv2_cafr.benchmark.workflow import visible_gpus

    if matrix.device != "cuda" or "--executor" in options or "--profile" in options:
        return []
    return visible_gpus()
