"""Metrics of image aesthetics assessment, and intervals for them, in numpy and scipy.

Scores are on any one scale, and both arguments of a function are on the same; distributions are shares of the votes in
each bin. `SRCC` and `PLCC` follow the usual names of the field (Spearman, Pearson), not a fitted logistic curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

METRIC_NAMES = ("srcc", "plcc", "krcc", "accuracy", "emd1", "emd2", "mae", "rmse")
MetricFn = Callable[[np.ndarray, np.ndarray], float]

_SUM_TOLERANCE = 1e-3


def srcc(pred: Sequence[float], true: Sequence[float]) -> float:
    """Spearman's rank correlation, ties given their average rank.

    Args:
        pred (`Sequence[float]`): (images,) predicted scores.
        true (`Sequence[float]`): (images,) mean ratings.

    Returns:
        `float`: -1 to 1; NaN if one side is constant, for then it has no order to agree with.

    Raises:
        ValueError: Unequal lengths, fewer than 2 images, or a value that is not finite.
    """
    pred, true = _check_pair(pred, true)
    return _pearson(stats.rankdata(pred), stats.rankdata(true))


def plcc(pred: Sequence[float], true: Sequence[float]) -> float:
    """Pearson's linear correlation. Arguments, returns and errors as in `srcc`."""
    return _pearson(*_check_pair(pred, true))


def krcc(pred: Sequence[float], true: Sequence[float]) -> float:
    """Kendall's rank correlation, tau-b (ties accounted for). Arguments, returns and errors as in `srcc`."""
    pred, true = _check_pair(pred, true)
    if _is_constant(pred) or _is_constant(true):
        return math.nan
    return float(stats.kendalltau(pred, true).statistic)


def binary_accuracy(pred: Sequence[float], true: Sequence[float], threshold: float) -> float:
    """Share of the images that are put on the right side of `threshold`.

    Args:
        pred (`Sequence[float]`): (images,) predicted scores.
        true (`Sequence[float]`): (images,) mean ratings.
        threshold (`float`): Cut on the scale of the scores; above it is "high", at or below it "low". AVA's custom is
            5 on the scale 1 to 10.

    Returns:
        `float`: 0 to 1.
    """
    pred, true = _check_pair(pred, true)
    if not math.isfinite(threshold):
        raise ValueError(f"`threshold` is {threshold!r}; allowed: a finite score.")
    return float(np.mean((pred > threshold) == (true > threshold)))


def emd(pred_dist: Sequence[Sequence[float]], true_dist: Sequence[Sequence[float]], r: int = 2) -> float:
    """Earth mover's distance between predicted and given distributions of votes, averaged over the images.

    NIMA (arXiv 1709.05424), equation 1: (1/N sum_k |CDF_pred(k) - CDF_true(k)|^r)^(1/r) with N bins. Bins count as
    one step apart, whatever ratings they stand for.

    Args:
        pred_dist (`Sequence`): (images, bins) shares, each row summing to 1.
        true_dist (`Sequence`): (images, bins) shares, each row summing to 1.
        r (`int`, defaults to 2): 1 or 2; NIMA trains with 2 and compares histograms with 1.

    Returns:
        `float`: 0 (equal) to 1.

    Raises:
        ValueError: Unequal shapes, fewer than 2 images, or rows that are no distributions.
    """
    if r not in (1, 2):
        raise ValueError(f"`r` is {r!r}; allowed: 1 or 2.")
    pred = _check_distributions("pred_dist", pred_dist)
    true = _check_distributions("true_dist", true_dist)
    if pred.shape != true.shape:
        raise ValueError(f"`pred_dist` has shape {pred.shape} and `true_dist` {true.shape}; make them equal.")
    gap = np.abs(np.cumsum(pred, axis=1) - np.cumsum(true, axis=1))  # (images, bins)
    return float(np.mean(np.mean(gap**r, axis=1) ** (1 / r)))


def mae(pred: Sequence[float], true: Sequence[float]) -> float:
    """Mean absolute error, on the scale of the scores. Arguments and errors as in `srcc`."""
    pred, true = _check_pair(pred, true)
    return float(np.mean(np.abs(pred - true)))


def rmse(pred: Sequence[float], true: Sequence[float]) -> float:
    """Root of the mean squared error, on the scale of the scores. Arguments and errors as in `srcc`."""
    pred, true = _check_pair(pred, true)
    return float(np.sqrt(np.mean((pred - true) ** 2)))


