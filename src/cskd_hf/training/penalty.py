"""The penalty of a ridge probe, chosen by cross-validation on the rated images that it learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .probe import ridge_path

PENALTIES = tuple(10 ** (step / 2) for step in range(0, 13))
"""From 1 to a million, as for a sum over images of standardised features: from nearly no penalty to nearly the mean."""


@dataclass(frozen=True)
class Choice:
    """The penalty, whether to depart from the prior, and the mean squared error that these had in cross-validation."""

    l2: float
    with_prior: bool
    mse: float


def choose_penalty(
    features: torch.Tensor,
    means: torch.Tensor,
    parts: np.ndarray,
    prior: torch.Tensor | None = None,
    penalties: tuple[float, ...] = PENALTIES,
) -> Choice:
    """The penalty with the smallest squared error on images that are left out in turn.

    Args:
        features: `(images, feature_size)`.
        means: `(images,)`.
        parts: (images,) part in which each image is left out; copies of one picture belong into one.
        prior: direction to depart from, see `ridge_probe`; tried with and without.
        penalties: to choose from, rising; of equal ones the largest is taken.
    """
    found: list[Choice] = []
    for direction in (None,) if prior is None else (prior, None):
        errors = penalty_errors(features, means, parts, direction, penalties)
        at = smallest_error(errors)
        found.append(Choice(penalties[at], direction is not None, errors[at] / len(means)))
    return min(found, key=lambda choice: choice.mse)


def penalty_errors(
    features: torch.Tensor,
    means: torch.Tensor,
    parts: np.ndarray,
    prior: torch.Tensor | None = None,
    penalties: tuple[float, ...] = PENALTIES,
) -> np.ndarray:
    """Sum of squared errors of images that are left out in turn, by penalty; arguments as in `choose_penalty`."""
    errors = np.zeros(len(penalties))
    for part in np.unique(parts):
        out = torch.from_numpy(parts == part)
        for at, (weight, bias) in enumerate(ridge_path(features[~out], means[~out], penalties, prior)):
            errors[at] += float((features[out].double() @ weight + bias - means[out]).square().sum())
    return errors


def smallest_error(errors: np.ndarray) -> int:
    """Index of the smallest error; of equal ones the last."""
    return len(errors) - 1 - int(np.argmin(errors[::-1]))
