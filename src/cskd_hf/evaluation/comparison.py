"""Results of compared runs: tables over seeds, paired differences, and the results.json that holds them.

A row is one run: `{"name": str, "labels": int, "seed": int, "srcc": float, ...}`, with any further metrics. A metric that
is None or NaN (a constant prediction has no SRCC) is carried through and shown as "n/a", never left out of a mean.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..files import write_json

METRICS = ("srcc", "plcc", "emd")
LOWER_IS_BETTER = frozenset({"emd", "emd1", "emd2", "mae", "rmse"})

_VERSIONS_OF = (
    "torch", "transformers", "datasets", "accelerate", "safetensors", "numpy", "scipy", "pillow", "cskd_hf",
)  # fmt: skip

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """The runs of one name with one number of labels.

    Args:
        labels: rated images that the runs learned from.
        name: key of the rows.
        seeds: of the runs, rising.
        values: of each metric, one figure a seed in the order of `seeds`; NaN where a run has none.
    """

    labels: int
    name: str
    seeds: list[int]
    values: dict[str, list[float]]

    def mean(self, metric: str) -> float:
        """Over seeds."""
        return statistics.fmean(self.values[metric])

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over seeds; None for a single seed."""
        return _std(self.values[metric])


@dataclass(frozen=True)
class PairedDifference:
    """`better` minus `worse` in one metric, run by run.

    Args:
        mean: over the common seeds.
        std: sample standard deviation over them; None for a single seed.
        wins: seeds in which `better` is ahead: higher, or lower for an error or a distance.
        seeds: the common seeds, rising.
        differences: one for each of `seeds`.
    """

    mean: float
    std: float | None
    wins: int
    seeds: list[int]
    differences: list[float]


def summarise(rows: Sequence[Row], names: Mapping[str, str], metrics: Sequence[str] = METRICS) -> list[Summary]:
    """One summary for each (labels, name) that has rows, fewest labels first, then in the order of `names`.

    Args:
        rows: the runs; those whose name is not in `names` are left out.
        names: key of a row -> readable label.
        metrics: keys of the figures.

    Raises:
        ValueError: a metric that no row has, or two rows of the same name, labels and seed.
    """
    for metric in metrics:
        if rows and not any(metric in row for row in rows):
            known = sorted({key for row in rows for key in row} - {"name", "labels", "seed"})
            raise ValueError(f"no row has the metric '{metric}'; they have: {', '.join(known)}.")
    summaries = []
    for labels in _label_counts(rows):
        for name in names:
            runs = _runs(rows, name, labels)
            if runs:
                values = {metric: [_figure(run, metric) for run in runs.values()] for metric in metrics}
                summaries.append(Summary(labels, name, list(runs), values))
    return summaries


def summary_table(rows: Sequence[Row], names: Mapping[str, str], metrics: Sequence[str] = METRICS) -> str:
    """A table for the console: for each (labels, name) the mean and sample standard deviation over seeds.

    Arguments and errors as in `summarise`.
    """
    summaries = summarise(rows, names, metrics)
    table = [["labels", "model", *[metric.upper() for metric in metrics], "seeds"]]
    for entry in summaries:
        figures = [format_figure(entry.mean(metric), entry.std(metric)) for metric in metrics]
        table.append([str(entry.labels), names[entry.name], *figures, str(len(entry.seeds))])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    alignments = [">", *"<" * (len(widths) - 2), ">"]
    lines = ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(line, alignments, widths)).rstrip() for line in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def paired_difference(
    rows: Sequence[Row], better: str, worse: str, labels: int, metric: str = "srcc"
) -> PairedDifference:
    """The difference of two kinds of run, matched by seed, so that what a seed decides (its labels) cancels.

    Args:
        rows: the runs.
        better, worse: names of the two; the difference is `better` minus `worse`.
        labels: rated images that both learned from.
        metric: key of the figure.

    Raises:
        ValueError: the two have no seed in common, or one has two rows of the same seed.
    """
    first, second = _runs(rows, better, labels), _runs(rows, worse, labels)
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        raise ValueError(
            f"'{better}' (seeds {list(first)}) and '{worse}' (seeds {list(second)}) have no seed in common "
            f"at {labels} labels."
        )
    differences = [_figure(first[seed], metric) - _figure(second[seed], metric) for seed in seeds]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    wins = sum(sign * difference > 0 for difference in differences)
    return PairedDifference(statistics.fmean(differences), _std(differences), wins, seeds, differences)


