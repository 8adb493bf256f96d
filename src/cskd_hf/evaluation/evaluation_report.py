"""The HTML report of an evaluation: one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from scipy.stats import rankdata

from ..models.image_loading_cskd import ImageLoadError, load_image
from .comparison import LOWER_IS_BETTER
from .evaluation_plots import calibration_svg, forest_svg, scatter_svg, votes_svg
from .evaluation_table import interval, left_out_lines, number, p_text
from .report import data_uri

if TYPE_CHECKING:
    from markupsafe import Markup

_WORST = 6  # pictures to each side
_THUMBNAIL = 320
_MOST_BARS = 40  # of a plot of groups; more are in the table only
_NAMES = {"emd1": "EMD, r=1", "emd2": "EMD, r=2", "accuracy": "accuracy"}
_GROUP_METRICS = ("srcc", "plcc", "krcc", "accuracy", "emd1", "mae")


def write_evaluation_report(
    path: Path, result: Mapping[str, Any], ratings: datasets.Dataset, *, title: str, facts: Mapping[str, str]
) -> None:
    """Write the page: metrics, comparison, calibration, scatter, groups, attributes and the worst pictures.

    Args:
        path: the file.
        result: of `evaluate` or `evaluate_scores`.
        ratings: the pictures, by key.
        title: of the page.
        facts: lines at the end, by name.
    """
    from .plotting import write_page

    images, curve, data = result["images"], result["calibration"], result["data"]
    scale = data["score_values"]
    splits = ", ".join(f"{name} {count}" for name, count in data["splits"].items())
    write_page(
        path,
        "evaluation.html",
        title=title,
        summary=f"{data['images']} images ({splits}), rated from {scale[0]:g} to {scale[-1]:g}.",
        caveats=_caveats(result),
        names=_names(result),
        metrics=_metric_rows(result),
        resamples=result["settings"]["n_resamples"],
        calibration=calibration_svg(curve, scale) if curve else None,
        calibration_error=number(curve["expected_calibration_error"], 3) if curve else None,
        bias=number(curve["bias"], 3, "+") if curve else None,
        spread=number(curve["spread"], 2) if curve else None,
        scatter=scatter_svg(images["truth"], images["prediction"], scale if curve else None),
        points=data["images"],
        tables=_tables(result),
        strips=_strips(images, ratings),
        facts=facts,
    )


def _names(result: Mapping[str, Any]) -> tuple[str, str | None]:
    model = result.get("model", {}).get("name", "model")
    against = result.get("against", {}).get("name", "the other model") if result["comparison"] else None
    return (model, against) if model != against else (f"{model} (first)", f"{against} (second)")


def _caveats(result: Mapping[str, Any]) -> list[str]:
    lines = []
    if result["settings"]["rescaled"]:
        lines.append("The ends of the model's scale were mapped linearly to those of the ratings (--rescale).")
    lines += left_out_lines(result)
    if unreadable := result["data"]["unreadable"]:
        shown = "; ".join(f"{key} ({reason})" for key, reason in list(unreadable.items())[:3])
        more = "; ..., all in results.json" if len(unreadable) > 3 else ""
        lines.append(f"{len(unreadable)} rated images could not be read and are left out: {shown}{more}.")
    return lines


def _label(metric: str) -> str:
    return f"{_NAMES.get(metric, metric.upper())} {chr(0x2193) if metric in LOWER_IS_BETTER else chr(0x2191)}"


def _metric_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for metric, figure in result["metrics"].items():
        name = _label(metric)
        if metric == "accuracy":
            name += f" (cut {result['settings']['threshold']:g})"
        row = {"name": name, "value": number(figure["value"]), "interval": interval(figure, 3)}
        if pair := (result["comparison"] or {}).get(metric):
            row |= {"against": number(pair["b"]), "difference": number(pair["difference"], sign="+")}
            row |= {"between": interval(pair, 3), "p": p_text(pair["p_value"])}
            row["sure"] = pair["p_value"] < 0.05
        rows.append(row)
    return rows


def _tables(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One a column of groups, and one of the attributes."""
    named = [{"name": name, **entry} for name, entry in result["attributes"].items()]
    parts = [(f"By {column}", column, groups) for column, groups in result["groups"].items()]
    parts += [("Attributes", "attribute", named)] if named else []
    tables = []
    for heading, column, groups in parts:
        measured = [group for group in groups if "metrics" in group]
        metrics = [name for name in _GROUP_METRICS if any(name in group["metrics"] for group in measured)]
        line = result["metrics"]["srcc"]["value"] if column != "attribute" else None
        tables.append(
            {
                "heading": heading,
                "column": column,
                "metrics": [_label(metric) for metric in metrics] or [""],
                "rows": [_group_row(group, metrics) for group in groups],
                "plot": forest_svg(measured, line) if 1 < len(measured) <= _MOST_BARS else None,
            }
        )
    return tables


def _group_row(group: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    figures = group.get("metrics", {})
    cells = [number(figures[name]["value"] if name in figures else None, 3) for name in metrics]
    return {"name": group["name"], "images": group["images"], "note": group.get("note"), "cells": cells}


def _strips(images: Mapping[str, Any], ratings: datasets.Dataset) -> list[tuple[str, list[dict[str, Any]]]]:
    """The pictures that are scored too high, and those scored too low, the worst first."""
    errors = images["error"]
    if errors is None:  # scales that cannot be compared: places among all images can
        errors = rankdata(images["prediction"]) - rankdata(images["truth"])
    errors = np.asarray(errors)
    places = {key: row for row, key in enumerate(ratings["key"][:])}
    order = np.argsort(errors)
    n = min(_WORST, len(order) // 2)
    sides = {
        "Scored too high": [row for row in order[::-1][:n] if errors[row] > 0],
        "Scored too low": [row for row in order[:n] if errors[row] < 0],
    }
    pictures = ratings.cast_column("image", datasets.Image(decode=False))
    strips = []
    for heading, rows in sides.items():
        cells = [_cell(images, int(row), pictures[places[images["key"][row]]]["image"]) for row in rows]
        strips.append((heading, [cell for cell in cells if cell]))
    return [strip for strip in strips if strip[1]]


def _cell(images: Mapping[str, Any], row: int, picture: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        image = load_image(picture, target_size=_THUMBNAIL)
    except ImageLoadError:  # it was there when it was scored
        return None
    return {
        "uri": data_uri(image),
        "key": images["key"][row],
        "predicted": number(images["prediction"][row], 2),
        "true": number(images["truth"][row], 2),
        "histogram": _votes(images, row),
    }


def _votes(images: Mapping[str, Any], row: int) -> Markup | None:
    if images["predicted_distribution"] is None:
        return None
    own, given = images["bins"]
    rated = images["true_distribution"][row]
    return votes_svg(own, images["predicted_distribution"][row], given, rated, images["truth"][row])
