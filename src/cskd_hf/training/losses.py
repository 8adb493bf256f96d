"""Losses of phase 1, and those of distillation beside the histograms'.

The histograms' own are with the model that owns them: `squared_emd`, `rating_loss`. A loss of phase 1 takes
`(projected, reference)`, `(batch_size, dim)` both, in the space of the reference encoder's own embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .standardisation import PhiS


class CosineLoss(nn.Module):
    """1 - cosine, averaged over the batch: the alignment loss hinted at for CSKD (arXiv 2307.15640).

    Half the squared distance of embeddings of unit length, so it is CLIP-KD's feature distillation too
    (arXiv 2307.12732, there times two over dim).
    """

    def forward(self, projected: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return 1 - F.cosine_similarity(projected.float(), reference.float(), dim=-1).mean()


class MSELoss(nn.Module):
    """Mean squared error to the raw embedding: feature distillation (CLIP-KD, arXiv 2307.12732) that keeps its length."""

    def forward(self, projected: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(projected.float(), reference.float())


class WhitenedSmoothL1Loss(nn.Module):
    """Smooth-L1 to the reference whitened by a LayerNorm without affine (Wei et al., arXiv 2205.14141, beta 2).

    The target is the embedding less its mean over channels, at unit variance: its direction up to that mean. So the
    projection stays comparable with text embeddings as far as the mean over channels is small against their spread.

    Args:
        beta: where the loss turns from squared to absolute, in standard deviations of the target.
    """

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, projected: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        target = F.layer_norm(reference.float(), reference.shape[-1:])
        return F.smooth_l1_loss(projected.float(), target, beta=self.beta)


class PhiSLoss(nn.Module):
    """Squared error after PHI-S standardisation of both sides (RADIO, arXiv 2410.01680).

    Args:
        transform: fitted to the reference's features.
    """

    def __init__(self, transform: PhiS) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, projected: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return self.distance(self.transform(projected), self.transform(reference))

    def distance(self, projected: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Of standardised features `(batch_size, dim)`."""
        return F.mse_loss(projected, target)


