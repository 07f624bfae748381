"""The patients of a data set divided among the parts of a scheme, and what follows for training."""

import numpy as np

from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.raw_dataset import Dataset
from nnunetv2_cafr.splits import SCHEMES
from nnunetv2_cafr.splits.few_cases import few_cases
from nnunetv2_cafr.splits.stratification import part_sizes, stratify
from nnunetv2_cafr.splits.writing import Parts, Split


def divide(dataset: Dataset, scheme: str, seed: int) -> dict[str, list[str]]:
    """Sorted identifiers of the cases of each part; a patient's cases stay together.

    Raises:
        UserError: if there are too few patients.
    """
    weights = list(SCHEMES[scheme].values())
    patients = sorted({case.patient for case in dataset.cases.values()})
    if not part_sizes(len(patients), weights).all():
        needed = next(n for n in range(len(patients), 100) if part_sizes(n, weights).all())
        instead = few_cases(len(dataset.cases), len(patients), dataset.folder.name)
        raise UserError(
            f"{dataset.folder.name} has {len(patients)} patients, --scheme {scheme} needs at least {needed}. If you "
            "expected more, look at 'patient' in its provenance.json." + (f" {instead}." if instead else "")
        )
    row = {patient: index for index, patient in enumerate(patients)}
    holds = np.zeros((len(patients), len(dataset.labels)), bool)
    cases = np.zeros(len(patients), int)
    for case in dataset.cases.values():
        holds[row[case.patient]] |= [label in case.labels for label in dataset.labels]
        cases[row[case.patient]] += 1
    part_of = stratify(holds, cases, weights, seed)
    return {
        name: [identifier for identifier, case in sorted(dataset.cases.items()) if part_of[row[case.patient]] == part]
        for part, name in enumerate(SCHEMES[scheme])
    }


def cross_validation(parts: Parts) -> list[Split]:
    """Folds that validate on one part each, and train on all others."""
    everything = {identifier for part in parts.values() for identifier in part}
    return [{"train": sorted(everything - set(part)), "val": list(part)} for part in parts.values()]


def one_fold(parts: Parts) -> list[Split]:
    """The only fold of `--scheme holdout`."""
    return [{"train": list(parts["training"]), "val": list(parts["held out"])}]
