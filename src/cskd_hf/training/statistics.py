"""Mean and covariance of the references' features over the training images: one pass, kept beside the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from ..data.loading import ImageStream
from ..data.mixture import sample_images
from ..data.views import cut_view, stack_crops
from ..models.image_loading_cskd import ImageLoadError
from .arguments import AlignSettings
from .losses import needs_statistics
from .reference import ReferenceEncoder
from .settings import SettingsError
from .standardisation import FeatureStatistics

logger = logging.getLogger(__name__)

STATISTICS_FOLDER = "reference_statistics"
_MOST = 4096  # images of a pass that runs the reference: a variance is then known to some 2 %
_BATCH = 64


def reference_statistics(
    settings: AlignSettings, references: Sequence[ReferenceEncoder], stream: ImageStream, accelerator: Accelerator
) -> dict[str, FeatureStatistics]:
    """Statistics of each reference by name; empty where no loss of the settings needs any.

    They are of all stored views of all images where features are stored, else of the first view of each image, or of
    4,096 evenly spaced ones; of streams alone, of their first 4,096. A resumed run reads those of its start.

    Args:
        settings: of the run; the statistics go to `reference_statistics/` in its output folder.
        references: on the device of the run.
        stream: the training images.
        accelerator: of the run; one process computes, the others wait and read.

    Raises:
        SettingsError: statistics of another reference are there.
    """
    if not needs_statistics(settings.loss):
        return {}
    found = {}
    for number, reference in enumerate(references):
        source = reference.fingerprint()
        path = Path(settings.output_dir) / STATISTICS_FOLDER / f"{number}.safetensors"
        with accelerator.main_process_first():
            if accelerator.is_main_process and not (settings.resume and path.is_file()):
                store = stream.features.get(reference.name)
                batches = (
                    (block.flatten(0, 1) for block in store.blocks())
                    if store is not None
                    else _encoded(reference.to(accelerator.device), stream)
                )
                embeds = (
                    reference.unpack(rows)[0]
                    for rows in tqdm(
                        batches, desc=f"statistics of {reference.name}", unit="batch", disable=settings.quiet
                    )
                )
                FeatureStatistics.compute(embeds, source).save(path)
        found[reference.name] = FeatureStatistics.load(path)
        if found[reference.name].source != source:
            raise SettingsError(
                f"'{path}' holds statistics of {found[reference.name].source}, but the reference is {source}; resume "
                "with the same reference, or give another --output-dir."
            )
    return found


def _encoded(reference: ReferenceEncoder, stream: ImageStream) -> Iterator[torch.Tensor]:
    images = sample_images(stream.images, _MOST)
    for first in range(0, len(images), _BATCH):
        crops = []
        for index in range(first, min(first + _BATCH, len(images))):
            try:
                crops.append(cut_view(images.load(index), stream.views, stream.seed, index, 0))
            except ImageLoadError as error:
                logger.warning("left out of the statistics: %s (%s)", images.key(index), error.reason)
        if crops:
            yield reference(stack_crops(crops))
