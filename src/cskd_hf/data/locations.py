"""From what a user writes to the images that are meant: folders, datasets, shards, patterns, names on the Hub."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import datasets

from .shards import TarSource
from .sources import IMAGE_EXTENSIONS, DatasetSource, FolderSource, ImageSource
from .streaming import StreamSource

STREAM = "stream:"
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
_COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.\[\]%:+-]+)?")
_BRACES = re.compile(r"\{([^{}]*)\}")
_ALLOWED = (
    "a folder of images, a folder of Dataset.save_to_disk, .parquet, .arrow or .tar (WebDataset) files or a folder of "
    "them, a pattern such as 'shards-{0000..0009}.tar' or 'data/*.parquet', a dataset on the Hub as "
    "'organisation/name' or 'organisation/name:split', and any of these but a folder of images after 'stream:'"
)


def open_source(location: str | os.PathLike) -> ImageSource | StreamSource:
    """The images of a place.

    Args:
        location: a folder of images; a folder of `Dataset.save_to_disk`; a `.parquet`, `.arrow` or `.tar` file, a folder
            of one kind of them, or a pattern (`*`, `?`, `[...]`, `{a,b}`, `{0000..0009}`); a dataset on the Hub
            (`organisation/name`, `organisation/name:split`, the split `train` where none is named). After `stream:` the
            images are read one after another, without an index: for what is too large to be downloaded first.

    Raises:
        FileNotFoundError: nothing is there, or it holds no image; the message says what was looked for.
        ValueError: it holds something else, or a stream is asked for that cannot be one.
    """
    text = os.fspath(location)
    if text.startswith(STREAM):
        return _open_stream(text.removeprefix(STREAM), text)
    path = Path(text)
    if not path.exists() and (_is_hub_name(text)):
        return DatasetSource(_load_from_hub(text, streaming=False), name=text)
    if _is_saved_dataset(path):
        return DatasetSource(datasets.load_from_disk(str(path)), name=text)
    files = _files(text)
    if files is None:
        return _open_folder(path)
    kind = _one_kind(files, text)
    if kind == ".tar":
        return TarSource(files, text)
    if kind == ".parquet":
        return DatasetSource(datasets.Dataset.from_parquet([str(file) for file in files]), name=text)
    return DatasetSource(datasets.concatenate_datasets([datasets.Dataset.from_file(str(f)) for f in files]), name=text)


def _open_folder(path: Path) -> FolderSource:
    try:
        return FolderSource(path)
    except FileNotFoundError as error:
        below = next((file for file in sorted(path.rglob("*")) if file.suffix.lower() in _BUILDERS), None)
        if below is None:
            raise
        raise FileNotFoundError(
            f"{error} Or is '{path}/**/*{below.suffix}' meant, with {below.name} in it?"
        ) from error


def _open_stream(location: str, name: str) -> StreamSource:
    path = Path(location)
    if not path.exists() and _is_hub_name(location):
        return StreamSource(_load_from_hub(location, streaming=True), name)
    if "://" in location:
        files: Sequence[str | Path] | None = _expand_braces(location)
    else:
        files = sorted(path.glob("*.arrow")) if _is_saved_dataset(path) else _files(location)
    if files is None:
        raise ValueError(
            f"'{name}': the images of a folder are read by index, not as a stream; give it without '{STREAM}'."
        )
    names = [str(file) for file in files]
    builder = _BUILDERS[_one_kind(names, name, compressed=True)]
    try:
        load = partial(datasets.load_dataset, builder, data_files=names, split="train", streaming=True)
        dataset = _load_tar_shards(load) if builder == "webdataset" else load()
    except Exception as error:  # readers of foreign files and of the network raise anything
        raise ValueError(f"'{name}' cannot be streamed ({type(error).__name__}: {error}).") from error
    return StreamSource(dataset, name, [file.rpartition("/")[2] for file in names])


def _load_tar_shards(load: Callable[..., datasets.IterableDataset]) -> datasets.IterableDataset:
    """Shards whose images may have several extensions: the library knows those of the first samples alone.

    Args:
        load: `load_dataset` of the shards.
    """
    try:
        found = load()
    except ValueError as error:
        if "same types" not in str(error):
            raise
        found = None  # the first samples differ
    images = {extension.removeprefix("."): datasets.Image() for extension in IMAGE_EXTENSIONS}
    if found is not None:
        own = {name: kind for name, kind in found.features.items() if isinstance(kind, datasets.Image)}
        if not own:
            return found
        images |= {name: kind for name, kind in own.items() if name not in images}
    text = datasets.Value("string")
    return load(features=datasets.Features({"__key__": text, "__url__": text, **images}))


def _is_hub_name(text: str) -> bool:
    return _HUB_NAME.fullmatch(text) is not None and not text.lower().endswith((*_BUILDERS, *_COMPRESSED_TAR))


def _load_from_hub(text: str, streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    name, _, split = text.partition(":")
    try:
        return datasets.load_dataset(name, split=split or "train", streaming=streaming)
    except Exception as error:  # offline, no such dataset, no such split, a gated one: each has its own type
        raise FileNotFoundError(
            f"'{text}' does not exist as a folder or file here, and as a dataset on the Hub it could not be loaded "
            f"({type(error).__name__}: {error}). Allowed: {_ALLOWED}."
        ) from error


def _is_saved_dataset(path: Path) -> bool:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        raise ValueError(
            f"'{path}' holds several splits: {', '.join(splits)}; give one of them, e.g. '{path / splits[0]}'."
            if splits
            else f"'{path}' is a DatasetDict without splits."
        )
    return (path / "dataset_info.json").is_file() and (path / "state.json").is_file()


def _files(text: str) -> list[Path] | None:
    """The files that a location stands for; none for a folder of images.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a folder holds more than one kind, or images beside them.
    """
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        return _shards_in(path)
    if not any(sign in text for sign in "*?[{"):
        raise FileNotFoundError(f"'{text}' does not exist. Allowed: {_ALLOWED}.")
    found: list[str] = []
    for pattern in _expand_braces(text):
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise FileNotFoundError(f"'{pattern}' does not exist" + (f" (of '{text}')." if pattern != text else "."))
        found += matches
    return [Path(match) for match in dict.fromkeys(found)]


def _shards_in(folder: Path) -> list[Path] | None:
    entries = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    shards = [entry for entry in entries if entry.name.lower().endswith((*_BUILDERS, *_COMPRESSED_TAR))]
    if shards and (images := [entry.name for entry in entries if entry.name.lower().endswith(IMAGE_EXTENSIONS)]):
        raise ValueError(
            f"'{folder}' holds both images ({images[0]}) and shards ({shards[0].name}); give the shards as a pattern, "
            f"e.g. '{folder}/*{shards[0].suffix}', and keep the images in a folder of their own."
        )
    return shards or None


def _one_kind(files: Sequence[str | Path], name: str, compressed: bool = False) -> str:
    """`.parquet`, `.arrow` or `.tar`; `compressed` lets compressed tar files pass."""
    kinds = {}
    for file in map(str, files):
        tar = file.lower().endswith(_COMPRESSED_TAR)
        if tar and not compressed:
            raise ValueError(
                f"'{file}' is compressed and cannot be read by index; unpack it to a plain .tar, or read it in order "
                f"with '{STREAM}{name}'."
            )
        kinds[".tar" if tar else Path(file.partition("?")[0]).suffix.lower()] = file
    if len(kinds) != 1 or not set(kinds) <= set(_BUILDERS):
        raise ValueError(f"'{name}' is none of what can be read ({', '.join(kinds.values())}). Allowed: {_ALLOWED}.")
    return next(iter(kinds))


def _expand_braces(text: str) -> list[str]:
    """`a-{0..2}.tar` -> a-0.tar, a-1.tar, a-2.tar; `{a,b}.tar` -> a.tar, b.tar; as WebDataset and shells do."""
    found = _BRACES.search(text)
    if not found:
        return [text]
    inside = found.group(1)
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = numbers.groups()
        if int(last) < int(first):
            raise ValueError(f"'{text}': {{{inside}}} runs backwards; give the smaller number first.")
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = inside.split(",")
    start, end = text[: found.start()], text[found.end() :]
    return [expanded for choice in choices for expanded in _expand_braces(start + choice + end)]
