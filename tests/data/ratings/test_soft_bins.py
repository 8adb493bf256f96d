from __future__ import annotations

import numpy as np
import pytest

from cskd_hf.data.ratings.soft_bins import soft_histograms


@pytest.mark.parametrize("values", [range(1, 11), [1, 1.5, 2, 2.5, 4], [0, 100]])
@pytest.mark.parametrize("width", [0.05, 0.5, 2.0, 20.0])
def test_the_mean_is_kept(values, width):
    values = np.array(list(values), float)
    means = np.linspace(values[0], values[-1], 41)
    histograms = soft_histograms(means, values, width * (values[-1] - values[0]) / 9)
    assert np.isfinite(histograms).all() and (histograms >= 0).all()
    assert histograms.sum(axis=1) == pytest.approx(1)
    assert histograms @ values == pytest.approx(means, abs=1e-9 * (values[-1] - values[0]))


def test_the_width_is_that_of_the_normal_distribution():
    values = np.arange(1.0, 11.0)
    (histogram,) = soft_histograms([5.5], values, 1.2)
    assert np.sqrt(histogram @ (values - 5.5) ** 2) == pytest.approx(1.2, abs=1e-3)
    assert histogram == pytest.approx(histogram[::-1])
    density = np.exp(-((values - 5.5) ** 2) / (2 * 1.2**2))
    assert histogram == pytest.approx(density / density.sum())


def test_bins_of_unlike_width_hold_the_mass_of_their_cells():
    fine, coarse = np.linspace(0, 10, 101), np.array([*np.linspace(0, 4, 41), *range(5, 11)])
    shares = [soft_histograms([5.0], values, 2.0)[0] for values in (fine, coarse)]
    assert shares[0][fine < 3].sum() == pytest.approx(shares[1][coarse < 3].sum(), abs=0.02)


def test_at_an_end_of_the_scale_all_mass_is_there():
    assert soft_histograms([1, 5], range(1, 6), 0.8) == pytest.approx(np.eye(5)[[0, 4]], abs=1e-9)
