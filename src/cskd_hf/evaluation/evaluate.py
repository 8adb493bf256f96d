"""Evaluation of a scorer on rated images: every metric with its interval, by group, with a calibration curve.

result = evaluate("runs/student", open_ratings("ratings.csv", split="test"))
print(evaluation_table(result))
write_evaluation("runs/student/evaluation", result, ratings)
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from accelerate import Accelerator
from tqdm import tqdm

from ..data.ratings import RatingsError
from ..data.ratings.schema import attributes_of, descriptions_of
from ..data.views import Preprocessing
from ..files import public_name
from ..models.modeling_cskd import CSKDForImageAesthetics
from .calibration_curve import calibration_curve
from .comparison import software_versions
from .evaluation_output import write_evaluation
from .evaluation_table import evaluation_table
from .grouping import FEWEST_IMAGES, attribute_columns, group_columns, groups_of
from .hardware import device_name
from .predict import load_scorer, weights_fingerprint
from .resampling import CONFIDENCE, RatedSample, compare, with_intervals
from .scored import ScoredImages, score_ratings

__all__ = ["ScoredImages", "evaluate", "evaluate_scores", "evaluation_table", "write_evaluation"]

_ERRORS = ("accuracy", "mae", "rmse")
_DISTANCES = ("emd1", "emd2")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and how.

    Args:
        by: columns to group by; none takes those of split, theme and category that have from 2 to 60 values.
        threshold: cut of the accuracy, on the scale of the ratings; none takes the middle of that scale.
        rescale: map the ends of the model's scale linearly to those of the ratings, where they differ.
        n_resamples: bootstrap resamples of every interval and comparison; 0 gives no intervals.
        seed: of the resamples.
    """

    by: Sequence[str] | None = None
    threshold: float | None = None
    rescale: bool = False
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_resamples and self.n_resamples < 100:
            raise ValueError(
                f"n_resamples={self.n_resamples} is too few for the ends of a 95 % interval; give at least 100, or 0 for "
                "no intervals."
            )


