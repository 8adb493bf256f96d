"""Losses and weights of distillation against loops over pairs, and courses of weights by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from cskd_hf.training.losses import feature_distance, ranking_loss, uncertainty_weights
from cskd_hf.training.schedules import schedule_factor


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def logistic(d: float, t: float, temperature: float) -> float:
    """Kullback-Leibler divergence of the two chances that the first image of a pair is the better one."""
    p, q = 1 / (1 + math.exp(-t / temperature)), 1 / (1 + math.exp(-d / temperature))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def margin(d: float, t: float, temperature: float) -> float:
    if t == 0:
        return 0.0
    return max(0.0, t - d) if t > 0 else max(0.0, d - t)


@pytest.mark.parametrize("form", [logistic, margin], ids=lambda form: form.__name__)
@pytest.mark.parametrize("weighted", [False, True])
def test_ranking_loss_is_the_mean_over_all_pairs(form, weighted):
    scores, targets = torch.rand(7), torch.rand(7)
    targets[3] = targets[5]  # a tie
    weights = torch.rand(7) if weighted else None
    total = norm = 0.0
    for i in range(7):
        for j in range(i):
            share = float(weights[i] * weights[j]) if weighted else 1.0
            total += share * form(float(scores[i] - scores[j]), float(targets[i] - targets[j]), 0.2)
            norm += share
    loss = ranking_loss(scores, targets, form=form.__name__, temperature=0.2, weights=weights)
    assert float(loss) == pytest.approx(total / norm, rel=1e-5)


@pytest.mark.parametrize("form", ["logistic", "margin"])
def test_right_differences_cost_nothing_and_a_swap_is_undone(form):
    targets = torch.rand(6)
    assert float(ranking_loss(targets + 3, targets, form=form)) == pytest.approx(0, abs=1e-6)
    scores = torch.tensor([0.3, 0.6], requires_grad=True)
    ranking_loss(scores, torch.tensor([0.8, 0.2]), form=form).backward()
    assert scores.grad[0] < 0 < scores.grad[1]  # descent lifts the better one


def test_a_single_image_has_no_order():
    scores = torch.rand(1, requires_grad=True)
    for weights in (None, torch.ones(1)):
        loss = ranking_loss(scores, torch.rand(1), weights=weights)
        assert loss == 0
        loss.backward()
    assert scores.grad == 0


def test_uncertainty_weights_by_hand():
    variance = torch.tensor([0.5, 1.0, 1.5, 5.0])  # mean 2
    for form, raw in (
        ("exp", [math.exp(-v / 2) for v in variance.tolist()]),
        ("inverse", [1 / (v + 0.2) for v in variance.tolist()]),
    ):
        weights = uncertainty_weights(variance, form)
        assert weights.tolist() == pytest.approx([4 * value / sum(raw) for value in raw], rel=1e-5)
        assert torch.equal(weights.argsort(descending=True), torch.arange(4))
        assert torch.allclose(uncertainty_weights(variance * 100, form), weights)  # any unit of the ratings
    assert torch.equal(uncertainty_weights(variance, "none"), torch.ones(4))


def test_a_common_part_of_the_variance_cancels_in_its_own_scale():
    variance = torch.rand(5) + 1
    shifted = torch.exp(-(variance - variance.min()) / variance.mean())
    assert torch.allclose(uncertainty_weights(variance, "exp"), shifted / shifted.mean())


@pytest.mark.parametrize("form", ["exp", "inverse"])
def test_teachers_that_agree_on_everything_weigh_all_alike(form):
    assert torch.equal(uncertainty_weights(torch.zeros(3), form), torch.ones(3))


def test_feature_distances():
    predicted, target = torch.randn(4, 6), torch.randn(4, 6) * 3 + 1
    cosine = 1 - F.cosine_similarity(predicted, target).mean()
    assert torch.allclose(feature_distance(predicted, target, "cosine"), cosine)
    whitened = F.layer_norm(target, (6,))
    assert torch.allclose(feature_distance(predicted, target, "smooth_l1"), F.smooth_l1_loss(predicted, whitened))
    own_length = feature_distance(7 * target + 2, target, "smooth_l1", normalise=True)
    assert float(own_length) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        ("constant", 0.0, 1),
        ("constant", 1.0, 1),
        ("ramp-up", 0.0, math.exp(-5)),
        ("ramp-up", 0.1, math.exp(-5 * 0.75**2)),
        ("ramp-up", 0.4, 1),
        ("ramp-up", 1.0, 1),
        ("ramp-down", 0.0, 1),
        ("ramp-down", 0.6, 1),
        ("ramp-down", 0.8, math.exp(-12.5 / 4)),
        ("ramp-down", 1.0, math.exp(-12.5)),
        ("cosine", 0.0, 1),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0),
    ],
)
def test_schedules(schedule, progress, expected):
    assert schedule_factor(schedule, progress, 0.4) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: schedule_factor("linear", 0.5, 0.3),
        lambda: uncertainty_weights(torch.ones(2), "linear"),
        lambda: ranking_loss(torch.ones(2), torch.ones(2), form="linear"),
        lambda: feature_distance(torch.ones(2, 2), torch.ones(2, 2), "linear"),
    ],
)
def test_unknown_names_are_refused_with_those_that_are_known(call):
    with pytest.raises(ValueError, match="'linear' is not known; allowed: "):
        call()
