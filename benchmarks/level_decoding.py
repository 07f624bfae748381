"""What level decoding does to predictions of trained networks: the same label maps with and without it.

    nnUNetv2_predict -d 521 -c 2d -f 0 -tr nnUNetTrainer_CAFR -i HELD_OUT -o CAFR --save_probabilities
    python benchmarks/level_decoding.py REFERENCES LevelSafe=PREDICTIONS CAFR=OTHER_PREDICTIONS -o results

Probabilities (.npz) beside the predictions are used, and `--labels-alone` leaves them aside. Prints level accuracy,
patients with all levels right, Dice, flags, and which studies became better and worse by name, and for a choice of the
threshold what each would have done. `--corrupt N` needs no network: the predictions are the references with N errors of
the kinds that networks make.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from tqdm import tqdm

from nnunetv2_cafr.evaluation.level_errors import match_vertebrae
from nnunetv2_cafr.evaluation.level_shifts import SHIFTS, draw_level_shifts, level_shifts
from nnunetv2_cafr.evaluation.means import level_summary, per_case
from nnunetv2_cafr.evaluation.reading import CasePair, label_table
from nnunetv2_cafr.evaluation.scores import Evaluation
from nnunetv2_cafr.evaluation.scoring import evaluate_folders
from nnunetv2_cafr.levels.decoding import TRANSITIONAL, UNCERTAIN, Decoding, decode
from nnunetv2_cafr.levels.files import Record, grid_of, read_labels, read_probabilities
from nnunetv2_cafr.spine import Spine, read_spine

THRESHOLDS = (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def corrupted(labels: np.ndarray, spine: Spine, number: int, rng: np.random.Generator) -> np.ndarray:
    """A copy with errors: runs of levels shifted, two swapped, one missed, one in two labels, an island, one cut."""
    new = labels.copy()
    position = spine.positions
    by_place = {place: label for label, place in position.items()}
    present = [int(label) for label in np.unique(labels) if label in position]
    vertebrae = [label for label in present if position[label] % 2 == 0]
    for kind in rng.choice(["run", "swap", "missed", "two labels", "island", "bridge"], number):
        index = int(rng.integers(1, len(vertebrae)))
        label, below = vertebrae[index], vertebrae[index - 1]
        if kind == "run":
            first, last, by = index, index + int(rng.integers(0, 3)), 2 * int(rng.choice([-1, 1]))
            chosen = [one for one in present if 2 * first <= position[one] - position[vertebrae[0]] <= 2 * last]
            for one in chosen:
                new[labels == one] = by_place.get(position[one] + by, one)
        elif kind == "swap":
            new[labels == label], new[labels == below] = below, label
        elif kind == "missed":
            new[labels == label] = 0
        elif kind == "two labels":
            rows = np.flatnonzero((labels == label).any((0, 2)))
            part = np.zeros_like(labels, bool)
            part[:, int(rng.integers(rows[0], rows[-1] + 1)) :] = True
            new[(labels == label) & part] = below
        elif kind == "island":
            sizes = zip(labels.shape, (2, 12, 12), strict=True)
            starts = [(int(rng.integers(0, max(1, size - width))), width) for size, width in sizes]
            box = tuple(slice(start, start + width) for start, width in starts)
            new[box] = np.where(labels[box] == 0, label, new[box])
        else:  # the lower one reaches into the upper one along a few columns
            both = np.isin(labels, (label, below))
            rows, columns = np.flatnonzero(both.any((0, 2))), np.flatnonzero(both.any((0, 1)))
            middle = int(columns.mean())
            box = (slice(None), slice(int(rows.mean()) - 10, int(rows.mean()) + 10), slice(middle, middle + 6))
            new[box] = np.where(new[box] == label, label, below)
    return new


def studies(
    references: Path,
    predictions: Path | None,
    arguments: argparse.Namespace,
    spine: Spine,
    reader: type[BaseReaderWriter],
) -> Iterator[tuple[str, np.ndarray, dict, np.ndarray, Decoding, Decoding]]:
    """Case, label map as predicted, its geometry, the reference, its decoding, and that without a threshold."""
    description = arguments.description
    ending, allowed = description["file_ending"], frozenset(map(int, description["labels"].values()))
    rng = np.random.default_rng(arguments.seed)
    files = sorted((predictions or references).glob(f"*{ending}"))
    for path in tqdm(files, unit="study"):
        case = path.name.removesuffix(ending)
        reference, properties = read_labels(references / path.name, reader, allowed)
        evidence = None
        if predictions is None:
            found = corrupted(reference, spine, arguments.corrupt, rng)
        else:
            found, properties = read_labels(path, reader, allowed)
            if (predictions / f"{case}.npz").is_file() and not arguments.labels_alone:
                evidence = read_probabilities(predictions / f"{case}.npz", found, len(allowed))
        grid = grid_of(properties)
        always = decode(found, spine, grid, evidence, threshold=-1)
        yield case, found, properties, reference, decode(found, spine, grid, evidence), always


def accuracy(reference: np.ndarray, labels: np.ndarray, names: dict[int, str]) -> float:
    counts = level_shifts(match_vertebrae(reference.astype(int), labels.astype(int), names), names)
    return counts["0"] / max(sum(counts.values()) - counts["extra"], 1)


def score(folder: Path, references: Path, cases: list[str], arguments: argparse.Namespace) -> Evaluation:
    ending = arguments.description["file_ending"]
    patients = arguments.patients
    pairs = [
        CasePair(case, patients.get(case, case), references / f"{case}{ending}", folder / f"{case}{ending}")
        for case in cases
    ]
    names = label_table(arguments.description["labels"])
    return evaluate_folders(pairs, names, num_processes=arguments.np, progress=True)


def row(evaluation: Evaluation) -> dict[str, float]:
    levels = level_summary(evaluation)
    return {
        "level accuracy": levels["right_level"],
        "patients all right": levels["patients_all_right"],
        "found": levels["found"],
        "Dice": float(per_case(evaluation, "dice", "present").mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("references", type=Path, help="folder of label maps, dataset.json beside it or by --labels")
    parser.add_argument("arms", nargs="*", metavar="NAME=PREDICTIONS")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="dataset.json (default REFERENCES/../dataset.json)")
    parser.add_argument("--labels-alone", action="store_true", help="do not use the probabilities")
    parser.add_argument("--corrupt", type=int, default=0, metavar="N", help="errors per study in place of a network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-np", type=int, default=1)
    parser.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="table, figure, and all label maps")
    arguments = parser.parse_args()
    references = arguments.references
    file = arguments.labels or references.parent / "dataset.json"
    arguments.description = json.loads(file.read_text(encoding="utf-8"))
    provenance = file.parent / "provenance.json"
    entries = json.loads(provenance.read_text(encoding="utf-8"))["cases"] if provenance.is_file() else {}
    arguments.patients = {case: entry["patient"] for case, entry in entries.items()}
    spine = read_spine(arguments.description["labels"])
    reader = determine_reader_writer_from_dataset_json(arguments.description, verbose=False)
    arms: dict[str, Path | None] = {
        name: Path(folder) for name, folder in (arm.split("=", 1) for arm in arguments.arms)
    }
    if arguments.corrupt:
        arms["corrupted"] = None
    names = dict(spine.names)

    rows, shifts = {}, {}
    for arm, predictions in arms.items():
        arguments.o.mkdir(parents=True, exist_ok=True)
        before, after = arguments.o / arm / "predicted", arguments.o / arm / "decoded"
        for folder in (before, after):
            folder.mkdir(parents=True)
        record = Record(after, {"predictions": str(predictions)})
        judged = []
        counts = {"predicted": dict.fromkeys(SHIFTS, 0), "decoded": dict.fromkeys(SHIFTS, 0)}
        for case, found, properties, reference, decoding, always in studies(
            references, predictions, arguments, spine, reader
        ):
            ending = arguments.description["file_ending"]
            reader().write_seg(found, str(before / f"{case}{ending}"), properties)
            reader().write_seg(decoding.labels, str(after / f"{case}{ending}"), properties)
            record.add(case, decoding, after / f"{case}{ending}")
            for kind, labels in (("predicted", found), ("decoded", decoding.labels)):
                for shift, count in level_shifts(
                    match_vertebrae(reference.astype(int), labels.astype(int), names), names
                ).items():
                    counts[kind][shift] += count
            judged.append(
                {
                    "case": case,
                    "confidence": decoding.confidence,
                    "flags": "; ".join(decoding.flags),
                    "before": accuracy(reference, found, names),
                    "after": accuracy(reference, decoding.labels, names),
                    "always": accuracy(reference, always.labels, names),
                    "held always": not always.changed and bool({UNCERTAIN, TRANSITIONAL} & set(always.flags)),
                }
            )
        cases = pd.DataFrame(judged).set_index("case")
        scores = {
            kind: score(folder, references, list(cases.index), arguments)
            for kind, folder in (("predicted", before), ("decoded", after))
        }
        for kind, evaluation in scores.items():
            cases[f"Dice {kind}"] = per_case(evaluation, "dice", "present")
            rows[f"{arm}, {kind}"] = row(evaluation)
            shifts[f"{arm}, {kind}"] = counts[kind]
        cases.to_csv(arguments.o / arm / "cases.csv")
        worse, better = cases[cases["after"] < cases["before"]], cases[cases["after"] > cases["before"]]
        flagged = cases["flags"].ne("").sum()
        print(f"\n{arm}: {len(cases)} studies, {flagged} flagged; better {len(better)}, worse {len(worse)}")
        for title, some in (("worse", worse), ("better", better)):
            for case, one in some.iterrows():
                change = f"{one['before']:.2f} -> {one['after']:.2f}"
                print(f"  {title}: {case} {change}, confidence {one['confidence']:.2f} {one['flags']}")
        print("  threshold: mean level accuracy, studies all right, better, worse, held")
        for threshold in THRESHOLDS:
            after = cases["always"].where(cases["confidence"] >= threshold, cases["before"])
            better, worse = (after > cases["before"]).sum(), (after < cases["before"]).sum()
            held = ((cases["confidence"] < threshold) | cases["held always"]).sum()
            print(f"  {threshold:.2f}: {after.mean():.4f} {(after == 1).sum()} {better} {worse} {held}")
    table = pd.DataFrame(rows).T
    table.to_csv(arguments.o / "level_decoding.csv")
    print("\n" + table.round(4).to_string())
    counted = pd.DataFrame(shifts).T[list(SHIFTS)]
    counted.to_csv(arguments.o / "level_shifts.csv")
    print("\n" + counted.to_string())
    draw_level_shifts(counted, arguments.o / "level_shifts.png")


if __name__ == "__main__":
    main()
