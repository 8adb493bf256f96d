"""Copies of crops that are worse by construction: a model that learns from few ratings has not seen what spoils a picture.

The pairs of RankIQA (arXiv 1707.08347): how much worse a blurred copy is nobody has rated, but that it is worse is taken as
given. In art it is not always so (grain, low key, deliberate blur), hence a weight and a small margin.

Each image's chance is a function of (seed, image, step), as in `strong_views`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

_DEGRADE = 7  # a kind of chance, beside those of data.views and strong_views
_LEAST = 0.2  # strength of the mildest copy

# What each does at strength 1. For photographs of 256 pixels: a Gaussian of 6 pixels, noise with a sixth of the range as
# its standard deviation, JPEG of quality 5, and light that is cut to a fifth or multiplied by 2.5 and clipped.
_BLUR_SIDE, _NOISE, _QUALITY, _DARK, _BRIGHT = 1 / 40, 42.0, (30, 5), 0.8, 1.5


def degraded_views(
    crops: torch.Tensor, seed: int, indices: Sequence[int], step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blur, noise, JPEG compression, under- or over-exposure: one of them for each crop, compression most often, of a strength drawn by chance.

    Args:
        crops: uint8 `(batch, 3, height, width)`.
        seed: of the run.
        indices: of the images.
        step: of the run.

    Returns:
        uint8 crops of the same shape, and their strengths `(batch,)`, from 0.2 to 1.
    """
    views, strengths = [], []
    for crop, index in zip(crops, indices):
        rng = np.random.default_rng((seed, _DEGRADE, index, step))
        kind, strength = _KINDS[rng.integers(len(_KINDS))], float(rng.uniform(_LEAST, 1))
        with torch.autocast(crops.device.type, enabled=False):  # half precision has fewer than 256 steps
            view = kind(crop.float(), strength, rng)
        views.append(view.round().clamp(0, 255).to(torch.uint8))
        strengths.append(strength)
    return torch.stack(views), torch.tensor(strengths, device=crops.device)


def degradation_loss(
    scores: torch.Tensor, degraded: torch.Tensor, strengths: torch.Tensor, margin: float
) -> torch.Tensor:
    """Hinge: each degraded copy scores below its original by `margin * strength`. Only the copies are pushed: originals
    have ratings, and a teacher.

    Args:
        scores, degraded: of the originals and the copies, `(batch,)`, as shares of the scale.
        strengths: of the copies, 0 to 1.
        margin: at strength 1, as a share of the scale.

    Returns:
        the mean, a scalar.
    """
    return F.relu(degraded - scores.detach() + margin * strengths).mean()


def _blurred(crop: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    deviation = strength * _BLUR_SIDE * min(crop.shape[-2:])
    reach = min(int(3 * deviation + 0.5), min(crop.shape[-2:]) - 1)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32, device=crop.device)
    kernel = torch.softmax(-0.5 * (taps / deviation) ** 2, 0)
    padded = F.pad(crop[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None, :]), kernel[None, None, :, None])[:, 0]


def _noisy(crop: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    noise = torch.from_numpy(rng.standard_normal(tuple(crop.shape), dtype=np.float32)).to(crop.device)
    return crop + strength * _NOISE * noise


def _compressed(crop: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    buffer, (mild, strong) = io.BytesIO(), _QUALITY
    picture = Image.fromarray(crop.permute(1, 2, 0).to("cpu", torch.uint8).numpy())
    picture.save(buffer, "JPEG", quality=round(mild + (strong - mild) * strength))
    pixels = np.asarray(Image.open(buffer), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).to(crop.device)


def _underexposed(crop: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    return crop * (1 - _DARK * strength)


def _overexposed(crop: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    return crop * (1 + _BRIGHT * strength)


# Compression is the hardest to see at the size of a model's input, so it comes twice as often.
_KINDS = (_blurred, _noisy, _compressed, _compressed, _underexposed, _overexposed)
