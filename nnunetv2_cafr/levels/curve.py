"""The curve that a spine runs along: a smooth line through the centres of its structures, and places along it."""

from dataclasses import dataclass

import numpy as np

DEGREE = 3  # of the polynomial: lordosis and kyphosis, or a scoliosis, in one field of view
ROUNDS = 12  # of reweighting


@dataclass(frozen=True)
class Curve:
    """A curve in mm. `frame` holds the main axis and two across it, as rows; straight on beyond `ends`."""

    centre: np.ndarray
    frame: np.ndarray
    coefficients: np.ndarray  # (DEGREE + 1, 2), highest power first, of the two axes across by the main one
    ends: tuple[float, float]
    scale: float

    def across(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place across the main axis, and its derivative, (n, 2) each, at the places `t` (n,) of the main axis."""
        inside = np.clip(t, *self.ends) / self.scale
        derivative = np.stack([np.polyval(np.polyder(one), inside) for one in self.coefficients.T], 1) / self.scale
        place = np.stack([np.polyval(one, inside) for one in self.coefficients.T], 1)
        return place + derivative * (t - np.clip(t, *self.ends))[:, None], derivative

    def places(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arc length (n,) of the curve's points next to `points` (n, 3), and the vectors (n, 3) from there; in mm."""
        local = (points - self.centre) @ self.frame.T
        t = local[:, 0].copy()
        for _ in range(2):
            place, slope = self.across(t)
            along = (local[:, 0] - t) + ((local[:, 1:] - place) * slope).sum(1)
            t += along / (1 + (slope**2).sum(1))
        place, _ = self.across(t)
        offset = np.column_stack([local[:, 0] - t, local[:, 1:] - place]) @ self.frame
        return self._arc_length(t), offset

    def _arc_length(self, t: np.ndarray) -> np.ndarray:
        low, high = min(self.ends[0], float(t.min())), max(self.ends[1], float(t.max()))
        grid = np.linspace(low, high, 400)
        _, slope = self.across(grid)
        speed = np.sqrt(1 + (slope**2).sum(1))
        length = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(grid))])
        return np.interp(t, grid, length) - np.interp(0, grid, length)


def fit_curve(points: np.ndarray, weights: np.ndarray, reach: float) -> Curve:
    """A curve through most of the points; single ones that lie `reach` and more aside count little.

    Args:
        points: (n, 3) in mm, at least two.
        weights: (n,), above 0.
        reach: mm.
    """
    trusted = weights / weights.sum()
    for _ in range(ROUNDS):
        centre = trusted @ points / trusted.sum()
        _, _, frame = np.linalg.svd((points - centre) * np.sqrt(trusted)[:, None], full_matrices=True)
        local = (points - centre) @ frame.T
        t = local[:, 0]
        scale = float(np.abs(t).max()) or 1.0
        # A parabola needs more points than three, else it runs through an island as well.
        degree = min(DEGREE, max(1, (int((trusted > trusted.max() / 20).sum()) - 1) // 2))
        fitted = np.polyfit(t / scale, local[:, 1:], degree, w=np.sqrt(trusted))
        residual = local[:, 1:] - np.stack([np.polyval(one, t / scale) for one in fitted.T], 1)
        trusted = weights / weights.sum() / (1 + (residual**2).sum(1) / reach**2) ** 2
    inside = t[trusted > trusted.max() / 20]
    return Curve(centre, frame, fitted, (float(inside.min()), float(inside.max())), scale)
