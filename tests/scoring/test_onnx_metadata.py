"""The metadata of exported graphs, read without onnx; files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cskd_hf.scoring.onnx_metadata import FIELDS, read_metadata
from onnx_files import write_graph

KNOWN = {name: {"of": name} for name in FIELDS}


def test_read_past_a_graph_of_any_size(tmp_path: Path):
    write_graph(tmp_path / "a.onnx", KNOWN, graph=bytes(70_000))
    assert read_metadata(tmp_path / "a.onnx") == KNOWN


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_file_that_breaks_off(cut: int, tmp_path: Path):
    file = tmp_path / "a.onnx"
    write_graph(file, KNOWN, graph=b"graph")
    file.write_bytes(file.read_bytes()[:-cut])
    assert read_metadata(file) == {}


@pytest.mark.parametrize("content", [b"", b"\x08\x08 a graph", b"\xff" * 40, b"{}"])
def test_other_files(content: bytes, tmp_path: Path):
    (tmp_path / "a.onnx").write_bytes(content)
    assert read_metadata(tmp_path / "a.onnx") == {}


def test_a_graph_that_says_too_little(tmp_path: Path):
    write_graph(tmp_path / "a.onnx", {"score_values": [1, 2]})
    assert read_metadata(tmp_path / "a.onnx") == {}
