"""Pickles are found by what a file holds, at any depth, and nothing else is taken for one."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

from cskd_hf.hub import pickles
from cskd_hf.hub.pickles import find_pickles
from image_files import encode, gradient


class Runs:
    """What runs a command when it is loaded."""

    def __reduce__(self) -> tuple:
        return print, ("it ran",)


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def zipped(content: bytes, name: str = "a/b.txt") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def tarred(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("inside.txt")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


OBJECTS = np.array([{"a": 1}, None], dtype=object)
EVIL = pickle.dumps(Runs())
PICKLES = {
    **{f"protocol {protocol}": pickle.dumps(Runs(), protocol) for protocol in range(6)},
    **{f"data, protocol {protocol}": pickle.dumps({"a": [1, 2.5]}, protocol) for protocol in range(6)},
    "an object": pickle.dumps(Path("x")),
    "cut off after its call": EVIL[:-1],
    "cut off after its import": b"\x80\x04\x8c\x05posix\x8c\x06system\x93",
    "with something behind": EVIL + b"\x00" * 4096,
    "old text with something behind": b"cposix\nsystem\n(S'true'\ntR.\n\nand more text",
    "torch": saved(lambda stream: torch.save(nn.Linear(2, 2).state_dict(), stream)),
    "old torch": saved(
        lambda stream: torch.save(nn.Linear(2, 2).state_dict(), stream, _use_new_zipfile_serialization=False)
    ),
    "numpy objects": saved(lambda stream: np.save(stream, OBJECTS, allow_pickle=True)),
    "numpy objects in a field": saved(
        lambda stream: np.save(stream, np.zeros(2, dtype=[("a", "f4"), ("b", "O")]), allow_pickle=True)
    ),
    "npz of objects": saved(lambda stream: np.savez(stream, a=np.zeros(3), b=OBJECTS)),
    "zip": zipped(EVIL),
    "zip with a name": zipped(b"nothing", "archive/data.pkl"),
    "zip behind other bytes": b"#!/bin/sh\n" * 100 + zipped(EVIL),
    "zip in zip": zipped(zipped(EVIL)),
    "tar": tarred(EVIL),
    "tar.gz": gzip.compress(tarred(EVIL)),
    "gzip": gzip.compress(EVIL),
    "bz2": bz2.compress(EVIL),
    "xz": lzma.compress(EVIL),
    "lzma": lzma.compress(EVIL, format=lzma.FORMAT_ALONE),
    "zlib": zlib.compress(EVIL),
}
HARMLESS = {
    "safetensors": save({"a": np.arange(6, dtype=np.float32)}),
    "json": json.dumps({"a": [1, "x."]}).encode(),
    "text": b"N.B. this is no pickle, although it begins like None and its stop.",
    "requirements": b"cskd_hf>=0.1\ntransformers>=5,<6\nbottle\nR\n.",
    "code": b"import os\nfrom pathlib import Path\n\nclass A:\n    pass\n",
    "code too": b"class A:\n    pass\nclass B:\n    pass\nR.\n",
    "card": b"---\nlicense: mit\n---\n# A model\n",
    "csv": b"image,score\na.jpg,5.0\n",
    "empty": b"",
    "one byte": b"\x80",
    "png": encode(gradient()),
    "jpeg": encode(gradient(), "JPEG"),
    "numpy": saved(lambda stream: np.save(stream, np.zeros((2, 3)))),
    "npz": saved(lambda stream: np.savez(stream, a=np.zeros(3), b=np.arange(4))),
    "zip": zipped(b"some text"),
    "gzip": gzip.compress(b"some text"),
    "begins like zlib": b"\x78\x9c but is none",
    "parquet": b"PAR1" + bytes(range(256)) + b"PAR1",
}


def found_in(tmp_path: Path, content: bytes, name: str = "deep/er/notes.txt") -> dict[str, str]:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return find_pickles(tmp_path)


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_pickles_are_found_whatever_their_name(content: bytes, tmp_path: Path):
    assert list(found_in(tmp_path, content)) == ["deep/er/notes.txt"]


@pytest.mark.parametrize("content", HARMLESS.values(), ids=HARMLESS)
def test_nothing_else_is_a_pickle(content: bytes, tmp_path: Path):
    assert found_in(tmp_path, content) == {}


@pytest.mark.parametrize(
    "length", [0x80 | proto << 8 | third << 16 for proto in range(2, 6) for third in (0, 0x28, 0x5D)]
)
def test_a_header_whose_length_looks_like_a_pickle(length: int, tmp_path: Path):
    """Safetensors begin with the length of their header: 640 is the first byte of a pickle and its protocol."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = length.to_bytes(8, "little") + header.ljust(length) + bytes(4)
    assert found_in(tmp_path, content, "model.safetensors") == {}


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "a.pt", "b.PTH", "c.ckpt", "sub/d.pkl", "e.joblib", ".x.pickle"]
)
def test_names(name: str, tmp_path: Path):
    assert list(found_in(tmp_path, b"text", name)) == [name]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x28\xb5\x2f\xfd" + bytes(20), "compressed with zstd"),
        (b"\x04\x22\x4d\x18" + bytes(20), "compressed with lz4"),
        (gzip.compress(b"text" * 100)[:-20], "broken archive"),
        (b"\x93NUMPY\x01\x00\x05\x00{'des", "numpy array without a readable header"),
        (zipped(zipped(zipped(zipped(zipped(b"text"))))), "more than 4 deep"),
    ],
)
def test_what_cannot_be_looked_into_counts(content: bytes, reason: str, tmp_path: Path):
    assert reason in found_in(tmp_path, content)["deep/er/notes.txt"]


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickles, "_MAX_BYTES", 2**16)
    for number, content in enumerate([gzip.compress(bytes(2**17)), zlib.compress(bytes(2**22)), zipped(bytes(2**17))]):
        (tmp_path / str(number)).write_bytes(content)
    assert all("more than" in reason for reason in find_pickles(tmp_path).values())
    assert len(find_pickles(tmp_path)) == 3


def test_nothing_is_run(tmp_path: Path, capsys: pytest.CaptureFixture):
    for name, content in PICKLES.items():
        found_in(tmp_path, content, name.replace(" ", "_"))
    assert len(find_pickles(tmp_path)) == len(PICKLES)
    assert capsys.readouterr().out == ""
