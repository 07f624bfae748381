"""Held-out patients as scans of a part of the spine: the upper and the lower 55 % of each, to predict and to score.

    python benchmarks/cut_scans.py -d 531 -o halves
    nnUNetv2_predict -d 531 -c 2d_small -f 0 -tr nnUNetTrainer_CAFR -i halves/images -o halves/predicted
    nnUNetv2_cafr evaluate halves/labels halves/predicted

The labels get the data set's dataset.json, so that their names say which level is which.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.paths import nnUNet_preprocessed

from nnunetv2_cafr import options
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.raw_dataset import case_files, find_dataset
from nnunetv2_cafr.splits.writing import SPLITS_FILE


def upper_and_lower(image: sitk.Image, share: float) -> dict[str, sitk.Image]:
    """The upper and the lower part of this share of the height, along the axis nearest to the patient's up and down."""
    towards_head = np.reshape(image.GetDirection(), (3, 3))[2]
    axis = int(np.abs(towards_head).argmax())
    size, kept = list(image.GetSize()), round(share * image.GetSize()[axis])
    last = size[axis] - kept
    size[axis] = kept
    starts = {"upper": last, "lower": 0} if towards_head[axis] > 0 else {"upper": 0, "lower": last}
    return {
        name: sitk.RegionOfInterest(image, size, [start if a == axis else 0 for a in range(3)])
        for name, start in starts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="raw data set")
    parser.add_argument("-f", default="0", help="fold whose held-out patients are cut; all: every case (default 0)")
    parser.add_argument("-o", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--share",
        type=options.number("share", 0, 1, inclusive=False),
        default=0.55,
        help="of the height that is kept (default 0.55)",
    )
    arguments = parser.parse_args()

    raw = find_dataset(arguments.d)
    files = case_files(raw, read_json(raw / "dataset.json"))
    if arguments.f == "all":
        cases = list(files)
    else:
        cases = json.loads((Path(nnUNet_preprocessed) / raw.name / SPLITS_FILE).read_text())[int(arguments.f)]["val"]
    for folder in ("images", "labels"):
        (arguments.o / folder).mkdir(parents=True)
    for case in cases:
        images, mask = files[case]
        for source, folder in (*((image, "images") for image in images), (mask, "labels")):
            for part, cut in upper_and_lower(sitk.ReadImage(source), arguments.share).items():
                name = source.name.replace(case, f"{case}-{part}", 1)
                sitk.WriteImage(cut, arguments.o / folder / name, useCompression=True)
    shutil.copy(raw / "dataset.json", arguments.o / "labels")


if __name__ == "__main__":
    main()
