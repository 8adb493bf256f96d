"""Losses of phase 1. Those of phase 2 are with the model that owns the histogram: `squared_emd`, `rating_loss`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F


def cosine_loss(projected: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """1 - cosine, averaged over the batch: the alignment loss hinted at for CSKD (arXiv 2307.15640).

    Args:
        projected, reference: `(batch_size, dim)`.
    """
    return 1 - F.cosine_similarity(projected.float(), reference.float(), dim=-1).mean()


def whitened_smooth_l1_loss(projected: torch.Tensor, reference: torch.Tensor, beta: float = 2.0) -> torch.Tensor:
    """Smooth-L1 to the reference whitened by a LayerNorm without affine (Wei et al., arXiv 2205.14141, beta 2).

    Args:
        projected, reference: `(batch_size, dim)`.
        beta: where the loss turns from squared to absolute, in standard deviations of the target.
    """
    target = F.layer_norm(reference.float(), reference.shape[-1:])
    return F.smooth_l1_loss(projected.float(), target, beta=beta)


ALIGNMENT_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cosine": cosine_loss,
    "whitened_smooth_l1": whitened_smooth_l1_loss,
}
