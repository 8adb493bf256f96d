"""The `cskd-hf data convert` command: a rated set as Parquet with its images inside, ready for `load_dataset` and the Hub."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ...files import replaced_folder, write_json
from ...models.image_loading_cskd import ImageLoadError, load_image
from .audit import location_of, reading_options
from .checks import Problems, RatingsError
from .locations import open_ratings
from .parquet import RATINGS_JSON, schema_with
from .schema import attributes_of, descriptions_of, score_values_of

SHARD_MB = 500
_BATCH = 64  # images in memory at once, and in a row group
_SPLIT = re.compile(r"\w+(\.\w+)*")
UNPUBLISHED = "## Before this is published"
"""Heading of the README.md that is written here; one without it is its owner's own."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def convert_ratings(
    location: str | os.PathLike,
    output: str | os.PathLike,
    *,
    shard_mb: float = SHARD_MB,
    overwrite: bool = False,
    quiet: bool = True,
    **reading: Any,
) -> Path:
    """Write a rated set as Parquet files with its images inside; see `parquet` for what is in the folder.

    The images are stored as they are, after a try to decode each. Nothing lies under the name `output` until all is
    written.

    Args:
        location: of the rated set, see `open_ratings`.
        output: folder to make.
        shard_mb: size in megabytes (10^6 bytes) at which the next file of a split is begun.
        overwrite: replace `output` if it exists.
        quiet: no progress bar.
        reading: further arguments of `open_ratings`; with `images="drop"` unreadable images are left out as well.

    Returns:
        `Path`: the folder.

    Raises:
        RatingsError: the set cannot be read, an image cannot, or a split has a name that the Hub does not allow.
        ValueError: `output` exists.
    """
    output = Path(output)
    if output.exists() and not overwrite:
        raise ValueError(f"'{output}' exists; give another output, or --overwrite to replace it.")
    if shard_mb <= 0:
        raise ValueError(f"shard_mb is {shard_mb}; allowed: numbers above 0.")
    ds = open_ratings(location, **reading)
    splits = ds["split"][:]
    for split in dict.fromkeys(splits):
        if not _SPLIT.fullmatch(split):
            raise RatingsError(
                f"the split {split!r} has a name that the Hub does not allow; use letters, digits, _ and dots."
            )
    description = ds.info.description
    features = datasets.Features(dict(ds.features) | {"image": datasets.Image()})
    schema = schema_with(features, description)
    drop = reading.get("images") == "drop" or "images=drop" in str(location)
    problems, counts = Problems(str(location), ds["key"][:]), Counter()
    with (
        replaced_folder(output) as partial,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        tqdm(total=len(ds), desc="images", unit="image", disable=quiet) as bar,
    ):
        (partial / "data").mkdir()
        for split in dict.fromkeys(splits):
            rows = [row for row, own in enumerate(splits) if own == split]
            tables = _tables(ds, rows, schema, problems, pool, bar)
            counts[split] = _write_split(partial / "data", split, tables, schema, int(shard_mb * 1e6))
        if problems.total and not drop:
            problems.raise_if_any()
        info = json.loads(json.dumps(descriptions_of(ds)[0]))
        if problems.total:
            note = f"{problems.total} unreadable images were left out."
            info["about"] = f"{info.get('about', '')} {note}".strip()
        if not +counts:
            raise RatingsError(f"'{location}': none of its images can be read.")
        write_json(partial / RATINGS_JSON, info)
        (partial / "README.md").write_text(data_card(info, ds, +counts), encoding="utf-8")
    return output


def _tables(
    ds: datasets.Dataset,
    rows: Sequence[int],
    schema: pa.Schema,
    problems: Problems,
    pool: ThreadPoolExecutor,
    bar: tqdm,
) -> Iterator[pa.Table]:
    """The rows in parts, their images as bytes; rows with unreadable images are noted and left out."""
    arrow = ds.with_format("arrow")
    for first in range(0, len(rows), _BATCH):
        chosen = rows[first : first + _BATCH]
        table = arrow[chosen]
        cells, kept = [], []
        for at, result in enumerate(pool.map(_encoded, table.column("image").to_pylist())):
            if isinstance(result, ImageLoadError):
                advice = f"the image cannot be read: {result.reason}"
                problems.add(chosen[at], "image", result.source, advice, "unreadable image")
            else:
                cells.append(result)
                kept.append(at)
        bar.update(len(chosen))
        if kept:
            images = pa.array(cells, schema.field("image").type)
            table = table.take(kept)
            table = table.set_column(table.column_names.index("image"), "image", images)
            yield table.select(schema.names).cast(schema)


