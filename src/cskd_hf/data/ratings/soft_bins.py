"""Histograms made of mean ratings, for training that is told to use them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_HALVINGS = 80


def soft_histograms(means: Sequence[float] | np.ndarray, score_values: Sequence[float], width: float) -> np.ndarray:
    """Normal distributions over score bins, each with the mean that it stands for.

    The share of bin k is c_k exp(-(v_k - mu)^2 / 2 width^2), normalised, with c_k the width of the cell around v_k.
    The location mu is chosen for each row so that the shares' mean is the rating, which mu alone is only far from the
    ends of the scale; at an end all mass is in its bin. These are no votes: nobody has said how far raters differ.

    Args:
        means: `(images,)`, within the scale.
        score_values: value of each bin, rising.
        width: standard deviation of the normal distribution, in units of the scale. The shares' own is smaller near
            the ends, and at least what two neighbouring bins need to have the mean between them.

    Returns:
        `(images, bins)`, float64, each row summing to 1.
    """
    values = np.asarray(score_values, dtype=float)
    span = values[-1] - values[0]
    v = (values - values[0]) / span
    wanted = np.clip((np.asarray(means, dtype=float) - values[0]) / span, 0, 1)[:, None]
    variance = (width / span) ** 2
    cells = np.log(np.gradient(v))

    def shares(mu: np.ndarray) -> np.ndarray:
        logits = cells - (v - mu) ** 2 / (2 * variance)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    # The mean rises with mu. This far out, the bin beside the end holds e^-40 of the mass.
    reach = 1 + 40 * variance / np.diff(v).min()
    low, high = np.full_like(wanted, -reach), np.full_like(wanted, 1 + reach)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = shares(middle) @ v[:, None] < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return shares((low + high) / 2)
