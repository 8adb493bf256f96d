"""Drawing primitives shared by the synthetic landscape and its subject: edges, layers, textures, outlines."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 64


def smooth_step(distance: Tensor, width: float = 1.2 / SIZE) -> Tensor:
    """An anti-aliased edge: 0 where `distance` is below `-width / 2`, 1 above, smooth between (frame units)."""
    t = (distance / width + 0.5).clamp(0, 1)
    return t * t * (3 - 2 * t)


def mix(below: Tensor, above: Tensor, alpha: Tensor) -> Tensor:
    """Lays `above` (count, 3, H, W) over `below` with opacity `alpha` (count, 1, H, W)."""
    return below + (above - below) * alpha


def per_image(values: Tensor) -> Tensor:
    """Shapes one number an image for arithmetic with maps: (count,) -> (count, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def rows_where(condition: Tensor) -> Tensor:
    """Indices (long, 1-D) of the images a condition (count,) holds for, to paint only those."""
    return torch.nonzero(condition).flatten()


def take_rows(factors: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The factors of some images."""
    return {name: values[rows] for name, values in factors.items()}


def camera_grid(tilt: Tensor) -> tuple[Tensor, Tensor]:
    """Scene coordinates of every pixel for a camera rotated by `tilt` degrees.

    Args:
        tilt: (count,) in degrees.

    Returns:
        u (to the right) and v (down), each of shape (count, 1, 64, 64), 0..1 over an upright frame.
    """
    line = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    angle = per_image(torch.deg2rad(tilt))
    cos, sin = torch.cos(angle), torch.sin(angle)
    return 0.5 + x * cos + y * sin, 0.5 + y * cos - x * sin


def fractal(count: int, cells: tuple[int, int], generator: torch.Generator, octaves: int = 3) -> Tensor:
    """Smooth random texture with mean 0 and standard deviation near 1.

    Args:
        count: number of textures.
        cells: rows and columns of the coarsest octave.
        generator: source of randomness.
        octaves: number of layers; each has twice the cells and half the strength of the one before.

    Returns:
        tensor of shape (count, 1, 64, 64).
    """
    total = torch.zeros(count, 1, SIZE, SIZE)
    power = 0.0
    for octave in range(octaves):
        rows, columns = min(cells[0] << octave, SIZE), min(cells[1] << octave, SIZE)
        grid = torch.randn(count, 1, rows, columns, generator=generator)
        strength = 0.55**octave
        total += strength * F.interpolate(grid, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
        power += strength**2 * 0.5  # interpolation halves the variance of the grid, about
    return total / math.sqrt(power)


def profile(u: Tensor, knots: Tensor, smooth: bool = True) -> Tensor:
    """Reads a height given at equally spaced knots over u = -0.25 .. 1.25.

    Args:
        u: (count, 1, H, W) horizontal position.
        knots: (count, number) heights.
        smooth: interpolate linearly; otherwise hold each height over its interval (roofs of a skyline).

    Returns:
        (count, 1, H, W) heights.
    """
    number = knots.shape[1]
    position = ((u + 0.25) / 1.5 * (number - 1)).clamp(0, number - 1.001)
    left = position.floor().long()
    flat = left.flatten(1)
    low = knots.gather(1, flat).view_as(u)
    if not smooth:
        return low
    high = knots.gather(1, flat + 1).view_as(u)
    return low + (high - low) * (position - left)
