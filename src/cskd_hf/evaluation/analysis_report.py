"""The page, the plots and the figures of an analysis."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .analysis import Analysis, FeatureSummary, write_json
from .analysis_notes import MEASURES, closing_notes, table, table_rows
from .plotting import BLUE, COLOURS, INK, open_figure, save_png, to_svg, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["table", "write_analysis"]

_PAPER_INK = "#222222"
_SINGULAR_VALUES = 64  # shown and kept; the measures use all of them


def write_analysis(
    folder: str | os.PathLike,
    found: Sequence[Analysis],
    *,
    reference: FeatureSummary | None = None,
    reference_name: str = "",
    pairs: Sequence[tuple[str, str]] | None = None,
    notes: Sequence[str] = (),
    title: str = "Attention and features",
    facts: Mapping[str, str] | None = None,
    **more: Any,
) -> list[str]:
    """Write analysis.html (one file that needs nothing else), analysis.json, and the plots as PNG.

    Args:
        folder: is made where it does not exist; files of an earlier analysis are replaced.
        found: one entry a checkpoint, in the order of the columns.
        reference: measures of the reference's features.
        reference_name: names it.
        pairs: see `closing_notes`.
        notes: further notes, put after those that the figures give.
        title: of the page.
        facts: further lines at the end, by name.
        more: further entries of analysis.json.

    Returns:
        the closing notes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    notes = [*closing_notes(found, pairs), *notes]
    software = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    facts = {"images analysed": str(found[0].features.images), "reference": reference_name or "none", **(facts or {})}
    spectra = {entry.name: entry.features.singular_values for entry in found}
    if reference is not None:
        spectra["(reference)"] = reference.singular_values
    plots = {
        name: (draw, height)
        for name, draw, height in (
            ("attention_distance", _draw_distances, 2.9),
            ("attention_entropy", _draw_entropies, 2.9),
        )
        if _with_attention(found, name)
    }
    svgs = {}
    for name, (draw, height) in plots.items():
        shown = _with_attention(found, name)
        for ink in (INK, _PAPER_INK):
            with open_figure(max(2.6 * len(shown), 4.2), height, ink=ink) as figure:
                draw(_row_of_axes(figure, len(shown)), shown)
                figure.set_layout_engine("constrained")
                if ink == INK:
                    svgs[name] = to_svg(figure)
                else:
                    save_png(figure, folder / f"{name}.png")
    for ink in (INK, _PAPER_INK):
        with open_figure(5.4, 3.4, ink=ink) as figure:
            _draw_spectra(figure.add_subplot(), spectra)
            figure.set_layout_engine("constrained")
            if ink == INK:
                svgs["singular_values"] = to_svg(figure)
            else:
                save_png(figure, folder / "singular_values.png")
    save_overview(folder / "analysis.png", found, spectra)
    write_page(
        folder / "analysis.html",
        "analysis.html",
        title=title,
        names=[entry.name for entry in found],
        measures=[measure.label for measure in MEASURES],
        rows=table_rows(found, reference),
        notes=notes,
        messages=[(entry.name, entry.message) for entry in found if entry.message],
        plots=svgs,
        details=[_detail(entry) for entry in found],
        facts={**facts, **software},
    )
    kept = [_shortened(entry) for entry in found]
    write_json(
        folder / "analysis.json",
        {
            "checkpoints": kept,
            "reference": None if reference is None else {"name": reference_name, **_short_features(reference)},
            "notes": notes,
            "facts": {**facts, **software},
            **more,
        },
    )
    return notes


def save_overview(path: Path, found: Sequence[Analysis], spectra: Mapping[str, Sequence[float]]) -> None:
    """One picture: distance and entropy by layer and head of each checkpoint, and the spectra."""
    shown = _with_attention(found, "attention_entropy")
    placed = _with_attention(found, "attention_distance")
    columns = max(len(shown), len(placed))
    with open_figure(2.3 * columns + 3.6, 5.6, ink=_PAPER_INK) as figure:
        figure.set_layout_engine("constrained")
        if columns:
            left, right = figure.subfigures(1, 2, width_ratios=[2.3 * columns, 3.6])
            parts = [(draw, part) for draw, part in ((_draw_distances, placed), (_draw_entropies, shown)) if part]
            strips = left.subfigures(len(parts), 1)
            for strip, (draw, part) in zip(np.atleast_1d(strips), parts):
                draw(_row_of_axes(strip, len(part)), part)
        else:
            right = figure
        _draw_spectra(right.add_subplot(), spectra)
        save_png(figure, path)


def _with_attention(found: Sequence[Analysis], plot: str) -> list[Analysis]:
    if plot == "attention_distance":
        return [entry for entry in found if entry.layers and entry.layers[0].distance is not None]
    return [entry for entry in found if entry.layers]


def _row_of_axes(figure: Any, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, sharey=True, squeeze=False)[0])


def _draw_distances(row: Sequence[Axes], shown: Sequence[Analysis]) -> None:
    for axes, entry in zip(row, shown):
        heads = [layer.distance for layer in entry.layers]
        _draw_layers(axes, entry.name, heads, [layer.uniform_distance for layer in entry.layers])
    row[0].set_ylabel("attention distance, px")


def _draw_entropies(row: Sequence[Axes], shown: Sequence[Analysis]) -> None:
    for axes, entry in zip(row, shown):
        _draw_layers(
            axes, entry.name, [layer.entropy for layer in entry.layers], [layer.max_entropy for layer in entry.layers]
        )
    row[0].set_ylabel("attention entropy, nats")
    row[0].set_ylim(bottom=0)


def _draw_layers(axes: Axes, name: str, heads: Sequence[Sequence[float]], even: Sequence[float]) -> None:
    """A dot a head, a line through the means, dashes for attention that is even."""
    numbers = np.arange(1, len(heads) + 1)
    axes.plot(numbers, even, "--", color="#888888", linewidth=1)
    for number, values in zip(numbers, heads):
        axes.plot([number] * len(values), values, "o", color=BLUE, alpha=0.55, markersize=4.5, markeredgewidth=0)
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


def _detail(entry: Analysis) -> dict[str, Any]:
    """The table of an encoder's layers."""

    def heads(values: Sequence[float] | None, form: str) -> str:
        return "n/a" if values is None else " ".join(format(value, form) for value in values)

    layers = [
        {
            "number": number,
            "stride": "n/a" if layer.stride is None else " x ".join(f"{side:g}" for side in layer.stride),
            "distance": heads(layer.distance, ".1f"),
            "even": "n/a" if layer.uniform_distance is None else f"{layer.uniform_distance:.1f}",
            "entropy": heads(layer.entropy, ".2f"),
            "most": f"{layer.max_entropy:.2f}",
        }
        for number, layer in enumerate(entry.layers, start=1)
    ]
    line = f"{entry.family}, {entry.parameters / 1e6:.2f} M parameters, {entry.size[0]} x {entry.size[1]} px"
    return {"name": entry.name, "line": line, "layers": layers}


def _shortened(entry: Analysis) -> dict[str, Any]:
    """For the file: the local path of a checkpoint is its maker's own, and a long spectrum adds nothing."""
    from dataclasses import asdict

    content = {**asdict(entry), "figures": entry.figures(), "features": _short_features(entry.features)}
    location = content.pop("location")
    path = Path(location)
    return {"checkpoint": path.resolve().name if location and path.exists() else location, **content}


def _short_features(features: FeatureSummary) -> dict[str, Any]:
    return {**vars(features), "singular_values": features.singular_values[:_SINGULAR_VALUES]}
