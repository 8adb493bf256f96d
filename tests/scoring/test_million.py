"""The simulation of a very long run, on a few thousand files: order, resuming, and every row."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
scoring_million = pytest.importorskip("scoring_million")


def test_small(tmp_path: Path):
    results = scoring_million.simulate(3000, tmp_path / "work", batch_size=64)
    assert results["output_whole"] and results["broken_off"]["stopped_after"] == 1152  # 18 whole batches
    # Files with an error are tried again, so one of these is not counted.
    assert results["resumed"]["resumed_with"] == 1151
