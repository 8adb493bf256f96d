"""Which images are scored: files, and those below folders, one after the other, so that a million need no memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.sources import IMAGE_EXTENSIONS
from .errors import ScoringError

logger = logging.getLogger(__name__)

EXTENSIONS = (*IMAGE_EXTENSIONS, ".heic", ".heif")
"""With those that need the extra `heif`: without it each is reported, which is better than to score half a folder."""


class Listing:
    """The image files of files and folders, each once: in the order given, sorted by path within a folder.

    Hidden files and folders are left out, links are followed, a link to a folder that it lies in is not.

    Args:
        places: files, taken whatever their name, and folders, searched at any depth.

    Attributes:
        closed: folders that could not be looked into, and why; known when the listing has been walked.

    Raises:
        FileNotFoundError: one does not exist.
        ScoringError: one is a checkpoint or an exported graph.
    """

    def __init__(self, places: Sequence[str | os.PathLike]) -> None:
        self.places = [os.fspath(place) for place in places]
        for place in self.places:
            if not place:
                raise FileNotFoundError("an empty path; give image files or folders (`.` is the current folder).")
            if not os.path.exists(place):
                raise FileNotFoundError(f"'{place}' does not exist; give image files or folders.")
            if _is_checkpoint(place):
                raise ScoringError(
                    f"'{place}' is a model, not photographs; give it as --model, behind or before the photographs."
                )
        self.closed: dict[str, str] = {}
        self._first: dict[str, int] = {}
        for number, place in enumerate(self.places):
            self._first.setdefault(str(Path(place)), number)

    def __iter__(self) -> Iterator[str]:
        for number, place in enumerate(self.places):
            path = str(Path(place))
            if self._first[path] < number:
                continue
            if not os.path.isdir(path):
                if not self._found_before(path, number):
                    yield path
                continue
            for name in self._below(path):
                found = os.path.join(path, name) if path != "." else name
                if len(self.places) == 1 or not self._found_before(found, number):
                    yield found

    def nothing_found(self) -> ScoringError:
        """The error where there is no image at all."""
        places = ", ".join(repr(place) for place in self.places[:5]) + (", ..." if len(self.places) > 5 else "")
        closed = f" Not looked into: {', '.join(self.closed)}." if self.closed else ""
        return ScoringError(f"no image in {places}; looked for {', '.join(EXTENSIONS)} at any depth.{closed}")

    def _found_before(self, path: str, number: int) -> bool:
        """Whether an earlier place is this file, or a folder that it was found in."""
        if self._first.get(path, number) < number:
            return True
        parts = Path(path)
        hidden = not _wanted(parts.name)
        for folder in parts.parents:
            if not hidden and self._first.get(str(folder), number) < number:
                return True
            hidden = hidden or folder.name.startswith(".")
        return False

    def _below(self, folder: str) -> Iterator[str]:
        """Relative paths with `/`, in the order of `sorted`: `/` takes part in it, as it does in whole paths."""
        stack = [(self._names(folder), "", {_identity(folder)})]
        while stack:
            names, prefix, above = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
            elif name.endswith("/"):
                inner = os.path.join(folder, prefix, name)
                identity = _identity(inner)
                if identity not in above:
                    stack.append((self._names(inner), prefix + name, above | {identity}))
            else:
                yield prefix + name

    def _names(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                names = [
                    entry.name + "/" if _is_folder(entry) else entry.name
                    for entry in entries
                    if not entry.name.startswith(".") and (_wanted(entry.name) or _is_folder(entry))
                ]
        except OSError as error:
            shown = folder.rstrip("/")
            if shown not in self.closed:  # a listing may be walked twice
                logger.warning("cannot look into the folder %r: %s", shown, error.strerror or error)
            self.closed[shown] = error.strerror or str(error)
            return iter(())
        return iter(sorted(names))


def _is_checkpoint(place: str) -> bool:
    """Whether it is a model rather than photographs: an exported graph, or a folder with one or with a checkpoint."""
    if place.lower().endswith(".onnx"):
        return True
    try:
        names = os.listdir(place)
    except OSError:  # a file, or a folder that may not be looked into
        return False
    return (
        "config.json" in names
        and any(name.endswith(".safetensors") for name in names)
        or ("export.json" in names and any(name.endswith(".onnx") for name in names))
    )


def _wanted(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
