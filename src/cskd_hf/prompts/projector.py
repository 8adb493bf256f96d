"""A projector fitted anew, in closed form, to an encoder that training has moved away from the reference's space."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..data.collection import ImageCollection
from ..data.loading import plain_crops
from ..data.views import Preprocessing
from ..models.modeling_cskd import CSKDPreTrainedModel
from ..training.reference import ReferenceEncoder
from .pairs import PromptError

MIN_IMAGES = 100
_HELD_OUT = 5  # every fifth image chooses the penalty
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_BATCH = 64


def fit_projector(
    model: CSKDPreTrainedModel,
    preprocessing: Preprocessing,
    reference: ReferenceEncoder,
    number: int,
    images: ImageCollection,
) -> dict[str, Any]:
    """Fit the last layer of a projector to the reference's embeddings of some images, by ridge regression, in place.

    Nothing that scores depend on is changed. The penalty is the one with the highest mean cosine on the fifth of the images
    that is left out; the layer is then fitted to all of them.

    Args:
        model: in evaluation mode.
        preprocessing: of the model.
        reference: frozen.
        number: place of its projector.
        images: without ratings, of the kind that will be scored.

    Returns:
        `images` (how many), `held_out` (of them), `penalty`, and the mean cosine on the held-out ones, `cosine_before`
        and `cosine`.

    Raises:
        PromptError: fewer than 100 images can be read.
    """
    crops = plain_crops(images, max(*preprocessing.size, *reference.preprocessing.size))
    if len(crops) < MIN_IMAGES:
        raise PromptError(f"{len(crops)} images can be read to fit the projector on; give at least {MIN_IMAGES}.")
    last = _last_layer(model.projectors[number])
    inputs, before, targets = _encoded(model, preprocessing, reference, number, last, crops)
    held = torch.arange(len(crops)) % _HELD_OUT == 0
    tried = {}
    for penalty in _PENALTIES:
        weight, bias = _ridge(inputs[~held], targets[~held], penalty)
        tried[penalty] = _cosine(inputs[held] @ weight.T + bias, targets[held])
    best = max(tried, key=tried.get)
    weight, bias = _ridge(inputs, targets, best)
    with torch.no_grad():
        last.weight.copy_(weight)
        last.bias.copy_(bias)
    return {
        "images": len(crops),
        "held_out": int(held.sum()),
        "penalty": best,
        "cosine_before": _cosine(before[held], targets[held]),
        "cosine": tried[best],
    }


def _last_layer(projector: nn.Module) -> nn.Linear:
    return [module for module in projector.modules() if isinstance(module, nn.Linear)][-1]


@torch.no_grad()
def _encoded(
    model: CSKDPreTrainedModel,
    preprocessing: Preprocessing,
    reference: ReferenceEncoder,
    number: int,
    last: nn.Linear,
    crops: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What goes into the last layer `(images, width)`, what comes out, and the reference's embeddings `(images, dim)`."""
    inputs, outputs, targets = [], [], []
    hook = last.register_forward_hook(lambda _, given, __: inputs.append(given[0].double()))
    try:
        for chunk in crops.split(_BATCH):
            pooled, _ = model.encode(preprocessing(chunk))
            outputs.append(model.projectors[number](pooled).double())
            targets.append(reference(chunk).double())
    finally:
        hook.remove()
    return torch.cat(inputs), torch.cat(outputs), torch.cat(targets)


def _ridge(inputs: torch.Tensor, targets: torch.Tensor, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `(dim, width)` and bias `(dim,)` of the ridge regression with an intercept; the penalty is a share of the
    inputs' mean variance."""
    center, middle = inputs.mean(0), targets.mean(0)
    x, y = inputs - center, targets - middle
    products = x.T @ x
    ridge = penalty * products.diagonal().mean().clamp_min(1e-12)
    weight = torch.linalg.solve(products + ridge * torch.eye(len(products), dtype=products.dtype), x.T @ y).T
    return weight, middle - weight @ center


def _cosine(projected: torch.Tensor, targets: torch.Tensor) -> float:
    return F.cosine_similarity(projected, targets).mean().item()
