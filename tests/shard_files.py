"""Tar shards and Parquet files of small images, made for the tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import datasets
from PIL import Image

from image_files import encode


def coloured(number: int) -> bytes:
    """A PNG whose red says which one it is."""
    return encode(Image.new("RGB", (12, 10), (number, 100, 50)))


def write_tar(path: Path, members: dict[str, bytes]) -> list[int]:
    """Write a tar file; returns where each member's header starts."""
    starts = []
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            starts.append(archive.offset)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return starts


def write_parquet(path: Path, images: list[bytes], keys: list[str] | None = None) -> None:
    columns = {"image": [{"bytes": data, "path": None} for data in images]}
    features = {"image": datasets.Image()}
    if keys:
        columns["key"], features["key"] = keys, datasets.Value("string")
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)
