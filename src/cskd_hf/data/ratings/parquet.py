"""Rated sets as Parquet files with their images inside, as `cskd-hf data convert` writes them.

    FOLDER/README.md                            data card; names the files of each split for load_dataset
    FOLDER/ratings.json                         score_values and the scales of the attributes, as in the dataset's info
    FOLDER/data/train-00000-of-00002.parquet    the columns of the ratings schema, images as bytes

The files carry the content of ratings.json in their metadata too, so one of them alone is a rated set.
"""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from .checks import RatingsError

RATINGS_JSON = "ratings.json"
_KEY = b"cskd_hf.ratings"


def schema_with(features: datasets.Features, description: str) -> pa.Schema:
    """The schema of the files: that of `features`, with the description of the dataset's info."""
    schema = features.arrow_schema
    return schema.with_metadata({**(schema.metadata or {}), _KEY: description.encode()})


def is_converted(path: Path) -> bool:
    """Whether a folder or a Parquet file was written by `cskd-hf data convert`."""
    if path.is_dir():
        return (path / RATINGS_JSON).is_file()
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowInvalid, OSError):
        return False  # what reads it next says what is wrong


def load_converted(path: Path) -> datasets.Dataset:
    """Read such a folder or file: memory-mapped, with the info and undecoded images of the ratings schema.

    Raises:
        RatingsError: the folder has no data.
    """
    if path.is_dir():
        files = sorted(path.glob("data/*.parquet"))
        description = json.dumps(json.loads((path / RATINGS_JSON).read_text(encoding="utf-8")))
    else:
        files, description = [path], pq.read_schema(path).metadata[_KEY].decode()
    if not files:
        raise RatingsError(
            f"'{path}': there are no data/*.parquet files beside {RATINGS_JSON}; convert the set again."
        )
    # One after another: a split's own name would be taken for that of a file otherwise.
    ds = datasets.Dataset.from_parquet([str(file) for file in files])
    ds = ds.cast_column("image", datasets.Image(decode=False))
    ds.info.description = description
    return ds