class PhiSSmoothL1Loss(PhiSLoss):
    """Smooth-L1 after PHI-S standardisation of both sides (arXiv 2410.01680, with the distance of arXiv 2205.14141).

    Args:
        transform: fitted to the reference's features.
        beta: where the loss turns from squared to absolute, in standard deviations of a channel.
    """

    def __init__(self, transform: PhiS, beta: float = 2.0) -> None:
        super().__init__(transform)
        self.beta = beta

    def distance(self, projected: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.smooth_l1_loss(projected, target, beta=self.beta)


ALIGNMENT_LOSSES: Mapping[str, type[nn.Module]] = {
    "cosine": CosineLoss,
    "mse": MSELoss,
    "whitened_smooth_l1": WhitenedSmoothL1Loss,
    "phi_s": PhiSLoss,
    "phi_s_smooth_l1": PhiSSmoothL1Loss,
}


def needs_statistics(names: Sequence[str]) -> bool:
    """Whether one of the losses standardises by the reference's mean and covariance."""
    return any(issubclass(ALIGNMENT_LOSSES[name], PhiSLoss) for name in names if name in ALIGNMENT_LOSSES)


def build_losses(names: Sequence[str], transform: PhiS | None = None) -> nn.ModuleDict:
    """The losses to one reference.

    Args:
        names: in `ALIGNMENT_LOSSES`.
        transform: of this reference; needed by those that standardise.
    """
    return nn.ModuleDict(
        {
            name: ALIGNMENT_LOSSES[name](transform) if needs_statistics([name]) else ALIGNMENT_LOSSES[name]()
            for name in names
        }
    )


def uncertainty_weights(variance: torch.Tensor, form: str) -> torch.Tensor:
    """Weights of pseudo-labels by the teacher's variance, with mean 1 over the batch.

    With the batch's mean variance m, "exp" is exp(-v / m) and "inverse" is 1 / (v + m / 10): both are the same for any unit
    of the ratings. The second is the weight of a Gaussian likelihood, as in heteroscedastic regression (cf. arXiv
    2510.15266); the first has no pole. A constant part of the variance, such as raters' own disagreement, cancels in the
    first.

    Args:
        variance: `(batch,)`, at least 0.
        form: "none", "exp" or "inverse".

    Returns:
        `(batch,)`; ones where all variances are equal.
    """
    if form == "none":
        return torch.ones_like(variance)
    if form not in ("exp", "inverse"):
        raise ValueError(f"uncertainty_weighting={form!r} is not known; allowed: none, exp, inverse.")
    relative = variance / variance.mean().clamp_min(torch.finfo(variance.dtype).tiny)
    weights = torch.exp(-relative) if form == "exp" else 1 / (relative + 0.1)
    return weights / weights.mean()


def ranking_loss(
    scores: torch.Tensor,
    targets: torch.Tensor,
    *,
    form: str = "logistic",
    temperature: float = 0.1,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss to the order of all pairs of a batch, by the difference of their scores.

    "logistic" is RankNet (Burges et al., 2005) with soft targets: the cross entropy of sigmoid(d / T) to sigmoid(t / T) of
    the true difference t, less its least value, so that it is 0 where all differences are right. A pair of nearly equal
    ratings asks for a tie, not for an order. "margin" is max(0, |t| - sign(t) d): 0 where a pair is in order and at least
    as far apart as it should be. A ranking task beside the regression is RankUp's idea (arXiv 2410.22124).

    Args:
        scores: predicted, `(batch,)`, in shares of the scale.
        targets: ratings or the teacher's scores, `(batch,)`, in the same unit.
        form: "logistic" or "margin".
        temperature: T, in the same unit.
        weights: of the images, `(batch,)`; a pair has the product of its images'.

    Returns:
        weighted mean over the pairs; 0 for fewer than two images.
    """
    first, second = torch.triu_indices(len(scores), len(scores), offset=1, device=scores.device)
    predicted, wanted = scores.float(), targets.float()
    predicted, wanted = predicted[first] - predicted[second], wanted[first] - wanted[second]  # (pairs,)
    if form == "logistic":
        chance = torch.sigmoid(wanted / temperature)
        loss = F.binary_cross_entropy_with_logits(predicted / temperature, chance, reduction="none")
        loss = loss - F.binary_cross_entropy_with_logits(wanted / temperature, chance, reduction="none")
    elif form == "margin":
        loss = (wanted.abs() - wanted.sign() * predicted).clamp_min(0)
    else:
        raise ValueError(f"ranking_loss={form!r} is not known; allowed: logistic, margin.")
    if weights is None:
        return loss.sum() / max(len(loss), 1)
    pairs = weights[first] * weights[second]
    return (pairs * loss).sum() / pairs.sum().clamp_min(torch.finfo(pairs.dtype).tiny)


def feature_distance(
    predicted: torch.Tensor, target: torch.Tensor, form: str, *, normalise: bool = False
) -> torch.Tensor:
    """Loss of a predicted to the teacher's feature.

    Args:
        predicted, target: `(batch, dim)`.
        form: "smooth_l1" to the target whitened by a LayerNorm without affine (Wei et al., arXiv 2205.14141, with beta 1),
            or "cosine", 1 - cosine to it as it is.
        normalise: whiten the prediction as well: for one that starts at the feature's own length ("smooth_l1").
    """
    if form == "cosine":
        return CosineLoss()(predicted, target)
    if form != "smooth_l1":
        raise ValueError(f"feature_loss={form!r} is not known; allowed: smooth_l1, cosine.")
    predicted = predicted.float()
    if normalise:
        predicted = F.layer_norm(predicted, predicted.shape[-1:])
    return F.smooth_l1_loss(predicted, F.layer_norm(target, target.shape[-1:]))
