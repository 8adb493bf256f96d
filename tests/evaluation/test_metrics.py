"""Metrics against values worked out by hand and against scipy."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
from scipy import stats

from cskd_hf.evaluation import metrics
from cskd_hf.evaluation.metrics import (
    binary_accuracy,
    bootstrap_intervals,
    emd,
    iaa_metrics,
    krcc,
    mae,
    paired_bootstrap,
    plcc,
    rmse,
    srcc,
)

PRED = [1.0, 2.0, 3.0, 5.0]
TRUE = [2.0, 1.0, 3.0, 4.0]


def sample(n: int = 200, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.normal(5, 1, n)
    return true + rng.normal(0, noise, n), true


def test_by_hand():
    # Ranks 1 2 3 4 and 2 1 3 4: 1 - 6 * (1 + 1) / (4 * 15); five of six pairs agree, one does not.
    assert srcc(PRED, TRUE) == pytest.approx(0.8)
    assert krcc(PRED, TRUE) == pytest.approx(4 / 6)
    # Deviations -1.75 -.75 .25 2.25 and -.5 -1.5 .5 1.5: products sum to 5.5, squares to 8.75 and 5.
    assert plcc(PRED, TRUE) == pytest.approx(5.5 / math.sqrt(8.75 * 5))
    assert mae(PRED, TRUE) == pytest.approx(3 / 4)
    assert rmse(PRED, TRUE) == pytest.approx(math.sqrt(3 / 4))
    assert binary_accuracy(PRED, TRUE, threshold=1.5) == pytest.approx(2 / 4)


def test_at_the_threshold_counts_as_low():
    assert binary_accuracy([2.0, 2.1], [1.0, 3.0], threshold=2.0) == 1
    assert binary_accuracy([1.0, 3.0], [2.0, 2.0], threshold=2.0) == 0.5


def test_emd_by_hand():
    pred = [[1, 0, 0, 0], [0.5, 0.5, 0, 0]]
    true = [[0, 0, 0, 1], [0.5, 0, 0.5, 0]]
    # CDF gaps 1 1 1 0 and 0 .5 0 0.
    assert emd(pred, true, r=1) == pytest.approx((3 / 4 + 0.5 / 4) / 2)
    assert emd(pred, true, r=2) == pytest.approx((math.sqrt(3 / 4) + math.sqrt(0.25 / 4)) / 2)
    assert emd(true, true) == 0


def test_emd_agrees_with_scipy():
    rng = np.random.default_rng(0)
    pred, true = rng.dirichlet(np.ones(10), 20), rng.dirichlet(np.ones(10), 20)
    bins = np.arange(10)
    expected = np.mean([stats.wasserstein_distance(bins, bins, p, t) for p, t in zip(pred, true)]) / 10
    assert emd(pred, true, r=1) == pytest.approx(expected)


@pytest.mark.parametrize("rounded", [False, True])  # rounding makes ties
def test_correlations_agree_with_scipy(rounded):
    pred, true = sample()
    if rounded:
        pred, true = pred.round(), true.round()
    assert srcc(pred, true) == pytest.approx(stats.spearmanr(pred, true).statistic)
    assert plcc(pred, true) == pytest.approx(stats.pearsonr(pred, true).statistic)
    assert krcc(pred, true) == pytest.approx(stats.kendalltau(pred, true).statistic)


def test_correlations_of_extreme_scales():
    assert plcc(np.array(PRED) * 1e-200, TRUE) == pytest.approx(plcc(PRED, TRUE))
    assert srcc([1, 2, 3], [10, 20, 30]) == 1 and plcc([3, 2, 1], [1, 2, 3]) == -1


def test_constant_input_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in (srcc, plcc, krcc):
            assert math.isnan(function([1, 1, 1], [1, 2, 3])) and math.isnan(function([1, 2, 3], [0.1, 0.1, 0.1]))
        result = iaa_metrics([1, 1, 1], [1, 2, 3])
    assert math.isnan(result["srcc"]) and result["mae"] == 1


@pytest.mark.parametrize("function", [srcc, plcc, krcc, mae, rmse, partial(binary_accuracy, threshold=2)])
def test_bad_scores_are_refused(function):
    with pytest.raises(ValueError, match=r"`pred` has shape \(2,\) and `true` \(3,\)"):
        function([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="1 image.*at least 2"):
        function([1], [2])
    with pytest.raises(ValueError, match=r"`true` is nan at index 1 \(1 such\)"):
        function([1, 2, 3], [1, math.nan, 3])
    with pytest.raises(ValueError, match=r"`pred` is inf at index 0 \(2 such\)"):
        function([math.inf, math.inf, 3], [1, 2, 3])
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        function([[1], [2]], [1, 2])


@pytest.mark.parametrize(
    ("pred", "true", "message"),
    [
        ([[1, 0], [1, 0]], [[1, 0, 0], [1, 0, 0]], "make them equal"),
        ([[1, 0]], [[1, 0]], "at least 2"),
        ([1, 0], [1, 0], r"allowed: \(images, bins\)"),
        ([[1, 0], [2, 3]], [[1, 0], [1, 0]], r"`pred_dist` at index 1 is \[2.0, 3.0\].*Divide vote counts"),
        ([[1, 0], [1, 0]], [[1.5, -0.5], [1, 0]], "`true_dist` at index 0"),
        ([[1, 0], [1, math.nan]], [[1, 0], [1, 0]], "`pred_dist` is nan at index 1, 1"),
        ([[1, 0], [1]], [[1, 0], [1, 0]], "no .* table"),
    ],
)
def test_bad_distributions_are_refused(pred, true, message):
    with pytest.raises(ValueError, match=message):
        emd(pred, true)


def test_emd_and_threshold_settings():
    with pytest.raises(ValueError, match="allowed: 1 or 2"):
        emd([[1, 0]] * 2, [[1, 0]] * 2, r=3)
    with pytest.raises(ValueError, match="finite score"):
        binary_accuracy(PRED, TRUE, threshold=math.nan)


def test_iaa_metrics_holds_what_the_data_allow():
    assert set(iaa_metrics(PRED, TRUE)) == {"srcc", "plcc", "krcc", "mae", "rmse"}
    dist = np.eye(4)
    result = iaa_metrics(PRED, TRUE, dist, dist[::-1], threshold=1.5)
    assert tuple(sorted(result)) == tuple(sorted(metrics.METRIC_NAMES))
    assert result["srcc"] == srcc(PRED, TRUE) and result["accuracy"] == 0.5
    assert (result["emd1"], result["emd2"]) == (emd(dist, dist[::-1], r=1), emd(dist, dist[::-1], r=2))
    with pytest.raises(ValueError, match="give both"):
        iaa_metrics(PRED, TRUE, pred_dist=dist)
    with pytest.raises(ValueError, match="`pred_dist` has 3 images and `pred_scores` 4"):
        iaa_metrics(PRED, TRUE, dist[:3], dist[:3])
    with pytest.raises(ValueError, match="`pred_scores` is nan at index 2"):
        iaa_metrics([1, 2, math.nan, 4], TRUE)


def test_bootstrap_interval_is_that_of_the_resamples():
    pred, true = sample(50)
    low, high = bootstrap_intervals(pred, true, {"mae": mae}, n_resamples=300, confidence=0.9, seed=3)["mae"]
    rng = np.random.default_rng(3)
    values = [mae(pred[rows], true[rows]) for rows in (rng.integers(0, 50, 50) for _ in range(300))]
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))


def test_bootstrap_interval_has_the_width_of_theory():
    errors = np.random.default_rng(1).uniform(0, 1, 400)
    low, high = bootstrap_intervals(errors, np.zeros(400), {"mae": mae})["mae"]
    half_width = 1.96 * errors.std() / math.sqrt(400)
    assert low == pytest.approx(errors.mean() - half_width, abs=0.2 * half_width)
    assert high == pytest.approx(errors.mean() + half_width, abs=0.2 * half_width)


def test_bootstrap_is_seeded_and_takes_distributions():
    pred, true = sample(40)
    once = bootstrap_intervals(pred, true, n_resamples=50)
    assert set(once) == {"srcc", "plcc", "krcc", "mae", "rmse"}
    assert once == bootstrap_intervals(pred, true, n_resamples=50)
    assert once != bootstrap_intervals(pred, true, n_resamples=50, seed=1)
    dist = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    low, high = bootstrap_intervals(dist, dist[::-1], {"emd1": partial(emd, r=1)}, n_resamples=50)["emd1"]
    assert low < emd(dist, dist[::-1], r=1) < high


def test_bootstrap_of_undefined_values():
    assert all(math.isnan(v) for v in bootstrap_intervals([1, 1], [1, 2], {"srcc": srcc}, n_resamples=20)["srcc"])
    assert bootstrap_intervals([1, 2], [1, 2], {"srcc": srcc}, n_resamples=50)["srcc"] == (1, 1)


def test_bootstrap_settings():
    for settings in ({"n_resamples": 0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="allowed: at least 1, and between 0 and 1"):
            bootstrap_intervals(PRED, TRUE, **settings)
    with pytest.raises(ValueError, match="`pred`"):
        bootstrap_intervals([1, 2], [1, 2, 3])


def test_paired_bootstrap_sees_what_single_intervals_hide():
    better, true = sample(300, noise=2.0)
    worse = better - 0.25 * true  # the same errors around a weaker signal
    single = [bootstrap_intervals(p, true, {"srcc": srcc}, n_resamples=300)["srcc"] for p in (better, worse)]
    assert single[0][0] < single[1][1]  # they overlap
    result = paired_bootstrap(better, worse, true, {"srcc": srcc}, n_resamples=300)["srcc"]
    assert result["difference"] == pytest.approx(srcc(better, true) - srcc(worse, true))
    assert 0 < result["low"] < result["difference"] < result["high"]
    assert result["p_value"] < 0.05
    reverse = paired_bootstrap(worse, better, true, {"srcc": srcc}, n_resamples=300)["srcc"]
    assert reverse["p_value"] == result["p_value"]
    assert (reverse["low"], reverse["high"]) == pytest.approx((-result["high"], -result["low"]))


def test_paired_bootstrap_of_equal_models():
    pred, true = sample(30)
    result = paired_bootstrap(pred, pred, true, n_resamples=20)
    assert all(r == {"difference": 0, "low": 0, "high": 0, "p_value": 1} for r in result.values())
    with pytest.raises(ValueError, match="`pred_b` has shape"):
        paired_bootstrap(pred, pred[:-1], true)


def test_no_torch_is_imported():
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("metrics", {metrics.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
