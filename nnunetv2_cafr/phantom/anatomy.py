"""One spine, drawn at random: bodies, discs, sacrum and what lies around them, in mm of an average adult.

Lengths are rounded from textbook morphometry. They and the random ranges are ours; the paper has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

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


@dataclass(frozen=True)
class Block:
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
class Ellipsoid:
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
class Anatomy:
    """One patient in mm: y downwards and x backwards from the promontory, z to the right from the middle."""

    bodies: list[Block]
    discs: list[Block]
    distractors: list[Ellipsoid]
    posterior_elements: list[Ellipsoid]
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


def smooth_noise(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, sigma_y: float, sigma_x: float) -> np.ndarray:
    """Gaussian random field of unit variance on the grid of `y` by `x`, correlated over `sigma` mm."""

    def weights(positions: np.ndarray, sigma: float) -> np.ndarray:
        nodes = np.arange(positions[0] - 3 * sigma, positions[-1] + 3 * sigma, sigma)
        kernel = np.exp(-0.5 * ((positions[:, None] - nodes) / sigma) ** 2)
        return (kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32)

    rows, columns = weights(y, sigma_y), weights(x, sigma_x)
    nodes = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    return rows @ nodes @ columns.T


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
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
            Block(
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
            Block(
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
            Ellipsoid(
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
                Ellipsoid(
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
            Block(
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
            distractors.append(Ellipsoid(y, float(x), z, 12, radius, radius, 0.0, 0.05))
    for _ in range(rng.integers(8, 18)):  # bowel: gas, or fluid
        y = rng.uniform(-220, 90)
        distractors.append(
            Ellipsoid(
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
            Ellipsoid(rng.uniform(75, 100), rng.uniform(-60, -35), 0.0, 22 * size, 30 * size, 35, 0.3, 0.9)
        )
    return Anatomy(
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
