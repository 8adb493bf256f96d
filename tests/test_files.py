"""Files that appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cskd_hf.files import public_name, replaced_file, write_json


def test_json_is_strict_and_whole(tmp_path: Path):
    path = tmp_path / "new" / "figures.json"
    write_json(path, {1: float("nan"), "é": (np.float64(np.inf), np.arange(2)), "place": Path("x"), "n": np.int64(3)})
    text = path.read_text(encoding="utf-8")
    assert "é" in text and "NaN" not in text
    assert json.loads(text) == {"1": None, "é": [None, [0, 1]], "place": "x", "n": 3}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text(encoding="utf-8") == text and [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_names_that_are_no_text(tmp_path: Path):
    name = b"photo-\xff.jpg".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "names.json", [name])
    assert json.loads((tmp_path / "names.json").read_text(encoding="utf-8")) == [name]


def test_a_broken_block_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replaced_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_public_name(tmp_path: Path):
    (tmp_path / "model").mkdir()
    assert public_name(tmp_path / "model") == "model" and public_name("somebody/model") == "somebody/model"
