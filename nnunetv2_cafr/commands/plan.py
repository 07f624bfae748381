"""`nnUNetv2_cafr plan`: plans for CAFR-Net (nnUNetCAFRPlans) that fit a GPU's memory.

Replaces nnUNetv2_plan_experiment, whose -pl finds only planners inside nnU-Net's own package. Needs the data set's
fingerprint. If nnUNetPlans preprocess a configuration in the same way, both share that data.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

from nnunetv2_cafr import options
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.planning import CONTEXT_BYTES, GB
from nnunetv2_cafr.plans_fields import description_faults

if TYPE_CHECKING:
    from nnunetv2_cafr.planning.planner import CAFRPlanner

FINGERPRINT = (  # what the planner takes from it
    "foreground_intensity_properties_per_channel",
    "median_relative_size_after_cropping",
    "shapes_after_crop",
    "spacings",
)
EXAMPLES = """examples:
  nnUNetv2_plan_and_preprocess -d 511 -c 2d       fingerprint, nnU-Net's plans and data, once
  nnUNetv2_cafr plan -d 511                       for 8 GB
  nnUNetv2_cafr plan -d 511 --gpu-memory-target 24

exit status: 0 written, 2 the call was refused
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", type=options.dataset, metavar="DATASET", required=True, help="id or name of the data set")
    parser.add_argument(
        "--gpu-memory-target",
        type=options.number("memory of a GPU in 10^9 bytes", CONTEXT_BYTES / GB, 1e6, inclusive=False),
        default=8,
        metavar="GB",
        help="memory of the GPU in 10^9 bytes (default 8)",
    )


def find_fingerprinted(dataset: str) -> str:
    """Full name of a data set that can be planned.

    Raises:
        UserError: if there is none, or something is missing that the planner needs.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    from nnunetv2_cafr.raw_dataset import find_dataset, require_folders

    require_folders("nnUNet_raw", "nnUNet_preprocessed")
    name = find_dataset(dataset).name
    if not (fingerprint := Path(str(nnUNet_preprocessed)) / name / "dataset_fingerprint.json").is_file():
        raise UserError(
            f"{name} has no fingerprint yet, {fingerprint} is missing. Run\n"
            f"  nnUNetv2_extract_fingerprint -d {convert_dataset_name_to_id(name)}"
        )
    return name


def check_documents(dataset: str) -> None:
    """Reads what nnU-Net's planner takes on trust, and makes sure that its plans file is a new one or our own.

    Own plans are planned anew, as by nnUNetv2_plan_experiment, which keeps configurations that it did not make.

    Raises:
        UserError: if a document is damaged, or the plans of another planner have our name.
    """
    from nnunetv2_cafr.planning.planner import OWN_PLANS, STOCK_PLANS, CAFRPlanner

    preprocessed = Path(str(nnUNet_preprocessed)) / dataset
    description = Path(str(nnUNet_raw)) / dataset / "dataset.json"
    if faults := list(description_faults(read_json(description))):
        raise UserError(f"{description}: {'; '.join(faults)}. Correct it; nnUNetv2_cafr check -d {dataset} finds more")
    fingerprint = preprocessed / "dataset_fingerprint.json"
    found = read_json(fingerprint)
    if missing := [key for key in FINGERPRINT if not found.get(key)]:
        raise UserError(f"{fingerprint} has no {', no '.join(missing)}: run nnUNetv2_extract_fingerprint -d ID --clean")
    own, stock = (preprocessed / f"{name}.json" for name in (OWN_PLANS, STOCK_PLANS))
    for file in (own, stock):
        if os.path.lexists(file) and not isinstance(read_json(file).get("configurations"), dict):
            raise UserError(f"{file} holds no plans: move it away, then give the same line again")
    if not own.is_file():
        return
    planner = read_json(own).get("experiment_planner_used")
    if planner != CAFRPlanner.__name__:
        raise UserError(
            f"{own} was not written by nnUNetv2_cafr plan (experiment_planner_used is {planner!r}); nothing is "
            "overwritten. Give it another name, and the same one to its plans_name"
        )
    print(f"{own} is there and is planned anew; configurations of your own in it are kept")


def is_preprocessed(planner: CAFRPlanner, configuration: dict[str, Any]) -> bool:
    """Whether the data of every training case is there."""
    folder = Path(str(nnUNet_preprocessed)) / planner.dataset_name / configuration["data_identifier"]
    return all((folder / f"{case}.pkl").is_file() for case in planner.dataset)


def table(planner: CAFRPlanner, configurations: dict[str, dict[str, Any]]) -> str:
    """Plain text table of what was planned, one configuration a line."""
    from nnunetv2_cafr.planning.architecture import token_size

    lines = [f"{'configuration':<16}{'patch':<14}{'batch':>5}{'tokens':>8}{'GB':>7}{'GB plain':>10}  data"]
    for name, configuration in configurations.items():
        patch_size, spacing = configuration["patch_size"], configuration["spacing"]
        fused, plain = (
            planner.memory(patch_size, spacing, fused_attention=fused).at(configuration["batch_size"]) / GB
            for fused in (True, False)
        )
        tokens = math.prod(patch_size) // math.prod(token_size(spacing))
        data = configuration["data_identifier"]
        origin = "own" if data == planner.generate_data_identifier(name) else "shared"
        state = "preprocessed" if is_preprocessed(planner, configuration) else "to be preprocessed"
        lines.append(
            f"{name:<16}{'x'.join(map(str, patch_size)):<14}{configuration['batch_size']:>5}{tokens:>8}{fused:>7.1f}"
            f"{plain:>10.1f}  {data} ({origin}, {state})"
        )
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    from nnunetv2_cafr.planning.planner import CAFRPlanner

    dataset = find_fingerprinted(arguments.d)
    check_documents(dataset)
    planner = CAFRPlanner(dataset, arguments.gpu_memory_target)
    # Volumes that need a low resolution take up to a minute.
    print(
        f"{planner.dataset_name}, {planner.plans_identifier}, for {arguments.gpu_memory_target:g} GB of GPU memory\n",
        flush=True,
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net's planner prints every configuration in full
            plans = planner.plan_experiment()
    except ValueError as error:
        raise UserError(str(error)) from error
    configurations = {name: plans["configurations"][name] for name in planner.planned}
    print(table(planner, configurations))
    print(
        "\nGB: estimated memory of a training step in mixed precision on a CUDA device, all in. GB plain: where torch "
        "has\nno fused attention kernel."
    )
    dataset_id = convert_dataset_name_to_id(planner.dataset_name)
    missing = [name for name, plan in configurations.items() if not is_preprocessed(planner, plan)]
    print("\nNext, for the configurations that you train:")
    if missing:
        print(f"  nnUNetv2_preprocess -d {dataset_id} -plans_name {planner.plans_identifier} -c {' '.join(missing)}")
    print(f"  nnUNetv2_train {dataset_id} {planner.planned[0]} 0 -tr nnUNetTrainer_CAFR -p {planner.plans_identifier}")
    return 0
