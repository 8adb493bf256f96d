from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from cskd_hf.evaluation.collapse import (
    effective_rank,
    linear_cka,
    mean_pairwise_cosine,
    mean_token_cosine,
    singular_values,
)


def spread_over(values: list[float], images: int = 50) -> torch.Tensor:
    """Centred features with these singular values, and a mean far from zero."""
    basis = torch.linalg.qr(torch.cat([torch.ones(images, 1), torch.randn(images, len(values))], 1).double())[0][:, 1:]
    turn = torch.linalg.qr(torch.randn(8, 8).double())[0][: len(values)]
    return basis * torch.tensor(values) @ turn + 10


@pytest.mark.parametrize("values, rank", [([1.0], 1.0), ([2.0] * 5, 5.0), ([3.0, 1.0], 4 / 3**0.75)])
def test_effective_rank_of_known_spectra(values, rank):
    torch.manual_seed(0)
    features = spread_over(values)
    assert singular_values(features)[: len(values)].tolist() == pytest.approx(values)
    assert effective_rank(features) == pytest.approx(rank, rel=1e-6)
    assert effective_rank(7 * features) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_of_one_point():
    assert math.isnan(effective_rank(torch.full((9, 4), 0.1)))


def test_cosine_of_all_pairs():
    torch.manual_seed(0)
    features = torch.randn(7, 5)
    cosines = F.cosine_similarity(features[:, None], features[None], dim=-1)
    expected = cosines[~torch.eye(7, dtype=torch.bool)].mean().item()
    assert mean_pairwise_cosine(features) == pytest.approx(expected, abs=1e-6)
    assert mean_pairwise_cosine(torch.eye(4)) == pytest.approx(0)
    assert mean_pairwise_cosine(torch.ones(3, 4)) == pytest.approx(1)
    assert mean_token_cosine(torch.stack([torch.eye(4), torch.ones(4, 4)])).tolist() == pytest.approx([0, 1])


def gram_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """As in Song et al. (2012), from the matrices of images by images."""

    def hsic(k: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        n = len(k)
        k, other = (m - torch.diag(m.diagonal()) for m in (k, other))
        first = (k @ other).trace() + k.sum() * other.sum() / ((n - 1) * (n - 2))
        return first - 2 / (n - 2) * (k @ other).sum()

    k, other = x @ x.T, y @ y.T
    return (hsic(k, other) / (hsic(k, k) * hsic(other, other)).sqrt()).item()


def test_cka_is_the_estimator_of_the_gram_matrices():
    torch.manual_seed(0)
    x = torch.randn(20, 6).double() + 3
    y = x[:, :4] @ torch.randn(4, 9).double() + torch.randn(20, 9).double()
    assert linear_cka(x, y) == pytest.approx(gram_cka(x, y), abs=1e-9)


def test_cka_of_the_same_and_of_unrelated_features():
    torch.manual_seed(0)
    x = torch.randn(30, 200).double()
    turn = torch.linalg.qr(torch.randn(200, 200).double())[0]
    assert linear_cka(x, 5 * x @ turn + 2) == pytest.approx(1)
    # The plain estimator gives 0.87 here, since the dimensions outgrow the images.
    assert abs(linear_cka(x, torch.randn(30, 200))) < 0.05


def test_cka_needs_rows_of_the_same_images():
    with pytest.raises(ValueError, match="given: 5 and 6"):
        linear_cka(torch.randn(5, 2), torch.randn(6, 2))
    with pytest.raises(ValueError, match="four or more; given: 3"):
        linear_cka(torch.randn(3, 2), torch.randn(3, 2))
