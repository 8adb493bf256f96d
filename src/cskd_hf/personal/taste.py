"""A rater's taste from few ratings, in closed form: of the rater's own, or as a weighted sum of other raters' vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..models.modeling_cskd import CSKDForImageAesthetics
from ..training.penalty import PENALTIES, penalty_errors, smallest_error
from ..training.probe import ridge_probe
from .vectors import TaskVector, base_of, check_bank, weighted_sum

HEAD = ("classifier.weight", "classifier.bias")
_PARTS = 10  # in which images are left out to choose a penalty


@dataclass
class RatedFeatures:
    """What a rater rated.

    Attributes:
        features: `(images, feature_size)`, pooled, of the base.
        ratings: `(images,)` on the base's scale.
    """

    features: torch.Tensor
    ratings: torch.Tensor


@dataclass
class Fit:
    """A personal vector, and how far to believe it.

    Attributes:
        vector: to be added to the base.
        scales: of the bank's vectors.
        left_out: (images,) score of each rated image by a fit without it; the penalty is not chosen on them.
        general: (images,) score of the base.
    """

    vector: TaskVector
    scales: np.ndarray
    left_out: np.ndarray
    general: np.ndarray


@torch.no_grad()
def head_scores(head: nn.Linear, values: Sequence[float], features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Score and variance of the predicted histogram `(images,)`, float64."""
    value = torch.tensor(values, dtype=torch.float64)
    weight, bias = head.weight.detach().cpu().double(), head.bias.detach().cpu().double()
    shares = (features.double() @ weight.T + bias).softmax(-1)
    score = shares @ value
    return score, shares @ value.square() - score.square()


def choose_head_penalty(model: CSKDForImageAesthetics, raters: Sequence[RatedFeatures], seed: int = 0) -> float:
    """One ridge penalty for the taste of all raters: the smallest squared error on their ratings that are left out in
    turn. It is noise over variation of taste, which does not depend on how many images somebody rated, and few ratings
    of one person could not tell it."""
    errors = np.zeros(len(PENALTIES))
    for number, rater in enumerate(raters):
        rest = _beyond_base(model, rater)
        parts = np.random.default_rng((seed, number)).permutation(len(rest)) % _PARTS
        errors += penalty_errors(rater.features, rest, parts)
    return PENALTIES[smallest_error(errors)]


def fit_head(model: CSKDForImageAesthetics, rated: RatedFeatures, penalty: float, **facts: Any) -> TaskVector:
    """The change of the head that one rater's ratings alone ask for: ridge regression of what the base leaves.

    A change t(x) of the score is made by tilting the histogram, logits_k += (v_k - mean v) t(x) / V with V the mean
    variance of the predicted histograms: to first order the score moves by t.

    Args:
        model: the base.
        rated: at least two ratings.
        penalty: of `choose_head_penalty`.
        facts: of the vector.
    """
    rest = _beyond_base(model, rated)
    weight, bias = ridge_probe(rated.features, rest, penalty)
    noise = float((rest - rated.features.double() @ weight - bias).square().mean())
    tensors = _tilt(model, rated.features, weight, bias)
    facts = {"parts": "head", "ratings": len(rest), "penalty": penalty, "residual_variance": noise} | facts
    return TaskVector(tensors, base_of(model), facts)


def fit_scales(
    model: CSKDForImageAesthetics,
    rated: RatedFeatures,
    bank: Sequence[TaskVector],
    effects: torch.Tensor,
    *,
    noise: float,
    **facts: Any,
) -> Fit:
    """A rater as a weighted sum of the bank's vectors and an offset: one scale a vector, ridge-regularised.

    What the base leaves of the ratings is regressed on what each vector does to the score of each image. A rater drawn
    from where the bank's raters come from has scales of mean 0 and variance 1 / N, and ratings with the noise that the
    bank's ratings have; the penalty is noise x N, the posterior mean of that Gaussian model. Nothing is chosen on the
    rater's few ratings, so the left-out scores are an honest estimate.

    Args:
        model: the base.
        rated: of the new rater.
        bank: N vectors of other raters.
        effects: `(images, N)`, see `head_effects` or `train.layer_effects`.
        noise: variance of ratings about the scorer of their rater, see `bank_noise`.
        facts: of the vector.
    """
    check_bank(bank)
    general, variance = head_scores(model.classifier, model.config.score_values, rated.features)
    rest = (rated.ratings.double() - general).numpy()
    design = effects.double().numpy()
    free = (variance / variance.mean()).numpy()  # what an offset of the head does
    penalty = max(noise, 1e-6) * len(bank)
    scales, offset, hat = _ridge_with_offset(design, free, rest, penalty)
    vector = weighted_sum(bank, scales.tolist())
    bias = torch.tensor(offset, dtype=torch.float64)
    tilt = _tilt(model, rated.features, torch.zeros(rated.features.shape[1], dtype=torch.float64), bias)
    for name, value in tilt.items():
        vector.tensors[name] = vector.tensors.get(name, 0) + value
    vector.facts = {"ratings": len(rest), "bank": len(bank), "scales": [float(scale) for scale in scales]} | facts
    fitted = design @ scales + free * offset
    leverage = np.clip(np.diag(hat), 0, 1 - 1e-9)
    left_out = rest - (rest - fitted) / (1 - leverage)  # of a linear smoother, exact (Allen's PRESS, 1974)
    return Fit(vector, scales, general.numpy() + left_out, general.numpy())


