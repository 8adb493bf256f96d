"""Calibration of a checkpoint on a reference set, and the `cskd-hf calibrate` command."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.optimize import isotonic_regression

from ..data.ratings import score_values_of, select_split
from ..data.ratings.locations import open_ratings, public_place
from ..evaluation.predict import RatedImages, load_scorer, predict_all
from ..files import write_json
from ..models.calibration_cskd import calibrated_score, checked_calibration
from .folder import ScoringError, score_images

logger = logging.getLogger(__name__)

QUANTILES = 101
_FOLDS = 5
_FEW = 100  # below, a percentile is coarser than it looks


def quantiles_of(scores: np.ndarray) -> list[float]:
    """The scores at 0, 1, ..., 100 % of a reference set, linear between neighbours.

    Args:
        scores: `(images,)`.

    Raises:
        ScoringError: fewer than two images.
    """
    if len(scores) < 2:
        raise ScoringError(f"a reference set of {len(scores)} images has no percentiles; give at least {_FEW}.")
    return np.quantile(scores, np.linspace(0, 1, QUANTILES)).tolist()


def isotonic_map(scores: np.ndarray, ratings: np.ndarray) -> dict[str, list[float]]:
    """The rising function of the score with the least squared error (pool adjacent violators; Barlow et al. 1972), as
    pairs at the ends of its steps.

    Args:
        scores: `(images,)`.
        ratings: mean ratings `(images,)`.

    Returns:
        `scores` and `ratings`, equally long and not falling, for `calibrated_score`.

    Raises:
        ScoringError: fewer than two different scores.
    """
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    if len(values) < 2:
        raise ScoringError("all images have one score, so no rating can be fitted to it; give other images.")
    means = np.bincount(inverse, ratings) / counts
    fitted = isotonic_regression(means, weights=counts)
    ends = sorted({*fitted.blocks[:-1].tolist(), *(fitted.blocks[1:] - 1).tolist()})
    return {"scores": values[ends].tolist(), "ratings": fitted.x[ends].tolist()}


def map_errors(scores: np.ndarray, ratings: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Mean absolute error of the score and of its map, the latter on images that it was not fitted on (5 folds).

    Args:
        scores: `(images,)`.
        ratings: mean ratings `(images,)`.
        seed: of the folds.
    """
    folds = np.random.default_rng(seed).permutation(len(scores)) % _FOLDS
    mapped = np.empty(len(scores))
    for fold in range(_FOLDS):
        fitted = isotonic_map(scores[folds != fold], ratings[folds != fold])
        mapped[folds == fold] = [calibrated_score(score, **fitted) for score in scores[folds == fold]]
    return float(np.abs(scores - ratings).mean()), float(np.abs(mapped - ratings).mean())


def write_calibration(checkpoint: Path, calibration: dict[str, Any]) -> None:
    """Put a calibration into the config.json of a checkpoint; nothing else of it changes.

    Raises:
        ValueError: it is no calibration.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    write_json(checkpoint / "config.json", config | {"calibration": checked_calibration(calibration)})


def calibrate_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf calibrate`; returns the exit code 0.

    Raises:
        ScoringError: no reference set, or one without readable images; the checkpoint is no folder.
        RatingsError: the ratings cannot be used.
    """
    checkpoint = Path(namespace.checkpoint)
    if not (checkpoint / "config.json").is_file():
        raise ScoringError(f"'{checkpoint}' is no folder of a checkpoint; one on the Hub has to be downloaded first.")
    if not namespace.images and not namespace.ratings:
        raise ScoringError("there is no reference set; give images, or --ratings.")
    if not namespace.ratings and (namespace.split or namespace.image_dir):
        raise ScoringError("--split and --image-dir are of --ratings, which is not given.")
    calibration: dict[str, Any] = {
        "reference": namespace.name or public_place(namespace.images[0] if namespace.images else namespace.ratings)
    }
    if namespace.ratings:
        rated = open_ratings(namespace.ratings, image_dir=namespace.image_dir)
        ratings = select_split(rated, *(namespace.split or ["all"]))
        rated_scores, means = _rated(str(checkpoint), ratings, namespace.quiet)
        calibration["map"] = isotonic_map(rated_scores, means)
        before, after = map_errors(rated_scores, means)
        print(
            f"mean absolute error of the score {before:.4f}, of its map {after:.4f} (on images left out, {_FOLDS} folds)"
        )
    scores = _scores(str(checkpoint), namespace.images, namespace.quiet) if namespace.images else rated_scores
    calibration |= {"images": len(scores), "quantiles": quantiles_of(scores)}
    if len(scores) < _FEW:
        logger.warning("%d images are few for percentiles; give %d or more", len(scores), _FEW)
    write_calibration(checkpoint, calibration)
    low, middle, high = np.quantile(scores, [0.1, 0.5, 0.9])
    print(f"{checkpoint}: calibrated on {len(scores)} images of {calibration['reference']}; score {low:.3f} at 10 %, "
          f"{middle:.3f} at 50 %, {high:.3f} at 90 %")  # fmt: skip
    return 0


def _scores(checkpoint: str, images: Sequence[str], quiet: bool) -> np.ndarray:
    results = list(score_images(checkpoint, images, quiet=quiet))
    for result in results:
        if "error" in result:
            logger.warning("left out: %s: %s", result["path"], result["error"])
    return np.asarray([result["score"] for result in results if "score" in result])


def _rated(checkpoint: str, ratings: datasets.Dataset, quiet: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores and mean ratings `(images,)` of the readable rated images."""
    model, preprocessing = load_scorer(checkpoint)
    own, theirs = model.config.score_values, score_values_of(ratings)
    if (own[0], own[-1]) != (theirs[0], theirs[-1]):
        logger.warning(
            "the model scores from %g to %g, the ratings go from %g to %g: the map leads from one to the other",
            own[0], own[-1], theirs[0], theirs[-1],
        )  # fmt: skip
    found = predict_all(model, RatedImages(ratings, preprocessing), quiet=quiet)
    if len(found["rows"]) < 2 * _FOLDS:
        raise ScoringError(f"{len(found['rows'])} rated images can be read; a map needs at least {2 * _FOLDS}.")
    return found["scores"], np.asarray(ratings["mean"][:])[found["rows"]]
