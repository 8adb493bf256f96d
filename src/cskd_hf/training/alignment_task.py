"""What phase 1 trains: an encoder whose projected feature of a crop is drawn to the reference encoders' features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..data.views import Preprocessing
from ..models.modeling_cskd import CSKDForFeatureAlignment
from .losses import build_losses, needs_statistics
from .reference import ReferenceEncoder
from .standardisation import FeatureStatistics, PhiS
from .task import Batch, TrainingTask

UNLABELLED = "unlabelled"


class AlignmentTask(TrainingTask):
    """Losses between the projected feature of each crop and the references' features of the same crop.

    With a loss that standardises, a projector is trained to give the standardised feature, so that the optimiser meets
    channels of equal variance. The inverse map follows it here, and is folded into its last layer when the model is
    saved: `aligned_embeds` of a saved model are in the reference's own space whatever the loss.

    Args:
        model: with one projector a reference.
        preprocessing: of the model.
        references: frozen; each prepares the crop in its own way.
        losses: names in `ALIGNMENT_LOSSES`; summed with their weights, averaged over the references with theirs.
        holdout: uint8 crops `(images, 3, side, side)` to evaluate on.
        loss_weights: one a loss; 1 where none are given.
        reference_weights: one a reference; equal where none are given.
        statistics: of each reference's features by name, for losses that standardise.
    """

    best_metric = "loss"
    greater_is_better = False

    def __init__(
        self,
        model: CSKDForFeatureAlignment,
        preprocessing: Preprocessing,
        references: tuple[ReferenceEncoder, ...],
        losses: Sequence[str],
        holdout: torch.Tensor,
        *,
        loss_weights: Sequence[float] = (),
        reference_weights: Sequence[float] = (),
        statistics: Mapping[str, FeatureStatistics] | None = None,
    ) -> None:
        super().__init__(model, preprocessing)
        self.references = references
        self.loss_weights = dict(zip(losses, loss_weights or [1.0] * len(losses), strict=True))
        shares = torch.tensor(reference_weights or [1.0] * len(references))
        self.reference_shares = (shares / shares.sum()).tolist()
        standardise = needs_statistics(losses)
        self.transforms = tuple(PhiS(statistics[r.name]) if standardise else None for r in references)
        # Tuples: nothing in the losses is trained, so nothing of them belongs into checkpoints.
        self.losses = tuple(build_losses(losses, transform) for transform in self.transforms)
        self._holdout = holdout
        self._holdout_targets: list[tuple[torch.Tensor, ...]] = []

    def frozen(self) -> tuple[nn.Module, ...]:
        return (*self.references, *self.losses)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        images = batch[UNLABELLED]
        targets = tuple(
            images[key] if (key := f"features/{reference.name}") in images else reference(images["crops"])
            for reference in self.references
        )
        return self._losses(self._projections(images["crops"]), targets)

    def _projections(self, crops: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """In the space of each reference, as the saved model will give them."""
        projections = self.model(self.pixel_values(crops)).projections
        return tuple(t.invert(p) if t is not None else p for t, p in zip(self.transforms, projections, strict=True))

    def _losses(
        self, projections: tuple[torch.Tensor, ...], targets: tuple[torch.Tensor, ...]
    ) -> dict[str, torch.Tensor]:
        pairs = list(zip(self.reference_shares, self.losses, projections, targets, strict=True))
        parts = {
            name: sum(share * losses[name](projected, target) for share, losses, projected, target in pairs)
            for name in self.loss_weights
        }
        return {"loss": sum(weight * parts[name] for name, weight in self.loss_weights.items()), **parts}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Losses and mean cosine on the held-out images."""
        device = next(self.model.parameters()).device
        chunks = self._holdout.split(64)
        if not self._holdout_targets:
            self._holdout_targets = [tuple(r(chunk.to(device)) for r in self.references) for chunk in chunks]
        totals: dict[str, float] = {}
        for chunk, targets in zip(chunks, self._holdout_targets):
            projections = self._projections(chunk.to(device))
            values = self._losses(projections, targets)
            cosines = [nn.functional.cosine_similarity(p.float(), t).mean() for p, t in zip(projections, targets)]
            values["mean_cosine"] = torch.stack(cosines).mean()
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value.item() * len(chunk) / len(self._holdout)
        return totals

    def exported(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state with the inverse standardisation folded into each projector's last layer."""
        state = dict(state)
        for number, transform in enumerate(self.transforms):
            if transform is None:
                continue
            # The last linear layer: the only one, or the third module of an MLP.
            last = f"projectors.{number}" + ("" if f"projectors.{number}.weight" in state else ".2")
            weight, bias = state[f"{last}.weight"], state[f"{last}.bias"]
            state[f"{last}.weight"], state[f"{last}.bias"] = transform.fold(weight, bias)
        return state
