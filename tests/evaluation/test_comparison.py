"""Tables of compared runs against figures worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cskd_hf.evaluation.comparison import (
    format_figure,
    paired_difference,
    paired_table,
    summarise,
    summary_table,
    write_results,
)

NAMES = {"scratch": "from scratch", "cskd": "full CSKD"}


def row(name: str, seed: int, srcc: float | None, labels: int = 300, emd: float = 0.1) -> dict:
    return {"name": name, "labels": labels, "seed": seed, "srcc": srcc, "plcc": 0.5, "emd": emd}


ROWS = [
    row("cskd", 2, 0.80, emd=0.10),
    row("scratch", 0, 0.60, emd=0.12),
    row("scratch", 1, 0.70, emd=0.14),
    row("cskd", 0, 0.70, emd=0.11),
    row("cskd", 1, 0.69, emd=0.15),
    row("cskd", 0, 0.50, labels=100),
    row("probe", 0, 0.99),
]


def test_summary_by_hand():
    few, scratch, cskd = summarise(ROWS, NAMES)
    assert (few.labels, few.name, few.seeds) == (100, "cskd", [0])
    assert few.std("srcc") is None
    assert scratch.values["srcc"] == [0.60, 0.70]
    assert scratch.mean("srcc") == pytest.approx(0.65)
    assert scratch.std("srcc") == pytest.approx(0.1 / math.sqrt(2))  # divided by n - 1
    assert (cskd.seeds, cskd.values["srcc"]) == ([0, 1, 2], [0.70, 0.69, 0.80])


def test_summary_table():
    lines = summary_table(ROWS, NAMES, metrics=("srcc", "emd")).splitlines()
    assert lines[0].split() == ["labels", "model", "SRCC", "EMD", "seeds"]
    assert lines[2].split() == ["100", "full", "CSKD", "0.500", "0.100", "1"]
    assert lines[3].split() == ["300", "from", "scratch", "0.650", "+-", "0.071", "0.130", "+-", "0.014", "2"]
    assert lines[4].split()[1:3] == ["full", "CSKD"] and len(lines) == 5
    assert len({len(line) for line in lines}) == 1  # the last column is flush right in all lines


def test_table_follows_the_order_of_names():
    reordered = {"cskd": "full CSKD", "probe": "probe", "scratch": "from scratch"}
    assert [entry.name for entry in summarise(ROWS, reordered)] == ["cskd", "cskd", "probe", "scratch"]


def test_missing_figures_are_shown_and_not_averaged_away():
    rows = [row("cskd", 0, 0.7), row("cskd", 1, None), row("scratch", 0, math.nan)]
    table = summary_table(rows, NAMES, metrics=("srcc",)).splitlines()
    assert table[2].split()[-2:] == ["n/a", "1"]
    assert table[3].split()[-2:] == ["n/a", "2"]


def test_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="'scrr'; they have: emd, plcc, srcc"):
        summary_table(ROWS, NAMES, metrics=("scrr",))


def test_a_seed_counts_once():
    with pytest.raises(ValueError, match="'cskd' at 300 labels has several rows of one seed"):
        summary_table([*ROWS, row("cskd", 1, 0.7)], NAMES)


def test_paired_difference_by_hand():
    pair = paired_difference(ROWS, "cskd", "scratch", 300)
    assert pair.seeds == [0, 1]  # seed 2 has no partner
    assert pair.differences == pytest.approx([0.10, -0.01])
    assert pair.mean == pytest.approx(0.045)
    assert pair.std == pytest.approx(0.11 / math.sqrt(2))
    assert pair.wins == 1


def test_a_lower_distance_wins():
    rows = [*ROWS, row("scratch", 2, 0.60, emd=0.12)]
    pair = paired_difference(rows, "cskd", "scratch", 300, metric="emd")
    assert pair.differences == pytest.approx([-0.01, 0.01, -0.02])
    assert pair.wins == 2
    assert "lower in 2 of 3 seeds" in paired_table(rows, [("cskd", "scratch")], NAMES, metric="emd")


def test_a_tie_is_no_win():
    assert paired_difference([row("cskd", 0, 0.5), row("scratch", 0, 0.5)], "cskd", "scratch", 300).wins == 0


def test_without_a_common_seed():
    rows = [row("cskd", 0, 0.7), row("scratch", 1, 0.6)]
    with pytest.raises(
        ValueError, match=r"'cskd' \(seeds \[0\]\) and 'scratch' \(seeds \[1\]\) have no seed in common"
    ):
        paired_difference(rows, "cskd", "scratch", 300)
    with pytest.raises(ValueError, match="no seed in common at any of"):
        paired_table(rows, [("cskd", "scratch")], NAMES)


def test_paired_table():
    one_more = [*ROWS, row("scratch", 0, 0.45, labels=100)]
    assert paired_table(one_more, [("cskd", "scratch")], NAMES).splitlines() == [
        "full CSKD - from scratch (100 labels): +0.050, higher in 1 of 1 seed",
        "full CSKD - from scratch (300 labels): +0.045 +- 0.078, higher in 1 of 2 seeds",
    ]
    assert len(paired_table(ROWS, [("cskd", "scratch")], NAMES).splitlines()) == 1  # none has a partner at 100 labels


def test_format_figure():
    assert format_figure(0.81249, 0.006) == "0.812 +- 0.006"
    assert format_figure(-0.02, None, signed=True) == "-0.020"
    assert format_figure(math.nan, None) == "n/a"


def test_write_results(tmp_path: Path):
    path = tmp_path / "new" / "results.json"
    rows = [row("cskd", 0, math.nan) | {"emd": np.float32(0.5)}]
    write_results(
        path,
        rows,
        seconds=1.26,
        command="x",
        curve=np.array([1.0, math.inf]),
        scale={"seeds": (0, 1)},
        folder=tmp_path,
    )
    results = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert results["rows"] == [row("cskd", 0, None) | {"emd": 0.5}]
    assert (results["seconds"], results["command"]) == (1.3, "x")
    assert (results["curve"], results["scale"], results["folder"]) == ([1.0, None], {"seeds": [0, 1]}, str(tmp_path))
    assert {"python", "torch", "transformers", "datasets", "accelerate", "cskd_hf"} <= results["versions"].keys()
    assert results["versions"]["numpy"] == np.__version__
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_failed_write_keeps_the_old_results(tmp_path: Path):
    path = tmp_path / "results.json"
    write_results(path, ROWS, seconds=1)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_results(path, [], seconds=1, broken=object())
    with pytest.raises(ValueError, match="'versions'"):
        write_results(path, [], seconds=1, versions={})
    assert path.read_bytes() == before
