"""What nnU-Net does where it has fewer cases or patients than folds, and what to give it instead."""

from nnunetv2_cafr.splits import FOLDS


def few_cases(cases: int, patients: int, dataset: str) -> str | None:
    """What `nnUNetv2_train DATASET 2d 0` would do without a splits_final.json; None where it would do well."""
    instead = (
        f"Give fold all, which trains on every case (nnUNetv2_train {dataset} 2d all -tr nnUNetTrainer_CAFR) and "
        "validates on cases that it has seen, or write a splits_final.json of your own, "
        '[{"train": ["CASE", ...], "val": ["CASE", ...]}, ...]'
    )
    if cases < FOLDS:
        return (
            f"nnUNetv2_train {dataset} 2d 0 will end with an error, for nnU-Net divides the cases into {FOLDS} folds. "
            + instead
        )
    if patients < FOLDS:
        return (
            f"nnUNetv2_train {dataset} 2d 0 will divide the cases at random into {FOLDS} folds, which train and "
            f"validate on the same patients. {instead}, with all cases of a patient on one side"
        )
    return None
