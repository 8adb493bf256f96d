"""A self-contained HTML report of compared runs, and one picture of it for a README."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .comparison import LOWER_IS_BETTER, METRICS, Row, Summary, format_figure, paired_lines, summarise
from .metrics import srcc
from .plotting import BLUE, INK, MANY_POINTS, ORANGE, open_figure, save_png, to_svg, write_page

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

_EXAMPLES = 6
_THUMBNAIL = 320
Scatter = tuple[Sequence[float], Sequence[float], Sequence[float]]


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    summary: str,
    rows: Sequence[Row],
    names: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    caveats: Sequence[str],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    scatter: Scatter,
    examples: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
) -> None:
    """Write one HTML file that needs nothing else: plots are inline SVG, photographs data URIs.

    Args:
        path: the file; its folder is made.
        title: of the page.
        summary: a sentence or two below it.
        rows: the runs, as in `evaluation.comparison`, with `srcc`, `plcc` and `emd`.
        names: key of a row -> readable label, in the order of the table.
        pairs: (better, worse) keys whose SRCC is compared seed by seed.
        caveats: what a reader must know before believing the figures.
        curves: name of a training run -> the lines of its log.jsonl (`step`, `loss`, some `eval_...`).
        scatter: mean ratings `(images,)`, scores `(images,)`, both on the scale whose lowest and highest value are the
            first and last of the third.
        examples: `{"image": PIL image, "key": str, "predicted": float, "true": float}`; the highest and the lowest
            scored are shown.
        facts: further lines at the end, by name.

    Raises:
        ValueError: rows or pairs that do not fit together, see `evaluation.comparison`.
    """
    summaries = summarise(rows, names)
    true, predicted, scale = scatter
    best, worst = _extremes(examples)
    write_page(
        Path(path),
        "report.html",
        title=title,
        summary=summary,
        metrics=METRICS,
        lower_is_better=LOWER_IS_BETTER,
        table=_table(summaries, names),
        several_seeds=any(len(entry.seeds) > 1 for entry in summaries),
        bars=_bars_svg(summaries, names),
        pairs=[line.replace("+-", "\u00b1") for line in paired_lines(rows, pairs, names)],
        caveats=caveats,
        curves=[(name, _curve_svg(lines)) for name, lines in curves.items() if lines],
        scatter=_scatter_svg(true, predicted, scale),
        scatter_srcc=_number(srcc(predicted, true)),
        points=len(true),
        scale=f"{scale[0]:g} to {scale[-1]:g}",
        strips=[("Scored highest", _cells(best)), ("Scored lowest", _cells(worst))],
        facts={**facts, **_software()},
    )


def save_overview_png(
    path: str | os.PathLike,
    rows: Sequence[Row],
    names: Mapping[str, str],
    scatter: Scatter,
    examples: Sequence[Mapping[str, Any]],
) -> None:
    """Draw one picture of 1200 x 600 pixels: SRCC by row, scores against ratings, best and worst images.

    Arguments and errors as in `write_report`.
    """
    summaries = summarise(rows, names, ("srcc",))
    true, predicted, scale = scatter
    strips = zip(("Scored highest", "Scored lowest"), _extremes(examples), (0.94, 0.47))
    with open_figure(12, 6, ink="#222222") as figure:
        left, middle, right = figure.subfigures(1, 3, width_ratios=[4.5, 3.1, 4.4])
        axes = left.add_axes((0.42, 0.11, 0.54, 0.76))
        _draw_bars(axes, summaries, names, ink="#222222")
        _heading(left, 0.05, "Rank correlation with the raters")
        axes = middle.add_axes((0.18, 0.11, 0.74, 0.76))
        draw_scatter(axes, true, predicted, scale)
        axes.set_aspect("auto")
        _heading(middle, 0.05, f"{len(true)} images, SRCC {_number(srcc(predicted, true))}")
        for heading, cells, top in strips:
            _draw_strip(right, heading, cells[:3], top)
        save_png(figure, Path(path))


def _bars_svg(summaries: Sequence[Summary], names: Mapping[str, str]) -> Markup:
    groups = len({entry.name for entry in summaries})
    with open_figure(5.4, 0.6 + 0.16 * groups + 0.22 * len(summaries)) as figure:
        _draw_bars(figure.add_subplot(), summaries, names, ink=INK)
        return to_svg(figure)


def _draw_bars(axes: Axes, summaries: Sequence[Summary], names: Mapping[str, str], ink: str) -> None:
    """Mean SRCC as bars from zero, one standard deviation to each side; a shade for each number of labels."""
    label_counts = sorted({entry.labels for entry in summaries})
    groups = [name for name in names if any(entry.name == name for entry in summaries)]
    height = 0.72 / max(len(label_counts), 1)
    for number, labels in enumerate(label_counts):
        entries = [entry for entry in summaries if entry.labels == labels]
        places = [groups.index(entry.name) + height * (number - (len(label_counts) - 1) / 2) for entry in entries]
        means = np.nan_to_num([entry.mean("srcc") for entry in entries])
        shade = 1 - 0.6 * (len(label_counts) - 1 - number) / max(len(label_counts) - 1, 1)
        axes.barh(places, means, height=0.9 * height, color=BLUE, alpha=shade, linewidth=0, label=f"{labels} labels")
        for place, mean, entry in zip(places, means, entries):
            std = entry.std("srcc") or 0.0
            if std > 0:  # neither a single seed nor NaN
                axes.errorbar(mean, place, xerr=std, color=ink, linewidth=1.2, capsize=3)
            end = max(mean, 0) + (std if std > 0 else 0)
            axes.annotate(_number(entry.mean("srcc")), (end, place), (6, 0), textcoords="offset points", va="center")
    if len(label_counts) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(len(label_counts), 3), frameon=False)
    axes.set_yticks(range(len(groups)), [textwrap.fill(names[name], 23) for name in groups])
    axes.tick_params(left=False)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=min(0, *axes.dataLim.intervalx))
    axes.set_xlabel("SRCC")


def _scatter_svg(true: Sequence[float], predicted: Sequence[float], scale: Sequence[float]) -> Markup:
    with open_figure(4.6, 4.6) as figure:
        draw_scatter(figure.add_subplot(), true, predicted, scale)
        return to_svg(figure)


def draw_scatter(axes: Axes, true: Sequence[float], predicted: Sequence[float], scale: Sequence[float]) -> None:
    """Predictions against ratings on one scale, with the line of exact ones."""
    both = np.concatenate([true, predicted])
    margin = 0.06 * max(np.ptp(both), 1e-6)
    low, high = max(both.min() - margin, scale[0]), min(both.max() + margin, scale[-1])
    axes.plot([low, high], [low, high], "--", color="#888888", linewidth=1)
    # Thousands of vector points make a page slow; a picture of them is small.
    axes.scatter(true, predicted, s=11, color=BLUE, alpha=0.45, linewidths=0, rasterized=len(true) > MANY_POINTS)
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="mean rating", ylabel="predicted score")
    axes.set_aspect("equal")
    axes.locator_params(nbins=6)


def _curve_svg(lines: Sequence[Mapping[str, Any]]) -> Markup:
    """The training loss by step, and below it one figure of the evaluations, where there were any."""
    losses = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
    metric = _evaluated(lines)
    evaluations = [(line["step"], line[metric]) for line in lines if metric and line.get(metric) is not None]
    panels = [("training loss", losses, BLUE)] if losses else []
    if evaluations:
        panels.append((f"held out: {metric.removeprefix('eval_')}", evaluations, ORANGE))
    with open_figure(4.6, 0.5 + 1.6 * max(len(panels), 1)) as figure:
        for number, (name, points, colour) in enumerate(panels, start=1):
            axes = figure.add_subplot(len(panels), 1, number)
            marker = "o" if len(points) < 15 else None
            axes.plot(*np.array(points, dtype=float).T, color=colour, linewidth=1.6, marker=marker, markersize=3.5)
            axes.set_ylabel(name)
            axes.locator_params(nbins=5)
            axes.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.6)
            axes.set_xlim(0, max(line["step"] for line in lines))
        figure.axes[-1].set_xlabel("step")
        figure.align_ylabels()
        return to_svg(figure)


def _evaluated(lines: Sequence[Mapping[str, Any]]) -> str | None:
    keys = [key for line in lines for key in line if key.startswith("eval_")]
    return "eval_srcc" if "eval_srcc" in keys else next(iter(keys), None)


def _heading(figure: Any, x: float, text: str, y: float = 0.94) -> None:
    figure.text(x, y, text, fontsize=12, fontweight="bold", va="center")


def _draw_strip(figure: Any, heading: str, examples: Sequence[Mapping[str, Any]], top: float) -> None:
    """A heading and, below it, images side by side, in a figure of 4.4 inches by 6."""
    _heading(figure, 0.03, heading, y=top)
    for place, example in enumerate(examples):
        axes = figure.add_axes((0.03 + 0.325 * place, top - 0.297, 0.31, 0.227))
        axes.imshow(_square(example["image"]), interpolation="lanczos")
        axes.set_axis_off()
        text = f"score {example['predicted']:.2f}\nraters {example['true']:.2f}"
        axes.annotate(text, (0.5, 0), (0, -4), "axes fraction", "offset points", ha="center", va="top")


def _square(image: Image.Image) -> Image.Image:
    """The middle of the image."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.convert("RGB").crop((left, top, left + side, top + side))


