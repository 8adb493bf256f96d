"""The camera: what exposure, lens, sensor and darkroom do to a rendered scene."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import SIZE, per_image

# Gains of red, green and blue of each cast (order of CASTS) at full strength.
_CAST_GAINS = ((1.0, 1.0, 1.0), (1.22, 1.0, 0.70), (0.74, 0.98, 1.24), (0.86, 1.16, 0.80))
_LUMA = (0.299, 0.587, 0.114)
_GAMMA = 2.2


def gaussian_blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Blurs every image by its own Gaussian, as two products with a row-normalised (64, 64) matrix.

    Args:
        image: (count, channels, 64, 64).
        sigma: (count,) standard deviation in pixels; near 0 leaves the image as it is.

    Returns:
        tensor of the shape of `image`.
    """
    position = torch.arange(SIZE, dtype=torch.float32)
    distance = position[:, None] - position
    kernel = torch.exp(-0.5 * (distance / sigma.clamp(min=0.05).view(-1, 1, 1, 1)) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)  # (count, 1, 64, 64)
    return kernel @ image @ kernel.transpose(-1, -2)


def saturate(image: Tensor, factor: Tensor) -> Tensor:
    """Moves every pixel away from (factor > 1) or toward (< 1) its own grey.

    Args:
        image: (count, 3, 64, 64).
        factor: (count,); 0 is black and white.

    Returns:
        tensor of the shape of `image`, not clipped.
    """
    grey = (image * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return grey + (image - grey) * per_image(factor)


def photograph(scene: Tensor, factors: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Takes the picture: lens blur, cast, exposure in linear light, contrast, saturation, vignette, sensor noise.

    Args:
        scene: (count, 3, 64, 64), display values 0..1.
        factors: see `draw_factors`.
        generator: source of the sensor noise.

    Returns:
        uint8 tensor of shape (count, 64, 64, 3).
    """
    # A perfect lens still softens hard drawn edges by half a pixel.
    image = gaussian_blur(scene, torch.hypot(factors["blur"], torch.tensor(0.42)))

    gains = torch.tensor(_CAST_GAINS)[factors["cast"]]
    gains = 1 + (gains - 1) * factors["cast_strength"][:, None]
    linear = image.clamp(min=1e-4) ** _GAMMA * (gains[:, :, None, None] ** _GAMMA)
    linear = linear * per_image(2 ** factors["exposure"])
    # Highlights roll off as on film instead of clipping at once.
    linear = torch.where(linear > 0.7, 0.7 + 0.3 * torch.tanh((linear - 0.7) / 0.45), linear)
    image = linear ** (1 / _GAMMA)

    image = 0.45 + (image - 0.45) * per_image(factors["contrast"])
    image = saturate(image, factors["saturation"])
    image = image * (1 - per_image(factors["vignette"]) * _corner_darkness())
    # Film grain is the same in all channels for black and white, coloured otherwise.
    colored = per_image((factors["saturation"] > 0).float()) * 0.5
    grain = torch.randn(len(image), 1, SIZE, SIZE, generator=generator)
    specks = torch.randn(len(image), 3, SIZE, SIZE, generator=generator)
    image = image + per_image(factors["noise"]) * (grain + colored * specks)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _corner_darkness() -> Tensor:
    line = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    radius = torch.hypot(line[:, None], line[None])
    return ((radius - 0.55) / 0.86).clamp(0, 1) ** 1.5 * 0.9
