"""Plans that some arms bring, nnU-Net's residual encoders, made where they are missing."""

import subprocess
from collections.abc import Iterator

from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

from nnunetv2_cafr.benchmark.arms import OWN_PLANS
from nnunetv2_cafr.benchmark.matrix import Matrix
from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.processes import installed


def missing_plans(matrix: Matrix) -> Iterator[tuple[str, ...]]:
    """The nnUNetv2_plan_experiment command for each plans file that an arm needs and that is not there."""
    for plans in dict.fromkeys(arm.plans for arm in matrix.selected_arms() if arm.plans in OWN_PLANS):
        if not matrix.plans_file(plans).is_file():
            dataset_id = str(convert_dataset_name_to_id(matrix.dataset))
            yield ("nnUNetv2_plan_experiment", "-d", dataset_id, "-pl", OWN_PLANS[plans])


def make_missing_plans(matrix: Matrix) -> None:
    """Runs these commands.

    Raises:
        UserError: if one fails.
    """
    if not matrix.plans_file(matrix.plans).is_file():
        return  # the data set is not preprocessed; the check that follows says so
    for program, *arguments in missing_plans(matrix):
        print(program, *arguments, flush=True)
        command = [installed(program), *arguments]
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
        )
        if result.returncode:
            raise UserError(f"{result.stdout[-2000:]}\n{program} {' '.join(arguments)} failed")
