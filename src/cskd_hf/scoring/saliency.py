"""Which parts of a picture a score depends on most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

if TYPE_CHECKING:
    from ..models.modeling_cskd import CSKDForImageAesthetics

GRID = 16
_WARM = (255, 106, 0)
_UNSEEN = np.float32(0.4)  # of the brightness


def saliency_map(
    model: CSKDForImageAesthetics, pixel_values: torch.Tensor, *, samples: int = 8, noise: float = 0.15, seed: int = 0
) -> torch.Tensor:
    """The size of the score's gradient at each place of the picture; of any encoder.

    The mean, over copies with noise (SmoothGrad, Smilkov et al., arXiv 1706.03825), of the absolute gradient of the score
    with respect to the pixels, its largest over the channels (Simonyan et al., arXiv 1312.6034), taken together in the
    cells of a grid and drawn smoothly. It shows where a small change would move the score, not whether up or down.

    Args:
        model: in evaluation mode; its weights get no gradients.
        pixel_values: `(batch_size, channels, height, width)`, as the image processor returns them.
        samples: copies; 1 without noise is the plain gradient.
        noise: standard deviation of the noise, as a share of each picture's own range of values.
        seed: of the noise.

    Returns:
        `(batch_size, height, width)`, 0 to 1, the largest of each picture 1; all 0 where the score depends on nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    pixel_values = pixel_values.to(model.device, model.dtype)
    spread = noise * (pixel_values.amax((1, 2, 3), keepdim=True) - pixel_values.amin((1, 2, 3), keepdim=True))
    total = torch.zeros(pixel_values.shape[0], *pixel_values.shape[2:])
    for _ in range(samples):
        drawn = torch.randn(pixel_values.shape, generator=generator).to(pixel_values)
        noisy = (pixel_values + spread * drawn).detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(model(pixel_values=noisy).score.sum(), noisy)
        total += gradient.abs().amax(1).float().cpu()  # (B, H, W)
    cells = F.adaptive_avg_pool2d(total[:, None], tuple(min(GRID, side) for side in total.shape[1:]))
    smooth = F.interpolate(cells, size=total.shape[1:], mode="bicubic", align_corners=False)[:, 0].clamp(min=0)
    return smooth / smooth.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def seen_picture(pixel_values: torch.Tensor, mean: list[float], std: list[float]) -> Image.Image:
    """The picture that the model gets, after resizing and cropping.

    Args:
        pixel_values: `(3, height, width)`, normalised.
        mean, std: of the image processor, one a channel.
    """
    levels = pixel_values.float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return Image.fromarray((levels * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


def placed_saliency(
    saliency: torch.Tensor, size: tuple[int, int], box: tuple[float, float, float, float]
) -> torch.Tensor:
    """The map on the photograph: stretched over the part that the model sees.

    Args:
        saliency: `(height, width)` of the model's input.
        size: width and height of the photograph in pixels.
        box: left, top, right and bottom of what the model sees, as shares of the photograph; see `seen_box`.

    Returns:
        `(height, width)` of the photograph; NaN where the model does not see it.
    """
    width, height = size
    # The middle of each pixel, in the model's picture from -1 to 1.
    x = ((torch.arange(width) + 0.5) / width - box[0]) / (box[2] - box[0]) * 2 - 1
    y = ((torch.arange(height) + 0.5) / height - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None]  # (1, H, W, 2): x, y
    placed = F.grid_sample(saliency[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
    return placed.masked_fill((grid[0].abs() > 1).any(-1), float("nan"))


def saliency_overlay(picture: Image.Image, saliency: torch.Tensor) -> Image.Image:
    """The picture in grey, with orange where the score depends on it most.

    Args:
        picture: RGB.
        saliency: `(height, width)` of the same size, 0 to 1; NaN, where the model sees nothing, is darkened.
    """
    unseen = saliency.isnan().numpy()[..., None]
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] * np.where(unseen, _UNSEEN, np.float32(1))
    share = 0.85 * saliency.nan_to_num().numpy()[..., None]
    return Image.fromarray((grey * (1 - share) + np.float32(_WARM) * share).round().astype(np.uint8))
