"""What a model predicts for rated images, beside what people said; by one process or by several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import datasets
import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.ratings import RatingsError, score_values_of
from ..data.views import Preprocessing
from ..models.modeling_cskd import CSKDForImageAesthetics
from .predict import RatedImages, predict_all


@dataclass(frozen=True)
class ScoredImages:
    """Predictions and ratings of the same images, row by row. Also what other models predict can be put into it.

    Args:
        ratings: the rated images that were scored, in the ratings schema.
        scores: (images,) predicted means, on the scale of `score_values`.
        distributions: (images, bins) predicted shares; none where there are only scores.
        score_values: (bins,) value of each bin of the predictions; at the least both ends of their scale.
        attributes: (images,) predictions of each attribute by name.
        attribute_scales: lowest and highest value of each predicted attribute.
        unreadable: key and reason of the rated images that could not be read; they are not among `ratings`.

    Raises:
        ValueError: lengths that differ.
    """

    ratings: datasets.Dataset
    scores: np.ndarray
    score_values: tuple[float, ...]
    distributions: np.ndarray | None = None
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    attribute_scales: Mapping[str, Sequence[float]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {"scores": self.scores, "distributions": self.distributions, **self.attributes}
        for name, values in columns.items():
            if values is not None and len(values) != len(self.ratings):
                raise ValueError(f"`{name}` holds {len(values)} images and `ratings` {len(self.ratings)}.")

    def __len__(self) -> int:
        return len(self.ratings)

    @property
    def means(self) -> np.ndarray:
        """(images,) mean ratings."""
        return np.asarray(self.ratings["mean"][:], dtype=np.float64)

    @property
    def rated_distributions(self) -> np.ndarray | None:
        """(images, bins) given shares; none if any image has only a mean."""
        rows = self.ratings["distribution"][:]
        return None if any(row is None for row in rows) else np.asarray(rows, dtype=np.float64)

    @property
    def rated_values(self) -> tuple[float, ...]:
        """Value of each bin of the ratings."""
        return score_values_of(self.ratings)

    def rescaled(self) -> ScoredImages:
        """The same with the ends of the predicted scale mapped linearly to those of the ratings."""
        low, high = self.rated_values[0], self.rated_values[-1]
        own_low, own_high = self.score_values[0], self.score_values[-1]
        factor = (high - low) / (own_high - own_low)
        values = tuple(low + factor * (value - own_low) for value in self.score_values)
        return replace(self, scores=low + factor * (self.scores - own_low), score_values=values)


def score_ratings(
    model: CSKDForImageAesthetics,
    preprocessing: Preprocessing,
    ratings: datasets.Dataset,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    accelerator: Accelerator | None = None,
    quiet: bool = False,
    description: str = "scoring",
) -> ScoredImages:
    """Score rated images in evaluation mode; each process takes its share, and all return the same.

    Args:
        model: on its device.
        preprocessing: of the model.
        ratings: in the ratings schema.
        batch_size: images a forward.
        num_workers: threads that decode images beside the forward.
        accelerator: of the processes that take part; none for a single one.
        quiet: no progress bar.
        description: of the progress bar.

    Raises:
        RatingsError: none of the images can be read.
    """
    rank, world_size = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    images = RatedImages(
        ratings, preprocessing, batch_size=batch_size, num_workers=num_workers, rank=rank, world_size=world_size
    )
    share = predict_all(model, images, quiet=quiet or rank > 0, description=description)
    shares = gather_object([(share, images.unreadable)]) if world_size > 1 else [(share, images.unreadable)]
    unreadable = {key: reason for _, found in shares for key, reason in found.items()}
    order = np.argsort(np.concatenate([part["rows"] for part, _ in shares]))
    table = {
        name: np.concatenate([part[name] for part, _ in shares if name in part and len(part["rows"])] or [[]])
        for name in ("rows", "scores", "distributions", "attributes")
    }
    if not len(order):
        key, reason = next(iter(unreadable.items()))
        raise RatingsError(f"none of the {len(ratings)} rated images can be read; the first: {key} ({reason}).")
    names = list(model.config.attributes or ())
    return ScoredImages(
        ratings=ratings.select(table["rows"][order].astype(int)) if len(order) < len(ratings) else ratings,
        scores=table["scores"][order],
        score_values=tuple(model.config.score_values),
        distributions=table["distributions"][order],
        attributes={name: table["attributes"][order, column] for column, name in enumerate(names)},
        attribute_scales={name: tuple(scale) for name, scale in (model.config.attributes or {}).items()},
        unreadable=unreadable,
    )
