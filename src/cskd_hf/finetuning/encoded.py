"""The rated images as the encoder sees them: read, checked and encoded once, before anything is fitted."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from tqdm import tqdm

from ..data.ratings import RatingsError, score_values_of
from ..data.views import Preprocessing
from ..evaluation.predict import RatedImages, load_scorer, pooled_features
from ..models.configuration_cskd import CSKDConfig
from ..models.image_loading_cskd import ImageLoadError
from ..models.modeling_cskd import CSKDForImageAesthetics
from ..training.arguments import EncoderSettings
from ..training.build import build_model, build_preprocessing
from ..training.settings import SettingsError
from .settings import MIN_RATINGS, FinetuneSettings

logger = logging.getLogger(__name__)

_CHUNK = 256  # images encoded between two steps of the progress bar


@dataclass
class Encoded:
    """Rated images and their features; rows of all parts are the same.

    Attributes:
        ratings: those that can be read.
        model: the encoder with a head over the bins of the ratings, which nothing has trained yet.
        preprocessing: of the model.
        features: `(images, feature_size)` float32, on the CPU.
        means: `(images,)` float64.
        distributions: `(images, bins)`, or none where some images have only a mean.
        base_scores: `(images,)` on the scale of the ratings, what the base itself says; none for a mere encoder.
        prior: `(feature_size,)`, the direction in which the base's own score rises; none for a mere encoder.
        unreadable: reason by key of the images that cannot be read.
    """

    ratings: datasets.Dataset
    model: CSKDForImageAesthetics
    preprocessing: Preprocessing
    features: torch.Tensor
    means: torch.Tensor
    distributions: torch.Tensor | None
    base_scores: np.ndarray | None
    prior: torch.Tensor | None
    unreadable: dict[str, str]

    @property
    def score_values(self) -> list[float]:
        """Value of each bin."""
        return list(self.model.config.score_values)


def check_ratings(means: np.ndarray, pictures: int, source: str) -> None:
    """Refuse what nothing can be learnt from.

    Args:
        means: (images,) mean ratings.
        pictures: number of different pictures.
        source: what the message calls the ratings.

    Raises:
        RatingsError: too few, or all equal.
    """
    if pictures < MIN_RATINGS:
        copies = f" of {pictures} different pictures" if pictures < len(means) else ""
        raise RatingsError(
            f"{source}: {len(means)} rated images{copies}; at least {MIN_RATINGS} different ones are needed to learn "
            "from and to measure on, and 20 or more are advised. Rate more images, or score with a model as it is: "
            "`cskd-hf score --model MODEL IMAGES`."
        )
    if np.ptp(means) == 0:
        raise RatingsError(
            f"{source}: all {len(means)} ratings are {means[0]:g}, so there is no order to learn; rate images that you "
            "like less and more, or check which column holds the ratings."
        )


def encode_ratings(settings: FinetuneSettings, ratings: datasets.Dataset) -> Encoded:
    """Encode all rated images with the base.

    Raises:
        SettingsError: the base cannot be loaded.
        RatingsError: fewer images can be read than are needed.
    """
    device = torch.device("cpu" if settings.cpu or not torch.cuda.is_available() else "cuda")
    values = list(score_values_of(ratings))
    model, preprocessing = _build(settings, values)
    rows, features, unreadable = _features(model.to(device), preprocessing, ratings, settings)
    ratings = ratings.select(rows) if len(rows) < len(ratings) else ratings
    means = np.asarray(ratings["mean"][:], dtype=float)
    check_ratings(means, len(means), settings.ratings)
    histograms = ratings["distribution"][:]
    whole = not any(row is None for row in histograms)
    base_scores, prior = _base_scorer(settings.model, features, values)
    return Encoded(
        ratings,
        model.cpu(),
        preprocessing,
        features,
        torch.from_numpy(means),
        torch.tensor(histograms, dtype=torch.float32) if whole else None,
        base_scores,
        prior,
        unreadable,
    )


def _build(settings: FinetuneSettings, values: list[float]) -> tuple[CSKDForImageAesthetics, Preprocessing]:
    wanted = EncoderSettings(encoder=settings.model, image_size=settings.image_size, output_dir=settings.output)
    torch.manual_seed(settings.seed)
    try:
        model = build_model(CSKDForImageAesthetics, wanted, score_values=values)
        return model, build_preprocessing(wanted, model)
    except (SettingsError, OSError) as error:
        if Path(settings.model).exists():
            raise
        raise SettingsError(
            f"the model '{settings.model}' cannot be loaded; without the Hub, give --model FOLDER with an image encoder "
            f"or a trained scorer. ({error})"
        ) from error


def _features(
    model: CSKDForImageAesthetics, preprocessing: Preprocessing, ratings: datasets.Dataset, settings: FinetuneSettings
) -> tuple[list[int], torch.Tensor, dict[str, str]]:
    rows: list[int] = []
    parts: list[torch.Tensor] = []
    unreadable: dict[str, str] = {}
    with tqdm(total=len(ratings), desc="encoding rated images", unit="image", disable=settings.quiet) as bar:
        for first in range(0, len(ratings), _CHUNK):
            last = min(first + _CHUNK, len(ratings))
            images = RatedImages(ratings.select(range(first, last)), preprocessing, batch_size=settings.batch_size)
            try:
                within, features = pooled_features(model, images)
                rows += [first + row for row in within]
                parts.append(features)
            except ImageLoadError:
                pass  # none of them can be read; the reasons are noted below
            unreadable |= images.unreadable
            bar.update(last - first)
    if not parts:
        key, reason = next(iter(unreadable.items()))
        raise RatingsError(
            f"{settings.ratings}: none of the {len(ratings)} rated images can be read: {key} ({reason})."
        )
    return rows, torch.cat(parts), unreadable


def _base_scorer(
    name: str, features: torch.Tensor, values: list[float]
) -> tuple[np.ndarray | None, torch.Tensor | None]:
    """Scores of the base's own head, and the direction in which they rise at the mean feature."""
    if not is_scorer(name):
        return None, None
    head = load_scorer(name)[0]
    own = torch.tensor(head.config.score_values, dtype=torch.float64)
    weight, bias = head.classifier.weight.detach().double(), head.classifier.bias.detach().double()
    shares = (features.double() @ weight.T + bias).softmax(-1)
    share = (features.double().mean(0) @ weight.T + bias).softmax(-1)
    # d(sum_k p_k v_k) / dx = sum_k p_k (v_k - score) w_k
    prior = (share * (own - share @ own)) @ weight
    scores = (shares @ own).numpy()
    if own.tolist() != values:
        low, high = float(own[0]), float(own[-1])
        scores = values[0] + (scores - low) * (values[-1] - values[0]) / (high - low)
    return scores, prior


def is_scorer(name_or_path: str) -> bool:
    """Whether a checkpoint is one of this package with a trained head."""
    try:
        config = CSKDConfig.get_config_dict(name_or_path)[0]
    except (OSError, ValueError):
        return False
    return config.get("model_type") == CSKDConfig.model_type and config.get("architectures") == [
        CSKDForImageAesthetics.__name__
    ]
