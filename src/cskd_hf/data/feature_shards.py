"""The files of a feature store: shards, a record of each while they are written, and the manifest at the end.

    manifest.json                            last: description, layout, checksum of each shard, unreadable images
    features-00003-of-00049.safetensors      (images in shard, views, dim) float16, consecutive images
    features-00003-of-00049.json             only while building: checksum and unreadable images of this shard
    building.json, building.lock             only while building: description and layout; who writes which shard

A shard is there whole or not at all, and only after the record that describes it. So a build that was killed goes on
with what is there, and a shard that is removed from a finished store is the only one computed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ..files import file_digest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_MANIFEST, _BUILDING, _LOCK = "manifest.json", "building.json", "building.lock"
_SHARDS, _FEWEST_IMAGES = 64, 64  # something to do for each of many processes
_MOST_IMAGES, _MOST_BYTES = 2048, 64 << 20  # what a killed build loses at most; what a shard needs in memory


class FeatureStoreError(ValueError):
    """A store is damaged, unfinished, or was made for another run."""


@dataclass(frozen=True)
class ShardLayout:
    """How the features of many images are divided over shards.

    Args:
        images, views, dim: shape of all features together.
        shard_size: images in each shard but the last.
    """

    images: int
    views: int
    dim: int
    shard_size: int

    @classmethod
    def of(cls, images: int, views: int, dim: int, shard_size: int | None = None) -> ShardLayout:
        """With `shard_size` images a shard; without, about 64 shards of 64 to 2,048 images, of at most 64 MiB."""
        fitting = max(_MOST_BYTES // (2 * views * dim), 1)
        shared = max(-(-images // _SHARDS), _FEWEST_IMAGES)
        return cls(images, views, dim, shard_size or min(fitting, shared, _MOST_IMAGES))

    def __len__(self) -> int:
        return -(-self.images // self.shard_size)

    def file(self, shard: int) -> str:
        return f"features-{shard:05d}-of-{len(self):05d}.safetensors"

    def record(self, shard: int) -> str:
        return f"features-{shard:05d}-of-{len(self):05d}.json"

    def span(self, shard: int) -> range:
        """Indices of the images in a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.images))

    def shape(self, shard: int) -> tuple[int, int, int]:
        return len(self.span(shard)), self.views, self.dim


