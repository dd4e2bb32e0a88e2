"""A plate of film density on which soft forms are painted."""

import math

import numpy as np

from undertone.public_images.palette import Mask


class Plate:
    """A square of density in 0..1 on which soft forms are painted; coordinates in -1..1, y downwards.

    The body lies on it as bodies do: nearer or farther, off the middle, a little turned and stretched.
    """

    def __init__(self, rng: np.random.Generator, size: int, level: float, zoom: float) -> None:
        """An empty plate of size x size with the body's coordinates laid on it."""
        grid = (np.arange(size, dtype=np.float32) * 2 + 1) / np.float32(size) - 1
        down, across = np.meshgrid(grid, grid, indexing="ij")
        turn, stretch = rng.normal(0, 0.05), rng.uniform(0.92, 1.08)
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = (cos * across + sin * down) * stretch / zoom, (cos * down - sin * across) / stretch / zoom
        self.x, self.y = (x + rng.normal(0, 0.06)).astype(np.float32), (y + rng.normal(0, 0.06)).astype(np.float32)
        self.density = np.full((size, size), level, dtype=np.float32)

    def ellipse(
        self, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0, soft: float = 0.2
    ) -> Mask:
        """Mask of an ellipse; `soft` is the width of its edge as a share of its radius."""
        dx, dy = self.x - np.float32(centre[0]), self.y - np.float32(centre[1])
        cos, sin = math.cos(turn), math.sin(turn)
        along = (cos * dx + sin * dy) / radii[0]
        across = (cos * dy - sin * dx) / radii[1]
        reach = np.sqrt(along * along + across * across)
        mask: Mask = np.clip((1 - reach) / soft + 0.5, 0, 1).astype(np.float32)
        return mask

    def band(self, centre: Mask | float, half_width: float, soft: float = 0.08) -> Mask:
        """Mask of an upright band around x = centre."""
        mask: Mask = np.clip((half_width - np.abs(self.x - centre)) / soft + 0.5, 0, 1).astype(np.float32)
        return mask

    def paint(self, mask: Mask, level: float, strength: float = 1.0) -> None:
        """Move the density towards `level` where the mask is set."""
        self.density += np.float32(strength) * mask * (np.float32(level) - self.density)

    def add(self, mask: Mask, amount: float) -> None:
        """Add to the density where the mask is set."""
        self.density += np.float32(amount) * mask
