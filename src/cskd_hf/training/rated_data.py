"""The rated images of a run: one or several sets, each on its own scale."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import Accelerator

from ..data.collection import ImageCollection
from ..data.loading import ImageStream
from ..data.order import ImageOrder, largest_remainder
from ..data.ratings import attributes_of, score_values_of, select_split
from ..data.ratings.label_lists import few_rated
from ..data.ratings.soft_bins import soft_histograms
from ..data.sources import DatasetSource
from ..data.views import Preprocessing, ViewSettings
from ..evaluation.predict import RatedImages
from .arguments import RatedSettings
from .build import load_rated
from .history import rated_facts
from .settings import SettingsError

logger = logging.getLogger(__name__)

RATED = "rated"
_CHUNK = 1000


def stream_name(number: int) -> str:
    """What the images of a set are called in a batch: `rated`, then `rated_2`, `rated_3`, ..."""
    return RATED if number == 0 else f"{RATED}_{number + 1}"


class RatedSet:
    """The images of one set that are trained on, and what is known of them.

    Args:
        ratings: in the ratings schema, all splits.
        name: what errors call it.
        settings: of the run.
        few: take only the images that the settings `labels`, `label_share` and `label_ids` name.
        width: standard deviation of the histograms that stand in for missing ones; 0 makes none.

    Attributes:
        means: `(images,)`.
        histograms: `(images, bins)`, NaN in the rows of which only the mean is known.
        synthetic: rows whose histogram is made of their mean.
        attributes: lowest and highest value by name, of those that any image has.
        attribute_shares: `(images, n_attributes)`, as shares of their scales; NaN where an image has none.

    Raises:
        SettingsError: too few rated images, or no such split.
    """

    def __init__(
        self, ratings: datasets.Dataset, name: str, settings: RatedSettings, few: bool = False, width: float = 0.0
    ) -> None:
        self.name, self.settings = name, settings
        self.score_values = list(score_values_of(ratings))
        self.train = self.split(ratings, "train_split")
        if few:
            self.train = self._few(ratings)
        if len(self.train) < 2:
            raise SettingsError(f"'{name}' needs at least two rated images in each split that is used.")
        self.means = torch.tensor(self.train["mean"][:], dtype=torch.float32)
        self.histograms, self.synthetic = self._histograms(width)
        self.attributes, self.attribute_shares = self._attributes(ratings)

    def split(self, ratings: datasets.Dataset, setting: str) -> datasets.Dataset:
        """The rows of the split that a setting names."""
        name = getattr(self.settings, setting)
        if name not in (splits := sorted(set(ratings["split"][:]))):
            raise SettingsError(
                f"'{self.name}' has no split '{name}'; its splits: {', '.join(splits)}. Give another "
                f"--{setting.replace('_', '-')}, "
                + ("an empty one to train without validation, " if setting == "validation_split" else "")
                + "or add a column `split`."
            )
        return select_split(ratings, name)

    def _few(self, ratings: datasets.Dataset) -> datasets.Dataset:
        settings = self.settings
        if settings.labels > len(self.train):
            raise SettingsError(
                f"labels={settings.labels}, but the split '{settings.train_split}' of '{self.name}' has {len(self.train)} "
                "rated images; give --labels at most that, or 0 for all."
            )
        chosen = {name: getattr(settings, name) for name in ("labels", "label_share", "label_ids", "seed")}
        return few_rated(self.train, ratings, **chosen)

    def _histograms(self, width: float) -> tuple[torch.Tensor, int]:
        missing = np.full(len(self.score_values), np.nan)
        rows = [missing if row is None else np.asarray(row) for row in self.train["distribution"][:]]
        histograms = np.stack(rows)
        unknown = np.isnan(histograms).any(axis=1)
        if not width:
            return torch.tensor(histograms, dtype=torch.float32), 0
        histograms[unknown] = soft_histograms(np.asarray(self.train["mean"][:])[unknown], self.score_values, width)
        return torch.tensor(histograms, dtype=torch.float32), int(unknown.sum())

    def _attributes(self, ratings: datasets.Dataset) -> tuple[dict[str, tuple[float, float]], torch.Tensor]:
        attributes, columns = {}, []
        for name, (low, high) in attributes_of(ratings).items() if self.settings.attribute_weight else ():
            values = [np.nan if value is None else value for value in self.train[name][:]]
            shares = (torch.tensor(values, dtype=torch.float64) - low) / (high - low)
            if not shares.isnan().all():
                attributes[name] = (low, high)
                columns.append(shares.float())
        return attributes, torch.stack(columns, dim=1) if columns else torch.zeros(len(self.train), 0)

    @property
    def known(self) -> torch.Tensor:
        """`(images,)`, whether a row has a histogram."""
        return ~self.histograms.isnan().any(dim=1)

    @property
    def mixed(self) -> bool:
        """Whether some images have a histogram, and some their mean alone."""
        return bool(self.known.any() and not self.known.all())

    @property
    def distributions(self) -> torch.Tensor | None:
        """`(images, bins)` where every image has a histogram, else None."""
        return self.histograms if self.known.all() else None

    def known_histograms(self, rows: list[int] | torch.Tensor) -> torch.Tensor | None:
        """The histograms of those of the rows that have one, `(n, bins)`, or None."""
        rows = torch.as_tensor(rows)
        rows = rows[self.known[rows]]
        return self.histograms[rows] if len(rows) else None

    @property
    def attribute_coverage(self) -> list[float]:
        """Share of the images that have each attribute."""
        return (~self.attribute_shares.isnan()).float().mean(dim=0).tolist()

    def targets(self) -> dict[str, torch.Tensor]:
        """What is known of each image: `means`; `ratings`, which are histograms, NaN where an image has none, or the means
        where no image has one; and where the set has any, `attributes` as shares of their scales."""
        targets = {"means": self.means, "ratings": self.histograms if self.known.any() else self.means}
        return targets | ({"attributes": self.attribute_shares} if self.attributes else {})

    def stream(self, batch_size: int, view_side: int, teacher_side: int = 0, seed: int = 0) -> ImageStream:
        """Training images with their `targets`; see [`RatedData.streams`].

        Args:
            seed: of their order.
        """
        settings = self.settings
        views = ViewSettings(size=view_side, scale=tuple(settings.rated_crop_scale), flip=settings.flip)
        needed = replace(views, size=max(view_side, teacher_side)).source_side
        images = ImageCollection([DatasetSource(self.train)], needed, settings.cache_images)
        order = ImageOrder(images.sizes, seed=seed)
        return ImageStream(images, order, batch_size, views, seed=settings.seed, targets=self.targets())


class RatedData:
    """The rated images of a run: read and checked before anything is trained.

    The first set is what the model learns to score: its scale is that of the model's head, it alone is validated on,
    and `labels` counts its images. Each further set trains the same encoder through a head of its own, on its own
    scale, see [`RatingTask`]. What a set knows of attributes is learned from every set.

    Raises:
        RatingsError: the ratings are not fit to train on; the message names file and rows.
        SettingsError: the settings do not fit the sets, or there are too few rated images.
    """

    def __init__(self, settings: RatedSettings) -> None:
        self.settings = settings
        first, *further = load_rated(settings)
        widths = settings.soft_bins or [0.0]
        widths = widths * len(settings.ratings) if len(widths) == 1 else widths
        self.main = RatedSet(first, settings.ratings[0], settings, True, widths[0])
        self.validation = self.main.split(first, "validation_split") if settings.validation_split else None
        if self.validation is not None and len(self.validation) < 2:
            raise SettingsError(f"'{self.main.name}' needs at least two rated images in each split that is used.")
        judged = _judged(first, settings)
        self.leaks = 0  # images of further sets that the first set is judged by
        self.sets = [self.main]
        for number, ratings in enumerate(further, start=1):
            ratings, leaks = _without(ratings, judged, settings)
            self.leaks += leaks
            self.sets.append(RatedSet(ratings, settings.ratings[number], settings, width=widths[number]))
        if self.leaks:
            logger.warning("%d images of further rated sets are left out: '%s' is judged by them", self.leaks, self.main.name)  # fmt: skip
        if settings.soft_bins and not any(rated.synthetic for rated in self.sets):
            raise SettingsError(
                f"soft_bins={settings.soft_bins} stand in for missing histograms, but every rated image has one; leave "
                "--soft-bins out."
            )
        parts = [part for part in (judged, *(_judged(ratings, settings) for ratings in further)) if part is not None]
        self.judged = datasets.concatenate_datasets(parts) if parts else None  # not to be trained on, in whatever form
        sizes = [len(rated.train) for rated in self.sets]
        weights = settings.ratings_weights or sizes
        self.weights = [weight / sum(weights) for weight in weights]

    score_values = property(lambda self: self.main.score_values)
    train = property(lambda self: self.main.train)
    means = property(lambda self: self.main.means)
    distributions = property(lambda self: self.main.distributions)

    @property
    def attributes(self) -> dict[str, tuple[float, float]]:
        """Attributes of all sets with their scales; of those of one name, the first set's scale."""
        merged: dict[str, tuple[float, float]] = {}
        for rated in self.sets:
            merged = rated.attributes | merged
        return merged

    def facts(self) -> dict[str, object]:
        """What a checkpoint says of its rated images."""
        facts: dict[str, object] = {"rated_images": len(self.train)}
        if self.sets[1:]:
            facts |= {"further_rated_images": [len(rated.train) for rated in self.sets[1:]]}
            facts |= {"ratings_weights": [round(weight, 6) for weight in self.weights]}
        if self.leaks:
            facts["rated_leaks"] = self.leaks
        if mean_only := sum(int((~rated.known).sum()) for rated in self.sets):
            facts["mean_only_images"] = mean_only
        if synthetic := sum(rated.synthetic for rated in self.sets):
            facts["synthetic_histograms"] = {"images": synthetic, "width": self.settings.soft_bins}
        return facts

    def described(self) -> list[dict[str, object]]:
        """What a checkpoint's history says of each set; the first one's `validation_images` choose the weights."""
        described: list[dict[str, object]] = []
        for rated, location in zip(self.sets, self.settings.ratings, strict=True):
            counts = {"images": len(rated.train), "score_values": rated.score_values}
            if rated is self.main:
                counts["validation_images"] = 0 if self.validation is None else len(self.validation)
            if mean_only := int((~rated.known).sum()) + rated.synthetic:
                counts["without_votes"] = mean_only
            described.append(rated_facts(rated.train, location, **counts))
        return described

    def validation_attributes(self) -> dict[str, np.ndarray]:
        """The attributes of the validation images, `(images,)` each, NaN where an image has none."""
        columns = () if self.validation is None else self.main.attributes
        return {name: np.asarray(self.validation[name][:], dtype=float) for name in columns}

    def validation_images(self, preprocessing: Preprocessing, accelerator: Accelerator) -> RatedImages | None:
        """This process' share of the validation images."""
        if self.validation is None:
            return None
        return RatedImages(
            self.validation,
            preprocessing,
            batch_size=self.settings.batch_size,
            cache=self.settings.cache_images,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )

    def streams(self, batch_size: int, view_side: int, teacher_side: int = 0) -> dict[str, ImageStream]:
        """Training images of every set, by `stream_name`, with their ratings; see [`RatedSet.targets`].

        Args:
            batch_size: images a batch, of all sets together, divided by their weights; each has one at the least.
            view_side: side of the views in pixels.
            teacher_side: side that a teacher needs the same images at.

        Raises:
            SettingsError: there are more sets than images a batch.
        """
        if batch_size < len(self.sets):
            raise SettingsError(
                f"a batch has {batch_size} rated images, fewer than the {len(self.sets)} sets of --ratings; give a larger "
                "--batch-size."
            )
        counts = largest_remainder(self.weights, batch_size)
        return {
            stream_name(number): rated.stream(int(count), view_side, teacher_side, self.settings.seed + 100 * number)
            for number, (rated, count) in enumerate(zip(self.sets, counts))
        }


