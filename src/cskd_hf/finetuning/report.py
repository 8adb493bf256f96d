"""What a fine-tune tells: results.json, scores.csv, report.html, and the lines on the console."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.comparison import software_versions
from ..evaluation.evaluate import ScoredImages, evaluate_scores, write_evaluation
from ..evaluation.plotting import BLUE, INK, open_figure, to_svg, write_page
from ..files import public_name, replaced_file, write_json
from .estimate import BASE, FINETUNED, MEAN, NAMES, PROBE, SEMI, verdict
from .outcome import Finetuned

if TYPE_CHECKING:
    from markupsafe import Markup

RESULTS, SCORES, REPORT, DETAILS = "results.json", "scores.csv", "report.html", "held_out"
_TABLE = ("srcc", "plcc", "mae", "rmse")
_COLUMNS = {MEAN: "training_mean"}  # `mean` is the rating
_FEW = 50  # below so many held-out images the intervals themselves are rough


def write_report_files(output: Path, result: Finetuned) -> None:
    """Write scores.csv, report.html, the evaluation in held_out/, and last results.json."""
    _write_scores(output / SCORES, result)
    _write_details(output / DETAILS, result)
    write_page(
        output / REPORT,
        "finetune.html",
        title="Fine-tuned on your ratings",
        summary=_headline(result),
        estimate=_how(result),
        metrics=_TABLE,
        lower_is_better=("mae", "rmse"),
        table=[
            {"name": NAMES[name], "shipped": name == result.shipped, "cells": [_cell(figures.get(m)) for m in _TABLE]}
            for name, figures in _ordered(result)
        ],
        findings=findings(result),
        caveats=caveats(result),
        scatter=_scatter(result),
        details=f"{DETAILS}/report.html",
        facts={name: str(value) for name, value in _facts(result).items()},
    )
    write_json(output / RESULTS, results(result))


def results(result: Finetuned) -> dict[str, Any]:
    """What results.json holds."""
    estimate, plan = result.estimate, result.plan
    return {
        "command": "finetune",
        **_facts(result),
        "estimate": {
            "kind": plan.kind,
            "folds": len(plan.folds),
            "held_out_images": len(result.held.rows),
            "candidates": estimate.figures,
            "differences": estimate.differences,
            "unrated_images": {"helped": verdict(estimate.semi)[0], "difference": estimate.semi}
            if estimate.semi
            else None,
        },
        "shipped": {
            "model": "model",
            "candidate": result.shipped,
            "reason": result.reason,
            "images": len(plan.final),
            **result.final,
        },
        "folds": result.held.facts,
        "findings": findings(result),
        "caveats": caveats(result),
        "unreadable": result.encoded.unreadable,
        "seconds": round(result.seconds, 1),
        "versions": software_versions(),
    }


def summary(result: Finetuned) -> str:
    """The lines for the console."""
    rows = [["", *[metric.upper() for metric in _TABLE]]]
    rows += [[NAMES[name], *[_cell(figures.get(metric)) for metric in _TABLE]] for name, figures in _ordered(result)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]
    notes = [f"* {note}" for note in (*findings(result), *caveats(result))]
    output = Path(result.settings.output)
    where = f"model: {output / 'model'}; report: {output / REPORT}; {result.seconds:.0f} s"
    return "\n".join([_headline(result), _how(result), "", *lines, "", *notes, "", where])


def findings(result: Finetuned) -> list[str]:
    """What the figures say, in sentences."""
    notes = []
    names = {PROBE: "a linear probe on the same features", BASE: "the model as it was"}
    for other, metric in ((BASE, "srcc"), (PROBE, "srcc"), (MEAN, "mae")):
        if other not in result.estimate.differences:
            continue
        figure = result.estimate.differences[other].get(metric)
        if figure is None:
            continue
        sign = -1 if metric == "mae" else 1
        ahead, behind = (
            (figure["low"] > 0, figure["high"] < 0) if sign > 0 else (figure["high"] < 0, figure["low"] > 0)
        )
        word = "better than" if ahead else "worse than" if behind else "not measurably different from"
        what = names.get(other, "predicting the mean of the ratings")
        notes.append(
            f"Fine-tuned on the ratings it is {word} {what}: {metric.upper()} {figure['difference']:+.3f} (95 % interval "
            f"{figure['low']:+.3f} to {figure['high']:+.3f})."
        )
    if result.estimate.semi:
        notes.append(verdict(result.estimate.semi)[1])
        notes.append(f"Saved: the model {NAMES[result.shipped]}; {result.reason}.")
    return notes


def caveats(result: Finetuned) -> list[str]:
    """What a reader must know before believing the figures."""
    plan, notes = result.plan, []
    if plan.kind == "cross-validation":
        notes.append(
            f"Each figure is of {len(plan.folds)} models, each trained without the images that it is measured on. The saved "
            f"model is trained on all {len(plan.final)} ratings; it has no images left to be measured on, and is probably "
            "a little better than the estimate."
        )
    elif plan.kind == "hold-out":
        notes.append(
            f"The figures are of a model trained without the {len(plan.held_out)} held-out images. The saved model is "
            f"trained on all {len(plan.final)} ratings, those included: do not measure it on them."
        )
    else:
        notes.append(
            f"The figures are of the saved model itself: the {len(plan.held_out)} images of the test split were not trained "
            "on."
        )
    if result.mode != "probe":
        notes.append(
            "Of the images that a model is trained on, 15 % only choose the step at which its training stops; of the saved "
            "model's as well."
        )
    if len(result.held.rows) < _FEW:
        notes.append(
            f"{len(result.held.rows)} held-out images are few: the intervals are wide, and themselves rough. They tell of "
            "the choice of images, not of how another training set would turn out."
            + (
                " SRCC pooled over folds of so few images tends to be too low."
                if plan.kind == "cross-validation"
                else ""
            )
        )
    if copies := len(result.encoded.ratings) - result.pictures:
        notes.append(f"{copies} of the rated images are copies of others; copies were always held out together.")
    if plan.kind != "test split":
        notes.append(
            f"Images of one {result.settings.group_by} were always held out together."
            if result.settings.group_by
            else "Images of one series, theme or photographer may be in both parts, and are easier to foretell than new "
            "ones; where a column says which belong together, --group-by COLUMN holds them out together."
        )
    if len(plan.left_out):
        notes.append(
            f"{len(plan.left_out)} images are copies of images of the test split and were left out of training."
        )
    if result.encoded.unreadable:
        notes.append(f"{len(result.encoded.unreadable)} rated images could not be read and were left out.")
    if BASE in result.estimate.figures:
        notes.append("Whether the model that was started from had seen these images before is not known here.")
    if result.estimate.semi and result.settings.ship == "auto":
        notes.append(
            "Which of the two models is saved was decided by these held-out images, so the estimate of a semi-supervised "
            "model that is saved is slightly too good."
        )
        dropped = sum(facts["held_out_among_unrated"] for facts in result.held.facts[SEMI])
        if dropped:
            notes.append(
                f"Copies of held-out images among the unrated ones were left out of training ({dropped} over all folds)."
            )
    return notes


def _headline(result: Finetuned) -> str:
    figure = result.estimate.figures[result.shipped]["srcc"]
    return (
        f"Held-out SRCC {_cell(figure)} on {len(result.held.rows)} images; learnt from {len(result.plan.final)} ratings: "
        f"{_MODE_NAMES[result.mode]}, from {public_name(result.settings.model)}."
    )


_MODE_NAMES = {
    "probe": "a head on frozen features",
    "partial": "head and last layers",
    "full": "all layers",
}


def _how(result: Finetuned) -> str:
    plan = result.plan
    how = f"{len(plan.folds)}-fold cross-validation" if plan.kind == "cross-validation" else f"a {plan.kind}"
    return f"Estimate by {how}; in brackets 95 % bootstrap intervals over the images."


def _ordered(result: Finetuned) -> list[tuple[str, Any]]:
    figures = result.estimate.figures
    return [(name, figures[name]) for name in NAMES if name in figures]


def _facts(result: Finetuned) -> dict[str, Any]:
    settings = result.settings
    values = result.encoded.score_values
    facts = {
        "ratings": public_name(settings.ratings),
        "rated_images": len(result.encoded.ratings),
        "different_pictures": result.pictures,
        "scale": f"{values[0]:g} to {values[-1]:g}, {len(values)} bins; {result.scale}",
        "histograms": result.encoded.distributions is not None,
        "base": public_name(settings.model),
        "mode": result.mode,
        "seed": settings.seed,
    }
    if settings.unlabeled:
        facts["unrated"] = [public_name(place) for place in settings.unlabeled]
    return facts


def _cell(figure: dict[str, float] | None) -> str:
    if figure is None or not np.isfinite(figure["value"]):
        return "-"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _write_scores(path: Path, result: Finetuned) -> None:
    """A line for each held-out image: what each candidate said of it without having seen it."""
    held = result.held
    names = [name for name in NAMES if name in held.scores]
    keys = result.encoded.ratings["key"][:]
    means = result.encoded.means.numpy()
    with replaced_file(path) as partial, open(partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:  # fmt: skip
        table = csv.writer(file)
        table.writerow(["key", "fold", "mean", *[_COLUMNS.get(name, name) for name in names]])
        for at, row in enumerate(held.rows):
            scores = [f"{held.scores[name][at]:.6g}" for name in names]
            table.writerow([keys[row], int(held.folds[at]), f"{means[row]:.6g}", *scores])


def _write_details(folder: Path, result: Finetuned) -> None:
    """The whole evaluation of the held-out predictions of the saved candidate."""
    held, values = result.held, tuple(result.encoded.score_values)
    ratings = result.encoded.ratings.select(held.rows)
    scored = {
        name: ScoredImages(ratings, held.scores[name], values, held.distributions.get(name))
        for name in (result.shipped, FINETUNED)
    }
    against = scored[FINETUNED] if result.shipped != FINETUNED else None
    found = evaluate_scores(scored[result.shipped], against=against, quiet=True)
    write_evaluation(folder, found, ratings, title=f"Held-out predictions: {NAMES[result.shipped]}")


def _scatter(result: Finetuned) -> Markup:
    means, scores = result.encoded.means.numpy()[result.held.rows], result.held.scores[result.shipped]
    both = np.concatenate([means, scores])
    margin = 0.06 * max(np.ptp(both), 1e-6)
    ends = (both.min() - margin, both.max() + margin)
    with open_figure(4.2, 4.2) as figure:
        axes = figure.add_subplot()
        axes.plot(ends, ends, "--", color=INK, alpha=0.4, linewidth=1)
        axes.scatter(means, scores, s=11, color=BLUE, alpha=0.5, linewidths=0, rasterized=len(means) > 2000)
        axes.set(xlim=ends, ylim=ends, xlabel="rating", ylabel="held-out prediction")
        axes.set_aspect("equal")
        return to_svg(figure)
