"""What simulated people think of a synthetic photograph.

The taste is written down, not learnt, so that a trained scorer can be held against it. A photograph has five parts,
each a sum of simple terms of its factors:

- technique: inverted-U responses to exposure, contrast and saturation whose best value depends on the scene (a sunset
  likes less light, a black-and-white picture more contrast), and losses for blur, noise, strong vignettes and casts;
- composition: thirds, symmetry for water and flowers, cut subjects, tilted horizons, clutter, size of the subject;
- content: how much people like the light, the land, the subject, and the subject there;
- harmony: the subject's hue against the scene's;
- interaction: what a light does for a land (a city at night, water at sunset), and stars, clouds, sun, reflections.

Light and content weigh more than fine geometry, as they do in people's ratings of real snapshots.
Latent score = sum of the parts; a rater expects 1 + 9 * sigmoid(GAIN * latent + OFFSET), with personal changes.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from .factors import CASTS, LANDS, SUBJECTS, TIMES

SCORE_VALUES = tuple(range(1, 11))
PARTS = ("technique", "composition", "content", "harmony", "interaction")

GAIN, OFFSET = 0.62, 0.22

# Best exposure (stops), contrast and saturation by light, order of TIMES.
_BEST_EXPOSURE = (0.05, -0.45, 0.0, 0.35, 0.25)
_BEST_CONTRAST = (1.05, 1.05, 1.10, 1.15, 1.25)
_BEST_SATURATION = (1.10, 1.35, 1.15, 1.0, 0.95)
_SNOW_EXPOSURE, _MONOCHROME_CONTRAST = -0.25, 1.40

_LIGHT = (0.15, 0.75, 0.40, -0.45, -0.60)
_LAND = (-0.15, -0.10, 0.15, 0.50, 0.55, -0.50)
_SUBJECT = (0.15, 0.0, 0.20, 0.15, 0.35, -0.20, 0.0, -0.40)

# What a light (row, as TIMES) does for a land (column, as LANDS).
_LIGHT_ON_LAND = (
    (0.25, 0.05, 0.30, 0.00, 0.10, -0.40),
    (-0.10, 0.45, -0.15, 0.50, 0.20, -0.20),
    (-0.25, 0.00, 0.25, 0.10, 0.10, 0.55),
    (-0.30, 0.00, 0.10, -0.10, -0.20, 0.75),
    (0.00, -0.45, -0.40, -0.20, 0.30, 0.20),
)
# What a subject gains where it belongs and loses where it does not.
_SUBJECT_ON_LAND = {
    ("boat", "water"): 0.45,
    ("boat", "city"): -0.35,
    ("boat", "mountain"): -0.25,
    ("bird", "water"): 0.25,
    ("bird", "mountain"): 0.20,
    ("flower", "grass"): 0.25,
    ("flower", "city"): -0.20,
    ("animal", "snow"): 0.25,
    ("animal", "city"): -0.25,
    ("person", "city"): 0.25,
    ("tree", "desert"): 0.25,
    ("house", "snow"): 0.20,
}


def rating_parts(factors: dict[str, Tensor]) -> Tensor:
    """The five parts of the latent score.

    Args:
        factors: see `draw_factors`.

    Returns:
        float tensor of shape (count, 5) in the order of `PARTS`, in units of the latent score.
    """
    parts = (_technique(factors), _composition(factors), _content(factors), 0.25 * factors["harmony"])
    return torch.stack([*parts, _interaction(factors)], dim=1)


def latent_score(factors: dict[str, Tensor]) -> Tensor:
    """The sum of the parts, before any rater: float tensor of shape (count,)."""
    return rating_parts(factors).sum(1)


def _technique(factors: dict[str, Tensor]) -> Tensor:
    time = factors["time"]
    monochrome = factors["saturation"] == 0
    exposure = torch.tensor(_BEST_EXPOSURE)[time] + _SNOW_EXPOSURE * _is(factors, "land", LANDS, "snow")
    contrast = torch.where(monochrome, _MONOCHROME_CONTRAST, torch.tensor(_BEST_CONTRAST)[time])
    saturation = torch.tensor(_BEST_SATURATION)[time]
    colored = (~monochrome).float()
    warm_at_sunset = _is(factors, "cast", CASTS, "warm") * _is(factors, "time", TIMES, "sunset")
    cast_loss = factors["cast_strength"] * (1 - 1.5 * warm_at_sunset) * colored
    # A soft picture of a flower is forgiven, grain in black and white is liked by half.
    soft = 1 - 0.4 * _is(factors, "subject", SUBJECTS, "flower")
    return (
        0.35
        - 1.25 * _miss(factors["exposure"] - exposure, 0.95)
        - 0.65 * _miss(factors["contrast"].log() - contrast.log(), 0.40)
        - 0.55 * _miss(factors["saturation"] - saturation, 0.60) * colored
        - 0.80 * _miss(factors["blur"], 1.3) * soft
        - 8.00 * factors["noise"] * torch.where(monochrome, 0.4, 1.0)
        + 0.30 * (factors["bokeh"] > 0)
        - 0.25 * _miss(factors["vignette"] - 0.3, 0.5)
        - 0.45 * cast_loss
    )


def _composition(factors: dict[str, Tensor]) -> Tensor:
    symmetric = torch.maximum(factors["reflection"], _is(factors, "subject", SUBJECTS, "flower"))
    centre = -0.15 + 0.40 * symmetric
    # In the order of PLACEMENTS: thirds, centre, edge, free.
    by_placement = torch.stack([torch.full_like(centre, 0.30), centre, torch.full_like(centre, -0.45), 0 * centre])
    placed = by_placement.gather(0, factors["placement"][None])[0]
    return (
        placed
        - 0.45 * _miss((factors["tilt"].abs() - 1).clamp(min=0), 6.0)
        - 0.10 * factors["clutter"]
        - 0.30 * _miss(factors["size"] - 0.40, 0.20)
        - 0.15 * _miss(factors["horizon"] - 0.62, 0.12)
    )


def _content(factors: dict[str, Tensor]) -> Tensor:
    table = torch.zeros(len(SUBJECTS), len(LANDS))
    for (subject, land), gain in _SUBJECT_ON_LAND.items():
        table[SUBJECTS.index(subject), LANDS.index(land)] = gain
    return (
        torch.tensor(_LIGHT)[factors["time"]]
        + torch.tensor(_LAND)[factors["land"]]
        + torch.tensor(_SUBJECT)[factors["subject"]]
        + table[factors["subject"], factors["land"]]
    )


def _interaction(factors: dict[str, Tensor]) -> Tensor:
    night_sky = _is(factors, "time", TIMES, "night") * factors["stars"]
    by_sunset = _is(factors, "time", TIMES, "sunset")
    clouds = 0.35 - 0.35 * _miss(factors["clouds"] - 0.5, 0.35)
    open_sky = 1 - _is(factors, "time", TIMES, "overcast")
    return (
        torch.tensor(_LIGHT_ON_LAND)[factors["time"], factors["land"]]
        + 0.50 * night_sky
        + clouds * open_sky
        + 0.30 * factors["sun"] * by_sunset
        + 0.35 * factors["reflection"]
        + 0.30 * (factors["saturation"] == 0) * _is(factors, "land", LANDS, "city")
        - 0.30 * (factors["saturation"] == 0) * by_sunset
    )


def _miss(distance: Tensor, width: float) -> Tensor:
    """Loss of an inverted-U response: 0 at its top, 0.63 at `width`, 1 far away."""
    return 1 - torch.exp(-((distance / width) ** 2))


def _is(factors: dict[str, Tensor], name: str, values: tuple[str, ...], value: str) -> Tensor:
    return (factors[name] == values.index(value)).float()


class RaterPopulation:
    """A fixed crowd of 240 people, of whom each photograph is shown to `raters`, drawn by chance.

    A person weighs the five parts by a taste of their own (log-normal, 0.35), is kinder or stricter than others (0.45
    on the logit), and gives a vote with a personal scatter of 0.6 to 1.6 score units.

    Args:
        seed: of the people and their votes.
        raters: votes a photograph receives, 1..240.

    Raises:
        ValueError: if `raters` is out of range.
    """

    people = 240

    def __init__(self, seed: int, raters: int = 80):
        if not 1 <= raters <= self.people:
            raise ValueError(f"raters must be between 1 and {self.people}, got {raters}")
        self.seed = seed
        self.raters = raters
        generator = self._stream("people")
        self.taste = torch.exp(0.35 * torch.randn(self.people, len(PARTS), generator=generator))
        self.bias = 0.45 * torch.randn(self.people, generator=generator)
        self.scatter = 0.6 + torch.rand(self.people, generator=generator)

    def vote(self, factors: dict[str, Tensor], chunk: int) -> Tensor:
        """Collects votes for one chunk of photographs.

        Args:
            factors: see `draw_factors`.
            chunk: number of the chunk; together with the seed it decides who votes and how.

        Returns:
            long tensor of shape (count, 10): how many gave each of `SCORE_VALUES`.
        """
        generator = self._stream(f"votes/{chunk}")
        count = len(factors["time"])
        shown_to = torch.rand(count, self.people, generator=generator).argsort(1)[:, : self.raters]
        latent = (rating_parts(factors)[:, None] * self.taste[shown_to]).sum(2)  # (count, raters)
        expected = 1 + 9 * torch.sigmoid(GAIN * latent + OFFSET + self.bias[shown_to])
        votes = expected + self.scatter[shown_to] * torch.randn(count, self.raters, generator=generator)
        bins = votes.round().clamp(SCORE_VALUES[0], SCORE_VALUES[-1]).long() - SCORE_VALUES[0]
        return torch.zeros(count, len(SCORE_VALUES), dtype=torch.long).scatter_add_(1, bins, torch.ones_like(bins))

    def _stream(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(random.Random(f"ratings/{self.seed}/{purpose}").getrandbits(62))