def _encoded(cell: dict[str, Any]) -> dict[str, Any] | ImageLoadError:
    """The cell with its bytes and the bare name of its file, if it can be decoded."""
    try:
        path, data = cell["path"], cell["bytes"]
        if data is None and path.startswith(("http://", "https://")):
            return ImageLoadError(path, "it is on the web; download it first.")
        data = Path(path).read_bytes() if data is None else data
        load_image(data, target_size=64)
    except ImageLoadError as error:
        return ImageLoadError(cell["path"] or error.source, error.reason)
    except OSError as error:
        return ImageLoadError(str(cell["path"]), str(error.strerror or error))
    return {"bytes": data, "path": os.path.basename(path) if path else None}


def _write_split(folder: Path, split: str, tables: Iterator[pa.Table], schema: pa.Schema, shard_bytes: int) -> int:
    """Write the files of one split; returns its number of rows."""
    shards, rows, writer, size = [], 0, None, 0
    try:
        for table in tables:
            if writer is None:
                shards.append(folder / f"{split}-{len(shards):05d}.parquet")
                writer, size = pq.ParquetWriter(shards[-1], schema), 0
            writer.write_table(table)
            rows, size = rows + len(table), size + table.nbytes
            if size >= shard_bytes:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    for number, shard in enumerate(shards):
        shard.rename(folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
    return rows


def data_card(info: dict[str, Any], ds: datasets.Dataset, counts: Counter[str]) -> str:
    """The README.md of the folder: what `load_dataset` and the Hub need, and what a reader must know.

    Args:
        info: of the set, see `descriptions_of`.
        ds: the set.
        counts: rows of each split.
    """
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in counts)
    splits = "".join(f"| {split} | {count:,} |\n" for split, count in counts.items())
    values = ", ".join(f"{value:g}" for value in score_values_of(ds))
    scales = "".join(f"- `{name}`: {low:g} to {high:g}\n" for name, (low, high) in attributes_of(ds).items())
    attributes = f"\nMean ratings of attributes, each on its own scale:\n\n{scales}" if scales else ""
    return f"""---
pretty_name: {json.dumps(info["name"])}
license: other
task_categories:
- image-classification
tags:
- image-aesthetics
size_categories:
- {size_category(sum(counts.values()))}
configs:
- config_name: default
  data_files:
{files}---

# {info["name"]}

{info.get("about", "")}

| split | images |
|---|---|
{splits}
Each row is an image with its ratings: `distribution` (share of the votes for each of {values}; null where only the mean
is known), `mean`, `std`, `n_votes`, `split`, and `key`, its unique name. `{RATINGS_JSON}` holds the values of the bins and
the scales for programs.
{attributes}
```python
import datasets
import cskd_hf

images = datasets.load_dataset("FOLDER OR NAME ON THE HUB")
ratings = cskd_hf.open_ratings("FOLDER")  # knows the scale
```

{UNPUBLISHED}

`cskd-hf data push` writes the card of the published set in place of this one; it asks for licence and source. The licences of
many rated data sets forbid passing their images on.
"""


def size_category(rows: int) -> str:
    """What the Hub's metadata calls a number of rows."""
    return next((name for bound, name in _SIZES if rows < bound), "1M<n<10M")


def convert_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf data convert`; returns the exit code."""
    output = convert_ratings(
        location_of(namespace.data, namespace.folder),
        namespace.output,
        shard_mb=namespace.shard_mb,
        overwrite=namespace.overwrite,
        quiet=namespace.quiet,
        **reading_options(namespace),
    )
    files = sorted(path.name for path in (output / "data").iterdir())
    print(
        f"{output}: {len(files)} file{'s' if len(files) > 1 else ''}, {', '.join(files[:4])}{', ...' * (len(files) > 4)}"
    )
    print(f"load_dataset('{output}') reads it; so does cskd-hf, as rated images, with its scale.")
    return 0
