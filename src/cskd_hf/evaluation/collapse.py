"""How much of their space an encoder's features fill: measures of feature collapse, for CNNs and transformers alike."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def singular_values(features: torch.Tensor) -> torch.Tensor:
    """Singular values of the centred features, falling, `(min(images, dim),)`, float64.

    Args:
        features: one row an image, `(images, dim)`. The mean over the images is taken off: what all images share tells
            none of them apart.
    """
    features = features.double()
    return torch.linalg.svdvals(features - features.mean(0))


def effective_rank(features: torch.Tensor) -> float:
    """Effective rank of the centred features: exp(-sum p ln p), p the singular values divided by their sum.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007. It is 1 for features on
    a line, and n for n directions of equal spread; at most min(images - 1, dim).

    Args:
        features: `(images, dim)`.

    Returns:
        NaN when all images have one feature.
    """
    values = singular_values(features)
    total = values.sum()
    if total <= 1e-12 * max(features.double().norm().item(), 1e-300):
        return float("nan")
    return torch.special.entr(values / total).sum().exp().item()


def mean_pairwise_cosine(features: torch.Tensor) -> float:
    """Mean cosine of the features of two different images, -1..1; near 1 when all point one way. Not centred.

    Args:
        features: `(images, dim)`, at least two images.
    """
    return mean_token_cosine(features[None]).item()


def mean_token_cosine(tokens: torch.Tensor) -> torch.Tensor:
    """Mean cosine of two different tokens of an image, `(batch,)`; near 1 when the tokens have become one (Gong et al.,
    "Vision Transformers with Patch Diversification", arXiv 2104.12753, eq. 1).

    From the norm of the sum of the unit vectors u: (|sum u|^2 - n) / (n (n - 1)).

    Args:
        tokens: `(batch, tokens, dim)`.
    """
    units = F.normalize(tokens.double(), dim=-1)
    n = tokens.shape[1]
    if n < 2:
        return torch.full((len(tokens),), float("nan"), dtype=torch.float64)
    return (units.sum(1).square().sum(-1) - units.square().sum((1, 2))) / (n * (n - 1))


def linear_cka(features: torch.Tensor, others: torch.Tensor) -> float:
    """Debiased linear centred kernel alignment of two sets of features of the same images.

    Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019, arXiv 1905.00414), with the
    unbiased estimator of HSIC of Song et al. (JMLR 2012): the plain estimator rises to 1 as the dimensions outgrow the
    images, even for features that have nothing to do with each other. It is 1 for features that differ by rotation,
    shift and scale alone, about 0 for independent ones, and may fall slightly below 0.

    Args:
        features, others: `(images, dim)` each, of any two widths, rows of the same images; at least four images.

    Raises:
        ValueError: their numbers of images differ, or are below four.
    """
    if len(features) != len(others) or len(features) < 4:
        raise ValueError(
            f"CKA compares features of the same images, four or more; given: {len(features)} and {len(others)}."
        )
    x, y = (part.double() - part.double().mean(0) for part in (features, others))
    scale = _unbiased_hsic(x, x) * _unbiased_hsic(y, y)
    return (_unbiased_hsic(x, y) / scale.sqrt()).item() if scale > 0 else float("nan")


def _unbiased_hsic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Unbiased HSIC of two linear kernels, up to the factor n (n - 3), from the features: no images x images matrix.

    tr(K~ L~) + (1'K~1)(1'L~1) / ((n - 1)(n - 2)) - 2 / (n - 2) 1'K~L~1, with K = xx', L = yy' and ~ for an empty
    diagonal. For centred features the row sums of K~ are minus its diagonal, which leaves norms of rows.
    """
    n = len(x)
    row_x, row_y = x.square().sum(1), y.square().sum(1)
    trace = (x.T @ y).square().sum() - row_x @ row_y
    return trace + row_x.sum() * row_y.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (row_x @ row_y)
