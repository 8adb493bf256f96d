"""Scores of files and folders, from Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from .engine import Engine, load_engine, load_pipeline
from .errors import ScoringError
from .listing import Listing
from .scan import RESULT, scan

__all__ = ["ScoringError", "load_pipeline", "score_images"]


def score_images(
    model: str,
    images: Sequence[str],
    *,
    batch_size: int = 16,
    quiet: bool = False,
    workers: int | None = None,
    reduced_decoding: bool = False,
    allow_truncated: bool = False,
    device: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Score files and folders, one result at a time, so that any number of images fits in memory.

    A score depends on the image alone, not on its batch or the order of the files, up to rounding.

    Args:
        model: checkpoint: Hub name or folder; or an exported .onnx file.
        images: files, and folders that are searched at any depth; an image found twice is scored once.
        batch_size: images a forward.
        quiet: no progress bar.
        workers: threads that read images ahead; none is one a core, 0 reads each batch when it is wanted.
        reduced_decoding, allow_truncated, device: as in `load_engine`.

    Returns:
        For each image, in the order given and sorted within a folder, `path`, `score` and `score_std` on the scale of
        the ratings, and `scale` (lowest and highest possible score), of a calibrated model also `percentile` and
        `calibrated_score`, of one with attributes `attributes`; or `path` and `error` where it cannot be read.

    Raises:
        FileNotFoundError: a file or folder does not exist; nothing has been scored then.
        ScoringError: no image at all, a batch size below 1, or a checkpoint that is no image-aesthetics model.
    """
    if batch_size < 1:
        raise ScoringError(f"batch_size={batch_size} must be at least 1.")
    listing = Listing(images)
    total = sum(1 for _ in listing)
    if not total:
        raise listing.nothing_found()
    engine = load_engine(model, reduced_decoding=reduced_decoding, allow_truncated=allow_truncated, device=device)
    return _results(engine, listing, total, batch_size, workers, quiet)


def _results(
    engine: Engine, listing: Listing, total: int, batch_size: int, workers: int | None, quiet: bool
) -> Iterator[dict[str, Any]]:
    with tqdm(total=total, unit="image", disable=quiet) as bar:
        for result in scan(engine, listing, batch_size=batch_size, workers=workers):
            yield {key: result[key] for key in ("path", *RESULT) if key in result}
            bar.update()