def paired_table(
    rows: Sequence[Row], pairs: Sequence[tuple[str, str]], names: Mapping[str, str], metric: str = "srcc"
) -> str:
    """A line for each number of labels and each pair that has a common seed there.

    Args:
        rows: the runs.
        pairs: (better, worse) names.
        names: key of a row -> readable label.
        metric: key of the figure.

    Raises:
        ValueError: a pair has no common seed at any number of labels.
    """
    return "\n".join(paired_lines(rows, pairs, names, metric))


def paired_lines(
    rows: Sequence[Row], pairs: Sequence[tuple[str, str]], names: Mapping[str, str], metric: str = "srcc"
) -> list[str]:
    """The lines of `paired_table`."""
    counts = _label_counts(rows)
    common = {
        pair: [
            labels for labels in counts if _runs(rows, pair[0], labels).keys() & _runs(rows, pair[1], labels).keys()
        ]
        for pair in pairs
    }
    for (better, worse), found in common.items():
        if not found:
            raise ValueError(f"'{better}' and '{worse}' have no seed in common at any of {counts} labels.")
    word = "lower" if metric in LOWER_IS_BETTER else "higher"
    lines = []
    for labels in counts:
        for better, worse in pairs:
            if labels in common[better, worse]:
                pair = paired_difference(rows, better, worse, labels, metric)
                figure = format_figure(pair.mean, pair.std, signed=True)
                lines.append(
                    f"{names.get(better, better)} - {names.get(worse, worse)} ({labels} labels): {figure}, "
                    f"{word} in {pair.wins} of {len(pair.seeds)} seed{'s' if len(pair.seeds) > 1 else ''}"
                )
    return lines


def format_figure(mean: float, std: float | None, *, signed: bool = False) -> str:
    """ "0.812 +- 0.006", "0.812" without a spread, "n/a" for NaN."""
    if math.isnan(mean):
        return "n/a"
    return f"{mean:{'+' if signed else ''}.3f}" + ("" if std is None else f" +- {std:.3f}")


def write_results(
    path: str | os.PathLike, rows: Sequence[Row], *, seconds: float, command: str | None = None, **facts: Any
) -> None:
    """Write results.json whole or not at all: rows, versions, wall time, command and any further facts.

    NaN and infinities become null, since JSON has no such numbers.

    Args:
        path: the file; its folder is made.
        rows: the runs.
        seconds: wall time of all of them.
        command: what was run.
        facts: further entries, of anything that JSON holds, numpy numbers and arrays, and paths.

    Raises:
        ValueError: `facts` names an entry that the function writes itself.
        TypeError: a value that JSON cannot hold.
    """
    results = {"rows": rows, "versions": software_versions(), "seconds": round(seconds, 1), "command": command}
    if taken := sorted(results.keys() & facts.keys()):
        raise ValueError(f"the facts {taken} are written by write_results itself; rename them.")
    write_json(path, results | facts)


def _label_counts(rows: Sequence[Row]) -> list[int]:
    return sorted({row["labels"] for row in rows})


def _runs(rows: Sequence[Row], name: str, labels: int) -> dict[int, Row]:
    """Rows by seed, rising."""
    chosen = [row for row in rows if row["name"] == name and row["labels"] == labels]
    runs = {row["seed"]: row for row in sorted(chosen, key=lambda row: row["seed"])}
    if len(runs) < len(chosen):
        raise ValueError(f"'{name}' at {labels} labels has several rows of one seed; seeds: {list(runs)}.")
    return runs


def _figure(row: Row, metric: str) -> float:
    value = row.get(metric)
    return math.nan if value is None else float(value)


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def software_versions() -> dict[str, str | None]:
    """Of Python and of the packages that figures may depend on; null for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _VERSIONS_OF:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            versions[package] = None
    return versions
