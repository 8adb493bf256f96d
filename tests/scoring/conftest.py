"""A tiny scorer, and a folder of images good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny_scorers import save_scorer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_scorer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Seven images at several depths, one broken and one empty file, a text file and a hidden image."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "album"
    for i in range(7):
        path = folder / ("sub/deep" if i % 2 else ".") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = rng.uniform(0, 255, 3)
        pixels = rng.normal(colour, 20, (30 + i, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "3-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photograph")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no image")
    Image.new("RGB", (9, 9)).save(folder / ".hidden.png")
    return folder
