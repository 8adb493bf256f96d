"""The plots of an analysis: distance and entropy by layer and head, and the spectra of the features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.plotting import COLOURS, INK, open_figure, save_png, to_svg
from .compare import Analysis

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

_PAPER_INK = "#222222"
_PANELS_A_ROW = 3
_SINGULAR_VALUES = 64  # shown

Spectra = Mapping[str, Sequence[float]]


def save_plots(folder: Path, found: Sequence[Analysis], spectra: Spectra) -> dict[str, Markup]:
    """Write attention_distance.png, attention_entropy.png, singular_values.png, and all in one, analysis.png.

    Args:
        folder: to write to.
        found: the analyses; those without attention have no panels, and a plot without panels is not written.
        spectra: name -> falling singular values.

    Returns:
        the first three as SVG, by name.
    """
    placed = [entry for entry in found if entry.layers and entry.layers[0].distance is not None]
    shown = [entry for entry in found if entry.layers]
    svgs: dict[str, Markup] = {}

    def save(name: str, width: float, height: float, draw: Callable[[Any], None]) -> None:
        for ink in (INK, _PAPER_INK):
            with open_figure(width, height, ink=ink) as figure:
                figure.set_layout_engine("constrained")
                draw(figure)
                if ink == INK:
                    svgs[name] = to_svg(figure)
                else:
                    save_png(figure, folder / f"{name}.png")

    for name, entries, draw in (
        ("attention_distance", placed, _draw_distances),
        ("attention_entropy", shown, _draw_entropies),
    ):
        (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier analysis
        if entries:
            rows = math.ceil(len(entries) / _PANELS_A_ROW)
            width = 1.2 + 2.4 * min(len(entries), _PANELS_A_ROW)
            save(name, width, 0.3 + 2.3 * rows, lambda figure, draw=draw, entries=entries: draw(figure, entries))
    save("singular_values", 5.4, 3.4, lambda figure: _draw_spectra(figure.add_subplot(), spectra))
    _save_overview(folder / "analysis.png", placed, shown, spectra)
    return svgs


def _save_overview(path: Path, placed: Sequence[Analysis], shown: Sequence[Analysis], spectra: Spectra) -> None:
    columns = max(len(shown), len(placed))
    with open_figure(1.7 * columns + 3.6, 5.2, ink=_PAPER_INK) as figure:
        figure.set_layout_engine("constrained")
        right = figure
        if columns:
            left, right = figure.subfigures(1, 2, width_ratios=[1.7 * columns, 3.6])
            parts = [(draw, part) for draw, part in ((_draw_distances, placed), (_draw_entropies, shown)) if part]
            for strip, (draw, part) in zip(np.atleast_1d(left.subfigures(len(parts), 1)), parts):
                draw(strip, part, columns)
        _draw_spectra(right.add_subplot(), spectra)
        save_png(figure, path)


def _panels(figure: Any, count: int, a_row: int) -> list[Axes]:
    """Axes that share their height, left to right and top to bottom."""
    rows, columns = math.ceil(count / a_row), min(count, a_row)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[count:]:
        axes.remove()
    return list(grid.flat[:count])


def _draw_distances(figure: Any, entries: Sequence[Analysis], a_row: int = _PANELS_A_ROW) -> None:
    panels = _panels(figure, len(entries), a_row)
    for axes, entry in zip(panels, entries):
        heads = [layer.distance for layer in entry.layers]
        _draw_layers(axes, entry.name, heads, [layer.uniform_distance for layer in entry.layers])
    for axes in panels[::a_row]:
        axes.set_ylabel("attention distance, px")


def _draw_entropies(figure: Any, entries: Sequence[Analysis], a_row: int = _PANELS_A_ROW) -> None:
    panels = _panels(figure, len(entries), a_row)
    for axes, entry in zip(panels, entries):
        heads = [layer.entropy for layer in entry.layers]
        _draw_layers(axes, entry.name, heads, [layer.max_entropy for layer in entry.layers])
    for axes in panels[::a_row]:
        axes.set_ylabel("attention entropy, nats")
    panels[0].set_ylim(bottom=0)


def _draw_layers(axes: Axes, name: str, heads: Sequence[Sequence[float]], even: Sequence[float]) -> None:
    """A dot a head, a line through the means, dashes for attention that is even."""
    numbers = np.arange(1, len(heads) + 1)
    axes.plot(numbers, even, "--", color="#888888", linewidth=1)
    for number, values in zip(numbers, heads):
        axes.plot([number] * len(values), values, "o", color=COLOURS[0], alpha=0.55, markersize=4.5, markeredgewidth=0)
    axes.plot(numbers, [np.mean(values) for values in heads], color=COLOURS[1], linewidth=1.8)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("layer")
    axes.set_xlim(0.5, len(heads) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)


def _draw_spectra(axes: Axes, spectra: Mapping[str, Sequence[float]]) -> None:
    """Falling singular values of the centred features, the largest as 1."""
    for number, (name, values) in enumerate(spectra.items()):
        values = np.asarray(values[:_SINGULAR_VALUES])
        values = values / max(values[0], 1e-300)
        style = "--" if name == "(reference)" else "-"
        axes.plot(np.arange(1, len(values) + 1), values, style, color=COLOURS[number % len(COLOURS)], label=name)
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1.3)
    axes.set_xlabel("number of the singular value")
    axes.set_ylabel("singular value, largest = 1")
    axes.legend(frameon=False, fontsize=9)
    axes.set_title("spectrum of the pooled features", fontsize=10)
