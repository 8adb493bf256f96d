"""Task vectors of layers, trained by gradient from the base; and what such vectors do to the score of each image."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.func import functional_call

from ..data.views import Preprocessing
from ..models.modeling_cskd import CSKDForImageAesthetics, rating_loss
from ..training.rates import layer_depths
from .vectors import TaskVector, task_vector

PARTS = ("head", "last", "all")


def train_layers(
    model: CSKDForImageAesthetics,
    preprocessing: Preprocessing,
    pixels: torch.Tensor,
    ratings: torch.Tensor,
    *,
    parts: str,
    start: TaskVector | None = None,
    steps: int = 30,
    learning_rate: float = 3e-5,
    batch_size: int = 16,
    seed: int = 0,
    **facts: object,
) -> TaskVector:
    """Fine-tune the base on one rater's ratings and take the difference.

    Norms keep their running statistics, so the vector holds weights alone.

    Args:
        model: the base; it is left as it is.
        preprocessing: of the base.
        pixels: `(images, 3, height, width)`, as the base's image processor makes them.
        ratings: `(images,)` on the base's scale.
        parts: "last" trains the last block of the encoder and what follows it, "all" everything.
        start: a vector to start from, such as the head's in closed form.
        steps, learning_rate, batch_size: of AdamW; batches are drawn by `seed`.
        facts: of the vector.
    """
    tuned = copy.deepcopy(model).eval()
    if start is not None:
        state = tuned.state_dict()
        for name, value in start.tensors.items():
            state[name].add_(value)
    tuned.requires_grad_(parts == "all")
    tuned.classifier.requires_grad_(True)
    if parts == "last":
        depths, layers = layer_depths(tuned, preprocessing)
        for name, parameter in tuned.backbone.named_parameters():
            parameter.requires_grad_(depths[name] >= layers)
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    values = torch.tensor(model.config.score_values, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randperm(len(ratings), generator=generator)[:batch_size]
        loss = rating_loss(tuned(pixel_values=pixels[rows]).distribution, ratings[rows].float(), values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    residual = (ratings - scores_of(tuned, pixels)).square().mean().item()
    return task_vector(
        model, tuned, **({"parts": parts, "ratings": len(ratings), "residual_variance": residual} | facts)
    )


@torch.no_grad()
def scores_of(
    model: CSKDForImageAesthetics, pixels: torch.Tensor, changed: dict[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Scores `(images,)`, float64, of the model or of it with some weights replaced."""
    found = []
    for chunk in pixels.split(32):
        output = model(chunk) if changed is None else functional_call(model, changed, (chunk,))
        found.append(output.score.double())
    return torch.cat(found)


def layer_effects(model: CSKDForImageAesthetics, pixels: torch.Tensor, bank: Sequence[TaskVector]) -> torch.Tensor:
    """What each vector does to the score of each image, `(images, N)`, whatever it changes."""
    model.eval()
    general, state = scores_of(model, pixels), model.state_dict()
    effects = []
    for vector in bank:
        changed = {name: state[name] + value for name, value in vector.tensors.items()}
        effects.append(scores_of(model, pixels, changed) - general)
    return torch.stack(effects, dim=1)
