"""The generator itself: photographs, ratings and captions by (seed, index), and their form as a labelled data set."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from .captions import write_caption
from .factors import draw_factors
from .photography import photograph
from .rating import SCORE_VALUES, RaterPopulation
from .scenes import render_scene

if TYPE_CHECKING:
    from datasets import Dataset

# Photographs are made in fixed groups, each from its own generators: what index i looks like depends on the seed and
# on i alone. The size is part of the definition of the data; a small one stays in the processor's cache.
CHUNK = 64

# Independent streams of randomness of one chunk; changing what one draws leaves the others as they are.
_FACTORS, _TEXTURES, _SENSOR, _CAPTIONS = range(4)


@dataclass
class SyntheticBatch:
    """Photographs `start` .. `start + n - 1` of one seed.

    Attributes:
        images: uint8 tensor of shape (n, 64, 64, 3).
        histograms: long tensor of shape (n, 10); votes for each of `SCORE_VALUES`.
        means: float tensor of shape (n,); mean vote, 1..10.
        captions: n English captions; they know the factors, not the votes.
        factors: tensors of shape (n,) by name, see `draw_factors`.
        seed: the seed of the photographs.
        start: index of the first photograph.
    """

    images: Tensor
    histograms: Tensor
    means: Tensor
    captions: list[str]
    factors: dict[str, Tensor]
    seed: int
    start: int

    def __len__(self) -> int:
        return len(self.images)


class SyntheticPhotographs:
    """An endless album of small photographs with ratings and captions; a pure function of (seed, index).

    Args:
        seed: of scenes, camera, captions.
        rating_seed: of the rater population and its votes; `seed` by default. Two seeds give two independent panels
            for the same photographs.
        raters: votes a photograph receives.

    Raises:
        ValueError: if `seed` is negative or `raters` is out of range.
    """

    def __init__(self, seed: int, rating_seed: int | None = None, raters: int = 80):
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.seed = seed
        self.population = RaterPopulation(seed if rating_seed is None else rating_seed, raters)

    def generate(self, n: int, start: int = 0) -> SyntheticBatch:
        """Makes photographs `start` .. `start + n - 1`.

        Args:
            n: number of photographs, at least 1.
            start: index of the first.

        Returns:
            the batch; each of its photographs is the same in whatever batch it is asked for.

        Raises:
            ValueError: if `n` is not positive or `start` is negative.
        """
        if n < 1 or start < 0:
            raise ValueError(f"n must be at least 1 and start at least 0, got n={n}, start={start}")
        first, last = start // CHUNK, (start + n - 1) // CHUNK
        chunks = [self._chunk(number) for number in range(first, last + 1)]
        rows = slice(start - first * CHUNK, start - first * CHUNK + n)
        return SyntheticBatch(
            images=torch.cat([chunk.images for chunk in chunks])[rows],
            histograms=torch.cat([chunk.histograms for chunk in chunks])[rows],
            means=torch.cat([chunk.means for chunk in chunks])[rows],
            captions=[caption for chunk in chunks for caption in chunk.captions][rows],
            factors={key: torch.cat([chunk.factors[key] for chunk in chunks])[rows] for key in chunks[0].factors},
            seed=self.seed,
            start=start,
        )

    def _chunk(self, number: int) -> SyntheticBatch:
        factors = draw_factors(CHUNK, stream(self.seed, number, _FACTORS))
        scene = render_scene(factors, stream(self.seed, number, _TEXTURES))
        images = photograph(scene, factors, stream(self.seed, number, _SENSOR))
        histograms = self.population.vote(factors, number)
        words = random.Random(stream_seed(self.seed, number, _CAPTIONS))
        columns = {name: values.tolist() for name, values in factors.items()}
        captions = [write_caption({name: columns[name][i] for name in columns}, words) for i in range(CHUNK)]
        means = histograms.float() @ torch.tensor(SCORE_VALUES, dtype=torch.float32) / histograms.sum(1)
        return SyntheticBatch(images, histograms, means, captions, factors, self.seed, number * CHUNK)


def stream_seed(seed: int, chunk: int, purpose: int) -> int:
    """A seed of its own for each (seed, chunk, purpose), from a hash so that neighbours have nothing in common."""
    return random.Random(f"{seed}/{chunk}/{purpose}").getrandbits(62)


def stream(seed: int, chunk: int, purpose: int) -> torch.Generator:
    """The generator that `stream_seed` starts."""
    return torch.Generator().manual_seed(stream_seed(seed, chunk, purpose))


_ABOUT = "Procedural pictures with simulated raters; no photograph and no human rating is among them."


def to_dataset(batch: SyntheticBatch, split: str = "train", rated: bool = True) -> Dataset:
    """Turns a batch into the package's form of labelled data, see `cskd_hf.data.ratings.schema`.

    Args:
        batch: photographs of one seed.
        split: value of the `split` column.
        rated: give distribution, mean, std and number of votes; otherwise these are null.

    Returns:
        `datasets.Dataset` with columns `image` (PNG bytes), `distribution` (10 shares that sum to 1), `mean` and `std`
        (of the votes, score units), `n_votes`, `split` and `key` ("synthetic-<seed>-<index>", six digits).
    """
    # Here, because the photographs themselves need no datasets library.
    from datasets import Dataset

    from ..ratings.schema import build_ratings

    keys = [f"synthetic-{batch.seed}-{batch.start + i:06d}" for i in range(len(batch))]
    columns = {
        "image": [{"bytes": _png(image), "path": f"{key}.png"} for image, key in zip(batch.images, keys, strict=True)],
        "distribution": batch.histograms.tolist(),
        "split": [split] * len(batch),
        "key": keys,
    }
    name = f"synthetic-{batch.seed}"
    dataset = build_ratings(columns, SCORE_VALUES, name=name, about=_ABOUT, license="apache-2.0")
    if rated:
        return dataset
    columns |= {name: [None] * len(batch) for name in ("distribution", "mean", "std", "n_votes")}
    return Dataset.from_dict(columns, features=dataset.features, info=dataset.info)


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="png")
    return buffer.getvalue()
