"""Does a scorer react as one would expect, on photographs that nobody has rated? Spoiled copies must score lower in the
mean, and copies that look the same must score the same."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy import stats

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def _pixels(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    def changed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        values = change(np.asarray(image, dtype=np.float32), rng)
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))

    return changed


def _saved(quality: int) -> Change:
    def changed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return changed


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(min(image.size) / 64))


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    return image.crop((round(width * 0.01), round(height * 0.01), round(width * 0.99), round(height * 0.99)))


SPOILED: dict[str, Change] = {
    "Gaussian blur, deviation 1/64 of the short side": _blurred,
    "noise, deviation 40 of 255": _pixels(lambda a, rng: a + rng.normal(0, 40, a.shape)),
    "JPEG, quality 5": _saved(5),
    "underexposed to a quarter": _pixels(lambda a, rng: a / 4),
    "overexposed twice": _pixels(lambda a, rng: a * 2),
}
"""Changes that must lower the mean score."""

KEPT: dict[str, Change] = {
    "2 % cropped": _cropped,
    "mirrored": lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "JPEG, quality 95": _saved(95),
}
"""Changes that must leave it where it is."""

SIGNIFICANCE, TOLERANCE = 0.01, 0.03


@dataclass(frozen=True)
class Reaction:
    """What a change of the pictures did to their scores.

    Args:
        change: its name in `SPOILED` or `KEPT`.
        mean: mean change of the score.
        std: standard deviation of the change over the pictures.
        lower: share of pictures that scored lower.
        p: of the paired t-test that the mean does not fall; 1 where nothing changed.
        passed: a spoiling change lowered the mean with p below 0.01; another one moved single scores by
            less than 0.03 of the scale in the mean.
    """

    change: str
    mean: float
    std: float
    lower: float
    p: float
    passed: bool


def reactions(
    score: Callable[[Sequence[Image.Image]], Sequence[float]],
    pictures: Iterable[Image.Image],
    scale: tuple[float, float],
    seed: int = 0,
) -> list[Reaction]:
    """Score pictures and changed copies of them.

    Args:
        score: scores of pictures, in their order.
        pictures: RGB; a few hundred photographs.
        scale: lowest and highest possible score.
        seed: of the noise.
    """
    pictures = list(pictures)
    before = np.asarray(score(pictures), dtype=np.float64)
    found = []
    for name, change in (SPOILED | KEPT).items():
        rng = np.random.default_rng(seed)
        moved = np.asarray(score([change(picture, rng) for picture in pictures]), dtype=np.float64) - before
        p = float(stats.ttest_1samp(moved, 0, alternative="less").pvalue) if moved.any() else 1.0
        fell, stayed = p < SIGNIFICANCE, np.abs(moved).mean() < TOLERANCE * (scale[1] - scale[0])
        found.append(Reaction(
            name, float(moved.mean()), float(moved.std()), float((moved < 0).mean()), p,
            bool(fell if name in SPOILED else stayed),
        ))  # fmt: skip
    return found


def reaction_rows(found: Iterable[Reaction]) -> list[dict[str, Any]]:
    """As JSON holds them."""
    return [asdict(one) for one in found]
