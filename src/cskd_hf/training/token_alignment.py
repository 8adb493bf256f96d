"""Token-level alignment: two feature maps of any sizes, position by position."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .losses import CosineLoss, WhitenedSmoothL1Loss


class TokenAlignment(nn.Module):
    """A linear layer from the student's map to the reference's, on the common grid of both.

    The larger map is averaged down to the smaller one's rows and columns (area interpolation); a linear layer without
    kernel takes the student's channels to the reference's, as the feature adapters of hint-based distillation do
    (FitNets, arXiv 1412.6550; for the CLS and patch tokens of several teachers, RADIO, arXiv 2312.06709). It is trained
    with the encoder and is no part of the saved model.

    Args:
        channels: of the student's map.
        reference_channels: of the reference's.
    """

    def __init__(self, channels: int, reference_channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, reference_channels)
        nn.init.normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)

    def forward(self, feature_map: torch.Tensor, reference_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps `(batch, channels, height, width)` -> projected and target, both `(batch, positions, reference_channels)`."""
        grid = tuple(min(sides) for sides in zip(feature_map.shape[-2:], reference_map.shape[-2:]))
        projected, target = (
            F.adaptive_avg_pool2d(each.float(), grid).flatten(2).transpose(1, 2)
            for each in (feature_map, reference_map)
        )  # (B, C, H, W) -> (B, H * W, C)
        return self.projection(projected), target


class TokenCosineLoss(CosineLoss):
    """1 - cosine at each position, averaged: see [`CosineLoss`], and RADIO's summary and spatial losses (2312.06709)."""


class TokenWhitenedSmoothL1Loss(WhitenedSmoothL1Loss):
    """Smooth-L1 at each position to the reference's token whitened by a LayerNorm: the loss that arXiv 2205.14141 uses."""


TOKEN_LOSSES: dict[str, type[nn.Module]] = {
    "token_cosine": TokenCosineLoss,
    "token_whitened_smooth_l1": TokenWhitenedSmoothL1Loss,
}
