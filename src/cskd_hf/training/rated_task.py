"""What is learned from rated images: one or several scales of ratings, and attributes."""

from __future__ import annotations

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

from ..data.views import Preprocessing
from ..evaluation.metrics import srcc
from ..evaluation.predict import RatedImages, predict_all, rated_metrics
from ..models.image_loading_cskd import ImageLoadError
from ..models.modeling_cskd import CSKDForImageAesthetics, CSKDImageAestheticsOutput, rating_losses
from .rated_data import RatedData, stream_name
from .task import Batch, TrainingTask


class RatingTask(TrainingTask):
    """Squared EMD to rating histograms, or squared error to mean ratings where there is no histogram; squared error to
    attributes.

    The model's head learns the first set of rated images. Each further set, whose scale may be another, has a linear
    head of its own on the same feature: it is part of the task, so checkpoints hold it, and not of the exported model.
    So is an attribute of a further set that bears the name of another set's on another scale.

    Args:
        model: with a head over the bins of the ratings, and one for their attributes.
        preprocessing: of the model.
        validation: rated images to evaluate on, or none.
        freeze_norm: see [`TrainingTask`].
        rated: the rated images; without them, one set without attributes.
    """

    def __init__(
        self,
        model: CSKDForImageAesthetics,
        preprocessing: Preprocessing,
        validation: RatedImages | None = None,
        freeze_norm: bool = False,
        rated: RatedData | None = None,
    ) -> None:
        super().__init__(model, preprocessing, freeze_norm)
        self._validation = validation
        # Heads of phase 1: nothing here trains them.
        model.projectors.requires_grad_(False)
        self.rated_weights = rated.weights if rated else [1.0]
        self.attribute_weight = rated.settings.attribute_weight if rated else 0.0
        self.layer_decay = rated.settings.layer_decay if rated else 1.0
        self._scales = [rated_set.score_values for rated_set in rated.sets] if rated else [model.config.score_values]
        self._mixed = [rated_set.mixed for rated_set in rated.sets] if rated else [False]
        self._coverage = [rated_set.attribute_coverage for rated_set in rated.sets] if rated else [[]]
        # Of each attribute of each set: its output of the model's head, or of the set's own after that.
        self._outputs: list[list[int]] = [[]]
        self._validation_attributes = rated.validation_attributes() if rated else {}
        if rated:
            self._outputs = [_outputs(rated_set.attributes, model.config.attributes) for rated_set in rated.sets]
            feature_size, shared = model.config.feature_size, len(model.config.attributes)
            heads = [
                nn.Linear(feature_size, len(scale) + sum(output >= shared for output in outputs))
                for scale, outputs in zip(self._scales[1:], self._outputs[1:])
            ]
            if heads:
                self.further_heads = nn.ModuleList(heads)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        crops = torch.cat([stream["crops"] for stream in batch.values()])
        parts = self.rated_parts(self.model(self.pixel_values(crops)), batch)
        return {"loss": parts.pop("loss"), **{name: value.detach() for name, value in parts.items()}}

    def rated_parts(self, output: CSKDImageAestheticsOutput, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses of the rated images of a batch.

        Args:
            output: of the model for the images of the batch, those of the rated streams first, in their order; what
                comes after them (unrated images) is not looked at.
            batch: with the rated streams among its own.

        Returns:
            scalars: `loss`, their sum, weighted as the settings say; `rated`, the mean over all sets by their weights;
            where there are several, that of each by its `stream_name` and `rated_1`; `attributes`, where there are any.
        """
        ratings, attributes, first = [], [], 0
        for number in range(len(self.rated_weights)):
            stream = batch[stream_name(number)]
            rows = slice(first, first := first + len(stream["crops"]))
            distribution, shares = self._predicted(number, output, rows)
            ratings.append(self._rating_loss(number, distribution, stream))
            if "attributes" in stream and self.attribute_weight:
                attributes.append(self.rated_weights[number] * self._attribute_loss(number, shares, stream))
        parts = {"rated": sum(weight * loss for weight, loss in zip(self.rated_weights, ratings))}
        loss = parts["rated"]
        if len(ratings) > 1:
            parts |= {f"rated_{number}": loss for number, loss in enumerate(ratings, start=1)}
        if attributes:
            parts["attributes"] = sum(attributes)
            loss = loss + self.attribute_weight * parts["attributes"]
        return {"loss": loss, **parts}

    def _predicted(
        self, number: int, output: CSKDImageAestheticsOutput, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Of the images of a set, the distribution on its scale `(rows, bins)` and its attributes as shares of theirs."""
        shares = None
        if self._outputs[number]:
            shares = self.model.attribute_head(output.pooler_output[rows]).float()
        if number == 0:
            distribution = output.distribution[rows]
        else:
            own = self.further_heads[number - 1](output.pooler_output[rows]).float()
            bins = len(self._scales[number])
            distribution = own[:, :bins].softmax(-1)
            if shares is not None:
                shares = torch.cat([shares, own[:, bins:]], dim=1)
        return distribution, None if shares is None else shares[:, self._outputs[number]].sigmoid()

    def _rating_loss(self, number: int, distribution: torch.Tensor, stream: dict[str, torch.Tensor]) -> torch.Tensor:
        values = torch.tensor(self._scales[number], device=distribution.device)
        ratings = stream["ratings"]
        if not self._mixed[number]:
            return rating_losses(distribution, ratings, values).mean()
        known = ~ratings.isnan().any(dim=1)
        to_histograms = rating_losses(distribution, ratings.nan_to_num(), values)
        return torch.where(known, to_histograms, rating_losses(distribution, stream["means"], values)).mean()

    def _attribute_loss(self, number: int, shares: torch.Tensor, stream: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared error of the attributes that are known, in units of their scales.

        The sum over known entries is divided by how many there are to be expected: a mean over those of a batch would
        depend on how the batch is divided among processes.
        """
        known = ~stream["attributes"].isnan()
        errors = (shares - stream["attributes"].nan_to_num()).square() * known  # (rows, n_attributes)
        return (errors.mean(dim=0) / torch.tensor(self._coverage[number], device=shares.device)).mean()

    def evaluate(self) -> dict[str, float]:
        """SRCC, PLCC, EMD and their like on the validation images, gathered over all processes; `srcc_NAME` of each
        attribute that they have."""
        images = self._validation
        if images is None:
            return {}
        mine = predict_all(self.model, images)
        found = [part for part in gather_object([mine]) if len(part["rows"])]
        names = found[0] if found else {}
        parts = {name: np.concatenate([part[name] for part in found]) for name in names}
        if len(parts.get("rows", ())) < 2:
            raise ImageLoadError(
                images.images.key(0),
                f"only {len(parts.get('rows', ()))} of the validation images can be read; 2 are needed",
            )
        order = np.argsort(parts["rows"])
        rows = parts["rows"][order].tolist()
        metrics = rated_metrics(images, rows, parts["scores"][order], parts["distributions"][order])
        return metrics | self._attribute_metrics(rows, parts.get("attributes", np.zeros(len(rows)))[order])

    def _attribute_metrics(self, rows: list[int], predicted: np.ndarray) -> dict[str, float]:
        metrics = {}
        for column, name in enumerate(self.model.config.attributes if self.attribute_weight else ()):
            if name in self._validation_attributes:
                values = self._validation_attributes[name][rows]
                known = ~np.isnan(values)
                if known.sum() >= 2:
                    metrics[f"srcc_{name}"] = srcc(predicted[known, column], values[known])
        return metrics


def _outputs(attributes: dict[str, tuple[float, float]], shared: dict[str, list[float]]) -> list[int]:
    """The output that each attribute of a set is learned by: that of the model, or, where the model's is on another
    scale, the next after the model's."""
    outputs, own = [], len(shared)
    for name, scale in attributes.items():
        if list(scale) == shared[name]:
            outputs.append(list(shared).index(name))
        else:
            outputs.append(own)
            own += 1
    return outputs
