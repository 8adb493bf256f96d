"""What phase 1 trains: an encoder whose projected feature of a crop is drawn to the reference encoders' features."""

from __future__ import annotations

import torch
from torch import nn

from ..data.views import Preprocessing
from ..models.modeling_cskd import CSKDForFeatureAlignment
from .losses import ALIGNMENT_LOSSES
from .reference import ReferenceEncoder
from .task import Batch, TrainingTask

UNLABELLED = "unlabelled"


class AlignmentTask(TrainingTask):
    """Losses between the projected feature of each crop and the references' features of the same crop.

    Args:
        model: with one projector a reference.
        preprocessing: of the model.
        references: frozen; each prepares the crop in its own way.
        losses: names in `ALIGNMENT_LOSSES`, summed; averaged over the references.
        holdout: uint8 crops `(images, 3, side, side)` to evaluate on.
    """

    best_metric = "loss"
    greater_is_better = False

    def __init__(
        self,
        model: CSKDForFeatureAlignment,
        preprocessing: Preprocessing,
        references: tuple[ReferenceEncoder, ...],
        losses: list[str],
        holdout: torch.Tensor,
    ) -> None:
        super().__init__(model, preprocessing)
        self.references = references
        self.losses = losses
        self._holdout = holdout
        self._holdout_targets: list[tuple[torch.Tensor, ...]] = []

    def frozen(self) -> tuple[nn.Module, ...]:
        return self.references

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        images = batch[UNLABELLED]
        targets = tuple(
            images[key] if (key := f"features/{reference.name}") in images else reference(images["crops"])
            for reference in self.references
        )
        return self._losses(self.model(self.pixel_values(images["crops"])).projections, targets)

    def _losses(
        self, projections: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...]
    ) -> dict[str, torch.Tensor]:
        parts = {
            name: torch.stack([ALIGNMENT_LOSSES[name](p, t) for p, t in zip(projections, targets, strict=True)]).mean()
            for name in self.losses
        }
        return {"loss": sum(parts.values()), **parts}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Losses and mean cosine on the held-out images."""
        device = next(self.model.parameters()).device
        chunks = self._holdout.split(64)
        if not self._holdout_targets:
            self._holdout_targets = [tuple(r(chunk.to(device)) for r in self.references) for chunk in chunks]
        totals: dict[str, float] = {}
        for chunk, targets in zip(chunks, self._holdout_targets):
            projections = self.model(self.pixel_values(chunk.to(device))).projections
            values = self._losses(projections, targets)
            cosines = [nn.functional.cosine_similarity(p.float(), t).mean() for p, t in zip(projections, targets)]
            values["mean_cosine"] = torch.stack(cosines).mean()
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(chunk) / len(self._holdout)
        return totals
