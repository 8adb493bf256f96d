"""WebDataset tar shards on this machine, read by index: their headers are scanned once, the images only when drawn."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..models.image_loading_cskd import ImageLoadError
from .sources import IMAGE_EXTENSIONS

_BLOCK = tarfile.BLOCKSIZE
_GAP_CHUNK = 2**20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


class TarSource:
    """The images of tar shards, in the order of the shards and of their members.

    A shard that is damaged or cut short gives the images that are still whole; `damage` says what is wrong with it.
    Of a WebDataset sample such as `0001.jpg`, `0001.seg.png`, `0001.json` the image is `0001.jpg`.

    Args:
        paths: uncompressed tar files.
        name: of the source in reports.

    Raises:
        FileNotFoundError: a shard is missing, or there is no image in any of them.
        ValueError: a shard is compressed, which allows no reading by index.
    """

    def __init__(self, paths: Sequence[str | os.PathLike], name: str = "") -> None:
        self.paths = [Path(path) for path in paths]
        self.name = name or str(self.paths[0])
        self.damage: list[tuple[str, str]] = []
        shards = [self._scan(path) for path in self.paths]
        self._names = [names for names, _, _ in shards]
        self._places = [places for _, places, _ in shards]
        self._first = np.concatenate([[0], np.cumsum([len(names) for names in self._names])])
        # Two shards of one name in different folders are told apart by their paths.
        short = [path.name for path in self.paths]
        self._labels = short if len(set(short)) == len(short) else [str(path) for path in self.paths]
        self.damage = [(label, reason) for label, (_, _, reason) in zip(self._labels, shards) if reason]
        if not len(self):
            why = f" ({self.damage[0][0]}: {self.damage[0][1]})" if self.damage else ""
            raise FileNotFoundError(f"no image in '{self.name}'; looked for {', '.join(IMAGE_EXTENSIONS)}{why}.")

    @staticmethod
    def _scan(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
        if not path.is_file():
            raise FileNotFoundError(f"tar shard '{path}' does not exist or is not a file.")
        return scan_tar(path)

    def __len__(self) -> int:
        return int(self._first[-1])

    def _locate(self, index: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        return shard, index - int(self._first[shard])

    def key(self, index: int) -> str:
        """`<shard>.tar/<member>`."""
        shard, row = self._locate(index)
        return f"{self._labels[shard]}/{self._names[shard][row].decode(errors='replace')}"

    def read(self, index: int) -> dict[str, Any]:
        shard, row = self._locate(index)
        offset, size = self._places[shard][row].tolist()
        try:
            # Opened for each read: a handle that forked workers share would have one position for all of them.
            with open(self.paths[shard], "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise ImageLoadError(self.key(index), f"its shard cannot be read ({error})") from error
        if len(data) < size:
            raise ImageLoadError(self.key(index), f"its shard '{self.paths[shard]}' ends within it")
        return {"bytes": data, "path": self.key(index)}


def scan_tar(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """Where the images of a tar file lie; only its headers are read.

    Returns:
        names: bytes, `(images,)`.
        places: int64 offset and size in bytes, `(images, 2)`.
        damage: what is wrong with the file; empty for a whole one.

    Raises:
        ValueError: the file is compressed.
    """
    names, places, damage, end, length = [], [], [], 0, path.stat().st_size
    with open(path, "rb") as file:
        _refuse_compressed(file.read(6), path)
        file.seek(0)
        try:
            # Going on after zeros is going on after damage too: the next header with a right checksum counts.
            archive = tarfile.TarFile(fileobj=file, ignore_zeros=True)
            while (member := archive.next()) is not None:
                archive.members = []  # it would keep them all
                damage += _gap(file, end, member.offset)
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if member.offset_data + member.size > length:
                    break
                if member.isreg() and not member.issparse() and _is_image(member.name):
                    names.append(member.name.encode(errors="surrogateescape"))
                    places.append((member.offset_data, member.size))
        except tarfile.TarError as error:
            damage.append(f"{error} after byte {end}")
        else:
            damage += _gap(file, end, length)
    if end > length:
        damage.append(f"it ends within a member, at byte {length}")
    elif end == length:
        damage.append("it has no end mark, so members may be missing")
    if not end:
        damage = ["it is empty" if length == 0 else "it is not a tar file"]
    kept = _one_image_a_sample(names)
    reason = f"damaged: {'; '.join(damage)}; {len(kept)} whole images are used" if damage else ""
    return np.array(names, dtype=bytes)[kept], np.array(places, dtype=np.int64).reshape(-1, 2)[kept], reason


def _refuse_compressed(start: bytes, path: Path) -> None:
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(
                f"tar shard '{path}' is compressed ({kind}) and cannot be read by index; unpack it to a plain .tar, or "
                f"read it in order with 'stream:{path}'."
            )


def _gap(file: Any, start: int, stop: int) -> list[str]:
    """What lies between two members: zeros are allowed (two archives in one file), all else is damage."""
    position = file.tell()
    file.seek(start)
    found = []
    for first in range(start, stop, _GAP_CHUNK):
        if file.read(min(_GAP_CHUNK, stop - first)).strip(b"\0"):
            found = [f"bytes {start} to {stop} are no tar members"]
            break
    file.seek(position)
    return found


def _is_image(member: str) -> bool:
    name = PurePosixPath(member).name
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def _one_image_a_sample(names: list[bytes]) -> np.ndarray:
    """Rows of `names` without those that accompany another image, as `a.seg.png` does `a.jpg`."""
    plain = {name.rpartition(b".")[0] for name in names}

    def accompanies(name: bytes) -> bool:
        folder, slash, file = name.rpartition(b"/")
        sample, _, field = file.partition(b".")
        return b"." in field and folder + slash + sample in plain

    return np.array([row for row, name in enumerate(names) if not accompanies(name)], dtype=np.int64)
