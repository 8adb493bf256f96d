"""What an analysis says, in a table and in sentences drawn from its figures alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .compare import Analysis, FeatureSummary

_UNCHANGED = 0.05  # relative; absolute for measures that are cosines


@dataclass(frozen=True)
class Measure:
    """One column of the table.

    Args:
        key: in `Analysis.figures()`.
        label: of the column.
        form: format of a figure.
        relief: +1 where a rise, -1 where a fall is a sign of relief from collapse; 0 where neither is.
        scale: a figure is multiplied by it for display.
        absolute: changes are judged by their size, and not relative to the figure.
    """

    key: str
    label: str
    form: str
    relief: int = 0
    scale: float = 1.0
    absolute: bool = False

    def show(self, value: float | None) -> str:
        return "n/a" if value is None or math.isnan(value) else format(value * self.scale, self.form)

    def change(self, before: float, after: float) -> int:
        """-1, 0 or 1: lower, unchanged or higher."""
        scale = 1.0 if self.absolute else max(abs(before), abs(after), 1e-12)
        difference = (after - before) / scale
        return 0 if abs(difference) < _UNCHANGED else int(math.copysign(1, difference))


MEASURES = (
    Measure("effective_rank", "effective rank", ".1f", relief=1),
    Measure("mean_cosine", "cosine of images", ".3f", relief=-1, absolute=True),
    Measure("token_cosine", "cosine of patches", ".3f", relief=-1, absolute=True),
    Measure("head_spread", "spread of heads, px", ".2f", relief=1),
    Measure("distance", "attention distance, px", ".1f"),
    Measure("entropy", "entropy, nats", ".2f"),
    Measure("entropy_share", "of maximum, %", ".0f", scale=100),
    Measure("elsewhere", "on other tokens, %", ".0f", scale=100),
    Measure("cka", "CKA to reference", ".3f", absolute=True),
)
_COMPARED = ("distance", "entropy", "cka")  # stated without a verdict
_WORDS = {-1: "lower", 0: "about unchanged", 1: "higher"}


def table_rows(found: Sequence[Analysis], reference: FeatureSummary | None) -> list[tuple[str, list[str]]]:
    """Name and figures, in the order of `MEASURES`, of each checkpoint and of the reference."""
    rows = []
    for entry in found:
        figures = entry.figures()
        cells = [measure.show(figures[measure.key]) for measure in MEASURES]
        cells[0] += f" of {entry.features.rank_limit}"
        rows.append((entry.name, cells))
    if reference is not None:
        own = {"effective_rank": reference.effective_rank, "mean_cosine": reference.mean_cosine}
        cells = [measure.show(own.get(measure.key)) for measure in MEASURES]
        cells[0] += f" of {reference.rank_limit}"
        rows.append(("(reference)", cells))
    return rows


def table(found: Sequence[Analysis], reference: FeatureSummary | None = None) -> str:
    """The table as text: a checkpoint a column, a measure a row."""
    rows = table_rows(found, reference)
    columns = [["", *(measure.label for measure in MEASURES)], *([name, *cells] for name, cells in rows)]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns):
        first, *rest = (
            cell.ljust(width) if n == 0 else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths))
        )
        lines.append("  ".join([first, *rest]).rstrip())  # fmt: skip
    return "\n".join(lines)


def closing_notes(found: Sequence[Analysis], pairs: Sequence[tuple[str, str]] | None = None) -> list[str]:
    """What the figures say, and whether they agree with the paper.

    CSKD's first version (arXiv 2307.15640v1) reads its attention maps as relief from feature collapse through alignment.
    Signs of relief here: a higher effective rank, a lower cosine of images, a lower cosine of patches, and heads whose
    attention distances spread more. Distance and entropy themselves have no better direction, and are stated only.

    Args:
        found: the analyses.
        pairs: names (before, after) to compare; by default the first checkpoint with each later one.
    """
    by_name = {entry.name: entry for entry in found}
    pairs = [(found[0].name, entry.name) for entry in found[1:]] if pairs is None else pairs
    notes = [_compare(by_name[before], by_name[after]) for before, after in pairs]
    images = found[0].features.images
    notes.append(
        f"The figures are of one checkpoint each, on {images} images; the spread over training runs is not in them. A "
        f"change counts from {_UNCHANGED:.0%} of the larger figure on, or from {_UNCHANGED} for a cosine."
    )
    return notes


def _compare(before: Analysis, after: Analysis) -> str:
    old, new = before.figures(), after.figures()
    signs, verdicts, stated = [], [], []
    for measure in MEASURES:
        a, b = old[measure.key], new[measure.key]
        if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
            continue
        change = measure.change(a, b)
        text = f"{measure.label} {measure.show(a)} -> {measure.show(b)} ({_WORDS[change]})"
        if measure.relief:
            signs.append(text)
            verdicts.append(change * measure.relief)
        elif measure.key in _COMPARED:
            stated.append(text)
    note = f"'{after.name}' against '{before.name}': {'; '.join(signs)}."
    if not _same_architecture(before, after):
        return f"{note} They are of different architectures, so no verdict is drawn. Beside that: {'; '.join(stated)}."
    note += f" Of {len(verdicts)} signs, {verdicts.count(1)} point to relief from feature collapse, {verdicts.count(-1)} away from it: "
    note += _verdict(verdicts)
    if stated:
        note += f" Not signs by themselves: {'; '.join(stated)}."
    return note


def _same_architecture(one: Analysis, other: Analysis) -> bool:
    kinds = [(entry.family, entry.parameters, entry.size, entry.features.dim) for entry in (one, other)]
    return kinds[0] == kinds[1]


def _verdict(verdicts: Sequence[int]) -> str:
    """In words: all that changed points one way, or not."""
    relief, against = verdicts.count(1), verdicts.count(-1)
    if relief and not against:
        return "relief, as the paper's first version reads alignment."
    if against and not relief:
        return "more collapse, the opposite of what the paper's first version reads in alignment."
    if relief == against == 0:
        return "no change, so no relief of the kind that the paper's first version reads in alignment."
    return "mixed, which neither supports nor contradicts what the paper's first version reads in alignment."
