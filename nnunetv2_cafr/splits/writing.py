"""What becomes of a split: splits_final.json of a data set, or a new data set with its test part set apart."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunetv2_cafr.errors import UserError
from nnunetv2_cafr.files import describe_failure, json_or_none, partial_of, write_json
from nnunetv2_cafr.raw_dataset import Dataset

SPLITS_FILE = "splits_final.json"

Parts = Mapping[str, Sequence[str]]  # identifiers of the cases of each part
Split = dict[str, list[str]]  # a fold as nnU-Net reads it, with the keys train and val


def write_splits(splits: Sequence[Split], targets: Sequence[Path]) -> list[Path]:
    """Writes the same file to all targets, or to none; one that holds these very splits already is left alone.

    Returns:
        What was written.

    Raises:
        UserError: if a target exists with other content, or if writing fails.
    """
    new = [target for target in targets if not _holds(target, splits)]
    written: list[Path] = []
    try:
        for target in new:
            write_json(target, splits)
            written.append(target)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            failure = describe_failure(Path(error.filename or new[0]), error)
            raise UserError(f"Writing failed, and no {SPLITS_FILE} was left behind: {failure}") from error
        raise
    return written


def _holds(target: Path, splits: Sequence[Split]) -> bool:
    """Whether the file is there with these splits; refuses any other content."""
    if not target.exists():
        return False
    existing = json_or_none(target)
    if existing != splits:
        what = f"other splits ({len(existing)} folds)" if isinstance(existing, list) else "something else"
        raise UserError(
            f"{target} exists already and holds {what}. Nothing was written: trainings may rest on it. To split anew, "
            f"move it away, and {SPLITS_FILE} of the same data set in nnUNet_raw or nnUNet_preprocessed with it"
        )
    return True


def new_dataset(dataset: Dataset, parts: Parts, target: Path, seed: int) -> None:
    """Makes the data set of `--scheme paper`, complete or not at all.

    Raises:
        UserError: if a file is missing or cannot be written.
    """
    ending = dataset.description["file_ending"]
    description = {key: value for key, value in dataset.description.items() if key != "dataset"}
    description["numTraining"] = len(parts["training"]) + len(parts["validation"])
    description["split"] = {"of": dataset.folder.name, "scheme": "paper", "seed": seed}
    staging = partial_of(target)
    try:
        shutil.rmtree(staging, ignore_errors=True)  # what a killed command has left
        for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (staging / name).mkdir(parents=True)
        for part, identifiers in parts.items():
            suffix = "Ts" if part == "test" else "Tr"
            for identifier in identifiers:
                case = dataset.cases[identifier]
                for channel, image in enumerate(case.images):
                    _link(image, staging / f"images{suffix}" / f"{identifier}_{channel:04d}{ending}")
                _link(case.mask, staging / f"labels{suffix}" / f"{identifier}{ending}")
                for source, stem, folder in (
                    (case.images[0], case.images[0].name[: -len(f"_0000{ending}")], "images"),
                    (case.mask, case.mask.name[: -len(ending)], "labels"),
                ):
                    spacing = source.with_name(f"{stem}.json")  # where nnU-Net looks for that of a TIFF volume
                    if spacing.is_file():
                        _link(spacing, staging / f"{folder}{suffix}" / f"{identifier}.json")
        write_json(staging / "dataset.json", description)
        write_json(staging / SPLITS_FILE, [{"train": list(parts["training"]), "val": list(parts["validation"])}])
        if dataset.provenance is not None:
            entries = dataset.provenance["cases"]
            subsets = {name: {**entries[name], "subset": part} for part, names in parts.items() for name in names}
            write_json(staging / "provenance.json", {**dataset.provenance, "cases": subsets})
        staging.rename(target)
    except OSError as error:
        raise UserError(f"{target} could not be made, and nothing was left behind: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
