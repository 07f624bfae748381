"""Which faults of a numbering level decoding mends, flags, or lets pass: drawn into references, one kind at a time.

    python benchmarks/drawn_faults.py $nnUNet_raw/Dataset531_SpineMRI $nnUNet_raw/Dataset532_SpineMRI -o faults.csv

No network is needed. Prints, by data set and kind, how many studies hold a wrong level before and after decoding, how
many of these have no flag, and how many right ones have one; the file has them by study. A level is wrong where a
vertebra of the reference has another label in more than a fiftieth of its voxels. Only volumes are read.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from tqdm import tqdm

from nnunetv2_cafr.levels.decoding import decode
from nnunetv2_cafr.levels.files import grid_of, read_labels
from nnunetv2_cafr.spine import SACRUM, Spine, read_spine

MARGIN = 4.0  # mm of image beyond the vertebrae that a cropped scan shows
WRONG = 0.02  # of a vertebra's voxels


@dataclass(frozen=True)
class Study:
    """A reference (z, y, x), z upwards, and the places of its labels on the way up, vertebrae at even numbers."""

    labels: np.ndarray
    spine: Spine
    height: float  # mm of a voxel

    @property
    def vertebrae(self) -> list[int]:
        """Labels from the bottom upwards."""
        place = self.spine.positions
        present = [label for label in np.unique(self.labels).tolist() if label in place and place[label] % 2 == 0]
        return sorted(present, key=place.__getitem__)

    @property
    def label_at(self) -> dict[int, int]:
        """The labels by their places."""
        return {place: label for label, place in self.spine.positions.items()}

    def renumbered(self, place_of: Callable[[int], int]) -> np.ndarray:
        """With every structure at another place, by its own; background beyond the table."""
        label_at = self.label_at
        new = np.arange(max(self.spine.positions) + 1, dtype=self.labels.dtype)
        for place, label in label_at.items():
            new[label] = label_at.get(place_of(place), 0)
        return new[self.labels]

    def moved(self, by: int, above: int) -> np.ndarray:
        """With everything at `above` and higher called `by` levels higher."""
        return self.renumbered(lambda place: place + 2 * by if place >= above else place)

    def cropped(self, part: slice) -> "Study":
        """The rows of a part of the vertebrae, with MARGIN."""
        rows = np.flatnonzero(np.isin(self.labels, self.vertebrae[part]).any((1, 2)))
        margin = int(MARGIN / self.height)
        return Study(self.labels[max(0, rows[0] - margin) : rows[-1] + 1 + margin], self.spine, self.height)


Fault = Callable[[Study, np.random.Generator], tuple[np.ndarray, Study]]


def unchanged(study: Study, _: np.random.Generator) -> tuple[np.ndarray, Study]:
    return study.labels, study


def crop(part: slice) -> Fault:
    def fault(study: Study, _: np.random.Generator) -> tuple[np.ndarray, Study]:
        cropped = study.cropped(part)
        return cropped.labels, cropped

    return fault


def _inner(study: Study, rng: np.random.Generator) -> int:
    """A vertebra that is neither the lowest nor the highest."""
    return study.vertebrae[int(rng.integers(1, max(2, len(study.vertebrae) - 1)))]


def in_two(between: str) -> Fault:
    """One body in two, the upper half and all above it one too high; a cleft or a disc between the halves."""

    def fault(study: Study, rng: np.random.Generator) -> tuple[np.ndarray, Study]:
        label, label_at = _inner(study, rng), study.label_at
        place = study.spine.positions[label]
        new, body = study.moved(1, place + 1), study.labels == label
        middle = int(np.median(np.nonzero(body)[0]))
        new[middle:][body[middle:]] = label_at.get(place + 2, 0)
        gap = slice(middle, middle + 2)
        new[gap][body[gap]] = label_at.get(place + 1, 0) if between == "disc" else 0
        return new, study

    return fault


def missed_and_counted_on(study: Study, rng: np.random.Generator) -> tuple[np.ndarray, Study]:
    """A vertebra and its discs are not found, and the numbers go on above it without a gap."""
    label, place = _inner(study, rng), study.spine.positions
    new = study.moved(-1, place[label] + 1)
    gone = [one for one, where in place.items() if abs(where - place[label]) <= 1]
    new[np.isin(study.labels, gone)] = 0
    return new, study


def on_its_head(study: Study, _: np.random.Generator) -> tuple[np.ndarray, Study]:
    """The image upside down under the same header, and numbered upwards all the same."""
    reference = Study(study.labels[::-1].copy(), study.spine, study.height)
    lowest, *_, highest = [study.spine.positions[label] for label in study.vertebrae]
    return reference.renumbered(lambda place: lowest + highest - place), reference


FAULTS: dict[str, Fault] = {
    "none": unchanged,
    "only the lower three": crop(slice(3)),
    "only the lower four": crop(slice(4)),
    "only the upper three": crop(slice(-3, None)),
    "only the upper four": crop(slice(-4, None)),
    "one body in two by a cleft, one too high above": in_two("cleft"),
    "one body in two by a disc, one too high above": in_two("disc"),
    "one body missed, counted on above": missed_and_counted_on,
    "on its head, numbered upwards": on_its_head,
}


def wrong_levels(labels: np.ndarray, reference: Study) -> int:
    """Vertebrae of the reference that have another level in more than WRONG of their voxels."""
    vertebrae = [label for name, own in reference.spine.labels.items() if name != SACRUM for label in own]
    count = 0
    for label in reference.vertebrae:
        found = labels[reference.labels == label]
        count += int((np.isin(found, vertebrae) & (found != label)).mean() > WRONG)
    return count


def judged(folder: Path) -> Iterator[dict[str, object]]:
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    spine = read_spine(description["labels"])
    reader = determine_reader_writer_from_dataset_json(description, verbose=False)
    allowed, ending = frozenset(map(int, description["labels"].values())), description["file_ending"]
    for path in tqdm(sorted((folder / "labelsTr").glob(f"*{ending}")), desc=folder.name, unit="study"):
        labels, properties = read_labels(path, reader, allowed)
        grid = grid_of(properties)
        if grid.up is None or not (np.argmax(np.abs(grid.steps.T @ grid.up)) == 0 and grid.steps[:, 0] @ grid.up > 0):
            raise SystemExit(f"{path}: its first axis does not run upwards, as a reader that reorients turns it")
        study = Study(labels, spine, float(np.linalg.norm(grid.steps[:, 0])))
        for kind, fault in FAULTS.items():
            drawn, reference = fault(study, np.random.default_rng(crc32(f"{path.name}{kind}".encode())))
            decoding = decode(drawn, spine, grid)
            before, after = wrong_levels(drawn, reference), wrong_levels(decoding.labels, reference)
            yield {
                "set": folder.name,
                "case": path.name.removesuffix(ending),
                "fault": kind,
                "vertebrae": len(reference.vertebrae),
                "wrong_before": before,
                "wrong_after": after,
                "flags": "; ".join(decoding.flags),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DATASET", help="raw data sets with labelsTr")
    parser.add_argument("-o", type=Path, required=True, metavar="FILE", help="table by study (.csv)")
    arguments = parser.parse_args()
    studies = pd.DataFrame([row for folder in arguments.folders for row in judged(folder)])
    studies.to_csv(arguments.o, index=False)
    wrong, flagged = studies["wrong_after"] > 0, studies["flags"] != ""
    studies = studies.assign(
        before=studies["wrong_before"] > 0, after=wrong, silent=wrong & ~flagged, right_flagged=~wrong & flagged
    )
    columns = ["before", "after", "silent", "right_flagged"]
    table = studies.groupby(["fault", "set"], sort=False)[columns].sum()
    table.insert(0, "studies", studies.groupby(["fault", "set"], sort=False).size())
    print(table.to_string())


if __name__ == "__main__":
    main()