SCORE_METRICS: dict[str, MetricFn] = {"srcc": srcc, "plcc": plcc, "krcc": krcc, "mae": mae, "rmse": rmse}
"""The metrics of scores alone that need no further setting."""


def iaa_metrics(
    pred_scores: Sequence[float],
    true_scores: Sequence[float],
    pred_dist: Sequence[Sequence[float]] | None = None,
    true_dist: Sequence[Sequence[float]] | None = None,
    threshold: float | None = None,
) -> dict[str, float]:
    """All metrics that the given data allow.

    Args:
        pred_scores (`Sequence[float]`): (images,) predicted scores.
        true_scores (`Sequence[float]`): (images,) mean ratings.
        pred_dist (`Sequence`, *optional*): (images, bins) predicted shares; only together with `true_dist`.
        true_dist (`Sequence`, *optional*): (images, bins) given shares.
        threshold (`float`, *optional*): Cut of the binary accuracy, on the scale of the scores.

    Returns:
        `dict[str, float]`: `srcc`, `plcc`, `krcc`, `mae`, `rmse`; `accuracy` with a threshold; `emd1` and `emd2` with
        distributions.
    """
    pred_scores, true_scores = _check_pair(pred_scores, true_scores, ("pred_scores", "true_scores"))
    result = {name: function(pred_scores, true_scores) for name, function in SCORE_METRICS.items()}
    if threshold is not None:
        result["accuracy"] = binary_accuracy(pred_scores, true_scores, threshold)
    if (pred_dist is None) != (true_dist is None):
        raise ValueError("Only one of `pred_dist` and `true_dist` is given; give both, or neither.")
    if pred_dist is not None and true_dist is not None:
        if len(pred_dist) != len(pred_scores):
            raise ValueError(f"`pred_dist` has {len(pred_dist)} images and `pred_scores` {len(pred_scores)}.")
        result |= {f"emd{r}": emd(pred_dist, true_dist, r=r) for r in (1, 2)}
    return result