def _table(summaries: Sequence[Summary], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Cells of the HTML table; the best mean at a number of labels is marked."""
    table = []
    for entry in summaries:
        rivals = [other for other in summaries if other.labels == entry.labels]
        cells = []
        for metric in METRICS:
            means = [other.mean(metric) for other in rivals if math.isfinite(other.mean(metric))]
            best = (min if metric in LOWER_IS_BETTER else max)(means, default=math.nan)
            figure = format_figure(entry.mean(metric), entry.std(metric)).replace("+-", "\u00b1")
            cells.append({"figure": figure, "best": len(rivals) > 1 and entry.mean(metric) == best})
        table.append({"labels": entry.labels, "name": names[entry.name], "cells": cells, "seeds": len(entry.seeds)})
    return table


def _extremes(examples: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The highest and the lowest scored, each from its end; no image is in both."""
    ranked = sorted(examples, key=lambda example: -example["predicted"])
    n = min(_EXAMPLES, len(ranked) // 2)
    return ranked[:n], ranked[::-1][:n]


def _cells(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "uri": data_uri(example["image"]),
            "key": example["key"],
            "predicted": _number(example["predicted"], 2),
            "true": _number(example["true"], 2),
        }
        for example in examples
    ]


def data_uri(image: Image.Image) -> str:
    """A thumbnail: PNG for tiny pictures, which JPEG would blur, else JPEG."""
    image = image.convert("RGB")
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    kind = "PNG" if max(image.size) <= 128 else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _software() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"
