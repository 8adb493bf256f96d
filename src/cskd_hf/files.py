"""Files and folders that appear whole or not at all; JSON that every reader takes; names without paths."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np


@contextmanager
def replaced_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path to write to; it takes the place of `path` when the block ends without an error.

    The folder of `path` is made where it does not exist.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def half_written(target: Path) -> Path:
    """Where `replaced_folder` writes, beside the folder; a name that nobody gives to a folder of their own."""
    return target.with_name(f"{target.name}.cskd-partial")


def _set_aside(target: Path) -> Path:
    return target.with_name(f"{target.name}.cskd-old")


def recover_folder(target: Path) -> None:
    """Put back what a crash between the two renames of `replaced_folder` left aside, and drop what was half written."""
    old = _set_aside(target)
    if old.is_dir() and not target.exists():
        os.replace(old, target)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(half_written(target), ignore_errors=True)


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; it takes the place of `target` when the block ends without an error.

    Args:
        target: a folder or nothing yet; of a link to one, the folder that it points to.
    """
    target = target.resolve()
    partial, old = half_written(target), _set_aside(target)
    recover_folder(target)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write strict JSON, whole or not at all: NaN and infinities become null, since JSON has no such numbers.

    Args:
        path: the file; its folder is made.
        content: of anything that JSON holds, numpy numbers and arrays, and paths.

    Raises:
        TypeError: a value that JSON cannot hold; nothing is written.
    """
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with replaced_file(path) as partial:
        # A file name need not be valid text: half a character becomes its escape, which JSON has too.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def plain(value: Any) -> Any:
    """Only what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of the content of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def public_name(location: str | os.PathLike) -> str:
    """The last part of a local path, which is its maker's own; a Hub name as it is."""
    path = Path(location)
    return path.resolve().name if path.exists() else str(location)


def public(value: Any) -> Any:
    """The value without absolute paths in it: of each, only the last part."""
    if isinstance(value, Mapping):
        return {name: public(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(entry) for entry in value]
    if isinstance(value, str) and "://" not in value:
        kind, colon, place = value.partition(":")
        if colon and len(kind) > 1 and _absolute(place):
            return f"{kind}:{_last(place)}"
        return _last(value) if _absolute(value) else value
    return value


def _absolute(text: str) -> bool:
    return text.startswith(("/", "~/")) or PureWindowsPath(text).is_absolute()


def _last(text: str) -> str:
    kind = PurePosixPath if text.startswith(("/", "~/")) else PureWindowsPath
    return kind(text).name
