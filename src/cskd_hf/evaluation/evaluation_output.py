"""The files of an evaluation: results.json, scores.csv and report.html."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from ..files import replaced_file, write_json
from .evaluation_report import write_evaluation_report

RESULTS, SCORES, REPORT = "results.json", "scores.csv", "report.html"
_COLUMNS = ("key", "split", "prediction", "truth", "error", "prediction_against")


def write_evaluation(
    folder: str | os.PathLike, result: Mapping[str, Any], ratings: datasets.Dataset, *, title: str | None = None
) -> None:
    """Write results.json, scores.csv (a line an image) and report.html, each whole or not at all.

    Args:
        folder: is made where it does not exist; files of an earlier evaluation are replaced.
        result: of `evaluate` or `evaluate_scores`.
        ratings: where the pictures of the report come from, by key.
        title: of the report; none names the model and the data.
    """
    folder = Path(folder)
    model, data = result.get("model", {}).get("name", "Predictions"), result["data"].get("location", "rated images")
    write_evaluation_report(
        folder / REPORT, result, ratings, title=title or f"{model} on {data}", facts=_facts(result)
    )
    _write_scores(folder / SCORES, result["images"])
    write_json(folder / RESULTS, {name: value for name, value in result.items() if name != "images"})


def _write_scores(path: Path, images: Mapping[str, Any]) -> None:
    names = [name for name in _COLUMNS if images.get(name) is not None]
    with replaced_file(path) as partial, open(partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:  # fmt: skip
        table = csv.writer(file)
        table.writerow(names)
        for row in zip(*(images[name] for name in names)):
            table.writerow([repr(float(value)) if isinstance(value, float) else value for value in row])


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    """The closing lines of the report."""
    facts = {}
    for role, label in (("model", "model"), ("against", "compared with")):
        if entry := result.get(role):
            revision = f", revision {entry['revision']}" if entry["revision"] else ""
            facts[label] = f"{entry['name']}{revision}, weights {entry['weights']}"
    facts["ratings"] = f"{result['data'].get('location', 'given')}, digest {result['data']['digest']}"
    facts["seed of the resamples"] = str(result["settings"]["seed"])
    if command := result.get("command"):
        facts["command"] = command
    return facts | {name: str(result["versions"][name]) for name in ("cskd_hf", "torch", "transformers")}
