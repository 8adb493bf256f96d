"""What the student alone sees of an unrated image, and mixtures that teacher and student both see. Batched, on uint8 crops.

Each image's chance is a function of (seed, image, step): a resumed run, and any number of processes, draw the same; but the
other picture of a mixture is the next one of its micro-batch, which depends on how a batch is divided.

FixMatch (arXiv 2001.07685) and UDA (arXiv 1904.12848) take it that a strong view keeps the label. Colour, sharpness and a
covered part are themselves what aesthetics is about, so here this holds in part only: whether it helps is for a benchmark
to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

# Rows Y, I, Q of NTSC: hue is an angle in the plane of the last two.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)

_JITTER = (
    0.4  # brightness, contrast and saturation change by up to this factor (SimCLR, arXiv 2002.05709, at half strength)
)
_HUE = 0.1  # of a full turn, either way
_COVER = (0.02, 0.2)  # share of the image that is covered (random erasing, arXiv 1708.04896)
_STRONG, _MIX = 5, 6  # kinds of chance, beside those of data.views


def strong_views(
    crops: torch.Tensor, seed: int, indices: Sequence[int], step: int, strength: float = 1.0
) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue of each crop, blur it somewhat, and cover a rectangle of it.

    Args:
        crops: uint8 `(batch, 3, height, width)`.
        seed: of the run.
        indices: of the images.
        step: of the run.
        strength: 0 leaves the crops as they are, 1 is the whole range.

    Returns:
        uint8, of the same shape.
    """
    chances = np.stack([np.random.default_rng((seed, _STRONG, index, step)).random(9) for index in indices])
    chance = torch.from_numpy(chances).float().to(crops.device)  # (batch, 9), each in 0..1
    signed = (2 * chance[:, :4] - 1) * strength
    brightness, contrast, saturation = (1 + _JITTER * signed[:, i] for i in range(3))
    with torch.autocast(crops.device.type, enabled=False):  # half precision has fewer than 256 steps
        pixels = _recolour(crops.float(), brightness, saturation, signed[:, 3] * _HUE)
    pixels = _blur(pixels, chance[:, 4] * strength)
    middle = pixels.mean((1, 2, 3), keepdim=True)
    pixels = middle + (pixels - middle) * contrast[:, None, None, None]
    return _cover(pixels, chance[:, 5:], strength).round().clamp(0, 255).to(torch.uint8)


def _recolour(
    pixels: torch.Tensor, brightness: torch.Tensor, saturation: torch.Tensor, turn: torch.Tensor
) -> torch.Tensor:
    """One 3 x 3 matrix an image: brightness times (back from YIQ) times (turn and stretch of I, Q) times (to YIQ)."""
    angle = 2 * torch.pi * turn
    change = torch.zeros(len(pixels), 3, 3, device=pixels.device)
    change[:, 0, 0] = 1
    change[:, 1, 1] = change[:, 2, 2] = saturation * angle.cos()
    change[:, 1, 2], change[:, 2, 1] = -saturation * angle.sin(), saturation * angle.sin()
    matrix = brightness[:, None, None] * (_FROM_YIQ.to(pixels.device) @ change @ _TO_YIQ.to(pixels.device))
    return torch.einsum("bij,bjhw->bihw", matrix, pixels)


def _blur(pixels: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Towards the mean of the 3 x 3 pixels around each."""
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(pixels, blurred, amount[:, None, None, None])


def _cover(pixels: torch.Tensor, chance: torch.Tensor, strength: float) -> torch.Tensor:
    """Cover one rectangle of each image with its mean colour; `chance` is `(batch, 4)`: area, aspect, top, left."""
    height, width = pixels.shape[-2:]
    area = strength * (_COVER[0] + (_COVER[1] - _COVER[0]) * chance[:, 0])
    aspect = torch.exp(2 * chance[:, 1] - 1)  # 1/e to e
    tall, wide = (area * aspect).sqrt() * height, (area / aspect).sqrt() * width
    top, left = chance[:, 2] * (height - tall), chance[:, 3] * (width - wide)
    rows = torch.arange(height, device=pixels.device)[None, :] + 0.5
    columns = torch.arange(width, device=pixels.device)[None, :] + 0.5
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # (batch, height)
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # (batch, width)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, pixels.mean((2, 3), keepdim=True), pixels)


def mixup(crops: torch.Tensor, seed: int, indices: Sequence[int], step: int, alpha: float) -> torch.Tensor:
    """Mix each crop with the next one of the batch: share * crop + (1 - share) * next, share from Beta(alpha, alpha).

    mixup (arXiv 1710.09412), for pictures whose label the teacher gives after the mixing (arXiv 2106.05237). The batch is in
    random order, so the next one is a random one; it is of the same process.

    Args:
        crops: uint8 `(batch, 3, height, width)`.
        seed, indices, step: see `strong_views`.
        alpha: above 0; small ones mix few pictures much.

    Returns:
        uint8, of the same shape.
    """
    drawn = [np.random.default_rng((seed, _MIX, index, step)).beta(alpha, alpha) for index in indices]
    share = torch.tensor(drawn, dtype=torch.float32, device=crops.device)[:, None, None, None]
    mixed = crops.roll(-1, 0).float().lerp_(crops.float(), share)
    return mixed.round_().to(torch.uint8)
