"""Time and memory of an evaluation at SpineMRI's size: `python benchmarks/scoring.py`.

Draws phantoms of 880x880x12 voxels with up to 19 labels, spoils copies of them as networks do (every structure moved by
a few voxels, islands all over the image, one vertebra under its neighbour's name), and scores these against the
originals with all metrics. Drawing is not timed; starting the processes and reading the files is, so a few cases
overestimate many.
"""

import argparse
import itertools
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_cafr.evaluation.means import per_case
from nnunetv2_cafr.evaluation.reading import CasePair
from nnunetv2_cafr.evaluation.scoring import evaluate_folders
from nnunetv2_cafr.phantom import make_case

LEVELS = ("S", *(f"L{n}" for n in range(5, 0, -1)), *(f"T{n}" for n in range(12, 8, -1)))
NAMES = {
    **dict(enumerate(LEVELS, start=1)),
    **{label + 11: f"{upper}/{lower}" for label, (lower, upper) in enumerate(itertools.pairwise(LEVELS))},
}
SPINEMRI_CASES = 172
ISLANDS = 5


def spoil(reference: np.ndarray, seed: int) -> np.ndarray:
    """A prediction with errors of all kinds; (slices, rows, columns)."""
    rng = np.random.default_rng(seed)
    prediction = np.roll(reference, (3, -2), axis=(1, 2))
    for corner in rng.integers(0, reference.shape, (ISLANDS, 3)):
        prediction[tuple(slice(start, start + length) for start, length in zip(corner, (1, 9, 9), strict=True))] = (
            rng.integers(1, len(NAMES) + 1)
        )
    prediction[prediction == 5] = 6
    return prediction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=3, default=(880, 880, 12), metavar=("ROWS", "COLUMNS", "SLICES"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for number in range(arguments.cases):
            pair = CasePair(
                str(number), str(number), Path(folder, f"{number}.nii.gz"), Path(folder, f"{number}p.nii.gz")
            )
            _, mask = make_case(number, size=tuple(arguments.size))
            reference = sitk.GetArrayFromImage(mask).astype(np.uint8)
            for path, labels in ((pair.reference, reference), (pair.prediction, spoil(reference, number))):
                image = sitk.GetImageFromArray(labels)
                image.CopyInformation(mask)
                sitk.WriteImage(image, str(path), useCompression=True)
            pairs.append(pair)
        start = time.perf_counter()
        evaluation = evaluate_folders(pairs, NAMES, num_processes=arguments.processes, progress=True)
        seconds = time.perf_counter() - start
    # Kilobytes on Linux. Of the children the largest one counts; this process has drawn phantoms.
    children = arguments.processes > 1 and arguments.cases > 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss / 1024
    minutes = SPINEMRI_CASES * seconds / arguments.cases / 60
    print(f"{os.cpu_count()} cores; {' x '.join(map(str, arguments.size))} voxels, {len(NAMES)} labels")
    print(f"{arguments.cases} cases in {seconds:.1f} s with {arguments.processes} processes")
    print(f"{seconds / arguments.cases:.2f} s a case: {SPINEMRI_CASES} cases in {minutes:.0f} minutes")
    print(f"peak memory of {'the largest' if children else 'this'} process: {peak:.0f} MiB")
    print(f"(mean Dice of present classes {per_case(evaluation, 'dice', 'present').mean():.3f})")


if __name__ == "__main__":
    main()
