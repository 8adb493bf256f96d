"""The plots of an evaluation's report, as SVG that takes the page's colours."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .plotting import BLUE, MANY_POINTS, ORANGE, open_figure, to_svg

if TYPE_CHECKING:
    from markupsafe import Markup

_Z = 1.96  # standard errors to each side of a 95 % interval
_VOTES = (120, 46, 12)  # width, height of the bars, height of the labels of a small histogram


def calibration_svg(curve: Mapping[str, Any], scale: Sequence[float]) -> Markup:
    """Mean rating against mean prediction of each bin of a `calibration_curve`, with the number of images below."""
    bins = curve["bins"]
    predicted, rated = (np.array([entry[name] for entry in bins]) for name in ("predicted", "rated"))
    bars = np.array([_Z * (entry["standard_error"] or 0.0) for entry in bins])
    with open_figure(4.6, 4.6) as figure:
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        ends = [min(predicted.min(), (rated - bars).min()), max(predicted.max(), (rated + bars).max())]
        margin = 0.06 * max(ends[1] - ends[0], 1e-6)
        low, high = max(ends[0] - margin, scale[0]), min(ends[1] + margin, scale[-1])
        axes.plot([low, high], [low, high], "--", color="#888888", linewidth=1)
        axes.errorbar(predicted, rated, yerr=bars, color=BLUE, marker="o", markersize=4, linewidth=1.4, capsize=2)
        axes.set(xlim=(low, high), ylim=(low, high), ylabel="mean rating")
        axes.locator_params(nbins=6)
        counts.bar(predicted, [entry["images"] for entry in bins], width=0.018 * (high - low), color=BLUE, alpha=0.6)
        counts.set(xlabel="predicted score", ylabel="images")
        counts.locator_params(axis="y", nbins=2)
        return to_svg(figure)


def scatter_svg(true: Sequence[float], predicted: Sequence[float], scale: Sequence[float] | None) -> Markup:
    """Predictions against ratings; with the line of exact ones where both are on one `scale`."""
    from .report import draw_scatter

    with open_figure(4.6, 4.6) as figure:
        axes = figure.add_subplot()
        if scale is not None:
            draw_scatter(axes, true, predicted, scale)
        else:
            many = len(true) > MANY_POINTS
            axes.scatter(true, predicted, s=11, color=BLUE, alpha=0.45, linewidths=0, rasterized=many)
            axes.set(xlabel="mean rating", ylabel="predicted score (another scale)")
        return to_svg(figure)


def forest_svg(groups: Sequence[Mapping[str, Any]], line: float | None) -> Markup:
    """SRCC of each group with its interval; `line` marks that of all images."""
    figures = [group["metrics"]["srcc"] for group in groups]
    with open_figure(5.4, 0.7 + 0.3 * len(groups)) as figure:
        axes = figure.add_subplot()
        if line is not None and np.isfinite(line):
            axes.axvline(line, color=ORANGE, linewidth=1, linestyle="--")
        for place, entry in enumerate(figures):
            ends = [entry.get("low", entry["value"]), entry.get("high", entry["value"])]
            axes.plot(ends, [place, place], color=BLUE, linewidth=1.6)
            axes.plot(entry["value"], place, "o", color=BLUE, markersize=5)
        axes.set_yticks(
            range(len(groups)), [textwrap.shorten(group["name"], 26, placeholder="...") for group in groups]
        )
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.tick_params(left=False)
        axes.grid(axis="x", color="#888888", alpha=0.25, linewidth=0.6)
        axes.set_xlabel("SRCC")
        return to_svg(figure)


def votes_svg(
    bins: Sequence[float],
    predicted: Sequence[float],
    rated_bins: Sequence[float],
    rated: Sequence[float] | None,
    rated_mean: float,
) -> Markup:
    """Predicted and given histogram of one image, side by side in each bin; a line at the mean where only that is known."""
    from markupsafe import Markup

    width, height, foot = _VOTES
    top = max(*predicted, *(rated if rated is not None else ()), 1e-6)
    shapes = [*_bars("predicted", bins, predicted, top, side=-1)]
    if rated is not None:
        shapes += _bars("rated", rated_bins, rated, top, side=0)
    else:
        x = width * (rated_mean - rated_bins[0]) / (rated_bins[-1] - rated_bins[0])
        shapes.append(f'<line class="rated" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    shapes.append(f'<line x1="0" x2="{width}" y1="{height}" y2="{height}"/>')
    shapes.append(f'<text x="0" y="{height + foot - 2}">{bins[0]:g}</text>')
    shapes.append(f'<text x="{width}" y="{height + foot - 2}" text-anchor="end">{bins[-1]:g}</text>')
    return Markup(f'<svg class="votes" viewBox="0 0 {width} {height + foot}" role="img">{"".join(shapes)}</svg>')


def _bars(kind: str, bins: Sequence[float], shares: Sequence[float], top: float, side: int) -> list[str]:
    """Bars in equal slots, one a bin, to the left (-1) or right (0) of the middle of each."""
    width, height, _ = _VOTES
    slot = width / len(bins)
    bar = 0.42 * slot
    return [
        f'<rect class="{kind}" x="{slot * (place + 0.5) + side * bar:.1f}" y="{height * (1 - share / top):.1f}" '
        f'width="{bar:.1f}" height="{height * share / top:.1f}"/>'
        for place, share in enumerate(shares)
    ]
