"""`python -m nnunetv2_cafr.benchmark.scoring DATASET REFERENCES PREDICTIONS TARGET`: one job of a benchmark.

Scores every label map of PREDICTIONS against the one of the same name in REFERENCES.
"""

import sys
from pathlib import Path

from nnunetv2_cafr.evaluation.reading import CasePair, label_table
from nnunetv2_cafr.evaluation.scoring import evaluate_folders
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.processes import default_processes
from nnunetv2_cafr.raw_dataset import find_dataset, patients_of


def main(dataset: str, references: Path, predictions: Path, target: Path) -> None:
    description = read_json(find_dataset(dataset) / "dataset.json")
    ending = description["file_ending"]
    cases = sorted(file.name.removesuffix(ending) for file in predictions.glob(f"[!.]*{ending}"))
    patients = patients_of(dataset, cases)
    pairs = [
        CasePair(case, patients[case], references / f"{case}{ending}", predictions / f"{case}{ending}")
        for case in cases
    ]
    names = label_table(description["labels"])
    evaluate_folders(pairs, names, num_processes=default_processes(), progress=True).write(target)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
