"""What a synthetic photograph is made of: the names and the random draw of every factor.

A factor is one number an image, drawn before anything is rendered. The renderer, the captions and the rating each read
the same factors; none of them reads another's result, so a caption cannot know a rating.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TIMES = ("day", "sunset", "dusk", "night", "overcast")
LANDS = ("grass", "desert", "snow", "water", "mountain", "city")
SUBJECTS = ("tree", "house", "animal", "boat", "flower", "person", "bird", "rock")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black")
PLACEMENTS = ("thirds", "centre", "edge", "free")
CASTS = ("none", "warm", "cool", "green")

# Hue of each subject colour in degrees; NaN where the colour has none.
COLOR_HUES = (0.0, 28.0, 52.0, 115.0, 218.0, 275.0, 335.0, float("nan"), float("nan"))

# Dominant hue of the scene in degrees, by light (rows as TIMES) and land (columns as LANDS).
SCENE_HUES = (
    (130.0, 40.0, 210.0, 210.0, 200.0, 215.0),
    (35.0, 22.0, 330.0, 20.0, 345.0, 20.0),
    (240.0, 265.0, 235.0, 245.0, 250.0, 255.0),
    (225.0, 235.0, 220.0, 230.0, 228.0, 45.0),
    (110.0, 42.0, 210.0, 205.0, 150.0, 212.0),
)

# In the order of TIMES and of PLACEMENTS: people photograph by day and think of the thirds.
_TIME_SHARES = (0.28, 0.22, 0.14, 0.17, 0.19)
_PLACEMENT_SHARES = (0.32, 0.24, 0.16, 0.28)
_BLACK_AND_WHITE_SHARE = 0.12

_Draw = Callable[..., Tensor]


def draw_factors(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws the factors of `count` photographs.

    Args:
        count: number of photographs.
        generator: source of all randomness; the same state gives the same factors.

    Returns:
        dict of tensors of shape `(count,)`. Categories are long indices into the tuples of this module (`time`,
        `land`, `subject`, `color`, `placement`, `cast`), `clutter` is a long count. The others are floats: positions
        and sizes are fractions of the frame (x to the right, y down), `exposure` is in stops, `contrast` and
        `saturation` are factors (1 leaves the scene as it is, saturation 0 is black and white), `blur` and `bokeh` are
        standard deviations in pixels, `noise` is a standard deviation on a 0..1 scale, `tilt` is in degrees, the rest
        are strengths between 0 and 1. `harmony` is in -1..1, see `color_harmony`.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    def normal(std: float, limit: float) -> Tensor:
        return (std * torch.randn(count, generator=generator)).clamp(-limit, limit)

    def chance(share: float) -> Tensor:
        return torch.rand(count, generator=generator) < share

    def pick(shares: tuple[float, ...]) -> Tensor:
        return torch.multinomial(torch.tensor(shares), count, replacement=True, generator=generator)

    def choose(number: int) -> Tensor:
        return torch.randint(number, (count,), generator=generator)

    factors = {
        "time": pick(_TIME_SHARES),
        "land": choose(len(LANDS)),
        "subject": choose(len(SUBJECTS)),
        "color": choose(len(COLORS)),
        "placement": pick(_PLACEMENT_SHARES),
        "cast": pick((0.55, 0.17, 0.16, 0.12)),
        "horizon": uniform(0.38, 0.66),
        "clouds": uniform(0.0, 1.0) * chance(0.75),
        "sun_x": uniform(0.08, 0.92),
        "sun_height": uniform(0.0, 1.0),
        "clutter": (choose(6) * chance(0.45)).long(),
        "exposure": normal(0.6, 1.4),
        "contrast": torch.exp(normal(0.25, 0.5)),
        "saturation": torch.where(chance(_BLACK_AND_WHITE_SHARE), 0.0, uniform(0.35, 1.65)),
        "blur": torch.where(chance(0.6), uniform(0.0, 0.25), uniform(0.6, 1.8)),
        "bokeh": torch.where(chance(0.7), 0.0, uniform(1.0, 2.6)),
        "noise": torch.where(chance(0.68), uniform(0.0, 0.012), uniform(0.025, 0.065)),
        "tilt": torch.where(chance(0.6), normal(0.5, 1.0), uniform(3.0, 13.0) * (chance(0.5) * 2.0 - 1.0)),
        "vignette": torch.where(chance(0.6), 0.0, uniform(0.25, 1.0)),
        "ripple": uniform(0.0, 1.0),
    }
    factors["cast_strength"] = torch.where(factors["cast"] == 0, 0.0, uniform(0.25, 0.85))
    factors |= _place_subject(factors, uniform, chance)
    factors |= _draw_lights(factors, uniform, chance)
    factors["harmony"] = color_harmony(factors)
    return factors


def color_harmony(factors: dict[str, Tensor]) -> Tensor:
    """How well the subject's hue sits with the scene's: cos(2 * difference), so 1 for the same hue or its complement.

    Args:
        factors: needs `time`, `land`, `color` and `saturation`.

    Returns:
        float tensor of shape `(count,)` in -1..1; 0 for a white or black subject and for black-and-white pictures.
    """
    scene = torch.tensor(SCENE_HUES)[factors["time"], factors["land"]]
    subject = torch.tensor(COLOR_HUES)[factors["color"]]
    harmony = torch.cos(2 * torch.deg2rad(scene - subject))
    harmony = torch.nan_to_num(harmony, nan=0.0)
    return torch.where(factors["saturation"] == 0, torch.zeros_like(harmony), harmony)


def _place_subject(factors: dict[str, Tensor], uniform: _Draw, chance: _Draw) -> dict[str, Tensor]:
    """Where the subject stands, in frame units: `x` of its axis, `foot` (y of its lowest point), `size` (height)."""
    placement, horizon, subject = factors["placement"], factors["horizon"], factors["subject"]
    side = chance(0.5)
    thirds = torch.where(side, 1 / 3, 2 / 3) + uniform(-0.02, 0.02)
    edge = torch.where(side, uniform(-0.02, 0.07), uniform(0.93, 1.02))
    options = torch.stack([thirds, 0.5 + uniform(-0.02, 0.02), edge, uniform(0.15, 0.85)])  # (placements, count)
    x = options.gather(0, placement[None])[0]

    depth = uniform(0.12, 0.75)
    size = (0.16 + 0.42 * uniform(0.0, 1.0)) * (0.75 + 0.5 * depth)
    # A flower or a person is photographed from near, a boat or a rock is wide rather than tall.
    size = size * torch.tensor([1.25, 0.95, 0.8, 1.0, 1.0, 1.1, 0.6, 0.75])[subject]
    on_water = factors["land"] == LANDS.index("water")
    stands = on_water & (subject != SUBJECTS.index("boat"))
    depth = torch.where(stands, 0.06 + 0.1 * depth, depth)
    foot = horizon + (1 - horizon) * depth
    flying = subject == SUBJECTS.index("bird")
    foot = torch.where(flying, horizon * uniform(0.45, 0.85), foot)
    return {"x": x, "foot": foot.clamp(max=0.97), "size": size, "reflection": on_water * (1 - factors["ripple"])}


def _draw_lights(factors: dict[str, Tensor], uniform: _Draw, chance: _Draw) -> dict[str, Tensor]:
    """Sun or moon (`sun` 0 or 1, `sun_y` in frame units) and `stars` (0..1)."""
    time, height, horizon = factors["time"], factors["sun_height"], factors["horizon"]
    shares = torch.tensor([0.45, 0.75, 0.0, 0.4, 0.0])[time]
    sun = (uniform(0.0, 1.0) < shares).float()
    low = horizon - 0.02 - 0.16 * height  # at sunset the sun stands near the horizon
    high = horizon * (0.12 + 0.5 * height)
    sunset = time == TIMES.index("sunset")
    night = time == TIMES.index("night")
    stars = night * chance(0.7) * uniform(0.3, 1.0)
    return {"sun": sun, "sun_y": torch.where(sunset, low, high), "stars": stars}