class StoreFolder:
    """A store's folder, finished or not.

    Args:
        path: of the folder.
        layout: see [`ShardLayout`].
    """

    def __init__(self, path: Path, layout: ShardLayout) -> None:
        self.path, self.layout = path, layout

    @classmethod
    def claim(cls, path: Path, description: dict[str, Any], layout: ShardLayout) -> StoreFolder:
        """Open a folder to build in, or make it; what is already there must be of the same description.

        The layout of what is there is kept.

        Raises:
            FeatureStoreError: the folder is of another run.
        """
        path.mkdir(parents=True, exist_ok=True)
        if not has_store(path):
            foreign = sorted(entry.name for entry in path.iterdir() if not entry.name.endswith(".partial"))
            if foreign and not has_store(path):  # another process may have begun it just now
                raise FeatureStoreError(
                    f"'{path}' is no feature store but holds {foreign[0]!r}; give an empty or a new folder."
                )
            begun = description | {"dim": layout.dim, "shard_size": layout.shard_size}
            _write(path / _BUILDING, json.dumps(begun, indent=1).encode(), replace=False)
        begun = read_description(path)
        check_description(path, begun, description | {"dim": layout.dim})
        return cls(path, ShardLayout(begun["images"], begun["views"], begun["dim"], begun["shard_size"]))

    def is_whole(self) -> bool:
        """Whether the manifest and all shards are there, and nothing is newer than the manifest."""
        names = self._names()
        records = (self.layout.record(shard) for shard in range(len(self.layout)))
        return _MANIFEST in names and len(self.done()) == len(self.layout) and names.isdisjoint(records)

    def done(self) -> set[int]:
        """Numbers of the shards that are there, each with something that describes it."""
        names, layout = self._names(), self.layout
        return {
            shard
            for shard in range(len(layout))
            if layout.file(shard) in names and (_MANIFEST in names or layout.record(shard) in names)
        }

    def _names(self) -> set[str]:
        return {entry.name for entry in os.scandir(self.path)}

    def is_done(self, shard: int) -> bool:
        """As `done`, for one shard."""
        described = (self.path / self.layout.record(shard)).is_file() or (self.path / _MANIFEST).is_file()
        return described and (self.path / self.layout.file(shard)).is_file()

    def records(self, shards: Iterable[int]) -> list[dict[str, Any]]:
        """`file`, `bytes`, `sha256` and `unreadable` of shards that are done."""
        manifest = _read_json(self.path / _MANIFEST)
        own = [(shard, _read_json(self.path / self.layout.record(shard))) for shard in shards]
        return [manifest["shards"][shard] if record is None else record for shard, record in own]

    def write_shard(self, shard: int, features: np.ndarray, unreadable: list[list[Any]]) -> None:
        """Write a shard and the record of it.

        Args:
            shard: its number.
            features: float16 `layout.shape(shard)`.
            unreadable: index, key and reason of each image that could not be read; its features are zeros.
        """
        content = save({"features": features})
        file = self.path / self.layout.file(shard)
        file.unlink(missing_ok=True)  # a damaged one must not stand beside the new record
        record = {"file": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _write(self.path / self.layout.record(shard), json.dumps(record | {"unreadable": unreadable}).encode())
        _write(file, content)

    def finish(self, description: dict[str, Any]) -> None:
        """Write the manifest and remove what only a build needs."""
        shards = self.records(range(len(self.layout)))
        manifest = description | {"dim": self.layout.dim, "shard_size": self.layout.shard_size, "shards": shards}
        _write(self.path / _MANIFEST, json.dumps(manifest, indent=1).encode())
        for leftover in (*self.path.glob("*.partial"), self.path / _BUILDING, self.path / _LOCK):
            leftover.unlink(missing_ok=True)
        for shard in range(len(self.layout)):
            (self.path / self.layout.record(shard)).unlink(missing_ok=True)


class ShardClaims:
    """Which shards are this process's to write, among all processes of all runs that build in the same folder.

    Each is a lock on one byte of a file: the system lifts it when the process ends, however it ends. Where there are no
    such locks, a process keeps to every `world_size`-th shard; then only one run at a time may build in a folder.

    Args:
        folder: of the store.
        rank, world_size: of this process, among those of its run.
    """

    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._file = open(folder / _LOCK, "ab")

    def take(self, number: int) -> bool:
        """Whether this process may write shard `number` (or the manifest, which is one more)."""
        own = number % self.world_size == self.rank
        if fcntl is None:
            return own
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            return own and error.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    def release(self, number: int) -> None:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # no locks, as in `take`
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def close(self) -> None:
        self._file.close()


def has_store(folder: Path) -> bool:
    """Whether a folder holds a store, finished or not."""
    return (folder / _MANIFEST).is_file() or (folder / _BUILDING).is_file()


def read_description(folder: Path) -> dict[str, Any]:
    """The manifest of a store, or what one that is not finished was begun with."""
    for name in (_MANIFEST, _BUILDING, _MANIFEST):  # it may be finished while this looks
        if (found := _read_json(folder / name)) is not None:
            return found
    raise FeatureStoreError(f"'{folder}' holds no feature store (neither {_MANIFEST} nor {_BUILDING}).")


_SETTINGS_OF = {
    "encoder": "another encoder, other weights or preprocessing",
    "images": "--images, --holdout and what drops images decide on it",
    "keys": "other images, or in another order",
    "views": "--n-views; 0 takes the store's own number",
    "cut": "--crop-scale, --flip and the encoder's image size decide on it",
    "format": "written by another version of this package",
}


def check_description(folder: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises:
    FeatureStoreError: a store is not what a run needs; the message says what differs.
    """
    differing = [
        f"{key} is {found.get(key)!r} in the store and {value!r} in this run"
        + (f" ({_SETTINGS_OF[key]})" if key in _SETTINGS_OF else "")
        for key, value in json.loads(json.dumps(expected)).items()
        if found.get(key) != value
    ]
    if differing:
        raise FeatureStoreError(
            f"the feature store '{folder}' was made for another run: {'; '.join(differing)}. "
            "Give another folder, or remove this one to have it computed again."
        )


def find_damage(folder: Path, records: Iterable[dict[str, Any]], checksums: bool = True) -> dict[str, str]:
    """What is wrong with shards, by file name: missing, of another length, or with another checksum.

    Args:
        folder: of the store.
        records: of the shards to look at.
        checksums: read the shards whole, in several threads; without, their lengths alone are compared.
    """

    def look(record: dict[str, Any]) -> str | None:
        file = folder / record["file"]
        if not file.is_file():
            return "is missing"
        if (length := file.stat().st_size) != record["bytes"]:
            return f"is damaged: it has {length} bytes in place of {record['bytes']}"
        return "is damaged: its checksum differs" if checksums and file_digest(file) != record["sha256"] else None

    records = list(records)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return {record["file"]: wrong for record, wrong in zip(records, pool.map(look, records)) if wrong}


def payload_offset(content: Sequence[int]) -> int:
    """Where the numbers begin in a safetensors file of one tensor: after the header and its length."""
    return 8 + int.from_bytes(content[:8], "little")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes, replace: bool = True) -> None:
    """Write a file that appears whole, and stays after a loss of power; without `replace`, only where none is."""
    partial = path.with_name(f"{path.name}.{os.urandom(4).hex()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(partial, path)
        else:
            _link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _link(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)
    except FileExistsError:
        return  # another process was first
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(partial, path)