def _judged(ratings: datasets.Dataset, settings: RatedSettings) -> datasets.Dataset | None:
    """Images outside the training split."""
    rows = [row for row, split in enumerate(ratings["split"][:]) if split != settings.train_split]
    return ratings.select(rows).select_columns(["image", "split", "key"]) if rows else None


def _without(
    ratings: datasets.Dataset, judged: datasets.Dataset | None, settings: RatedSettings
) -> tuple[datasets.Dataset, int]:
    """The ratings without training images that are judged ones, byte for byte, and how many these were."""
    if judged is None:
        return ratings, 0
    # Few images are of one size in bytes: nearly none of a large set has to be read.
    by_size: dict[int, list[int]] = {}
    for row, size in enumerate(_byte_sizes(judged)):
        by_size.setdefault(size, []).append(row)
    taken = lru_cache(maxsize=None)(lambda size: {_digest(judged[row]["image"]) for row in by_size[size]})
    splits, kept = ratings["split"][:], []
    for row, size in enumerate(_byte_sizes(ratings)):
        candidate = size and size in by_size and splits[row] == settings.train_split
        if not candidate or _digest(ratings[row]["image"]) not in taken(size):
            kept.append(row)
    return (ratings, 0) if len(kept) == len(ratings) else (ratings.select(kept), len(ratings) - len(kept))


def _byte_sizes(ratings: datasets.Dataset) -> list[int]:
    """Of each image; 0 for one that is not on this machine."""
    sizes: list[int] = []
    images = ratings.select_columns("image").with_format("arrow")
    for first in range(0, len(images), _CHUNK):  # embedded images need not fit into memory together
        cells = images[first : first + _CHUNK]["image"]
        lengths = pc.binary_length(pc.struct_field(cells, "bytes")).to_pylist()
        paths = pc.struct_field(cells, "path").to_pylist()
        for length, path in zip(lengths, paths):
            there = length is None and path is not None and os.path.isfile(path)
            sizes.append(os.path.getsize(path) if there else length or 0)
    return sizes


def _digest(image: dict) -> bytes:
    data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return hashlib.sha256(data).digest()
