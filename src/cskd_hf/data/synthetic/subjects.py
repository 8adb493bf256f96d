"""The one subject of a synthetic scene: eight kinds, drawn from soft-edged shapes in their own frame.

A subject's frame has its origin at the foot of its axis, x to the right, y up, and a height of 1. Every painter takes
the frame coordinates (count, 1, 64, 64), the body colour (count, 3, 1, 1) and an edge width (count, 1, 1, 1), and
returns a colour (count, 3, 64, 64) and an opacity (count, 1, 64, 64).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .canvas import SIZE, mix, per_image, rows_where, smooth_step
from .factors import LANDS, SUBJECTS, TIMES

# Body colours in the order of COLORS.
_PAINTS = (
    (0.82, 0.13, 0.12),
    (0.93, 0.50, 0.10),
    (0.95, 0.83, 0.18),
    (0.20, 0.58, 0.20),
    (0.16, 0.34, 0.78),
    (0.50, 0.22, 0.66),
    (0.95, 0.55, 0.70),
    (0.94, 0.94, 0.92),
    (0.10, 0.10, 0.12),
)
_WOOD = (0.36, 0.24, 0.15)
_SKIN = (0.80, 0.60, 0.48)
_DARK = (0.16, 0.16, 0.20)
_LEAF = (0.20, 0.42, 0.14)
_GOLD = (0.96, 0.76, 0.16)

Layer = tuple[Tensor, Tensor]


class _Drawing:
    """Collects shapes, each laid over the ones before."""

    def __init__(self, color: Tensor, x: Tensor, edge: Tensor):
        self.color = color.expand(-1, -1, *x.shape[2:])
        self.alpha = torch.zeros_like(x)
        self.edge = edge

    def add(self, inside: Tensor, color: Tensor | tuple[float, float, float]) -> None:
        """Adds the region where `inside` (a signed distance in frame units of the subject) is positive."""
        alpha = smooth_step(inside, self.edge)
        if isinstance(color, tuple):
            color = torch.tensor(color).view(1, 3, 1, 1)
        self.color = mix(self.color, color.expand_as(self.color), alpha)
        self.alpha = torch.maximum(self.alpha, alpha)

    def layer(self) -> Layer:
        return self.color, self.alpha


def _ellipse(x: Tensor, y: Tensor, cx: float, cy: float, rx: float, ry: float) -> Tensor:
    """Positive inside the ellipse with centre (`cx`, `cy`) and radii `rx`, `ry`; about a distance near its edge."""
    return (1 - torch.hypot((x - cx) / rx, (y - cy) / ry)) * min(rx, ry)


def _box(x: Tensor, y: Tensor, left: float, right: float, low: float, high: float) -> Tensor:
    """Distance to the nearest side of an upright rectangle, positive inside."""
    return torch.minimum(torch.minimum(x - left, right - x), torch.minimum(y - low, high - y))


def _triangle(x: Tensor, y: Tensor, left: float, right: float, low: float, high: float, peak: float) -> Tensor:
    """A triangle with its base on `low` from `left` to `right` and its top at (`peak`, `high`)."""
    rise = (y - low) / (high - low)
    return torch.minimum(torch.minimum(x - left - rise * (peak - left), right - x - rise * (right - peak)), y - low)


def _tree(x: Tensor, y: Tensor, color: Tensor, edge: Tensor) -> Layer:
    drawing = _Drawing(color, x, edge)
    drawing.add(_box(x, y, -0.05, 0.05, 0.0, 0.5), _WOOD)
    for cx, cy, radius, tone in ((0.0, 0.64, 0.34, 0.8), (-0.17, 0.54, 0.23, 0.7), (0.18, 0.56, 0.23, 0.9)):
        drawing.add(_ellipse(x, y, cx, cy, radius, radius), color * tone)
    leaves = 0.05 * (torch.sin(x * 31 + y * 17) + torch.sin(y * 37 - x * 13))
    drawing.add(_ellipse(x, y, 0.06, 0.73, 0.21, 0.19) + leaves, color * 1.08)
    return drawing.layer()


def _house(x: Tensor, y: Tensor, color: Tensor, edge: Tensor) -> Layer:
    drawing = _Drawing(color, x, edge)
    drawing.add(_box(x, y, 0.22, 0.32, 0.6, 1.0), color * 0.5)
    drawing.add(_box(x, y, -0.44, 0.44, 0.0, 0.55), color)
    drawing.add(_triangle(x, y, -0.54, 0.54, 0.53, 0.96, 0.0), 0.3 * color + 0.10)
    drawing.add(_box(x, y, -0.09, 0.09, 0.0, 0.34), _WOOD)
    for left in (-0.36, 0.19):
        drawing.add(_box(x, y, left, left + 0.17, 0.22, 0.42), (0.98, 0.90, 0.62))
    return drawing.layer()


def _animal(x: Tensor, y: Tensor, color: Tensor, edge: Tensor) -> Layer:
    drawing = _Drawing(color, x, edge)
    for left in (-0.40, -0.27, 0.18, 0.31):
        drawing.add(_box(x, y, left, left + 0.09, 0.0, 0.45), color * 0.72)
    drawing.add(_ellipse(x, y, -0.53, 0.55, 0.07, 0.22), color * 0.72)
    drawing.add(_ellipse(x, y, 0.0, 0.52, 0.48, 0.20), color)
    drawing.add(_ellipse(x, y, 0.42, 0.72, 0.13, 0.24), color)
    drawing.add(_ellipse(x, y, 0.52, 0.86, 0.19, 0.12), color * 1.05)
    drawing.add(_triangle(x, y, 0.34, 0.46, 0.9, 1.05, 0.38), color * 0.8)
    return drawing.layer()


def _boat(x: Tensor, y: Tensor, color: Tensor, edge: Tensor) -> Layer:
    drawing = _Drawing(color, x, edge)
    drawing.add(_box(x, y, -0.02, 0.02, 0.1, 1.0), _WOOD)
    drawing.add(_triangle(x, y, 0.04, 0.46, 0.28, 0.98, 0.04), (0.95, 0.94, 0.90))
    drawing.add(_triangle(x, y, -0.36, -0.04, 0.28, 0.86, -0.04), color * 0.5 + 0.45)
    slope = 0.35 * (0.2 - y)
    hull = torch.minimum(torch.minimum(x + 0.58 - slope, 0.62 - slope - x), torch.minimum(y, 0.2 - y))
    drawing.add(hull, color)
    drawing.add(torch.minimum(hull, y - 0.16), color * 0.6 + 0.35)
    return drawing.layer()


def _flower(x: Tensor, y: Tensor, color: Tensor, edge: Tensor) -> Layer:
    drawing = _Drawing(color, x, edge)
    drawing.add(0.022 - (x - 0.04 * torch.sin(y * 5)).abs() - (y - 0.7).clamp(min=0), _LEAF)
    for side in (-1.0, 1.0):
        drawing.add(_ellipse(x * side, y - 0.35 * x * side, 0.13, 0.20, 0.14, 0.05), _LEAF)
    dx, dy = x, y - 0.72
    radius, angle = torch.hypot(dx, dy), torch.atan2(dy, dx)
    petals = 0.5 + 0.5 * torch.cos(6 * angle)
    drawing.add(0.19 + 0.10 * petals - radius, color * (0.78 + 0.3 * petals))
    drawing.add(0.09 - radius, _GOLD)
    # The stem must not reach below the foot.
    return drawing.color, drawing.alpha * smooth_step(y, edge)


def _person(x: Tensor, y: Tensor, color: Tensor, edge: Tensor) -> Layer:
    drawing = _Drawing(color, x, edge)
    for left in (-0.115, 0.015):
        drawing.add(_box(x, y, left, left + 0.10, 0.0, 0.48), _DARK)
    drawing.add(_box(x.abs(), y, 0.12, 0.185, 0.44, 0.78), color * 0.8)
    drawing.add(_box(x, y, -0.14, 0.14, 0.42, 0.80), color)
    drawing.add(_ellipse(x, y, 0.0, 0.90, 0.085, 0.10), _SKIN)
    drawing.add(torch.minimum(_ellipse(x, y, 0.0, 0.92, 0.09, 0.10), y - 0.93), (0.20, 0.13, 0.08))
    return drawing.layer()


def _bird(x: Tensor, y: Tensor, color: Tensor, edge: Tensor) -> Layer:
    drawing = _Drawing(color, x, edge)
    for side, tone in ((-1.0, 0.75), (1.0, 0.9)):
        out = (x * side).clamp(min=0)
        spine = 0.42 + 0.75 * out - 0.62 * out**2
        wing = torch.minimum(0.17 * (1 - out / 0.85) - (y - spine).abs(), x * side)
        drawing.add(wing, color * tone)
    drawing.add(_ellipse(x, y - 0.25 * x, 0.0, 0.38, 0.28, 0.12), color)
    drawing.add(_ellipse(x, y, 0.26, 0.50, 0.10, 0.09), color * 1.05)
    drawing.add(_triangle(x, y, 0.30, 0.46, 0.46, 0.54, 0.46), _GOLD)
    return drawing.layer()


def _rock(x: Tensor, y: Tensor, color: Tensor, edge: Tensor) -> Layer:
    drawing = _Drawing(color, x, edge)
    # A painted stone: half of its colour is stone.
    stone = 0.6 * color + 0.4 * torch.tensor([0.46, 0.44, 0.42]).view(1, 3, 1, 1)
    radius = torch.hypot(x / 0.72, (y - 0.1) / 0.85)
    angle = torch.atan2(y - 0.1, x)
    bumps = 0.10 * torch.sin(3 * angle + 1) + 0.06 * torch.sin(7 * angle)
    outline = torch.minimum((1 + bumps - radius) * 0.72, y)
    drawing.add(outline, stone * 0.8)
    drawing.add(torch.minimum(outline - 0.03, y - 0.35 + 0.5 * x), stone * 1.15)
    drawing.add(torch.minimum(outline - 0.02, -(y - 0.25 + 0.9 * x) - 0.2), stone * 0.55)
    return drawing.layer()


_PAINTERS: tuple[Callable[..., Layer], ...] = (_tree, _house, _animal, _boat, _flower, _person, _bird, _rock)


def render_subject(factors: dict[str, Tensor], u: Tensor, v: Tensor, light: Tensor) -> Layer:
    """Draws every image's subject, lit by the scene's light.

    Args:
        factors: see `draw_factors`.
        u, v: scene coordinates of every pixel, (count, 1, 64, 64).
        light: colour of the light, (count, 3, 1, 1).

    Returns:
        colour (count, 3, 64, 64) and opacity (count, 1, 64, 64).
    """
    size = per_image(factors["size"])
    x, y = (u - per_image(factors["x"])) / size, (per_image(factors["foot"]) - v) / size
    flip = per_image((factors["sun_x"] > factors["x"]).float() * 2 - 1)  # it looks toward the light
    edge = 1.3 / SIZE / size
    paint = torch.tensor(_PAINTS)[factors["color"]][:, :, None, None]
    color = torch.zeros(len(size), 3, *u.shape[2:])
    alpha = torch.zeros_like(u)
    for kind, painter in enumerate(_PAINTERS):
        rows = rows_where(factors["subject"] == kind)
        color[rows], alpha[rows] = painter((x * flip)[rows], y[rows], paint[rows], edge[rows])
    shading = 1 + 0.35 * torch.tanh(1.6 * x * flip) * per_image(_directness(factors))
    return (color * shading * (0.15 * light.mean(1, keepdim=True) + 0.9 * light)).clamp(0, 1), alpha


def render_shadow(factors: dict[str, Tensor], u: Tensor, v: Tensor) -> Tensor:
    """Opacity (count, 1, 64, 64) of the shadow on the ground, away from the sun; none under a bird or on water."""
    size = per_image(factors["size"])
    x, y = (u - per_image(factors["x"])) / size, (v - per_image(factors["foot"])) / size
    away = per_image(torch.tanh(4 * (factors["x"] - factors["sun_x"])))
    shape = _ellipse(x - 0.35 * away, y, 0.0, 0.02, 0.62, 0.10)
    grounded = (factors["subject"] != SUBJECTS.index("bird")) & (factors["land"] != LANDS.index("water"))
    strength = (0.25 + 0.3 * _directness(factors)) * grounded
    return per_image(strength) * smooth_step(shape, 0.1)


def _directness(factors: dict[str, Tensor]) -> Tensor:
    """How directional the light is, 0 (overcast) .. 1 (sunset): (count,)."""
    directness = torch.zeros(len(TIMES))
    directness[TIMES.index("day")] = 0.7
    directness[TIMES.index("sunset")] = 1.0
    directness[TIMES.index("night")] = 0.3
    return directness[factors["time"]]
