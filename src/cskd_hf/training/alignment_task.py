"""What phase 1 trains: an encoder whose projected feature of a crop is drawn to the reference encoders' features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers.utils import ModelOutput

from ..data.views import Preprocessing
from ..models.encoders_cskd import spatial_features
from ..models.modeling_cskd import CSKDForFeatureAlignment
from .losses import build_losses, needs_statistics
from .reference import ReferenceEncoder
from .standardisation import FeatureStatistics, PhiS
from .strong_views import mixup
from .task import Batch, TrainingTask
from .token_alignment import TOKEN_LOSSES, TokenAlignment

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
        losses: names in `ALIGNMENT_LOSSES` and `TOKEN_LOSSES`; summed with their weights, averaged over the references
            with theirs. For token losses the references must give their maps (`use_tokens`).
        holdout: uint8 crops `(images, 3, side, side)` to evaluate on.
        loss_weights: one a loss; 1 where none are given.
        reference_weights: one a reference; equal where none are given.
        statistics: of each reference's features by name, for losses that standardise.
        mixup: alpha of mixtures of two crops that references and model both see, see
            [`~cskd_hf.training.strong_views.mixup`]; 0 for none. The batches must hold no stored features then.
        seed: of the mixtures.
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
        mixup: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(model, preprocessing)
        self.mixup, self.seed = mixup, seed
        self.references = references
        self.loss_weights = dict(zip(losses, loss_weights or [1.0] * len(losses), strict=True))
        shares = torch.tensor(reference_weights or [1.0] * len(references))
        self.reference_shares = (shares / shares.sum()).tolist()
        standardise = needs_statistics(losses)
        self.transforms = tuple(PhiS(statistics[r.name]) if standardise else None for r in references)
        # Tuples: nothing in the losses is trained, so nothing of them belongs into checkpoints.
        self.losses = tuple(
            build_losses([name for name in losses if name not in TOKEN_LOSSES], transform)
            for transform in self.transforms
        )
        self.token_losses = {name: TOKEN_LOSSES[name]() for name in losses if name in TOKEN_LOSSES}
        if self.token_losses:
            channels = self._map_channels()
            self.token_alignments = nn.ModuleList(
                TokenAlignment(channels, reference.map_shape[0]) for reference in references
            )
        self._holdout = holdout
        self._holdout_targets: list[tuple[torch.Tensor, ...]] = []

    def frozen(self) -> tuple[nn.Module, ...]:
        return (*self.references, *self.losses)

    def use_channels_last(self) -> None:
        super().use_channels_last()
        for reference in self.references:  # a CNN that runs in every step gains as much as the model
            reference.to(memory_format=torch.channels_last)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        images = batch[UNLABELLED]
        crops = images["crops"]
        if self.mixup:
            crops = mixup(crops, self.seed, images["index"].tolist(), self.step, self.mixup)
        targets = tuple(
            images[key] if (key := f"features/{reference.name}") in images else reference(crops)
            for reference in self.references
        )
        return self._losses(crops, targets)[0]

    def _losses(
        self, crops: torch.Tensor, targets: tuple[torch.Tensor, ...]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Loss and parts, and the mean cosine of the embeddings."""
        pixel_values = self.pixel_values(crops)
        output = self.model(pixel_values)
        parts = dict.fromkeys(self.loss_weights, 0.0)
        cosines = []
        for number, (share, reference) in enumerate(zip(self.reference_shares, self.references)):
            embeds, reference_map = reference.unpack(targets[number])
            projected, transform = output.projections[number], self.transforms[number]
            if transform is not None:
                projected = transform.invert(projected)
            for name, loss in self.losses[number].items():
                parts[name] = parts[name] + share * loss(projected, embeds)
            if self.token_losses:
                tokens = self.token_alignments[number](self._map(output, pixel_values), reference_map)
                for name, loss in self.token_losses.items():
                    parts[name] = parts[name] + share * loss(*tokens)
            cosines.append(nn.functional.cosine_similarity(projected.detach().float(), embeds).mean())
        total = sum(weight * parts[name] for name, weight in self.loss_weights.items())
        return {"loss": total, **parts}, torch.stack(cosines).mean()

    def _map(self, output: ModelOutput, pixel_values: torch.Tensor) -> torch.Tensor:
        return spatial_features(output, pixel_values.shape, self.model.config.backbone_config)

    @torch.no_grad()
    def _map_channels(self) -> int:
        """Of the student's map, by one forward that leaves no trace in its running statistics."""
        training, device = self.model.training, next(self.model.parameters()).device
        pixel_values = torch.zeros(1, 3, *self.preprocessing.size, device=device)
        channels = self._map(self.model.eval()(pixel_values), pixel_values).shape[1]
        self.model.train(training)
        return channels

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Losses and mean cosine on the held-out images."""
        device = next(self.model.parameters()).device
        chunks = self._holdout.split(64)
        if not self._holdout_targets:
            self._holdout_targets = [tuple(r(chunk.to(device)) for r in self.references) for chunk in chunks]
        totals: dict[str, float] = {}
        for chunk, targets in zip(chunks, self._holdout_targets):
            values, cosine = self._losses(chunk.to(device), targets)
            values["mean_cosine"] = cosine
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
