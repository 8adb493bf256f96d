"""Scores of the images of a Ray dataset, on as many machines as the cluster has. Needs the extra `ray`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .engine import load_engine
from .errors import ScoringError
from .outputs import columns, flat_row
from .scan import RESULT, scan_batches

if TYPE_CHECKING:
    import ray.data


def score_dataset(
    dataset: ray.data.Dataset,
    model: str,
    *,
    column: str = "path",
    batch_size: int = 64,
    concurrency: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    workers: int = 1,
    reduced_decoding: bool = False,
    allow_truncated: bool = False,
) -> ray.data.Dataset:
    """Score the images of a Ray dataset.

    ```python
    >>> paths = ray.data.from_items([{"path": path} for path in Listing(["photos/"])])
    >>> score_dataset(paths, "runs/student").write_parquet("scores/")
    >>> files = ray.data.read_binary_files("s3://bucket/photos/", include_paths=True)
    >>> score_dataset(files, "you/student", column="bytes").write_parquet("s3://bucket/scores/")
    ```

    Args:
        dataset: one row an image.
        model: as in `load_engine`; every machine loads it, so a folder must be on all of them.
        column: path, URL or encoded bytes of the image. A column of bytes is left out of the result.
        batch_size: rows that are handed over together.
        concurrency: actors, each with a model of its own; or their least and greatest number.
        num_cpus, num_gpus: of each actor.
        workers: threads of each actor that read images.
        reduced_decoding, allow_truncated: as in `load_engine`.

    Returns:
        the dataset, lazily, with the columns of a Parquet file of `cskd-hf score`: `score`, `score_std`, `scale_low`,
        `scale_high`, `percentile`, `calibrated_score`, one for each attribute, and `error`; null where there is none.

    Raises:
        ImportError: Ray is not installed.
        ScoringError: the dataset has no such column.
    """
    _require_ray()
    names = dataset.columns(fetch_if_missing=False)
    if names is not None:
        _check_column(column, names)
    return dataset.map_batches(
        DatasetScorer,
        fn_constructor_kwargs={
            "model": model, "column": column, "workers": workers, "device": "cuda" if num_gpus else "cpu",
            "reduced_decoding": reduced_decoding, "allow_truncated": allow_truncated,
        },
        batch_size=batch_size,
        batch_format="pyarrow",
        concurrency=concurrency,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )  # fmt: skip


class DatasetScorer:
    """Scores batches of rows; an actor of Ray keeps one.

    Args:
        model, device, reduced_decoding, allow_truncated: as in `load_engine`.
        column, workers: as in `score_dataset`.
        batch_size: images a forward.
    """

    def __init__(
        self,
        model: str,
        column: str,
        *,
        workers: int = 1,
        batch_size: int = 16,
        **options: Any,
    ) -> None:
        self._engine = load_engine(model, **options)
        self._column, self._workers, self._batch_size = column, workers, batch_size
        grey = self._engine.prepare(np.full((64, 64, 3), 128, np.uint8))
        # A block of which no image can be read needs the same columns as the others.
        self._columns = columns(self._engine.score(grey[None])[0])[1:]

    def __call__(self, table: Any) -> Any:
        """Add the columns of the scores to a `pyarrow.Table`."""
        import pyarrow as pa

        _check_column(self._column, table.column_names)
        if taken := sorted(set(self._columns) & set(table.column_names)):
            raise ScoringError(f"the dataset has columns {', '.join(taken)} already; rename or drop them.")
        sources = table.column(self._column).to_pylist()
        batches = (sources[first : first + self._batch_size] for first in range(0, len(sources), self._batch_size))
        rows = [
            flat_row({key: scored.result[key] for key in RESULT if key in scored.result})
            for batch in scan_batches(self._engine, batches, workers=self._workers, source_of=lambda source: source)
            for scored in batch
        ]
        kind = table.schema.field(self._column).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            table = table.drop_columns([self._column])
        for name in self._columns:
            kind = pa.string() if name == "error" else pa.float64()
            table = table.append_column(name, pa.array([row.get(name) for row in rows], kind))
        return table


def _check_column(column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise ScoringError(f"the dataset has no column '{column}'; its columns: {', '.join(names)}.")


def _require_ray() -> None:
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ImportError("scoring a Ray dataset needs Ray: pip install 'cskd_hf[ray]'.") from error
