"""Composes sky, land, clutter and subject into one scene, in the order light meets them."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import camera_grid, mix, per_image, rows_where, smooth_step, take_rows
from .factors import LANDS, SUBJECTS
from .landscape import mirror, render_land, render_sky
from .photography import gaussian_blur
from .subjects import render_shadow, render_subject

_MAX_CLUTTER = 5


def render_scene(factors: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Renders the scene in front of the camera, before any photographic factor but tilt and depth of field.

    Args:
        factors: see `draw_factors`.
        generator: source of all textures.

    Returns:
        (count, 3, 64, 64), display values 0..1.
    """
    u, v = camera_grid(factors["tilt"])
    sky = render_sky(factors, u, v, generator)
    scene, light = render_land(factors, sky, u, v, generator)
    on_water = factors["land"] == LANDS.index("water")
    floats = (factors["subject"] == SUBJECTS.index("boat")) | (factors["subject"] == SUBJECTS.index("bird"))
    rows = rows_where(on_water & ~floats)
    scene[rows] = _shore(take_rows(factors, rows), scene[rows], u[rows], v[rows], light[rows])
    scene = _clutter(factors, scene, u, v, light, generator)
    scene = gaussian_blur(scene, factors["bokeh"])
    scene = scene * (1 - render_shadow(factors, u, v))
    color, alpha = render_subject(factors, u, v, light)
    rows = rows_where(on_water)
    if len(rows):
        scene[rows] = _reflect(take_rows(factors, rows), scene[rows], color[rows], alpha[rows], u[rows], v[rows])
    return mix(scene, color, alpha)


def _shore(factors: dict[str, Tensor], scene: Tensor, u: Tensor, v: Tensor, light: Tensor) -> Tensor:
    """Puts a small island under a subject that could not stand on water."""
    size = per_image(factors["size"])
    x, y = (u - per_image(factors["x"])) / (0.16 + 0.8 * size), (v - per_image(factors["foot"])) / 0.028
    island = smooth_step((1 - torch.hypot(x, y + 0.1)) * 0.028)
    soil = torch.tensor([0.42, 0.42, 0.24]).view(1, 3, 1, 1) * light
    return mix(scene, soil.expand_as(scene), island)


def _clutter(
    factors: dict[str, Tensor], scene: Tensor, u: Tensor, v: Tensor, light: Tensor, generator: torch.Generator
) -> Tensor:
    """Adds up to five distractions on the ground: poles, boxes and bright litter."""
    count = len(scene)
    for item in range(_MAX_CLUTTER):
        draw = torch.rand(count, 8, generator=generator)
        here = per_image((factors["clutter"] > item).float())
        pole = draw[:, 0] < 0.35
        depth = draw[:, 1] * 0.9
        foot = factors["horizon"] + (1 - factors["horizon"]) * depth
        width = torch.where(pole, 0.008 + 0.008 * depth, 0.02 + 0.03 * draw[:, 2] * (0.4 + depth))
        height = torch.where(pole, 0.2 + 0.35 * depth, 0.03 + 0.07 * draw[:, 3] * (0.4 + depth))
        x = u - per_image(draw[:, 4])
        y = per_image(foot) - v
        inside = torch.minimum(per_image(width) - x.abs(), torch.minimum(y, per_image(height) - y))
        color = torch.where(pole[:, None], torch.tensor([0.25, 0.23, 0.22]), 0.25 + 0.75 * draw[:, 5:8])
        scene = mix(scene, (color[:, :, None, None] * light).expand_as(scene), smooth_step(inside) * here)
    return scene


def _reflect(factors: dict[str, Tensor], scene: Tensor, color: Tensor, alpha: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Mirrors the subject in calm water, about its own foot; a bird mirrors about the horizon."""
    flying = factors["subject"] == SUBJECTS.index("bird")
    line = torch.where(flying, factors["horizon"], factors["foot"])
    wobble = 0.012 * torch.sin(v * 110) * per_image(factors["ripple"])
    layer = mirror(torch.cat([color, alpha], dim=1), line, factors["tilt"], u, v, shift=wobble)  # (count, 4, 64, 64)
    below = smooth_step(v - per_image(line))
    strength = 0.75 * (1 - 0.8 * per_image(factors["ripple"]))
    return mix(scene, 0.8 * layer[:, :3], layer[:, 3:] * below * strength)
