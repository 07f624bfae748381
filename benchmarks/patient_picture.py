"""One patient, arm beside arm: image, reference and the label maps of trained networks, named level by level.

    python benchmarks/patient_picture.py DATASET CASE OUT.png NAME=FOLDER...

DATASET is a folder of nnUNet_raw; each FOLDER holds label maps, such as fold_0/validation of a training. The slice is
the one with the most of the reference.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk

from dataset_conversion.geometry import orient
from nnunetv2_cafr.files import read_json
from nnunetv2_cafr.report.pictures import draw_labels


def slices(file: Path) -> tuple[np.ndarray, float]:
    """Sagittal slices (n, rows, columns), head up and front left, and the height of a pixel over its width."""
    image = orient(sitk.ReadImage(file))
    width, height, _ = image.GetSpacing()
    return sitk.GetArrayFromImage(image), height / width


def main(dataset: str, case: str, target: str, *arms: str) -> None:
    content = read_json(Path(dataset, "dataset.json"))
    names = {label: name for name, label in content["labels"].items() if label}
    ending = content["file_ending"]
    image, aspect = slices(Path(dataset, "imagesTr", f"{case}_0000{ending}"))
    maps = {"reference": Path(dataset, "labelsTr", f"{case}{ending}")}
    maps |= {name: Path(folder, f"{case}{ending}") for name, _, folder in (arm.partition("=") for arm in arms)}
    reference, _ = slices(maps["reference"])
    index = int((reference > 0).sum(axis=(1, 2)).argmax())
    rows, columns = (range(max(0, found.min() - 10), found.max() + 11) for found in np.nonzero(reference[index]))
    window = np.s_[rows.start : rows.stop, max(0, columns.start - 30) : columns.stop + 30]
    figure, axes = plt.subplots(1, 1 + len(maps), figsize=(2.6 * (1 + len(maps)), 5.2))
    for axis, (title, file) in zip(axes, [("image", None), *maps.items()], strict=True):
        axis.imshow(image[index][window], cmap="gray", aspect=aspect, vmax=np.percentile(image, 99.5))
        if file is not None:
            draw_labels(axis, slices(file)[0][index][window], names)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
