"""Sky and land of a synthetic scene, rendered for a whole batch in the tilted frame of the camera."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import SIZE, fractal, mix, per_image, profile, rows_where, smooth_step, take_rows
from .factors import LANDS, TIMES

# Sky colours by light (rows as TIMES): zenith, middle, horizon; display RGB in 0..1.
_SKY = (
    ((0.16, 0.38, 0.78), (0.42, 0.64, 0.92), (0.80, 0.89, 0.96)),
    ((0.22, 0.22, 0.46), (0.80, 0.42, 0.38), (1.00, 0.70, 0.34)),
    ((0.08, 0.10, 0.30), (0.26, 0.26, 0.52), (0.66, 0.46, 0.56)),
    ((0.03, 0.05, 0.14), (0.07, 0.10, 0.24), (0.17, 0.21, 0.38)),
    ((0.56, 0.60, 0.66), (0.68, 0.71, 0.75), (0.80, 0.82, 0.84)),
)
_CLOUDS = ((0.98, 0.98, 1.0), (1.0, 0.58, 0.46), (0.44, 0.34, 0.50), (0.20, 0.23, 0.34), (0.46, 0.49, 0.54))
_SUNS = ((1.0, 0.98, 0.88), (1.0, 0.86, 0.52), (0.0, 0.0, 0.0), (0.92, 0.94, 0.98), (0.0, 0.0, 0.0))
# Colour and strength of the light that falls on land and subject.
_LIGHT = ((1.0, 0.98, 0.94), (0.80, 0.56, 0.42), (0.34, 0.36, 0.54), (0.22, 0.26, 0.40), (0.74, 0.77, 0.80))
# Land colours (rows as LANDS): near and far.
_LAND = (
    ((0.25, 0.42, 0.12), (0.46, 0.60, 0.26)),
    ((0.76, 0.56, 0.32), (0.90, 0.74, 0.50)),
    ((0.90, 0.93, 0.98), (0.96, 0.97, 1.00)),
    ((0.10, 0.24, 0.34), (0.30, 0.46, 0.58)),
    ((0.30, 0.40, 0.18), (0.44, 0.50, 0.30)),
    ((0.36, 0.36, 0.38), (0.52, 0.52, 0.54)),
)


def render_sky(factors: dict[str, Tensor], u: Tensor, v: Tensor, generator: torch.Generator) -> Tensor:
    """Sky gradient with sun or moon, glow, clouds and stars over the whole frame.

    Args:
        factors: see `draw_factors`.
        u, v: scene coordinates of every pixel, (count, 1, 64, 64).
        generator: source of all textures.

    Returns:
        (count, 3, 64, 64), 0..1.
    """
    time = factors["time"]
    count = len(time)
    palette = torch.tensor(_SKY)[time] + 0.035 * torch.randn(count, 3, 3, generator=generator)
    zenith, middle, low = (palette[:, i, :, None, None] for i in range(3))
    height = (v / per_image(factors["horizon"])).clamp(0, 1.2)
    sky = torch.where(height < 0.55, mix(zenith, middle, height / 0.55), mix(middle, low, (height - 0.55) / 0.45))

    # Stars are drawn first so that clouds and the moon cover them.
    dots = torch.rand(count, 1, SIZE, SIZE, generator=generator)
    sky = sky + per_image(factors["stars"]) * ((dots - 0.972) / 0.028).clamp(min=0) * (1.15 - height).clamp(0, 1)

    distance = torch.hypot(u - per_image(factors["sun_x"]), v - per_image(factors["sun_y"]))
    color = torch.tensor(_SUNS)[time][:, :, None, None] * per_image(factors["sun"])
    wide = per_image(torch.tensor([0.10, 0.30, 0.0, 0.07, 0.0])[time])
    sky = sky + color * (0.5 * wide * 4 * torch.exp(-((distance / 0.24) ** 2)) + 0.5 * torch.exp(-distance / 0.05))
    disc = smooth_step(per_image(torch.tensor([0.042, 0.062, 0.04, 0.045, 0.04])[time]) - distance)
    sky = mix(sky, color.expand_as(sky), disc * per_image(factors["sun"]))

    # An overcast sky is never free of clouds.
    amount = per_image(torch.where(time == TIMES.index("overcast"), 0.6 + 0.4 * factors["clouds"], factors["clouds"]))
    texture = fractal(count, (5, 3), generator, octaves=4)
    cover = smooth_step(texture + 2.2 * amount - 1.6, width=1.6) * (amount > 0)
    tone = torch.tensor(_CLOUDS)[time][:, :, None, None]
    shade = 0.88 + 0.12 * torch.tanh(texture.roll(2, dims=2) - texture).neg()
    return mix(sky, tone * shade, 0.88 * cover).clamp(0, 1)


def render_land(
    factors: dict[str, Tensor], sky: Tensor, u: Tensor, v: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lays the land over the sky.

    Args:
        factors: see `draw_factors`.
        sky: (count, 3, 64, 64), as from `render_sky`.
        u, v: scene coordinates of every pixel, (count, 1, 64, 64).
        generator: source of all textures.

    Returns:
        the scene (count, 3, 64, 64) and the light that falls on it (count, 3, 1, 1).
    """
    time, land = factors["time"], factors["land"]
    count = len(time)
    light = torch.tensor(_LIGHT)[time][:, :, None, None]
    horizon = per_image(factors["horizon"])
    haze = torch.tensor(_SKY)[time, 2][:, :, None, None]  # far things fade into the sky at the horizon

    scene = sky.clone()
    for name, painter in (("mountain", _mountains), ("city", _city)):
        rows = rows_where(land == LANDS.index(name))
        if len(rows):
            part = take_rows(factors, rows)
            scene[rows] = painter(part, sky[rows], u[rows], v[rows], haze[rows], light[rows], generator)

    knots = torch.randn(count, 7, generator=generator)
    hilly = per_image(torch.tensor([0.014, 0.020, 0.016, 0.0, 0.008, 0.0])[land])
    edge = horizon + hilly * profile(u, knots)
    depth = ((v - edge) / (1 - horizon)).clamp(0, 1.3)
    colors = torch.tensor(_LAND)[land] + 0.03 * torch.randn(count, 2, 3, generator=generator)
    near, far = colors[:, 0, :, None, None], colors[:, 1, :, None, None]
    ground = mix(far, near, depth.sqrt())
    fine = fractal(count, (16, 12), generator, octaves=3)
    streak = fractal(count, (20, 4), generator, octaves=2)
    rough = per_image(torch.tensor([0.055, 0.015, 0.008, 0.0, 0.05, 0.025])[land])
    bands = per_image(torch.tensor([0.03, 0.07, 0.035, 0.0, 0.03, 0.03])[land])
    ground = ground * (1 + rough * fine * (0.4 + depth) * 2 + bands * streak * 1.5)
    ground = mix(ground * light, haze, 0.35 * torch.exp(-6 * depth))

    rows = rows_where(land == LANDS.index("water"))
    if len(rows):
        part = take_rows(factors, rows)
        ground[rows] = _water(part, scene[rows], u[rows], v[rows], streak[rows], fine[rows])
    return mix(scene, ground, smooth_step(v - edge)).clamp(0, 1), light