def head_effects(model: CSKDForImageAesthetics, features: torch.Tensor, bank: Sequence[TaskVector]) -> torch.Tensor:
    """What each vector does to the score of each image, `(images, N)`; of vectors that change the head alone.

    Raises:
        KeyError: a vector changes other layers; see `train.layer_effects`.
    """
    values = model.config.score_values
    general, _ = head_scores(model.classifier, values, features)
    effects = torch.empty(len(features), len(bank), dtype=torch.float64)
    head = nn.Linear(model.classifier.in_features, model.classifier.out_features)
    for number, vector in enumerate(bank):
        if set(vector.tensors) - set(HEAD):
            raise KeyError(sorted(set(vector.tensors) - set(HEAD))[0])
        with torch.no_grad():
            for parameter, own, name in ((head.weight, model.classifier.weight, HEAD[0]), (head.bias, model.classifier.bias, HEAD[1])):  # fmt: skip
                parameter.copy_(own.cpu() + vector.tensors.get(name, 0))
        effects[:, number] = head_scores(head, values, features)[0] - general
    return effects


def choose_images(effects: torch.Tensor, count: int, noise: float, offset: float = 1.0) -> list[int]:
    """Which images a new rater should be asked about: those that tell most of the rest.

    Greedy Bayesian experimental design for the model of `fit_scales`: each next image is the one that lowers the summed
    posterior variance of all images' personal scores most. Only what the bank's raters differ in counts; no rating of the
    new rater is needed.

    Args:
        effects: `(images, N)` of all images that may be asked about.
        count: images to choose.
        noise: variance of ratings, see `bank_noise`.
        offset: prior variance of the rater's strictness, on the scale of the ratings; it costs ratings too.

    Returns:
        rows, the most telling first.
    """
    e = effects.double().numpy()
    prior = np.concatenate([e / np.sqrt(e.shape[1]), np.full((len(e), 1), np.sqrt(offset))], axis=1)  # (images, N + 1)
    inner = np.eye(prior.shape[1])  # posterior covariance of the scales, in units of the prior
    # The offset changes no order: what is to be known is the rest.
    wanted = np.concatenate([e - e.mean(0), np.zeros((len(e), 1))], axis=1) / np.sqrt(e.shape[1])
    matrix, chosen = wanted.T @ wanted, []
    for _ in range(min(count, len(e))):
        along = prior @ inner  # (images, N + 1)
        gain = ((along @ matrix) * along).sum(1) / ((along * prior).sum(1) + noise)
        gain[chosen] = -1
        row = int(np.argmax(gain))
        chosen.append(row)
        inner = inner - np.outer(along[row], along[row]) / (along[row] @ prior[row] + noise)
    return chosen


def bank_noise(bank: Sequence[TaskVector]) -> float:
    """Mean squared difference of the bank's ratings to the scorers of their raters, on the base's scale."""
    found = [vector.facts["residual_variance"] for vector in bank if vector.facts.get("residual_variance") is not None]
    return float(np.mean(found)) if found else 1.0


def _beyond_base(model: CSKDForImageAesthetics, rated: RatedFeatures) -> torch.Tensor:
    return rated.ratings.double() - head_scores(model.classifier, model.config.score_values, rated.features)[0]


def _tilt(
    model: CSKDForImageAesthetics, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> dict[str, torch.Tensor]:
    values = torch.tensor(model.config.score_values, dtype=torch.float64)
    centred = values - values.mean()
    variance = head_scores(model.classifier, model.config.score_values, features)[1].mean().clamp_min(1e-6)
    return {
        HEAD[0]: (centred[:, None] * weight[None, :] / variance).float(),
        HEAD[1]: (centred * bias / variance).float(),
    }


def _ridge_with_offset(
    design: np.ndarray, free: np.ndarray, target: np.ndarray, penalty: float
) -> tuple[np.ndarray, float, np.ndarray]:
    """Minimise |target - design a - free c|^2 + penalty |a|^2; a, c, and the matrix from targets to fitted values."""
    columns = np.concatenate([design, free[:, None]], axis=1)
    gram = columns.T @ columns
    gram[np.arange(design.shape[1]), np.arange(design.shape[1])] += penalty
    solver = np.linalg.solve(gram, columns.T)
    found = solver @ target
    return found[:-1], float(found[-1]), columns @ solver
