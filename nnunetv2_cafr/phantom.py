"""Synthetic sagittal T2 volumes of the lumbar spine, in the layout of the SpineMRI (MRSpineSeg) challenge set.

SpineMRI must not be redistributed, so tests and the demo draw their own. What makes the task hard is kept: vertebrae
differ little from their neighbours, so that only the sacrum, or counting from it, tells the level; 7 to 10 vertebral
levels are visible, the uppermost cut by the border; slices are thick, and the spine ends within the outer ones; discs
vary in height, brightness and bulge; receive-coil bias, Rician noise and partial volume lie over all of it.

Anatomical lengths are in mm of an average adult and are rounded from textbook morphometry. They, the grey values and
the random ranges are ours; the paper has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.interpolate import PchipInterpolator
from tqdm import tqdm

ROOT_NAME = "MRSpineSeg_Challenge_SMU"
FIELD_OF_VIEW = 300.0  # mm from the upper to the lower border; that of most SpineMRI series (880 x 0.3448 mm)
SLICE_SPACING = 4.4  # mm, SpineMRI's most frequent one

# From the sacrum upwards; the first ten are labelled 1 to 10, and their discs 11 to 19 (L5/S first). The two
# above T9 are only there to be cut off by the upper border.
BODY_HEIGHT = np.array([30, 27, 27.5, 27.5, 27, 26, 25, 23.5, 22, 21, 20.5, 20])
BODY_DEPTH = np.array([33, 35, 34.5, 34, 33, 31.5, 30, 29, 28, 27, 26, 25.5])
BODY_WIDTH = np.array([50, 50, 48, 46, 44, 42, 41, 39, 37, 35, 34, 33])
DISC_HEIGHT = np.array([10, 11.5, 11, 10, 8.5, 7, 6, 5, 4.5, 4.5, 4.5])
BODY_TILT = np.deg2rad([42, 22, 7, -4, -10, -13, -13, -10, -6, -1, 3, 6])  # of the body's axis; positive: up is forward
# S2 to S5, downwards from S1. They carry S1's label.
SACRUM_HEIGHT = np.array([24, 20, 17, 14])
SACRUM_DEPTH = np.array([22, 16, 12, 9])
SACRUM_TILT = np.deg2rad([50, 42, 25, 5])
NUM_LEVELS = 10
LEVELS_VISIBLE = (7, 8, 9, 10)
LEVELS_PROBABILITY = (0.15, 0.4, 0.25, 0.2)  # flatter than SpineMRI's, so that T10 and T9 occur in a small set

# i runs backwards (posterior), j downwards (inferior), k to the patient's right, as in SpineMRI's own files.
DIRECTION = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)

SUBSLICES = 3  # odd, so that one of them lies at the slice's centre, where the label is taken
FINEST_PIXEL = 1.0  # mm: coarser pixels are drawn as 3x3 finer ones and averaged


@dataclass(frozen=True)
class _Block:
    """A body or a disc: centre and half axes in mm, `tilt` of its axis in rad, all in the sagittal plane."""

    y: float
    x: float
    z: float
    tilt: float
    half_height: float
    half_depth: float
    half_width: float
    label: int
    brightness: float
    bulge: float = 0.0


@dataclass(frozen=True)
class _Ellipsoid:
    """A distractor (vessel, bowel gas, bladder, spinous process, facet joint)."""

    y: float
    x: float
    z: float
    half_y: float
    half_x: float
    half_z: float
    tilt: float
    brightness: float


@dataclass(frozen=True)
class _Anatomy:
    """One patient in mm: y downwards and x backwards from the promontory, z to the right from the middle."""

    bodies: list[_Block]
    discs: list[_Block]
    distractors: list[_Ellipsoid]
    posterior_elements: list[_Ellipsoid]
    centre_line: PchipInterpolator  # y -> x of the bodies' centres
    half_depth: PchipInterpolator  # y -> half the bodies' depth
    conus: float  # y at which the cord ends
    canal_width: float
    back: float  # from the centre line to the skin
    subcutaneous: float  # thickness of the fat below it
    belly: float  # from the centre line forwards to the abdominal wall
    muscle: float
    fat: float
    csf: float


def _smooth_noise(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, sigma_y: float, sigma_x: float) -> np.ndarray:
    """Gaussian random field of unit variance on the grid of `y` by `x`, correlated over `sigma` mm."""

    def weights(positions: np.ndarray, sigma: float) -> np.ndarray:
        nodes = np.arange(positions[0] - 3 * sigma, positions[-1] + 3 * sigma, sigma)
        kernel = np.exp(-0.5 * ((positions[:, None] - nodes) / sigma) ** 2)
        return (kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32)

    rows, columns = weights(y, sigma_y), weights(x, sigma_x)
    nodes = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    return rows @ nodes @ columns.T


def _draw_anatomy(rng: np.random.Generator) -> _Anatomy:
    """Draw one patient: stack the bodies from the sacrum upwards along a lordotic curve."""
    number = len(BODY_HEIGHT)
    lordosis = rng.uniform(0.65, 1.15)
    tilt = BODY_TILT * lordosis + np.deg2rad(rng.normal(0, 1.5, number))
    # Random sizes are shared by all levels of a patient but for a little: a vertebra must not be known by its size.
    height = BODY_HEIGHT * rng.uniform(0.94, 1.06) * rng.normal(1, 0.025, number)
    depth = BODY_DEPTH * rng.uniform(0.92, 1.08) * rng.normal(1, 0.015, number)
    width = BODY_WIDTH * rng.uniform(0.92, 1.06)
    degeneration = rng.beta(0.8, 1.4, number - 1) * np.linspace(1, 0.7, number - 1)  # worst in the lower back
    disc_height = DISC_HEIGHT * rng.normal(1, 0.08, number - 1) * (1 - 0.4 * degeneration)
    marrow = rng.uniform(0.34, 0.5)
    scoliosis = rng.normal(0, 2.5) * np.sin(np.linspace(0, np.pi, number)) + rng.normal(0, 1.5)

    bodies, discs, posterior = [], [], []
    line = []  # (y, x, half depth) from the top of the pile to its bottom, in the end

    def up(angle: float) -> np.ndarray:
        return np.array([-np.cos(angle), -np.sin(angle)])

    position = np.zeros(2)  # middle of S1's upper end plate: the promontory's height
    centres = [position - up(tilt[0]) * height[0] / 2]
    for i in range(1, number):
        disc_tilt = (tilt[i - 1] + tilt[i]) / 2
        middle = position + up(disc_tilt) * disc_height[i - 1] / 2
        discs.append(
            _Block(
                y=middle[0],
                x=middle[1],
                z=scoliosis[i],
                tilt=disc_tilt,
                half_height=disc_height[i - 1] / 2,
                half_depth=(depth[i - 1] + depth[i]) / 4,
                half_width=width[i] / 2,
                label=NUM_LEVELS + i if i < NUM_LEVELS else 0,
                brightness=float(0.12 + 0.75 * (1 - degeneration[i - 1]) ** 1.5),
                bulge=float(rng.uniform(0, 1) + 4 * rng.uniform(0, 1) * degeneration[i - 1] ** 2),
            )
        )
        position = position + up(disc_tilt) * disc_height[i - 1]
        centres.append(position + up(tilt[i]) * height[i] / 2)
        position = position + up(tilt[i]) * height[i]
    for i, (y, x) in enumerate(centres):
        bodies.append(
            _Block(
                y=y,
                x=x,
                z=scoliosis[i],
                tilt=tilt[i],
                half_height=height[i] / 2,
                half_depth=depth[i] / 2,
                half_width=width[i] / 2,
                label=i + 1 if i < NUM_LEVELS else 0,
                brightness=marrow * rng.normal(1, 0.03),
            )
        )
        line.append((y, x, depth[i] / 2))
        # Behind the canal: a spinous process in the middle, which slopes downwards, and a facet joint at either side.
        behind = depth[i] / 2 + 30
        slope = 0.25 if i < 6 else 0.7
        posterior.append(
            _Ellipsoid(
                y=y + 9 + behind * np.tan(tilt[i]) * 0.6,
                x=x + behind + 4,
                z=scoliosis[i],
                half_y=9.5 if i < 6 else 6,
                half_x=15,
                half_z=6,
                tilt=slope,
                brightness=marrow * 1.05,
            )
        )
        for side in (-1, 1):
            posterior.append(
                _Ellipsoid(
                    y=y + height[i] / 2 + (depth[i] / 2 + 18) * np.tan(tilt[i]) * 0.7,
                    x=x + depth[i] / 2 + 19,
                    z=scoliosis[i] + side * 16,
                    half_y=14,
                    half_x=7,
                    half_z=8,
                    tilt=-0.3,
                    brightness=marrow * 0.8,
                )
            )

    position = centres[0] - up(tilt[0]) * height[0] / 2
    for i, (segment_height, segment_depth) in enumerate(zip(SACRUM_HEIGHT, SACRUM_DEPTH, strict=True)):
        angle = SACRUM_TILT[i] * (0.5 + 0.5 * lordosis)
        centre = position - up(angle) * (segment_height / 2 + 1)
        bodies.append(
            _Block(
                y=centre[0],
                x=centre[1],
                z=scoliosis[0],
                tilt=angle,
                half_height=segment_height / 2 + 0.5,
                half_depth=segment_depth / 2,
                half_width=20 - 3 * i,
                label=1,
                brightness=marrow * rng.normal(1, 0.04),
            )
        )
        line.append((centre[0], centre[1], segment_depth / 2))
        position = centre - up(angle) * (segment_height / 2 + 1)

    # The line goes straight on beyond both ends, so that it is defined wherever the field of view reaches.
    line.sort()
    line.insert(0, (line[0][0] - 150, line[0][1] - 20, line[0][2]))
    line.append((line[-1][0] + 150, line[-1][1] - 10, line[-1][2] / 2))
    ys, xs, halves = np.array(line).T
    centre_line, half_depth = PchipInterpolator(ys, xs), PchipInterpolator(ys, halves)

    # The back's skin follows the spine only a little, and must lie behind the sacrum's end.
    subcutaneous = rng.uniform(10, 32)
    sacrum_behind = bodies[-1].x - float(centre_line(-60.0))
    back = max(rng.uniform(72, 95), 0.8 * sacrum_behind + 1.5 * subcutaneous + 12)

    l4 = centres[2][0]
    distractors = []
    # The aorta divides in front of L4; the vena cava runs at its right. Both are dark: blood flows out of the slice.
    for z, radius in ((-8 + rng.normal(0, 2), rng.uniform(7, 10)), (11 + rng.normal(0, 2), rng.uniform(7, 11))):
        for y in np.arange(l4 - 260, l4 + 5, 9.0):
            x = centre_line(y) - half_depth(y) - radius - 4
            distractors.append(_Ellipsoid(y, float(x), z, 12, radius, radius, 0.0, 0.05))
    for _ in range(rng.integers(8, 18)):  # bowel: gas, or fluid
        y = rng.uniform(-220, 90)
        distractors.append(
            _Ellipsoid(
                y=y,
                x=float(centre_line(y) - half_depth(y)) - rng.uniform(35, 110),
                z=rng.uniform(-30, 30),
                half_y=rng.uniform(4, 13),
                half_x=rng.uniform(4, 16),
                half_z=rng.uniform(8, 20),
                tilt=rng.uniform(-1, 1),
                brightness=rng.choice([0.02, 0.02, 0.1, 0.65]),
            )
        )
    if rng.random() < 0.6:  # the bladder
        size = rng.uniform(0.7, 1.3)
        distractors.append(
            _Ellipsoid(rng.uniform(75, 100), rng.uniform(-60, -35), 0.0, 22 * size, 30 * size, 35, 0.3, 0.9)
        )
    return _Anatomy(
        bodies=bodies,
        discs=discs,
        distractors=distractors,
        posterior_elements=posterior,
        centre_line=centre_line,
        half_depth=half_depth,
        conus=float(rng.uniform(centres[6][0], centres[4][0])),
        canal_width=rng.uniform(13, 17),
        back=back,
        subcutaneous=subcutaneous,
        belly=rng.uniform(85, 125),
        muscle=rng.uniform(0.13, 0.22),
        fat=rng.uniform(0.75, 1.0),
        csf=rng.uniform(0.7, 1.0),
    )


def _window(block: _Block | _Ellipsoid, y: np.ndarray, x: np.ndarray, reach: float) -> tuple[slice, slice] | None:
    """The part of the grid within `reach` mm of the block's centre; None where there is none."""
    rows = slice(*np.searchsorted(y, [block.y - reach, block.y + reach]))
    columns = slice(*np.searchsorted(x, [block.x - reach, block.x + reach]))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _local(block: _Block | _Ellipsoid, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the block's axis (downwards) and across it (backwards)."""
    dy, dx = (y - block.y)[:, None], (x - block.x)[None]
    cos, sin = np.float32(np.cos(block.tilt)), np.float32(np.sin(block.tilt))
    return dy * cos + dx * sin, dx * cos - dy * sin


def _power8(values: np.ndarray) -> np.ndarray:
    """The eighth power, ten times as fast as `**`: sums of it make rectangles with rounded corners."""
    return np.square(np.square(np.square(values)))


def _paint_ellipsoid(image: np.ndarray, blob: _Ellipsoid, y: np.ndarray, x: np.ndarray, z: float, rim: bool) -> None:
    """Paint an ellipsoid's section at `z`, with a dark (cortical) `rim` where it is bone."""
    depth = 1 - ((z - blob.z) / blob.half_z) ** 2
    window = _window(blob, y, x, max(blob.half_y, blob.half_x))
    if depth <= 0 or window is None:
        return
    down, back = _local(blob, y[window[0]], x[window[1]])
    radius = (down / blob.half_y) ** 2 + (back / blob.half_x) ** 2
    part = image[window]
    if rim:
        part[radius < depth] = 0.08
        depth *= 0.68
    part[radius < depth] = blob.brightness


def _paint_disc(image: np.ndarray, labels: np.ndarray, disc: _Block, y: np.ndarray, x: np.ndarray, z: float) -> None:
    """Paint a disc. It reaches into both neighbours, which are painted over it: their end plates give it its shape."""
    side = 1 - (abs(z - disc.z) / (disc.half_width * 1.02)) ** 3
    window = _window(disc, y, x, disc.half_depth + 8)
    if side <= 0 or window is None:
        return
    down, back = _local(disc, y[window[0]], x[window[1]])
    half_depth = disc.half_depth * side**0.5
    half_height = disc.half_height + 3.5
    # The posterior contour bulges into the canal, most in the middle.
    back = np.where(back > 0, back * (half_depth / (half_depth + disc.bulge * side)), back * 0.98)
    across, along = back / half_depth, down / half_height
    across8, along8 = _power8(across), _power8(along)
    inside = across8 + along8 < 1
    lens = disc.half_height * np.maximum(1.15 - 0.8 * np.square(across), 0.2)
    nucleus = np.exp(-across8 / 0.75**8 - np.square(np.square(down / lens)))
    cleft = 1 - 0.35 * np.exp(-((down / 0.9) ** 2))  # the healthy nucleus's dark intranuclear line
    value = 0.1 + (disc.brightness - 0.1) * nucleus * cleft
    part = image[window]
    part[inside] = value[inside]
    labels[window][inside & (across8 + along8 < 0.7)] = disc.label


def _paint_body(
    image: np.ndarray,
    labels: np.ndarray,
    body: _Block,
    y: np.ndarray,
    x: np.ndarray,
    z: float,
    texture: np.ndarray,
) -> None:
    """Paint a vertebral body: concave end plates, a waist which is deepest at the sides, a dark cortical rim."""
    reach = float(np.hypot(body.half_height, body.half_depth))
    window = _window(body, y, x, reach)
    if window is None or abs(z - body.z) >= body.half_width:
        return
    down, back = _local(body, y[window[0]], x[window[1]])
    along, across = down / body.half_height, back / body.half_depth
    middle = np.maximum(1 - along**2, 0)
    half_width = body.half_width * (1 - 0.13 * middle)
    side = np.sqrt(np.maximum(1 - _power8(abs(z - body.z) / half_width) ** 0.5, 1e-6))
    across = across / ((1 - 0.1 * middle) * side)
    along = along / (1 - 0.13 * np.maximum(1 - across**2, 0))
    radius = np.sqrt(np.sqrt(np.sqrt(_power8(across) + _power8(along))))
    inside = radius < 1
    rim = np.clip((1 - radius) * min(body.half_height, body.half_depth) / 1.2, 0, 1)
    # The basivertebral vein enters in the middle of the posterior wall.
    vein = 0.3 * np.exp(-((down / 2.2) ** 2) - ((back - body.half_depth * 0.75) / 5) ** 2 - ((z - body.z) / 7) ** 2)
    value = 0.07 + rim * (body.brightness * (1 + 0.1 * texture[window]) + vein - 0.07)
    part = image[window]
    part[inside] = value[inside]
    labels[window][inside] = body.label


class _Grid:
    """Where the pixels lie in the patient: what all of its slices share."""

    def __init__(self, anatomy: _Anatomy, y: np.ndarray, x: np.ndarray) -> None:
        centre = anatomy.centre_line(y)[:, None].astype(np.float32)
        half = anatomy.half_depth(y)[:, None].astype(np.float32)
        cos = (1 / np.sqrt(1 + anatomy.centre_line(y, 1) ** 2))[:, None].astype(np.float32)
        self.y, self.x = y, x
        distance = (x - centre) * cos
        self.behind = distance - half  # mm behind the bodies' posterior wall
        self.front = distance + half  # mm behind their anterior wall
        # The skin follows the curve of the spine only a little.
        flat = x - centre + np.float32(0.8) * (centre - np.float32(anatomy.centre_line(-60.0)))
        down = y[:, None]
        self.skin = flat - anatomy.back - 4 * np.sin((down + 60) / 55)  # mm outside the back's skin
        self.subcutaneous = self.skin + anatomy.subcutaneous * (1 + np.clip(down / 150, -0.35, 0.6))
        self.wall = flat + anatomy.belly - 0.0009 * (down + 70) ** 2  # mm behind the abdominal wall's inner face


def _draw_slice(
    anatomy: _Anatomy, grid: _Grid, z: float, patches: np.ndarray, streaks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the section at `z`: ideal brightness (about 0 to 1) and labels.

    `patches` and `streaks` are random fields on the grid: tissue borders in the abdomen, and fibres in muscle.
    """
    y, x, behind, front = grid.y, grid.x, grid.behind, grid.front
    muscle, fat = anatomy.muscle, anatomy.fat
    spine_z = z - float(np.mean([body.z for body in anatomy.bodies]))

    # Abdomen: organs and bowel between fat; the body's back: muscle with streaks of fat.
    share = np.clip(1.6 * patches + 0.5 * streaks - 0.2, 0, 1)
    image = share * (0.5 * fat) + (1 - share) * (1.2 * muscle) + 0.02 * streaks
    np.copyto(image, muscle * (1 + 0.15 * streaks), where=front > -6)
    infiltration = 1.5 - 0.004 * (y - y[0])[:, None]  # fat replaces muscle most in the lower back
    image[(behind > 18) & (streaks > infiltration)] = 0.55 * fat
    for blob in anatomy.distractors:
        _paint_ellipsoid(image, blob, y, x, z, rim=False)

    # In front of the bodies: retroperitoneal fat and the anterior ligament.
    image[(front > -4) & (front < -1)] = 0.45 * fat
    if abs(spine_z) < 22:
        image[(front > -1.2) & (behind < 1.5)] = 0.07
    if abs(spine_z) < 7:  # ligaments and fat between the spinous processes
        np.copyto(image, np.where(streaks > 0.1, 0.55 * fat, 0.14), where=(behind > 14) & (behind < 46))
    elif 8 < abs(spine_z) < 20:  # fat of the intervertebral foramina; the pedicles follow below
        image[(behind > -2) & (behind < 13)] = 0.65 * fat
    for blob in anatomy.posterior_elements:
        _paint_ellipsoid(image, blob, y, x, z, rim=True)
    if 8 < abs(spine_z) < 20:
        for body in anatomy.bodies[: len(BODY_HEIGHT)]:
            offset = body.half_depth + 4
            sin, cos = np.sin(body.tilt), np.cos(body.tilt)
            py, px = body.y - 5 * cos + offset * sin, body.x - 5 * sin + offset * cos
            pedicle = _Ellipsoid(py, px, body.z + np.sign(spine_z) * 14, 7.5, 12, 7, 0.0, body.brightness)
            root = _Ellipsoid(py + 11, px + 2, pedicle.z, 3.2, 3.2, 9, 0.0, 0.3)  # the nerve below it
            _paint_ellipsoid(image, root, y, x, z, rim=False)
            _paint_ellipsoid(image, pedicle, y, x, z, rim=True)

    lateral = 1 - (spine_z / 12) ** 2
    if lateral > 0:
        # Spinal canal: epidural fat, dura, CSF, in it the cord, and below the conus the cauda equina.
        if lateral > 0.2:
            image[(behind > 0) & (behind < anatomy.canal_width + 4)] = 0.6 * fat
        taper = np.clip(1 - (y - 25) / 55, 0.02, 1)[:, None]  # the dural sac ends at S2
        width = anatomy.canal_width * (0.35 + 0.65 * lateral) * taper
        image[(behind > -0.5) & (behind < width + 3.4)] = 0.09
        sac = (behind > 1.8) & (behind < width + 2)
        np.copyto(image, anatomy.csf * (1 + 0.04 * streaks), where=sac)
        depth_in_sac = (behind - 1.8) / np.maximum(width, 1)
        if abs(spine_z) < 6:
            tip = np.clip((anatomy.conus - y) / 20, 0, 1)[:, None]
            image[sac & (np.abs(depth_in_sac - 0.5) < 0.27 * tip)] = 0.48
        image[sac & (y > anatomy.conus)[:, None] & (depth_in_sac > 0.45) & (streaks > 0.1)] = 0.72 * anatomy.csf

    # Fat below the skin with its fascia and septa, and air beyond it, at the back and the belly.
    beneath = grid.subcutaneous > 0
    np.copyto(image, np.where(np.abs(patches) < 0.03, 0.85 * fat, fat), where=beneath)
    image[np.abs(grid.subcutaneous) < 0.9] = 0.1
    np.copyto(image, np.where(grid.wall < -9, 0.85 * fat, muscle), where=grid.wall < 0)
    image[(grid.skin > -0.006 * z**2) | (grid.wall < -9 - 0.8 * anatomy.subcutaneous)] = 0

    labels = np.zeros(image.shape, np.uint8)
    for disc in anatomy.discs:
        _paint_disc(image, labels, disc, y, x, z)
    for body in anatomy.bodies:
        _paint_body(image, labels, body, y, x, z, patches)
    return image, labels


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
    if len(size) != 3 or min(size[:2]) < 32 or size[2] < 1:
        raise ValueError(f"size is {size}; expected (rows, columns, slices) of at least (32, 32, 1)")
    if spacing is None:
        spacing = (FIELD_OF_VIEW / size[0], FIELD_OF_VIEW / size[0], SLICE_SPACING)
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing is {spacing}; expected three positive values in mm (rows, columns, slices)")

    rng = np.random.default_rng(seed)
    anatomy = _draw_anatomy(rng)

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

    grid = _Grid(anatomy, y, x)
    rows, columns, slices = size
    image = np.empty((slices, rows, columns), np.float32)
    mask = np.empty((slices, rows, columns), np.float32)
    offset = rng.uniform(-0.5, 0.5)  # the middle slice need not meet the midline
    patches = _smooth_noise(rng, y, x, 6, 8)
    streaks = _smooth_noise(rng, y, x, 7, 1.6)
    for k in range(slices):
        # Neighbouring slices share part of their texture.
        patches = np.float32(0.8) * patches + np.float32(0.6) * _smooth_noise(rng, y, x, 6, 8)
        streaks = np.float32(0.6) * streaks + np.float32(0.8) * _smooth_noise(rng, y, x, 7, 1.6)
        drawn = np.zeros((rows * factor, columns * factor), np.float32)
        for s in range(SUBSLICES):
            z = (k - (slices - 1) / 2 + offset + (s - SUBSLICES // 2) / SUBSLICES) * spacing[2] / scale
            section, labels = _draw_slice(anatomy, grid, z, patches, streaks)
            drawn += section / SUBSLICES
            if s == SUBSLICES // 2:
                mask[k] = labels[factor // 2 :: factor, factor // 2 :: factor]
        image[k] = drawn.reshape(rows, factor, columns, factor).mean((1, 3))

    # The receive coil lies below the back: brightness falls off forwards. Over it, a slow random field.
    y, x = y[factor // 2 :: factor], x[factor // 2 :: factor]
    depth = np.maximum(skin - x, 0)
    gain = (0.25 + np.exp(-depth / rng.uniform(70, 130))) * np.exp(0.13 * _smooth_noise(rng, y, x, 90, 90))
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
