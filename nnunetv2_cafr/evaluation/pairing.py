"""Which files are scored against each other: those of two folders, by the labels and the ending of a dataset.json."""

import itertools
from pathlib import Path

from nnunetv2_cafr.errors import UserError, shorten
from nnunetv2_cafr.evaluation.reading import CasePair, Label, label_table
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.raw_dataset import patients_by_provenance
from nnunetv2_cafr.spine import IGNORE


def check_folders(references: Path, predictions: Path) -> None:
    """Raises UserError, which names every folder that is not there."""
    missing = [folder for folder in dict.fromkeys((references, predictions)) if not folder.is_dir()]
    if missing:
        found = " and ".join(f"no folder {folder}{' (it is a file)' if folder.exists() else ''}" for folder in missing)
        raise UserError(f"There is {found}. Expected are a folder of reference label maps and one of predictions")


def find_dataset_json(references: Path, predictions: Path) -> Path:
    """The dataset.json that says what the labels of references and predictions are, in these folders or above them.

    Raises:
        UserError: if there is none, or if that of the predictions has other labels than that of the references.
    """
    folders = [folder.resolve() for folder in (references, predictions)]
    sides = [[place / "dataset.json" for place in (folder, folder.parent)] for folder in folders]
    there = [next(file for file in files if file.is_file()) for files in sides if any(map(Path.is_file, files))]
    if not there:
        places = ", ".join(map(str, dict.fromkeys(itertools.chain(*sides))))
        raise UserError(f"No dataset.json, which names the labels: it is none of {places}. Give it by -djfile")
    _check_same_labels(there[0], there[-1])
    return there[0]


def _check_same_labels(first: Path, second: Path) -> None:
    """Refuses label maps whose values mean different structures: the references' dataset.json and the predictions'."""
    labels, others = (read_json(file).get("labels") for file in (first, second))
    if not isinstance(labels, dict) or not isinstance(others, dict) or labels == others:
        return
    differ = [
        f"{name} ({labels.get(name, 'none')} and {others.get(name, 'none')})"
        for name in dict.fromkeys([*labels, *others])
        if labels.get(name) != others.get(name)
    ]
    raise UserError(
        f"{first} and {second} number the labels differently: {shorten(differ)}. Expected are references and "
        "predictions with the same labels: convert one of them, or name the file that is right for both by -djfile"
    )


def read_labels(dataset_json: Path) -> tuple[dict[Label, str], str]:
    """The labels to score, as `label_table` gives them, and the file ending.

    Raises:
        UserError: if the file does not say them, or has no structure.
    """
    description = read_json(dataset_json)
    try:
        names, ending = label_table(description["labels"]), str(description["file_ending"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{dataset_json} has no labels and file_ending as nnU-Net v2 reads them: {error!r}") from error
    if not any(name != IGNORE for name in names.values()):
        raise UserError(
            f"{dataset_json} has no label but the background, so there is nothing to score; add the structures' labels"
        )
    return names, ending


def find_pairs(references: Path, predictions: Path, ending: str, chill: bool, dataset_json: Path) -> list[CasePair]:
    """Files of every reference; with `chill` of those that have a prediction.

    Raises:
        UserError: with everything that has no partner.
    """
    # Names that begin with a dot are of the system, as macOS's ._case.nii.gz.
    expected, found = (
        sorted(file.name for file in folder.glob(f"[!.]*{ending}")) for folder in (references, predictions)
    )
    if not expected or not found:
        raise UserError(f"No *{ending} in {predictions if expected else references}; {dataset_json} has this ending")
    if others := [
        str(file)
        for folder in (references, predictions)
        for file in sorted(folder.iterdir())
        if file.name.lower().endswith(ending.lower()) and not file.name.endswith(ending) and file.name[0] != "."
    ]:
        raise UserError(
            f"{shorten(others)} would be left out: the file_ending is {ending}, in these letters. Rename them"
        )
    without_reference = [name for name in found if name not in expected]
    without_prediction = [] if chill else [name for name in expected if name not in found]
    if without_reference:
        raise UserError(
            f"{len(without_reference)} predictions in {predictions} have no reference in {references}: "
            f"{shorten(without_reference)}. Give the folder of their references, or take them out"
        )
    if without_prediction:
        raise UserError(
            f"{predictions} lacks {len(without_prediction)} of {len(expected)} predictions: "
            f"{shorten(without_prediction)}. Predict them, or score the others alone by --chill"
        )
    cases = [name.removesuffix(ending) for name in found]
    files = [folder / "provenance.json" for folder in (dataset_json.parent, references.resolve().parent)]
    file = next((file for file in files if file.is_file()), files[0])
    patients = patients_by_provenance(file, cases)
    return [
        CasePair(case, patients[case], references / name, predictions / name)
        for case, name in zip(cases, found, strict=True)
    ]
