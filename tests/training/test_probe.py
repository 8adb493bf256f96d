from __future__ import annotations

import pytest
import torch
from scipy.stats import rankdata
from torch import nn

from cskd_hf.training.probe import ridge_probe, start_head_from_probe


def problem(images: int = 80, width: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, width, generator=generator) * torch.linspace(0.1, 30, width) + 5
    means = 4 + (features[:, 0] * 10 - 50) * 0.5 + torch.randn(images, generator=generator) * 0.2
    means = means.clamp(1.5, 6.5)
    values = torch.arange(1, 8.0)
    distributions = torch.exp(-((values - means[:, None]) ** 2))
    return features, means, distributions / distributions.sum(1, keepdim=True)


def test_ridge_solves_the_normal_equations():
    features, means, _ = problem()
    weight, bias = ridge_probe(features, means, l2=7.0)
    x = features.double()
    z = (x - x.mean(0)) / x.std(0, correction=0)
    w = weight * x.std(0, correction=0)
    residual = means.double() - means.double().mean() - z @ w
    assert torch.allclose(z.T @ residual, 7.0 * w, atol=1e-8)  # the gradient of the objective is zero
    assert torch.allclose((x @ weight + bias).mean(), means.double().mean())


def test_strong_penalty_gives_the_mean():
    features, means, _ = problem()
    weight, bias = ridge_probe(features, means, l2=1e12)
    assert torch.allclose(features.double() @ weight + bias, means.double().mean().expand(80), atol=1e-6)


@pytest.mark.parametrize("with_histograms", [True, False])
def test_head_ranks_as_the_probe_and_scores_near_it(with_histograms):
    features, means, distributions = problem()
    values = [float(v) for v in range(1, 8)]
    head = nn.Linear(12, 7)
    start_head_from_probe(head, features, means, values, distributions if with_histograms else None, l2=10.0)
    scores = (head(features).double().softmax(-1) * torch.tensor(values, dtype=torch.float64)).sum(-1)
    weight, bias = ridge_probe(features, means, l2=10.0)
    probe = features.double() @ weight + bias
    # Far from the mean the tilted histogram saturates, but it never swaps two images.
    assert (rankdata(scores.detach().numpy()) == rankdata(probe.numpy())).all()
    middle = (probe - means.mean()).abs() < 0.5
    assert (scores - probe).abs()[middle].max() < 0.15


@pytest.mark.parametrize("values", [[0.0, 10.0], [1.0, 7.0], [0.0, 4.0, 100.0]])
def test_head_without_histograms_starts_at_the_mean_however_few_the_bins_are(values):
    features, means, _ = problem()
    head = nn.Linear(12, len(values))
    start_head_from_probe(head, features, means, values, None, l2=1e12)  # the probe is the mean
    scores = (head(features).double().softmax(-1) * torch.tensor(values, dtype=torch.float64)).sum(-1)
    assert (scores - means.double().mean()).abs().max() < 0.02 * (values[-1] - values[0])
