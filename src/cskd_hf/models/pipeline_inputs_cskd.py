"""What the pipeline takes as many images, and how it walks through them.

The file is shipped to the Hub beside the model, so it imports nothing of the package but its neighbours.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import GeneratorType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers.pipelines.pt_utils import KeyDataset, PipelineIterator

from .image_sources_cskd import ImageLoadError

_IMAGE_COLUMN = "image"


def many_or_one(inputs: Any) -> Any:
    """Sort out what a call was given.

    Of a column of `datasets` the encoded images are taken rather than the decoded ones, so that one that cannot be decoded
    is no error of the dataset, which would end the walk through it.

    Args:
        inputs: whatever the pipeline was called with.

    Returns:
        a list, for a list or tuple; a torch dataset or a generator, for what is walked through lazily; anything else as it
        is, which is one image.

    Raises:
        ValueError: a dataset without a column that is plainly the images, or one with several splits.
    """
    datasets = sys.modules.get("datasets")  # nobody can hold a dataset who has not imported it
    if datasets is not None:
        if isinstance(inputs, (datasets.DatasetDict, datasets.IterableDatasetDict)):
            raise ValueError(
                f"the dataset has the splits {list(inputs)}; give one of them, e.g. dataset[{next(iter(inputs))!r}]."
            )
        if isinstance(inputs, datasets.Dataset):
            return _column(inputs, _image_column(inputs), datasets)
        if isinstance(inputs, datasets.IterableDataset):
            return _iterable_column(inputs, _image_column(inputs), datasets)
        if isinstance(inputs, datasets.Column) and isinstance(inputs.source, datasets.Dataset):
            return _column(inputs.source, inputs.column_name, datasets)
        if isinstance(inputs, datasets.IterableColumn) and isinstance(inputs.source, datasets.IterableDataset):
            return _iterable_column(inputs.source, inputs.column_name, datasets)
        if isinstance(inputs, datasets.IterableColumn):
            return (item for item in inputs)
        if isinstance(inputs, KeyDataset) and isinstance(inputs.dataset, datasets.Dataset):
            return _column(inputs.dataset, inputs.key, datasets)
    if isinstance(inputs, (list, tuple)):
        return list(inputs)
    if isinstance(inputs, IterableDataset) or isinstance(inputs, GeneratorType):
        return inputs
    if isinstance(inputs, Dataset):
        return _Items(inputs)  # also hides a KeyDataset, of which transformers reads the first item before the walk
    if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes, bytearray, memoryview)):
        return _Items(inputs)
    if isinstance(inputs, Iterator) and not hasattr(inputs, "read"):  # a file object is an iterator too
        return (item for item in inputs)
    return inputs


class _Items(Dataset):
    """The items of anything that has a length and numbers; of rows, the item `key` of each."""

    def __init__(self, items: Any, key: str | None = None) -> None:
        self.items, self.key = items, key

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        return item if self.key is None else item[self.key]


def _image_column(dataset: Any) -> str:
    names = list(dataset.column_names or [])
    image_feature = sys.modules["datasets"].Image
    of_images = [name for name, feature in (dataset.features or {}).items() if isinstance(feature, image_feature)]
    if _IMAGE_COLUMN in of_images or (not of_images and (_IMAGE_COLUMN in names or not names)):
        return _IMAGE_COLUMN
    if len(of_images) == 1:
        return of_images[0]
    found = f"several hold images ({', '.join(of_images)})" if of_images else "none holds images"
    raise ValueError(f"of the dataset's columns {names} {found}; give one, e.g. dataset[{(of_images or names)[0]!r}].")


def _encoded(dataset: Any, column: str, datasets: Any) -> Any:
    feature = (dataset.features or {}).get(column)
    # A mode asks for a conversion that is done while decoding; a format makes arrays or tensors of what was decoded.
    decoded = isinstance(feature, datasets.Image) and feature.decode and feature.mode is None
    if decoded and getattr(dataset, "_formatting", None) is None:
        return dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def _column(dataset: Any, column: str, datasets: Any) -> Dataset:
    if (
        dataset.format["type"] is None
    ):  # a format or a transform of the user's makes arrays, tensors or pictures itself
        dataset = _encoded(dataset.select_columns([column]), column, datasets)
    return _Items(dataset, column)


def _iterable_column(dataset: Any, column: str, datasets: Any) -> GeneratorType:
    encoded = _encoded(dataset, column, datasets)
    return (row[column] for row in encoded)


class PreparedItems(Dataset):
    """A dataset of prepared images, for the workers of a `DataLoader`.

    Args:
        items: has a length and numbers.
        prepare: makes of an item the model's inputs, or a dict with `error`.
        keep_errors: give an item that the dataset itself fails to give as a dict with `error`, rather than raise.
    """

    def __init__(self, items: Any, prepare: Callable[[Any], Any], keep_errors: bool) -> None:
        self.items, self.prepare, self.keep_errors = items, prepare, keep_errors

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        try:
            item = self.items[index]
        except Exception as error:  # whatever a dataset of somebody else raises for a file that it cannot decode
            if not self.keep_errors:
                raise
            reason = f"the dataset failed to give it ({type(error).__name__}: {str(error)[:200]})"
            return {"error": reason, "source": f"<item {index}>"}
        return self.prepare(item)


class PreparedStream(IterableDataset):
    """As `PreparedItems`, of an iterable: its own errors end the walk, for there is no next item after one."""

    def __init__(self, items: Any, prepare: Callable[[Any], Any]) -> None:
        self.items, self.prepare = items, prepare

    def __iter__(self) -> Iterator[Any]:
        return map(self.prepare, self.items)


def grouped(items: Sequence[Any]) -> dict[str, Any]:
    """Collate prepared images: those of one shape go together through the model, errors keep their places.

    Args:
        items: dicts with `pixel_values` `(1, 3, height, width)`, or with `error`.

    Returns:
        `errors`, those by place; and `groups`, pairs of places and `pixel_values` `(places, 3, height, width)`.
    """
    errors: dict[int, dict[str, str]] = {}
    shapes: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
    for place, item in enumerate(items):
        if "error" in item:
            errors[place] = dict(item)
        else:
            shapes.setdefault(item["pixel_values"].shape, []).append((place, item["pixel_values"]))
    groups = [
        ([place for place, _ in members], torch.cat([pixels for _, pixels in members])) for members in shapes.values()
    ]
    return {"errors": errors, "groups": groups}


class Results(PipelineIterator):
    """The results of a walk, one by one; without workers it reads no further than the batch of the result that is
    asked for, each worker two batches ahead.

    Args:
        loader: gives what `grouped` makes.
        score: makes of that a result for each item, in order.
        keep_errors: give an error as the result that it is, rather than raise it in its turn.
    """

    def __init__(self, loader: DataLoader, score: Callable[[Any], list[dict[str, Any]]], keep_errors: bool) -> None:
        super().__init__(loader, score, {})
        self.keep_errors = keep_errors
        self.iterator: Iterator[Any] | None = None
        self._ready: deque[dict[str, Any]] = deque()

    def __len__(self) -> int:
        return len(self.loader.dataset)

    def __iter__(self) -> Results:
        self.iterator = iter(self.loader)
        self._ready.clear()
        return self

    def __next__(self) -> dict[str, Any]:
        if self.iterator is None:
            iter(self)
        while not self._ready:
            self._ready.extend(self.infer(next(self.iterator)))
        result = self._ready.popleft()
        if "error" in result and not self.keep_errors:
            raise ImageLoadError(result["source"], result["error"])
        return result
