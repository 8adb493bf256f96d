"""The ridge probe: the best linear score on frozen features, in closed form, and a histogram head that starts from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_FLAT = 1e-12  # mean square of a prior's centred scores below which they are all the same


def ridge_probe(
    features: torch.Tensor, means: torch.Tensor, l2: float, prior: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression of mean ratings on standardised features.

    Minimises |y - (Zw + c)|^2 + l2 |w|^2 with Z the features at zero mean and unit variance; returned for raw features.
    With a prior direction p, |y - (Zw + a Zp + c)|^2 + l2 |w|^2: the size a of the prior is fitted freely, and only what
    departs from it is drawn to zero.

    Args:
        features: `(images, feature_size)`.
        means: `(images,)`, on the scale of the ratings.
        l2: strength of the penalty, as for a sum over images.
        prior: `(feature_size,)`, a weight for raw features to depart from.

    Returns:
        weight `(feature_size,)` and bias `()`: score = features @ weight + bias.
    """
    ((weight, bias),) = ridge_path(features, means, [l2], prior)
    return weight, bias


def ridge_path(
    features: torch.Tensor, means: torch.Tensor, penalties: Sequence[float], prior: torch.Tensor | None = None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`ridge_probe` for several penalties, from one decomposition: of the images' products where they are fewer than the
    features, else of the features'.

    Args:
        features, means, prior: see `ridge_probe`.
        penalties: the values of `l2`.

    Returns:
        weight and bias for each penalty.
    """
    x, y = features.double(), means.double()
    mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1e-8)
    z, target = (x - mean) / std, y - y.mean()
    along = None if prior is None else z @ (prior.double() * std)  # what the prior says of each image, centred
    if along is not None and not along.square().sum() > _FLAT * len(x):
        along = None  # it says the same of all images
    # The prior's share is fitted freely: the rest of the problem is what is orthogonal to it (Frisch and Waugh, 1933).
    design, rest = (z, target) if along is None else (_without(z, along), _without(target, along))
    wide = design.shape[0] < design.shape[1]
    eigenvalues, vectors = torch.linalg.eigh(design @ design.T if wide else design.T @ design)
    eigenvalues = eigenvalues.clamp_min(0)
    rotated = vectors.T @ (rest if wide else design.T @ rest)
    found = []
    for l2 in penalties:
        w = vectors @ (rotated / (eigenvalues + l2))
        w = design.T @ w if wide else w
        weight = w / std
        if along is not None:
            weight = weight + along @ (target - z @ w) / (along @ along) * prior.double()
        found.append((weight, y.mean() - mean @ weight))
    return found


def _without(values: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """What of `(images, ...)` is orthogonal to `(images,)`."""
    share = direction @ values / (direction @ direction)
    return values - (direction[:, None] * share if values.ndim == 2 else direction * share)


@torch.no_grad()
def start_head_from_probe(
    head: nn.Linear,
    features: torch.Tensor,
    means: torch.Tensor,
    score_values: list[float],
    distributions: torch.Tensor | None,
    l2: float,
) -> None:
    """Set a histogram head so that its score ranks images exactly as the ridge probe does.

    The head tilts the mean histogram q of the training images exponentially, logits_k = log q_k + t v_k, with the tilt
    t = (s - mean(q)) / var(q) of the probe's score s: to first order the mean of the tilted histogram is s, and it rises
    strictly with s. t is linear in the features, so the head stays linear.

    Args:
        head: linear layer, feature_size -> bins; outputs after those are left alone.
        features: `(images, feature_size)` of the rated images.
        means: `(images,)` mean ratings.
        score_values: value of each bin.
        distributions: `(n, bins)` rating histograms, of these images or some of them; without them q is a normal
            distribution over the bins with the mean of the ratings and a spread of a sixth of the scale.
        l2: see `ridge_probe`.
    """
    set_head(head, *ridge_probe(features, means, l2), means, score_values, distributions)


@torch.no_grad()
def set_head(
    head: nn.Linear,
    weight: torch.Tensor,
    bias: torch.Tensor,
    means: torch.Tensor,
    score_values: list[float],
    distributions: torch.Tensor | None,
) -> None:
    """Set a histogram head that ranks images as a linear score does, see `start_head_from_probe`.

    Args:
        head: linear layer, feature_size -> bins.
        weight, bias: of the linear score, `(feature_size,)` and `()`.
        means, score_values, distributions: see `start_head_from_probe`.
    """
    values = torch.tensor(score_values, dtype=torch.float64, device=weight.device)
    if distributions is not None:
        q = distributions.double().mean(0)
    else:
        q = _normal(values, means.double().mean())
    q = (q + 1e-4) / (q + 1e-4).sum()  # a bin that nobody used must stay reachable
    centre = (q * values).sum()
    variance = (q * (values - centre).square()).sum()
    bins = len(score_values)
    head.weight[:bins] = (values[:, None] * weight[None, :] / variance).to(head.weight)
    head.bias[:bins] = (q.log() + values * (bias - centre) / variance).to(head.bias)


def _normal(values: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """A normal distribution over the bins with a spread of a sixth of the scale, tilted until `mean` is its mean: where
    bins are few, such as the two ends of a scale, it would be far from that."""
    log_q = -(((values - mean) / ((values[-1] - values[0]) / 6)) ** 2) / 2
    shares = (values - values[0]) / (values[-1] - values[0])
    wanted = (mean - values[0]) / (values[-1] - values[0])
    low, high = torch.tensor(-100.0).to(values), torch.tensor(100.0).to(values)
    for _ in range(60):  # bisection: the mean rises with the tilt
        tilt = (low + high) / 2
        too_low = (torch.softmax(log_q + tilt * shares, dim=0) * shares).sum() < wanted
        low, high = torch.where(too_low, tilt, low), torch.where(too_low, high, tilt)
    return torch.softmax(log_q + low * shares, dim=0)


@torch.no_grad()
def start_attribute_from_probe(
    head: nn.Linear, output: int, features: torch.Tensor, shares: torch.Tensor, l2: float
) -> None:
    """Set one output of an attribute head so that it ranks images exactly as the ridge probe does.

    The attribute is s(x), with the logistic function s. Around the mean share m its inverse is
    logit(m) + (y - m) / (m (1 - m)) to first order, which is linear in the probe's share y and so in the features.

    Args:
        head: linear layer, feature_size -> outputs.
        output: its row.
        features: `(images, feature_size)`.
        shares: `(images,)`, the attribute as a share of its scale; NaN where it is not known.
        l2: see `ridge_probe`.
    """
    known = ~shares.isnan()
    mean = shares[known].double().mean().clamp(0.02, 0.98)
    slope = 1 / (mean * (1 - mean))
    weight, bias = ridge_probe(features[known], shares[known], l2)
    head.weight[output] = (weight * slope).to(head.weight)
    head.bias[output] = (mean.logit() + (bias - mean) * slope).to(head.bias)
