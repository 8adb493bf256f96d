"""All metrics of a model on rated images, with bootstrap intervals and paired comparisons that stay quick on many images.

What does not change from one resample to the next is computed once: the place of each score among the others, and the
error and the earth mover's distance of each image. The figures are those of `metrics.bootstrap_intervals` and
`metrics.paired_bootstrap` with the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from .metrics import METRIC_NAMES, iaa_metrics, krcc, percentile_interval, plcc, resamples, two_sided_p

Figures = dict[str, dict[str, float]]
CONFIDENCE = 0.95


class RatedSample:
    """Predictions beside ratings of the same images.

    Args:
        scores: (images,) predicted means.
        means: (images,) mean ratings.
        distributions: (images, bins) predicted shares; none leaves the earth mover's distances out.
        rated_distributions: (images, bins) given shares, over the same bins.
        threshold: cut of the accuracy; none leaves it out.
        same_scale: whether scores and means are on one scale; errors are left out otherwise.
    """

    def __init__(
        self,
        scores: Sequence[float],
        means: Sequence[float],
        distributions: Sequence[Sequence[float]] | None = None,
        rated_distributions: Sequence[Sequence[float]] | None = None,
        threshold: float | None = None,
        same_scale: bool = True,
    ) -> None:
        found = iaa_metrics(scores, means, distributions, rated_distributions, threshold)
        unknown = () if same_scale else ("mae", "rmse", "accuracy")
        self.metrics = {name: found[name] for name in METRIC_NAMES if name in found and name not in unknown}
        self.scores, self.means = (np.asarray(values, dtype=np.float64) for values in (scores, means))
        self._places = [np.unique(values, return_inverse=True)[1] for values in (self.scores, self.means)]
        errors = np.abs(self.scores - self.means)
        self._of_each = {"mae": errors, "rmse": errors**2}  # the metric is a function of the mean over the images
        if threshold is not None:
            self._of_each["accuracy"] = ((self.scores > threshold) == (self.means > threshold)).astype(float)
        if distributions is not None and rated_distributions is not None:
            gaps = np.abs(np.cumsum(distributions, axis=1) - np.cumsum(rated_distributions, axis=1))  # (images, bins)
            self._of_each |= {f"emd{r}": np.mean(gaps**r, axis=1) ** (1 / r) for r in (1, 2)}

    def __len__(self) -> int:
        return len(self.scores)

    def resampled(self, name: str, rows: np.ndarray) -> float:
        """One metric of the images at `rows`, which may repeat."""
        if name == "plcc":
            return plcc(self.scores[rows], self.means[rows])
        if name == "krcc":
            return krcc(*(places[rows] for places in self._places))
        if name == "srcc":
            return plcc(*(_average_ranks(places[rows], len(self)) for places in self._places))
        mean = float(self._of_each[name][rows].mean())
        return math.sqrt(mean) if name == "rmse" else mean


def with_intervals(
    sample: RatedSample,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    names: Sequence[str] = METRIC_NAMES,
    bar: tqdm | None = None,
) -> Figures:
    """Each metric as `value`, `low` and `high`, the ends of its 95 % percentile bootstrap interval over the images.

    Args:
        sample: at least two images.
        n_resamples: of the images, with replacement; 0 gives no intervals.
        seed: of the resamples.
        names: metrics to take, where the sample has them.
        bar: is moved on by one for each resample.
    """
    names = [name for name in names if name in sample.metrics]
    if not n_resamples:
        return {name: {"value": sample.metrics[name]} for name in names}
    values = {name: np.empty(n_resamples) for name in names}
    for number, rows in enumerate(resamples(len(sample), n_resamples, CONFIDENCE, seed)):
        for name in names:
            values[name][number] = sample.resampled(name, rows)
        if bar is not None:
            bar.update()
    figures = {}
    for name in names:
        low, high = percentile_interval(values[name], CONFIDENCE)
        figures[name] = {"value": sample.metrics[name], "low": low, "high": high}
    return figures


def compare(
    a: RatedSample, b: RatedSample, *, n_resamples: int = 1000, seed: int = 0, bar: tqdm | None = None
) -> Figures:
    """Compare two models on the same images by the paired bootstrap, see `metrics.paired_bootstrap`.

    Args:
        a, b: the same images in the same order.
        n_resamples, seed, bar: as in `with_intervals`; at least one resample.

    Returns:
        for each metric that both have, `a`, `b`, `difference` (a minus b), `low` and `high` of its 95 % interval, and
        `p_value`.

    Raises:
        ValueError: other images.
    """
    if not np.array_equal(a.means, b.means):
        raise ValueError(
            f"`a` has {len(a)} images and `b` {len(b)}, or other ratings; score the same images with both."
        )
    names = [name for name in a.metrics if name in b.metrics]
    values = {name: np.empty(n_resamples) for name in names}
    for number, rows in enumerate(resamples(len(a), n_resamples, CONFIDENCE, seed)):
        for name in names:
            values[name][number] = a.resampled(name, rows) - b.resampled(name, rows)
        if bar is not None:
            bar.update()
    figures = {}
    for name in names:
        low, high = percentile_interval(values[name], CONFIDENCE)
        figures[name] = {"a": a.metrics[name], "b": b.metrics[name], "difference": a.metrics[name] - b.metrics[name]}
        figures[name] |= {"low": low, "high": high, "p_value": two_sided_p(values[name])}
    return figures


def _average_ranks(places: np.ndarray, n_places: int) -> np.ndarray:
    """Ranks of values that are given by their place among sorted distinct values: ties get their average rank."""
    counts = np.bincount(places, minlength=n_places)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
