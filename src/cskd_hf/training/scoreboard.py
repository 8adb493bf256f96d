"""The rows of a comparison: checkpoints, and the ridge probe, measured on the same held-out images."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch

from ..data.ratings import score_values_of
from ..data.views import Preprocessing
from ..evaluation.predict import RatedImages, load_scorer, pooled_features, predict, rated_metrics
from ..models.modeling_cskd import CSKDForImageAesthetics
from .probe import start_head_from_probe
from .reference_loading import load_preprocessing


class Scoreboard:
    """Collects rows `{"name", "labels", "seed", "srcc", "plcc", "emd", ...}`, the shape of every results.json.

    Args:
        test: held-out rated images.

    Attributes:
        rows: one a measured run.
        scores: the predicted scores of each, by (name, labels, seed), in the order of `test`.
    """

    def __init__(self, test: datasets.Dataset) -> None:
        self.test = test
        self.rows: list[dict[str, Any]] = []
        self.scores: dict[tuple[str, int, int], np.ndarray] = {}
        self._images: dict[Preprocessing, RatedImages] = {}

    def add_checkpoint(self, name: str, labels: int, seed: int, folder: str, **facts: Any) -> dict[str, Any]:
        """Measure a saved model; returns its row."""
        return self._add(name, labels, seed, *load_scorer(folder), facts)

    def add_probe(
        self, name: str, labels: int, seed: int, encoder: str, train: datasets.Dataset, l2: float, **facts: Any
    ) -> dict[str, Any]:
        """Measure the ridge probe on an encoder's frozen features, as a model with a head in closed form.

        Args:
            name, labels, seed, facts: of the row.
            encoder: folder or Hub name, with its image processor.
            train: rated images that the probe learns from.
            l2: see `ridge_probe`.
        """
        values = list(score_values_of(self.test))
        model = CSKDForImageAesthetics.from_encoder(encoder, score_values=values)
        preprocessing = load_preprocessing(encoder)
        rows, features = pooled_features(model, RatedImages(train, preprocessing))
        means, distributions = (torch.tensor(train[column][:])[rows] for column in ("mean", "distribution"))
        start_head_from_probe(model.classifier, features, means, values, distributions, l2)
        return self._add(name, labels, seed, model, preprocessing, facts)

    def _add(
        self,
        name: str,
        labels: int,
        seed: int,
        model: CSKDForImageAesthetics,
        preprocessing: Preprocessing,
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        images = self._images.setdefault(preprocessing, RatedImages(self.test, preprocessing, cache=True))
        measured, scores, distributions = predict(model, images)
        metrics = rated_metrics(images, measured, scores, distributions)
        metrics["emd"] = metrics.pop("emd1")
        row = {"name": name, "labels": labels, "seed": seed, **metrics, **facts}
        self.rows.append(row)
        self.scores[name, labels, seed] = scores
        return row
