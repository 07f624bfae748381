"""A slice of an anatomy as an image and its labels: grey values, partial volume, bias, noise. All are ours."""

from __future__ import annotations

import numpy as np

from nnunetv2_cafr.phantom.anatomy import BODY_HEIGHT, Anatomy, Block, Ellipsoid


def _window(block: Block | Ellipsoid, y: np.ndarray, x: np.ndarray, reach: float) -> tuple[slice, slice] | None:
    """The part of the grid within `reach` mm of the block's centre; None where there is none."""
    rows = slice(*np.searchsorted(y, [block.y - reach, block.y + reach]))
    columns = slice(*np.searchsorted(x, [block.x - reach, block.x + reach]))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _local(block: Block | Ellipsoid, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the block's axis (downwards) and across it (backwards)."""
    dy, dx = (y - block.y)[:, None], (x - block.x)[None]
    cos, sin = np.float32(np.cos(block.tilt)), np.float32(np.sin(block.tilt))
    return dy * cos + dx * sin, dx * cos - dy * sin


def _power8(values: np.ndarray) -> np.ndarray:
    """The eighth power, ten times as fast as `**`: sums of it make rectangles with rounded corners."""
    return np.square(np.square(np.square(values)))


def _paint_ellipsoid(image: np.ndarray, blob: Ellipsoid, y: np.ndarray, x: np.ndarray, z: float, rim: bool) -> None:
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


def _paint_disc(image: np.ndarray, labels: np.ndarray, disc: Block, y: np.ndarray, x: np.ndarray, z: float) -> None:
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
    body: Block,
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


class Grid:
    """Where the pixels lie in the patient: what all of its slices share."""

    def __init__(self, anatomy: Anatomy, y: np.ndarray, x: np.ndarray) -> None:
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


def draw_slice(
    anatomy: Anatomy, grid: Grid, z: float, patches: np.ndarray, streaks: np.ndarray
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
            pedicle = Ellipsoid(py, px, body.z + np.sign(spine_z) * 14, 7.5, 12, 7, 0.0, body.brightness)
            root = Ellipsoid(py + 11, px + 2, pedicle.z, 3.2, 3.2, 9, 0.0, 0.3)  # the nerve below it
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