def evaluate(
    model: str | CSKDForImageAesthetics,
    ratings: datasets.Dataset,
    *,
    preprocessing: Preprocessing | None = None,
    against: str | None = None,
    settings: EvaluationSettings | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    accelerator: Accelerator | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score rated images and measure the scores.

    Args:
        model: Hub name or folder of a teacher or student, or the model itself.
        ratings: rated images in the ratings schema; select a split of them before.
        preprocessing: of a model that is given itself.
        against: Hub name or folder of another model, for a paired comparison on the same images.
        settings: what is measured.
        batch_size: images a forward.
        num_workers: threads that decode images.
        accelerator: of the processes that share the images; none makes one.
        quiet: no progress bars.

    Returns:
        see `evaluate_scores`, with the facts of the models; empty on all processes but the main one.

    Raises:
        RatingsError: less than two images can be read, or a column that is grouped by does not fit.
        ValueError: a model that is no scorer, or one without `preprocessing`.
    """
    began = time.perf_counter()
    settings = settings or EvaluationSettings()
    group_columns(ratings, settings.by)  # refused before hours of scoring
    accelerator = accelerator or Accelerator()
    facts, scored = {}, {}
    for role, scorer in {"model": model, "against": against}.items():
        if scorer is None:
            continue
        loaded, own = _loaded(scorer, preprocessing, accelerator)
        facts[role] = _model_facts(scorer, loaded)
        started = time.perf_counter()
        scored[role] = score_ratings(
            loaded,
            own,
            ratings,
            batch_size=batch_size,
            num_workers=num_workers,
            accelerator=accelerator,
            quiet=quiet or not sys.stderr.isatty(),
            description=f"scoring with {facts[role]['name']}",
        )
        facts[role]["scoring_seconds"] = round(time.perf_counter() - started, 3)
    if not accelerator.is_main_process:
        return {}
    result = evaluate_scores(scored["model"], against=scored.get("against"), settings=settings, quiet=quiet)
    measured = {"processes": accelerator.num_processes, "batch_size": batch_size, "num_workers": num_workers}
    measured["device"] = device_name(accelerator.device)
    result["settings"] |= measured
    return facts | result | {"seconds": round(time.perf_counter() - began, 1)}


def evaluate_scores(
    scored: ScoredImages,
    *,
    against: ScoredImages | None = None,
    settings: EvaluationSettings | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure predictions that are there already, such as out-of-fold ones.

    Args:
        scored: predictions and ratings.
        against: those of another model, for the same images in the same order.
        settings: what is measured.
        quiet: no progress bar.

    Returns:
        `data` (facts of the ratings), `settings`, `metrics` (by name: `value`, `low`, `high`), `left_out` (metric:
        reason), `groups` (column: a list of `name`, `images`, and `metrics` or `note`), `not_grouped` (column: reason), `attributes` (by name: `images`,
        and `metrics` or `note`), `calibration` (see `calibration_curve`; null on another scale than the ratings'),
        `comparison` (null, or by metric as `resampling.compare` gives it), `not_compared` (metric: reason), `versions`, and `images`: the columns of the
        table of images, in numpy. All but `images` is what results.json holds.

    Raises:
        RatingsError: less than two images, or a column that is grouped by does not fit.
        ValueError: `against` has other images.
    """
    settings = settings or EvaluationSettings()
    if len(scored) < 2:
        raise RatingsError(f"{len(scored)} rated image(s) can be read; an evaluation needs at least 2.")
    judged = _Judged(scored, settings)
    rival = None if against is None else _Judged(against, settings)
    by, not_grouped = group_columns(scored.ratings, settings.by)
    columns = {column: groups_of(scored.ratings, column) for column in by}
    attributes, without = attribute_columns(scored)
    measures = 1 + sum(map(len, columns.values())) + len(attributes) + (rival is not None)
    bar = tqdm(
        total=settings.n_resamples * measures, desc="resampling", unit="", disable=quiet or not sys.stderr.isatty()
    )
    with bar:
        metrics = judged.figures(None, bar)
        groups = {
            column: [{"name": name, "images": len(rows), **judged.group(rows, bar)} for name, rows in members.items()]
            for column, members in columns.items()
        }
        of_attributes = {name: judged.attribute(name, rated, bar) for name, rated in attributes.items()}
        comparison = None
        if rival is not None and settings.n_resamples:
            comparison = compare(
                judged.sample(), rival.sample(), n_resamples=settings.n_resamples, seed=settings.seed, bar=bar
            )
    return {
        "data": _data_facts(scored),
        "settings": _settings_facts(settings, judged, by),
        "metrics": metrics,
        "left_out": judged.left_out,
        "groups": groups,
        "not_grouped": not_grouped,
        "attributes": of_attributes | {name: {"images": 0, "note": f"{why}."} for name, why in without.items()},
        "calibration": calibration_curve(judged.scored.scores, scored.means) if judged.same_scale else None,
        "comparison": comparison,
        "not_compared": {}
        if rival is None
        else {name: rival.left_out[name] for name in rival.left_out if name in metrics},
        "versions": software_versions(),
        "images": _image_columns(judged, rival),
    }


class _Judged:
    """Predictions, with what may be measured of them."""

    def __init__(self, scored: ScoredImages, settings: EvaluationSettings) -> None:
        self.settings = settings
        own, rated = scored.score_values, scored.rated_values
        self.rescaled = settings.rescale and not np.allclose((own[0], own[-1]), (rated[0], rated[-1]))
        self.scored = scored = scored.rescaled() if self.rescaled else scored
        own = scored.score_values
        self.same_scale = np.allclose((own[0], own[-1]), (rated[0], rated[-1]))
        self.threshold = (rated[0] + rated[-1]) / 2 if settings.threshold is None else settings.threshold
        self.means, self.rated_distributions = scored.means, scored.rated_distributions
        self.left_out: dict[str, str] = {}
        if not self.same_scale:
            reason = (
                f"the model rates from {own[0]:g} to {own[-1]:g}, the ratings are from {rated[0]:g} to {rated[-1]:g}; "
                "--rescale maps the ends of one scale to those of the other."
            )
            self.left_out = dict.fromkeys(_ERRORS + _DISTANCES, reason)
        elif scored.distributions is None:
            self._without_distances("there are predicted scores only, without distributions.")
        elif self.rated_distributions is None:
            lacking = sum(row is None for row in scored.ratings["distribution"][:])
            self._without_distances(f"{lacking} of {len(scored)} images have a mean rating only, without votes.")
        elif len(own) != len(rated) or not np.allclose(own, rated):
            self._without_distances(
                f"the model has the bins {_listed(own)}, the ratings {_listed(rated)}; a distance needs the same bins."
            )

    def _without_distances(self, reason: str) -> None:
        self.left_out = dict.fromkeys(_DISTANCES, reason)

    def sample(self, rows: np.ndarray | None = None) -> RatedSample:
        """Of the images at `rows`, or of all."""
        rows = np.arange(len(self.scored)) if rows is None else rows
        distances = "emd1" not in self.left_out
        return RatedSample(
            self.scored.scores[rows],
            self.means[rows],
            self.scored.distributions[rows] if distances else None,
            self.rated_distributions[rows] if distances else None,
            threshold=self.threshold,
            same_scale=self.same_scale,
        )

    def figures(self, rows: np.ndarray | None, bar: tqdm) -> dict[str, dict[str, float]]:
        return self._figures(self.sample(rows), bar)

    def _figures(self, sample: RatedSample, bar: tqdm) -> dict[str, dict[str, float]]:
        return with_intervals(sample, n_resamples=self.settings.n_resamples, seed=self.settings.seed, bar=bar)

    def group(self, rows: np.ndarray, bar: tqdm) -> dict[str, Any]:
        """`metrics`, or a `note` for a group that is too small."""
        if len(rows) < FEWEST_IMAGES:
            bar.update(self.settings.n_resamples)
            return {"note": f"too small for figures: fewer than {FEWEST_IMAGES} images."}
        return {"metrics": self.figures(rows, bar)}

    def attribute(self, name: str, rated: np.ndarray, bar: tqdm) -> dict[str, Any]:
        """`images`, and `metrics` of an attribute on its own scale, or a `note`."""
        rows = np.flatnonzero(~np.isnan(rated))
        if len(rows) < FEWEST_IMAGES:
            bar.update(self.settings.n_resamples)
            return {"images": len(rows), "note": f"too few ratings for figures: fewer than {FEWEST_IMAGES}."}
        own, given = self.scored.attribute_scales[name], attributes_of(self.scored.ratings)[name]
        sample = RatedSample(self.scored.attributes[name][rows], rated[rows], same_scale=np.allclose(own, given))
        return {"images": len(rows), "scale": list(given), "metrics": self._figures(sample, bar)}


def _loaded(
    scorer: str | CSKDForImageAesthetics, preprocessing: Preprocessing | None, accelerator: Accelerator
) -> tuple[CSKDForImageAesthetics, Preprocessing]:
    if isinstance(scorer, CSKDForImageAesthetics):
        if preprocessing is None:
            raise ValueError("`preprocessing` is missing; a model that is given itself needs that of its images.")
        return scorer, preprocessing
    model, preprocessing = load_scorer(scorer)
    return model.to(accelerator.device), preprocessing


def _model_facts(scorer: str | CSKDForImageAesthetics, model: CSKDForImageAesthetics) -> dict[str, Any]:
    return {
        "name": public_name(scorer if isinstance(scorer, str) else model.config.name_or_path) or type(model).__name__,
        "revision": getattr(model.config, "_commit_hash", None),
        "weights": weights_fingerprint(model),
        "score_values": list(model.config.score_values),
        "attributes": model.config.attributes,
        "provenance": model.config.provenance,
    }


def _data_facts(scored: ScoredImages) -> dict[str, Any]:
    splits, counts = np.unique(scored.ratings["split"][:], return_counts=True)
    digest = hashlib.sha256()
    for key, mean in zip(scored.ratings["key"][:], scored.ratings["mean"][:]):
        digest.update(f"{key}\n{mean!r}\n".encode(errors="backslashreplace"))
    described = descriptions_of(scored.ratings)
    return {
        "name": " + ".join(dict.fromkeys(part["name"] for part in described)),
        "images": len(scored),
        "splits": dict(zip(splits.tolist(), counts.tolist())),
        "score_values": list(scored.rated_values),
        "digest": digest.hexdigest()[:16],  # of the keys and means that were measured on
        "unreadable": dict(scored.unreadable),
    }


def _settings_facts(settings: EvaluationSettings, judged: _Judged, by: Sequence[str]) -> dict[str, Any]:
    return {
        "by": list(by),
        "threshold": judged.threshold,
        "rescaled": judged.rescaled,
        "n_resamples": settings.n_resamples,
        "confidence": CONFIDENCE,
        "seed": settings.seed,
    }


def _image_columns(judged: _Judged, rival: _Judged | None) -> dict[str, Any]:
    ratings, scored = judged.scored.ratings, judged.scored
    columns: dict[str, Any] = {
        "key": ratings["key"][:],
        "split": ratings["split"][:],
        "prediction": scored.scores,
        "truth": judged.means,
        "error": scored.scores - judged.means if judged.same_scale else None,
        "predicted_distribution": scored.distributions,
        "true_distribution": ratings["distribution"][:],
        "bins": (list(scored.score_values), list(scored.rated_values)),
    }
    return columns if rival is None else columns | {"prediction_against": rival.scored.scores}


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
