"""The held-out estimate: what each candidate says of images that it was neither trained on nor chosen by."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from ..evaluation.metrics import mae, paired_bootstrap, srcc
from ..evaluation.resampling import Figures, RatedSample, with_intervals
from .fits import Fitter, Prediction
from .folds import Fold, Plan

MEAN, BASE, PROBE, FINETUNED, SEMI = "mean", "base", "probe", "finetuned", "semi"
NAMES = {
    SEMI: "fine-tuned, with the unrated images",
    FINETUNED: "fine-tuned on the ratings",
    PROBE: "linear probe",
    BASE: "the model as it was",
    MEAN: "the mean of the ratings",
}
"""The candidates, in the order of the tables."""

_METRICS = ("srcc", "plcc", "accuracy", "emd1", "mae", "rmse")


@dataclass
class HeldOut:
    """Predictions of all candidates for all held-out rows.

    Attributes:
        rows: row numbers, rising; fold of each in `folds`.
        scores: (rows,) by candidate; NaN where it has none.
        distributions: (rows, bins) by candidate, of those that predict any.
        facts: by candidate, what was chosen in each fold.
    """

    rows: np.ndarray
    folds: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    distributions: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def put(self, name: str, found: Prediction, **facts: Any) -> None:
        """Note what a candidate says of some rows."""
        at = np.searchsorted(self.rows, found.rows)
        self.scores.setdefault(name, np.full(len(self.rows), np.nan))[at] = found.scores
        if found.distributions is not None:
            empty = np.full((len(self.rows), found.distributions.shape[1]), np.nan)
            self.distributions.setdefault(name, empty)[at] = found.distributions
        if facts:
            self.facts.setdefault(name, []).append(facts)


def predict_held_out(fitter: Fitter, plan: Plan, *, quiet: bool) -> HeldOut:
    """Fit every candidate on the training rows of each fold, and note what it says of the rest.

    Args:
        fitter: of the ratings.
        plan: folds or a hold-out.
        quiet: no progress bar.
    """
    rows = plan.held_out
    fold_of = np.concatenate([np.full(len(fold.held_out), number) for number, fold in enumerate(plan.folds)])
    held = HeldOut(rows, fold_of[np.argsort(np.concatenate([fold.held_out for fold in plan.folds]))])
    if fitter.encoded.base_scores is not None:
        held.put(BASE, Prediction(rows, fitter.encoded.base_scores[rows], None))
    with tqdm(total=len(plan.folds), desc="held-out estimate", unit="fold", disable=quiet) as bar:
        for fold in plan.folds:
            for name, found, facts in _candidates(fitter, fold):
                held.put(name, found, **facts)
            bar.update()
    return held


def _candidates(fitter: Fitter, fold: Fold) -> Iterator[tuple[str, Prediction, dict[str, Any]]]:
    train, out = fold.train, fold.held_out
    mean = float(fitter.encoded.means[train].mean())
    yield MEAN, Prediction(out, np.full(len(out), mean), None), {}
    head, probe_facts = fitter.fit_probe(train)
    yield (FINETUNED if fitter.mode == "probe" else PROBE), fitter.predict_probe(head, out), probe_facts
    semi = bool(fitter.settings.unlabeled)
    if fitter.mode == "probe" and not semi:
        return
    teacher = fitter.work / "fold"
    if fitter.mode == "probe":
        fitter.save_probe(head, train, teacher)
    else:
        facts = fitter.fit(train, teacher)
        yield FINETUNED, fitter.predict(teacher, out), facts
    if semi:
        student = fitter.work / "fold-semi"
        facts = fitter.learn_from_unrated(train, out, teacher, probe_facts["penalty"], student)
        yield SEMI, fitter.predict(student, out), facts
        shutil.rmtree(student)
    shutil.rmtree(teacher)


@dataclass
class Estimate:
    """Figures of the candidates on the held-out images.

    Attributes:
        figures: by candidate, `value`, `low` and `high` of each metric (95 % bootstrap over the images).
        differences: of the fine-tuned model to the others, by candidate and metric, paired: `difference` (fine-tuned
            minus the other), `low`, `high`, `p_value`.
        semi: of the semi-supervised model to the fine-tuned one; empty where there is none.
    """

    figures: dict[str, Figures]
    differences: dict[str, Figures]
    semi: Figures


def measure(held: HeldOut, fitter: Fitter, seed: int) -> Estimate:
    """Metrics, intervals and paired differences of all candidates.

    Raises:
        ValueError: fewer than two held-out images.
    """
    means = fitter.encoded.means.numpy()[held.rows]
    values = fitter.encoded.score_values
    shares = fitter.encoded.distributions
    rated = None if shares is None else shares.double().numpy()[held.rows]
    samples = {}
    for name in NAMES:
        if name in held.scores:
            predicted = held.distributions.get(name) if rated is not None else None
            given = rated if predicted is not None else None
            samples[name] = RatedSample(held.scores[name], means, predicted, given, (values[0] + values[-1]) / 2)
    figures = {name: with_intervals(sample, seed=seed, names=_metrics_of(name)) for name, sample in samples.items()}
    others = [name for name in (PROBE, BASE, MEAN) if name in samples]
    differences = {other: _difference(held, FINETUNED, other, means, seed) for other in others}
    semi = _difference(held, SEMI, FINETUNED, means, seed) if SEMI in samples else {}
    return Estimate(figures, differences, semi)


def _difference(held: HeldOut, first: str, second: str, means: np.ndarray, seed: int) -> Figures:
    """`first` minus `second`; of the mean of the ratings, which has no order, only the error."""
    metrics = {"mae": mae} if second == MEAN else {"srcc": srcc, "mae": mae}
    return paired_bootstrap(held.scores[first], held.scores[second], means, metrics, seed=seed)


def _metrics_of(name: str) -> tuple[str, ...]:
    # The mean of the ratings has no order; the little that differs between folds is none either.
    return ("mae", "rmse") if name == MEAN else _METRICS


def verdict(semi: Figures) -> tuple[str, str]:
    """Whether the unrated images helped: "yes", "no" or "unclear", and a sentence that says so.

    By SRCC, whose 95 % interval of the paired difference must leave out 0.
    """
    figure = semi["srcc"]
    difference, low, high = (figure[key] for key in ("difference", "low", "high"))
    text = f"SRCC {difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}), on the same held-out images"
    if low > 0:
        return "yes", f"The unrated images helped: {text}."
    if high < 0:
        return "no", f"The unrated images did harm: {text}."
    return "unclear", f"The unrated images did not improve the model measurably: {text}; the interval holds 0."
