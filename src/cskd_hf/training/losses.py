"""Losses of phase 1. Those of phase 2 are with the model that owns the histogram: `squared_emd`, `rating_loss`.

Each takes `(projected, reference)`, `(batch_size, dim)` both, in the space of the reference encoder's own embedding.
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
