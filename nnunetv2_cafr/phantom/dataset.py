"""Volumes of phantoms on disk, in the layout of the SpineMRI (MRSpineSeg) challenge set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from nnunetv2_cafr.phantom.anatomy import draw_anatomy, smooth_noise
from nnunetv2_cafr.phantom.painting import Grid, draw_slice

ROOT_NAME = "MRSpineSeg_Challenge_SMU"
FIELD_OF_VIEW = 300.0  # mm from the upper to the lower border; that of most SpineMRI series (880 x 0.3448 mm)
SLICE_SPACING = 4.4  # mm, SpineMRI's most frequent one
LEVELS_VISIBLE = (7, 8, 9, 10)
LEVELS_PROBABILITY = (0.15, 0.4, 0.25, 0.2)  # flatter than SpineMRI's, so that T10 and T9 occur in a small set
# i runs backwards (posterior), j downwards (inferior), k to the patient's right, as in SpineMRI's own files.
DIRECTION = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
SUBSLICES = 3  # odd, so that one of them lies at the slice's centre, where the label is taken
SMALLEST_SIDE = 32  # rows and columns of a phantom
FINEST_PIXEL = 1.0  # mm: coarser pixels are drawn as 3x3 finer ones and averaged


def make_case(
    seed: int | Sequence[int],
    *,
    size: tuple[int, int, int] = (128, 96, 12),
    spacing: tuple[float, float, float] | None = None,
) -> tuple[sitk.Image, sitk.Image]:
    """Draw one patient.

    Args:
        seed: anything that `numpy.random.default_rng` takes. Equal seeds give equal voxels.
        size: rows, columns, slices.
        spacing: of rows, columns and slices in mm. Default: square pixels such that the rows span 300 mm, and slices
            4.4 mm apart, as in SpineMRI. The patient is scaled until 7 to 10 levels fill the rows, so a field of view
            far from 300 mm gives a dwarf or a giant.

    Returns:
        Image (int16) and mask (float32, as SpineMRI may store it) with values 0 to 19; both are sagittal with the
        array axes (z, y, x) = (right, inferior, posterior).

    Raises:
        ValueError: if a size is below 32 x 32 x 1, or a spacing is not positive.
    """
    if len(size) != 3 or min(size[:2]) < SMALLEST_SIDE or size[2] < 1:
        raise ValueError(
            f"size is {size}; expected (rows, columns, slices) of at least ({SMALLEST_SIDE}, {SMALLEST_SIDE}, 1)"
        )
    if spacing is None:
        spacing = (FIELD_OF_VIEW / size[0], FIELD_OF_VIEW / size[0], SLICE_SPACING)
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing is {spacing}; expected three positive values in mm (rows, columns, slices)")

    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng)

    # Which part of the patient the rows show, and at which scale.
    levels = int(rng.choice(LEVELS_VISIBLE, p=LEVELS_PROBABILITY))
    uppermost = anatomy.bodies[levels - 1]
    top = uppermost.y + uppermost.half_height * (1 - 2 * rng.uniform(0.45, 0.95))
    bottom = rng.uniform(45, 80)
    scale = size[0] * spacing[0] / (bottom - top)

    factor = 3 if max(spacing[:2]) > FINEST_PIXEL else 1

    def positions(count: int, step: float) -> np.ndarray:
        return ((np.arange(count * factor) + 0.5) / factor * step / scale).astype(np.float32)

    y = positions(size[0], spacing[0]) + np.float32(top)
    x = positions(size[1], spacing[1])
    # The skin of the back lies a little inside the right border.
    skin = float(anatomy.centre_line(-60.0)) + anatomy.back
    x = x - x[-1] + np.float32(skin + rng.uniform(0.04, 0.14) * x[-1])

    grid = Grid(anatomy, y, x)
    rows, columns, slices = size
    image = np.empty((slices, rows, columns), np.float32)
    mask = np.empty((slices, rows, columns), np.float32)
    offset = rng.uniform(-0.5, 0.5)  # the middle slice need not meet the midline
    patches = smooth_noise(rng, y, x, 6, 8)
    streaks = smooth_noise(rng, y, x, 7, 1.6)
    for k in range(slices):
        # Neighbouring slices share part of their texture.
        patches = np.float32(0.8) * patches + np.float32(0.6) * smooth_noise(rng, y, x, 6, 8)
        streaks = np.float32(0.6) * streaks + np.float32(0.8) * smooth_noise(rng, y, x, 7, 1.6)
        drawn = np.zeros((rows * factor, columns * factor), np.float32)
        for s in range(SUBSLICES):
            z = (k - (slices - 1) / 2 + offset + (s - SUBSLICES // 2) / SUBSLICES) * spacing[2] / scale
            section, labels = draw_slice(anatomy, grid, z, patches, streaks)
            drawn += section / SUBSLICES
            if s == SUBSLICES // 2:
                mask[k] = labels[factor // 2 :: factor, factor // 2 :: factor]
        image[k] = drawn.reshape(rows, factor, columns, factor).mean((1, 3))

    # The receive coil lies below the back: brightness falls off forwards. Over it, a slow random field.
    y, x = y[factor // 2 :: factor], x[factor // 2 :: factor]
    depth = np.maximum(skin - x, 0)
    gain = (0.25 + np.exp(-depth / rng.uniform(70, 130))) * np.exp(0.13 * smooth_noise(rng, y, x, 90, 90))
    gain *= np.exp(-((np.abs(y - (top + bottom) / 2) / (bottom - top)) ** 4) * 6)[:, None]  # end of the coil
    image *= gain
    noise = rng.uniform(0.008, 0.022)
    real = image + noise * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.hypot(real, noise * rng.standard_normal(image.shape, dtype=np.float32))
    image *= rng.uniform(600, 1400)  # MR units are arbitrary

    def to_sitk(array: np.ndarray) -> sitk.Image:
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((spacing[1], spacing[0], spacing[2]))
        volume.SetDirection(DIRECTION)
        volume.SetOrigin(((slices - 1) / 2 * spacing[2], -columns / 2 * spacing[1], rows / 2 * spacing[0]))
        return volume

    return to_sitk(np.rint(image).astype(np.int16)), to_sitk(mask)


def write_dataset(
    folder: Path | str,
    *,
    num_train: int,
    num_test: int = 0,
    seed: int = 0,
    size: tuple[int, int, int] = (128, 96, 12),
    spacing: tuple[float, float, float] | None = None,
    progress: bool = True,
) -> Path:
    """Write phantoms under `folder` in SpineMRI's layout.

    As in SpineMRI, the test cases fill gaps in the numbering of the training cases and have no masks. Case N is
    `make_case((seed, N), size=size, spacing=spacing)`, which is also how to get the reference of a test case.

    Returns:
        The collection's root, `folder/MRSpineSeg_Challenge_SMU`.

    Raises:
        FileExistsError: if that root exists.
        ValueError: if a number of cases is negative, or both are 0.
    """
    if num_train < 0 or num_test < 0 or num_train + num_test == 0:
        raise ValueError(f"num_train is {num_train} and num_test is {num_test}; expected at least one case")
    root = Path(folder) / ROOT_NAME
    if root.exists():
        raise FileExistsError(f"{root} exists; remove it, or choose another folder")
    images, masks, tests = root / "train" / "MR", root / "train" / "Mask", root / "test1" / "MR"
    for directory in (images, masks, tests) if num_test else (images, masks):
        directory.mkdir(parents=True)
    total = num_train + num_test
    test_numbers = set(np.random.default_rng(seed).permutation(np.arange(1, total + 1))[:num_test].tolist())
    for number in tqdm(range(1, total + 1), desc="phantoms", unit="case", disable=not progress):
        image, mask = make_case((seed, number), size=size, spacing=spacing)
        is_test = number in test_numbers
        sitk.WriteImage(image, (tests if is_test else images) / f"Case{number}.nii.gz", useCompression=True)
        if not is_test:
            sitk.WriteImage(mask, masks / f"mask_case{number}.nii.gz", useCompression=True)
    return root
