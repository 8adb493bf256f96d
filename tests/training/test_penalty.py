from __future__ import annotations

import numpy as np
import pytest
import torch

from cskd_hf.training.penalty import PENALTIES, choose_penalty
from cskd_hf.training.probe import ridge_path, ridge_probe


def problem(images: int, width: int, noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(images, width, generator=generator, dtype=torch.float64) * 3 + 1
    true = torch.randn(width, generator=generator, dtype=torch.float64) / width**0.5
    return features, features @ true + noise * torch.randn(images, generator=generator, dtype=torch.float64), true


@pytest.mark.parametrize(("images", "width"), [(40, 12), (12, 40)])
@pytest.mark.parametrize("with_prior", [False, True])
def test_the_path_solves_the_objective(images, width, with_prior):
    features, means, true = problem(images, width, 0.3)
    prior = true + 0.1 if with_prior else None
    z = (features - features.mean(0)) / features.std(0, correction=0)
    for l2, (weight, bias) in zip((0.5, 50.0), ridge_path(features, means, [0.5, 50.0], prior)):
        # The same as a ridge whose last column, the prior's score, has no penalty.
        columns, penalty = [z], torch.full((width,), l2, dtype=torch.float64)
        if with_prior:
            score = features @ prior
            columns.append((score - score.mean())[:, None])
            penalty = torch.cat([penalty, torch.zeros(1, dtype=torch.float64)])
        design = torch.cat(columns, 1)
        solution = torch.linalg.lstsq(
            torch.cat([design, penalty.sqrt().diag()]),
            torch.cat([means - means.mean(), torch.zeros(len(penalty), dtype=torch.float64)]),
            driver="gelsd",
        ).solution
        assert torch.allclose(features @ weight + bias, design @ solution + means.mean(), atol=1e-7)


def test_a_prior_is_all_that_is_left_of_a_strong_penalty():
    features, means, true = problem(30, 8, 0.1)
    weight, _ = ridge_probe(features, means, 1e15, true)
    assert torch.nn.functional.cosine_similarity(weight, true, dim=0) > 1 - 1e-9


def test_noise_asks_for_a_stronger_penalty():
    parts = np.arange(60) % 6
    features, clean, _ = problem(60, 20, 0.01)
    _, noisy, _ = problem(60, 20, 5.0)
    assert choose_penalty(features, clean, parts).l2 < choose_penalty(features, noisy, parts).l2
    assert choose_penalty(features, torch.zeros(60), parts).l2 == PENALTIES[-1]


def test_the_prior_is_taken_where_it_helps():
    parts = np.arange(24) % 6
    features, means, true = problem(24, 30, 0.2)
    assert choose_penalty(features, means, parts, true).with_prior
    wrong = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert choose_penalty(features, means, parts, true).mse < choose_penalty(features, means, parts, wrong).mse


def test_left_out_images_do_not_choose():
    """Copies with other ratings, left out together, ask for much; had they been apart, they would teach each other."""
    features, means, _ = problem(20, 30, 1.0)
    twice, same = torch.cat([features, features]), torch.cat([means, means])
    together = choose_penalty(twice, same, np.tile(np.arange(20) % 10, 2))
    apart = choose_penalty(twice, same, np.repeat([0, 1], 20))
    assert apart.mse < 0.1 * together.mse and apart.l2 < together.l2
