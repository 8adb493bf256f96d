"""Scores of a model on rated images, and the metrics of those scores."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import AutoImageProcessor

from ..data.collection import ImageCollection
from ..data.ratings import score_values_of
from ..data.sources import DatasetSource
from ..data.views import Preprocessing
from ..models.configuration_cskd import CSKDConfig
from ..models.image_loading_cskd import ImageLoadError
from ..models.modeling_cskd import CSKDForImageAesthetics
from ..models.prompts_cskd import PROMPT_EMBEDS
from .metrics import iaa_metrics

logger = logging.getLogger(__name__)


def load_scorer(name_or_path: str) -> tuple[CSKDForImageAesthetics, Preprocessing]:
    """A trained teacher or student in float32, and its preprocessing.

    Raises:
        ValueError: there is no such checkpoint, or it is of another architecture, or of phase 1, without a trained head.
    """
    try:
        config = CSKDConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        if Path(name_or_path).is_dir():
            raise
        raise ValueError(
            f"there is no folder '{name_or_path}', and as the name of a Hub model: {str(error).strip()}"
        ) from error
    if config.architectures == ["CSKDForFeatureAlignment"]:
        raise ValueError(
            f"'{name_or_path}' is a phase-1 checkpoint (CSKDForFeatureAlignment) without a trained head; train a teacher "
            "or a student from it first: `cskd-hf teacher --encoder ...`."
        )
    model = CSKDForImageAesthetics.from_pretrained(name_or_path, dtype=torch.float32)
    return model, Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(name_or_path))


class RatedImages:
    """Rated images as pixel values, prepared as the published checkpoint's own image processor prepares them.

    Args:
        dataset: in the ratings schema.
        preprocessing: of the model that will score them.
        batch_size: images a forward.
        cache: keep the pixel values in memory, for sets that are scored again and again.
        rank, world_size: take only every `world_size`-th image, from `rank` on.
        num_workers: threads that decode the next batch while this one is scored; 0 decodes as it goes.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        preprocessing: Preprocessing,
        *,
        batch_size: int = 64,
        cache: bool = False,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        self.score_values = score_values_of(dataset)
        self.images = ImageCollection([DatasetSource(dataset)])
        self.rows = list(range(rank, len(dataset), world_size))
        self.means = np.asarray(dataset["mean"][:], dtype=float)
        histograms = dataset["distribution"][:]
        self.distributions = None if any(row is None for row in histograms) else np.asarray(histograms, dtype=float)
        self.unreadable: dict[str, str] = {}
        self._processor = preprocessing.to_image_processor()
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._cache: dict[int, torch.Tensor] | None = {} if cache else None

    def batches(self):
        """Pairs of row numbers and pixel values `(batch, 3, height, width)`; unreadable images are left out and noted."""
        chunks = [self.rows[first : first + self._batch_size] for first in range(0, len(self.rows), self._batch_size)]
        for chunk, decoded in zip(chunks, self._decoded(chunks)):
            readable = [(row, values) for row, values in zip(chunk, decoded) if values is not None]
            if readable:
                rows, pixels = zip(*readable)
                yield list(rows), torch.stack(pixels)

    def _decoded(self, chunks: list[list[int]]) -> Iterator[Iterable[torch.Tensor | None]]:
        """The pixel values of each batch's rows; with threads, one batch ahead."""
        if not self._num_workers:
            yield from (map(self._pixels, chunk) for chunk in chunks)
            return
        with ThreadPoolExecutor(self._num_workers) as pool:
            ahead = deque(pool.map(self._pixels, chunk) for chunk in chunks[:1])
            for chunk in [*chunks[1:], []]:
                ahead.append(pool.map(self._pixels, chunk))
                yield ahead.popleft()

    def _pixels(self, row: int) -> torch.Tensor | None:
        if self._cache is not None and row in self._cache:
            return self._cache[row]
        try:
            image = self.images.load(row)
        except ImageLoadError as error:
            key = self.images.key(row)
            if key not in self.unreadable:
                logger.warning("unreadable rated image left out: %s (%s)", key, error.reason)
            self.unreadable[key] = error.reason
            return None
        values = self._processor(images=image, return_tensors="pt")["pixel_values"][0]
        if self._cache is not None:
            self._cache[row] = values
        return values


def predict(model: CSKDForImageAesthetics, images: RatedImages) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Row numbers, scores `(images,)` and distributions `(images, bins)` of all readable images; evaluation mode."""
    found = predict_all(model, images)
    if not len(found["rows"]):
        return [], np.zeros(0), np.zeros((0, len(images.score_values)))
    return found["rows"].tolist(), found["scores"], found["distributions"]


@torch.no_grad()
def predict_all(
    model: CSKDForImageAesthetics, images: RatedImages, *, quiet: bool = True, description: str = "scoring"
) -> dict[str, np.ndarray]:
    """Everything that the model says of the readable images, in evaluation mode.

    Args:
        model: on its device.
        images: prepared for it.
        quiet: no progress bar.
        description: of the progress bar.

    Returns:
        `rows` `(images,)`, `scores` `(images,)`, `distributions` `(images, bins)`, and `attributes`
        `(images, n_attributes)` where the model has any; all of length 0 where no image is readable.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts: dict[str, list[np.ndarray]] = {"rows": [], "scores": [], "distributions": []}
    with tqdm(total=len(images.rows), desc=description, unit="image", disable=quiet) as bar:
        for rows, pixel_values in images.batches():
            output = model(pixel_values=pixel_values.to(device, model.dtype))
            parts["rows"].append(np.asarray(rows))
            parts["scores"].append(output.score.double().cpu().numpy())
            parts["distributions"].append(output.distribution.double().cpu().numpy())
            if output.attributes is not None:
                parts.setdefault("attributes", []).append(output.attributes.double().cpu().numpy())
            bar.update(len(rows))
    model.train(was_training)
    return {name: np.concatenate(values) if values else np.zeros(0) for name, values in parts.items()}


@torch.no_grad()
def pooled_features(model: CSKDForImageAesthetics, images: RatedImages) -> tuple[list[int], torch.Tensor]:
    """Row numbers and pooled features `(images, feature_size)` of all readable images; evaluation mode."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    rows, features = [], []
    for batch_rows, pixel_values in images.batches():
        rows += batch_rows
        features.append(model.encode(pixel_values.to(device, model.dtype))[0].float().cpu())
    model.train(was_training)
    if not rows:
        raise ImageLoadError(images.images.key(0), f"none of the {len(images.rows)} rated images can be read")
    return rows, torch.cat(features)


def rated_metrics(
    images: RatedImages, rows: list[int], scores: np.ndarray, distributions: np.ndarray
) -> dict[str, float]:
    """`iaa_metrics` of predictions against the ratings, with the middle of the scale as the threshold of accuracy."""
    return iaa_metrics(
        scores,
        images.means[rows],
        distributions if images.distributions is not None else None,
        images.distributions[rows] if images.distributions is not None else None,
        threshold=(images.score_values[0] + images.score_values[-1]) / 2,
    )


def weights_fingerprint(module: nn.Module) -> str:
    """Hash of all weights and buffers of a module, but for the prompts of a bank: they are beside what scores depend on."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if name == PROMPT_EMBEDS:
            continue
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
