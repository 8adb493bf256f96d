"""The metrics of image aesthetics assessment as one module for `evaluate`."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from cskd_hf.evaluation.metrics import iaa_metrics

_DESCRIPTION = """
Agreement of predicted image-aesthetics scores with human ratings: rank and linear correlation (srcc, plcc, krcc),
errors on the scale of the ratings (mae, rmse), the share of images on the right side of a threshold (accuracy), and
the earth mover's distance between distributions of votes (emd1, emd2).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: Predicted scores, one number an image; in the configuration "distributions", shares of the votes in
        each bin, one list an image.
    references: Mean ratings; in the configuration "distributions", the given shares.
    threshold: Cut of the accuracy, on the scale of the scores; without it there is no accuracy.
    score_values: Configuration "distributions" only: the rating of each bin, e.g. [1, 2, 3, 4, 5].

Returns:
    srcc, plcc, krcc: -1 to 1; NaN if either side is constant.
    mae, rmse: 0 or more, on the scale of the scores.
    accuracy: 0 to 1.
    emd1, emd2: 0 (equal) to 1; configuration "distributions" only.

Examples:
    >>> import evaluate
    >>> from cskd_hf.evaluation.metrics import iaa_module_path
    >>> iaa = evaluate.load(iaa_module_path())
    >>> iaa.compute(predictions=[1.0, 2.0, 4.0], references=[1.5, 2.5, 3.0], threshold=2.2)["accuracy"]
    0.6666666666666666
"""

_CITATION = """
@article{talebi2018nima,
  title = {{NIMA}: Neural Image Assessment},
  author = {Talebi, Hossein and Milanfar, Peyman},
  journal = {IEEE Transactions on Image Processing},
  year = {2018},
  note = {arXiv:1709.05424}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class IAA(evaluate.Metric):
    """Thin wrapper of `cskd_hf.evaluation.metrics.iaa_metrics`; configurations "scores" (default), "distributions"."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "scores", "distributions"):
            raise ValueError(f"The configuration is {self.config_name!r}; allowed: 'scores' or 'distributions'.")
        number = datasets.Value("float64")
        value = datasets.Sequence(number) if self.config_name == "distributions" else number
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": value, "references": value}),
            reference_urls=["https://arxiv.org/abs/1709.05424", "https://arxiv.org/abs/2307.15640"],
        )

    def _compute(self, predictions, references, threshold=None, score_values=None) -> dict[str, float]:
        if self.config_name != "distributions":
            return iaa_metrics(predictions, references, threshold=threshold)
        if score_values is None:
            raise ValueError("The configuration 'distributions' needs `score_values`, the rating of each bin.")
        for name, lists in (("predictions", predictions), ("references", references)):
            if wrong := [i for i, row in enumerate(lists) if len(row) != len(score_values)]:
                raise ValueError(
                    f"`{name}` has {len(lists[wrong[0]])} bins at index {wrong[0]}; allowed: {len(score_values)}, as "
                    "`score_values` has."
                )
        pred, true, values = (np.asarray(a, dtype=np.float64) for a in (predictions, references, score_values))
        return iaa_metrics(pred @ values, true @ values, pred, true, threshold)
