"""Scores over Ray Data; the part that needs Ray is skipped where it is not installed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from cskd_hf.scoring.errors import ScoringError
from cskd_hf.scoring.folder import score_images
from cskd_hf.scoring.listing import Listing
from cskd_hf.scoring.ray import DatasetScorer, score_dataset


def check(rows: list[dict], model: str, album: Path) -> None:
    expected = {result["path"]: result for result in score_images(model, [str(album)], quiet=True)}
    assert sorted(row["path"] for row in rows) == sorted(expected)
    for row in rows:
        result = expected[row["path"]]
        assert row["score"] == pytest.approx(result.get("score"), abs=1e-4)
        assert (row["error"] is None) == ("score" in result) and row["percentile"] is None
        assert row["scale_high"] == (5.0 if "score" in result else None)


def test_a_batch_of_rows(model: str, album: Path):
    paths = list(Listing([album]))
    scorer = DatasetScorer(model, "path", batch_size=4, device="cpu")
    check(scorer(pa.table({"path": paths})).to_pylist(), model, album)
    encoded = pa.table({"path": paths, "bytes": [Path(path).read_bytes() for path in paths]})
    rows = DatasetScorer(model, "bytes", device="cpu")(encoded)
    assert "bytes" not in rows.column_names
    check([row | {"error": row["error"] and "other words"} for row in rows.to_pylist()], model, album)


def test_batches_of_broken_images_have_the_same_columns(model: str, album: Path):
    scorer = DatasetScorer(model, "path", device="cpu")
    good, bad = (scorer(pa.table({"path": [str(album / name)]})) for name in ("0.png", "empty.png"))
    assert good.schema == bad.schema


def test_a_column_that_is_not_there(model: str):
    with pytest.raises(ScoringError, match="no column 'file'; its columns: path"):
        DatasetScorer(model, "file", device="cpu")(pa.table({"path": ["1.png"]}))


def test_on_ray(model: str, album: Path, tmp_path: Path):
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        paths = ray.data.from_items([{"path": path} for path in Listing([album])], override_num_blocks=3)
        with pytest.raises(ScoringError, match="no column 'file'; its columns: path"):
            score_dataset(paths, model, column="file")
        score_dataset(paths, model, batch_size=4).write_parquet(str(tmp_path / "scores"))
        check(ray.data.read_parquet(str(tmp_path / "scores")).take_all(), model, album)
    finally:
        ray.shutdown()
