"""A run of `cskd-hf score` that is killed again and again ends with the output of an unbroken one."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cskd_hf.cli import main
from scoring_processes import score
from tiny_scorers import save_scorer

KILLED = -signal.SIGKILL
KILLS = 7  # 21 over the three formats


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_scorer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 images in three folders, two of them broken."""
    folder = tmp_path_factory.mktemp("album")
    rng = np.random.default_rng(0)
    for number in range(90):
        path = folder / f"{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.normal(rng.uniform(0, 255, 3), 20, (40, 30, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "1" / "40.png").write_bytes(b"no image")
    (folder / "2" / "62.png").write_bytes(b"")
    return folder


def content(output: Path) -> object:
    return pq.read_table(output).to_pylist() if output.suffix == ".parquet" else output.read_bytes()


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_killed_and_resumed(model: str, album: Path, tmp_path: Path, extension: str):
    unbroken, output = tmp_path / f"unbroken.{extension}", tmp_path / f"scores.{extension}"
    options = ["--batch-size", 4, "--workers", 2]
    assert main(["score", "--model", model, str(album), "--output", str(unbroken), "--quiet", *map(str, options)]) == 3
    rng = np.random.default_rng(list(extension.encode()))
    for _ in range(KILLS):
        killed = score(
            ["--model", model, album, "--output", output, *options],
            batches=int(rng.integers(0, 24 // KILLS)),
            delay=float(rng.uniform(0, 0.01)),
        )
        assert killed == [KILLED] and not output.exists()
    assert score(["--model", model, album, "--output", output, *options]) == [3]
    assert content(output) == content(unbroken)


def test_processes_share_the_images(model: str, album: Path, tmp_path: Path):
    """Two ranks, killed once, then three, then one: every image once."""
    unbroken, output = tmp_path / "unbroken.jsonl", tmp_path / "scores.jsonl"
    options = ["--batch-size", "4", "--workers", "1", "--device", "cpu"]
    assert main(["score", "--model", model, str(album), "--output", str(unbroken), "--quiet", *options]) == 3
    killed = score(["--model", model, album, "--output", output, *options], processes=2, batches=3)
    assert KILLED in killed and not output.exists()
    parts = sorted(path.name for path in tmp_path.glob("scores.jsonl.ledger-[0-9]"))
    assert parts == ["scores.jsonl.ledger-0", "scores.jsonl.ledger-1"]
    assert score(["--model", model, album, "--output", output, *options], processes=3) == [0, 0, 0]
    assert content(output) == content(unbroken)
    assert sorted(path.name for path in tmp_path.glob("scores*")) == ["scores.jsonl", "scores.jsonl.ledger"]
