"""How far the ratings are from what a model predicts, over the range of its predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

_BINS = 10
_FEWEST = 5  # images a bin


def calibration_curve(scores: np.ndarray, means: np.ndarray, bins: int = _BINS) -> dict[str, Any]:
    """Mean rating against mean prediction in bins of equally many images, by rising prediction.

    Args:
        scores: (images,) predicted means.
        means: (images,) mean ratings, on the same scale.
        bins: number of bins; fewer where a bin would hold less than five images. Images of one prediction share a bin.

    Returns:
        `bins`: of each `images`, `predicted` and `rated` (means over its images), and `standard_error` of `rated`
        (standard deviation over the root of the number of images; null for one image). `expected_calibration_error`:
        sum over the bins of (images in it / all images) x |predicted - rated|, on the scale of the scores; the
        definition of Guo et al. (arXiv 1706.04599, equation 3) with means of scores in the place of confidence and
        accuracy. `bias`: mean prediction minus mean rating. `spread`: standard deviation of the predictions over that
        of the ratings; below 1, the model keeps to the middle. Null where the ratings are constant.
    """
    scores, means = np.asarray(scores, dtype=np.float64), np.asarray(means, dtype=np.float64)
    edges = np.quantile(scores, np.linspace(0, 1, max(min(bins, len(scores) // _FEWEST), 1) + 1))
    numbers = np.searchsorted(np.unique(edges[1:-1]), scores, side="left")
    curve, error = [], 0.0
    for number in np.unique(numbers):
        members = numbers == number
        n, predicted, rated = int(members.sum()), scores[members].mean(), means[members].mean()
        spread = float(means[members].std(ddof=1) / np.sqrt(n)) if n > 1 else None
        curve.append({"images": n, "predicted": predicted, "rated": rated, "standard_error": spread})
        error += n / len(scores) * abs(predicted - rated)
    spread = float(scores.std() / means.std()) if means.std() > 0 else None
    bias = float(scores.mean() - means.mean())
    return {"bins": curve, "expected_calibration_error": float(error), "bias": bias, "spread": spread}