def bootstrap_intervals(
    pred: Sequence[float],
    true: Sequence[float],
    metrics: Mapping[str, MetricFn] | None = None,
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals over the images (Efron & Tibshirani 1993, chapter 13).

    Args:
        pred (`Sequence`): (images,) predicted scores, or (images, bins) shares for a metric of distributions.
        true (`Sequence`): What `pred` is compared with, of the same shape.
        metrics (`Mapping[str, Callable]`, *optional*): Functions of (pred, true) by name, such as
            `{"accuracy": partial(binary_accuracy, threshold=5)}` or `{"emd1": partial(emd, r=1)}`; default
            `SCORE_METRICS`.
        n_resamples (`int`, defaults to 1000): Number of resamples of the images, with replacement.
        confidence (`float`, defaults to 0.95): Share of the resampled values inside the interval.
        seed (`int`, defaults to 0): Seed of the resamples; the same for all metrics.

    Returns:
        `dict[str, tuple[float, float]]`: Lower and upper end by metric; resamples with an undefined (NaN) value are
        left out, and both ends are NaN if none is left.
    """
    metrics = SCORE_METRICS if metrics is None else metrics
    pred, true = np.asarray(pred, dtype=np.float64), np.asarray(true, dtype=np.float64)
    _check_lengths("pred", pred, "true", true)
    values = {name: np.empty(n_resamples) for name in metrics}
    for index, rows in enumerate(resamples(len(pred), n_resamples, confidence, seed)):
        for name, function in metrics.items():
            values[name][index] = function(pred[rows], true[rows])
    return {name: percentile_interval(samples, confidence) for name, samples in values.items()}


def paired_bootstrap(
    pred_a: Sequence[float],
    pred_b: Sequence[float],
    true: Sequence[float],
    metrics: Mapping[str, MetricFn] | None = None,
    *,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Compare two models on the same images: each resample scores both, so what makes images hard cancels out.

    Args:
        pred_a (`Sequence`): (images,) scores of model A.
        pred_b (`Sequence`): (images,) scores of model B.
        true (`Sequence`): (images,) mean ratings.
        metrics, n_resamples, confidence, seed: As in `bootstrap_intervals`.

    Returns:
        `dict[str, dict[str, float]]`: By metric, `difference` (A minus B on all images), `low` and `high` (its
        interval), and `p_value`, two-sided: twice the smaller share of resamples on one side of no difference, at
        least 1 / (n_resamples + 1).
    """
    metrics = SCORE_METRICS if metrics is None else metrics
    a, b, true = (np.asarray(values, dtype=np.float64) for values in (pred_a, pred_b, true))
    _check_lengths("pred_a", a, "true", true)
    _check_lengths("pred_b", b, "true", true)
    values = {name: np.empty(n_resamples) for name in metrics}
    for index, rows in enumerate(resamples(len(true), n_resamples, confidence, seed)):
        for name, function in metrics.items():
            values[name][index] = function(a[rows], true[rows]) - function(b[rows], true[rows])
    result = {}
    for name, function in metrics.items():
        low, high = percentile_interval(values[name], confidence)
        difference = function(a, true) - function(b, true)
        result[name] = {"difference": difference, "low": low, "high": high, "p_value": two_sided_p(values[name])}
    return result


def iaa_module_path() -> str:
    """Folder to give to `evaluate.load` for all of these metrics in one module; needs no network."""
    return str(Path(__file__).parent / "iaa")


def _check_pair(
    pred: Sequence[float], true: Sequence[float], names: tuple[str, str] = ("pred", "true")
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as (images,) float64, after the checks that all metrics of scores share."""
    arrays = []
    for name, values in zip(names, (pred, true)):
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1:
            raise ValueError(f"`{name}` has shape {array.shape}; allowed: (images,), one number an image.")
        _check_finite(name, array)
        arrays.append(array)
    _check_lengths(names[0], arrays[0], names[1], arrays[1])
    return arrays[0], arrays[1]


def _check_lengths(name_a: str, a: np.ndarray, name_b: str, b: np.ndarray) -> None:
    if a.ndim == 0 or b.ndim == 0 or len(a) != len(b):
        raise ValueError(
            f"`{name_a}` has shape {a.shape} and `{name_b}` {b.shape}; give one value an image to both, in one order."
        )
    if len(a) < 2:
        raise ValueError(f"`{name_a}` has {len(a)} image(s); allowed: at least 2.")


def _check_finite(name: str, array: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = ", ".join(str(i) for i in bad[0])
        raise ValueError(
            f"`{name}` is {array[tuple(bad[0])]} at index {place} ({len(bad)} such); allowed: finite numbers. "
            "Drop the images that could not be scored from both sides."
        )


def _check_distributions(name: str, values: Sequence[Sequence[float]]) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` is no (images, bins) table of numbers ({error}).") from error
    if array.ndim != 2:
        raise ValueError(f"`{name}` has shape {array.shape}; allowed: (images, bins).")
    if len(array) < 2:
        raise ValueError(f"`{name}` has {len(array)} image(s); allowed: at least 2.")
    _check_finite(name, array)
    bad = np.flatnonzero((array < 0).any(axis=1) | (np.abs(array.sum(axis=1) - 1) > _SUM_TOLERANCE))
    if len(bad):
        raise ValueError(
            f"`{name}` at index {bad[0]} is {array[bad[0]].tolist()} ({len(bad)} such); allowed: shares from 0 that "
            "sum to 1. Divide vote counts by their sum."
        )
    return array


def _is_constant(array: np.ndarray) -> bool:
    return bool((array == array[0]).all())


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    if _is_constant(a) or _is_constant(b):
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # the product of two tiny norms would underflow
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1, 1))


def resamples(n: int, n_resamples: int, confidence: float, seed: int) -> Iterator[np.ndarray]:
    """(images,) row numbers of each bootstrap resample, drawn with replacement.

    Raises:
        ValueError: no resample, or a confidence outside 0 to 1.
    """
    if n_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"`n_resamples` is {n_resamples} and `confidence` {confidence}; allowed: at least 1, and between 0 and 1."
        )
    rng = np.random.default_rng(seed)
    return (rng.integers(0, n, n) for _ in range(n_resamples))


def percentile_interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Ends of the middle `confidence` of the resampled values, NaN left out; both NaN if none is left."""
    samples = samples[~np.isnan(samples)]
    if not len(samples):
        return math.nan, math.nan
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def two_sided_p(differences: np.ndarray) -> float:
    """Twice the smaller share of resampled differences on one side of 0, see `paired_bootstrap`; NaN if none is left."""
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return math.nan
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))
