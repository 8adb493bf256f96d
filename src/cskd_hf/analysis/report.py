"""The page, the plots and the figures of an analysis."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..evaluation.plotting import write_page
from ..files import write_json
from .compare import Analysis, FeatureSummary, to_json
from .notes import MEASURES, closing_notes, table, table_rows
from .plots import save_plots

__all__ = ["table", "write_analysis"]

_SINGULAR_VALUES = 64  # kept; the measures use all of them


def write_analysis(
    folder: str | os.PathLike,
    found: Sequence[Analysis],
    *,
    reference: FeatureSummary | None = None,
    reference_name: str = "",
    pairs: Sequence[tuple[str, str]] | None = None,
    notes: Sequence[str] = (),
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]] = (),
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
        tables: further ones, below the first: heading, then rows of cells, the row of column heads before the others.
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
    svgs = save_plots(folder, found, spectra)
    write_page(
        folder / "analysis.html",
        "analysis.html",
        title=title,
        names=[entry.name for entry in found],
        measures=[measure.label for measure in MEASURES],
        rows=table_rows(found, reference),
        tables=tables,
        notes=notes,
        messages=[(entry.name, entry.message) for entry in found if entry.message],
        plots=svgs,
        details=[_detail(entry) for entry in found],
        facts={**facts, **software},
    )
    kept = [_shortened(entry) for entry in found]
    write_json(
        folder / "analysis.json",
        to_json(
            {
                "checkpoints": kept,
                "reference": None if reference is None else {"name": reference_name, **_short_features(reference)},
                "notes": notes,
                "facts": {**facts, **software},
                **more,
            }
        ),
    )
    return notes


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
    content = {**asdict(entry), "figures": entry.figures(), "features": _short_features(entry.features)}
    location = content.pop("location")
    path = Path(location)
    return {"checkpoint": path.resolve().name if location and path.exists() else location, **content}


def _short_features(features: FeatureSummary) -> dict[str, Any]:
    return {**vars(features), "singular_values": features.singular_values[:_SINGULAR_VALUES]}