def _mountains(
    factors: dict[str, Tensor],
    scene: Tensor,
    u: Tensor,
    v: Tensor,
    haze: Tensor,
    light: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Lays two ridges over the sky; the far one carries snow."""
    count = len(factors["land"])
    horizon = per_image(factors["horizon"])
    rock = torch.tensor([0.40, 0.40, 0.46]).view(1, 3, 1, 1)
    relief = fractal(count, (6, 9), generator, octaves=3)
    for high, knots, snowy, fade in ((0.42, 8, 1.0, 0.28), (0.16, 12, 0.0, 0.10)):
        heights = torch.rand(count, knots, generator=generator)
        heights[:, ::2] *= 0.4  # alternating heights make peaks and valleys rather than a plateau
        top = horizon - high * (0.2 + profile(u, heights)) + 0.008 * relief
        face = rock * (1 + 0.2 * relief) * light
        snow = snowy * smooth_step(top + 0.06 + 0.03 * relief - v, width=0.03)
        face = mix(mix(face, 0.97 * light.expand_as(face), snow), haze, torch.tensor(fade))
        scene = mix(scene, face, smooth_step(v - top))
    return scene


def _city(
    factors: dict[str, Tensor],
    scene: Tensor,
    u: Tensor,
    v: Tensor,
    haze: Tensor,
    light: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Lays two rows of buildings over the sky; windows are lit from dusk on."""
    count = len(factors["land"])
    horizon = per_image(factors["horizon"])
    lit_share = per_image(torch.tensor([0.0, 0.15, 0.45, 0.5, 0.1])[factors["time"]])
    for high, blocks, fade in ((0.34, 22, 0.5), (0.22, 15, 0.1)):
        heights = torch.rand(count, blocks, generator=generator) ** 1.5
        tones = 0.28 + 0.34 * torch.rand(count, blocks, generator=generator)
        top = horizon - high * (0.15 + profile(u, heights, smooth=False))
        tone = profile(u, tones, smooth=False)
        wall = torch.cat([tone * 1.05, tone, tone * 0.96], dim=1) * light
        window = smooth_step(torch.sin(u * 150) - 0.1, 0.8) * smooth_step(torch.sin(v * 130) - 0.1, 0.8)
        lit = fractal(count, (32, 32), generator, octaves=1) > 1.6 - 3.2 * lit_share
        glow = torch.tensor([1.0, 0.82, 0.45]).view(1, 3, 1, 1)
        pane = torch.where(lit & (lit_share > 0), glow, wall * 0.55)
        face = mix(mix(wall, pane, 0.85 * window), haze, torch.tensor(fade))
        scene = mix(scene, face, smooth_step(v - top))
    return scene


def _water(factors: dict[str, Tensor], scene: Tensor, u: Tensor, v: Tensor, streak: Tensor, fine: Tensor) -> Tensor:
    """Water that mirrors the sky above the horizon, broken by ripples, with a glitter path under the sun.

    Returns:
        (count, 3, 64, 64); only the part below the horizon is meaningful.
    """
    horizon, ripple = per_image(factors["horizon"]), per_image(factors["ripple"])
    depth = ((v - horizon) / (1 - horizon)).clamp(0, 1)
    shift = (0.01 + 0.05 * ripple) * streak * depth
    mirrored = mirror(scene, factors["horizon"], factors["tilt"], u, v, shift)
    body = torch.tensor(_LAND[LANDS.index("water")][0]).view(1, 3, 1, 1)
    body = body * torch.tensor(_LIGHT)[factors["time"]][:, :, None, None]
    water = mix(mirrored * 0.86, body, 0.15 + 0.4 * ripple * depth)
    water = water * (1 + 0.16 * (0.3 + ripple) * (streak + 0.6 * fine) * (0.3 + depth))
    path = torch.exp(-(((u - per_image(factors["sun_x"])) / (0.03 + 0.06 * depth)) ** 2))
    sparkle = (path * (0.45 + 0.4 * fine) * per_image(factors["sun"])).clamp(0, 1)
    return mix(water, torch.tensor(_SUNS)[factors["time"]][:, :, None, None].expand_as(water), 0.75 * sparkle)


def mirror(layer: Tensor, line: Tensor, tilt: Tensor, u: Tensor, v: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """Reads `layer` at the place above `line` that each place below it mirrors.

    Args:
        layer: (count, channels, 64, 64) in pixels of the tilted frame.
        line: (count,) v of the mirror's edge.
        tilt: (count,) in degrees.
        u, v: scene coordinates of every pixel, (count, 1, 64, 64).
        shift: sideways displacement in frame units, from the ripples.

    Returns:
        tensor of the shape of `layer`.
    """
    angle = per_image(torch.deg2rad(tilt))
    du, dv = u + shift - 0.5, 2 * per_image(line) - v - 0.5
    # Back from the upright scene to the tilted frame, in the -1..1 coordinates of grid_sample.
    x = 2 * (du * torch.cos(angle) - dv * torch.sin(angle))
    y = 2 * (du * torch.sin(angle) + dv * torch.cos(angle))
    grid = torch.cat([x, y], dim=1).permute(0, 2, 3, 1)  # (count, 64, 64, 2)
    return F.grid_sample(layer, grid, padding_mode="border", align_corners=False)
