"""The pictures among uploaded files and in uploaded zip archives, read within limits and never written to disk."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ...data.sources import IMAGE_EXTENSIONS
from ...models.image_loading_cskd import ImageLoadError

_RECORD = b"PK\x01\x02"  # starts each entry of an archive's directory (APPNOTE.TXT 4.3.12)
# Others decompress with as much memory as the archive asks for: LZMA up to 4 GiB.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK_BYTES = 2**16
_LONGEST_NAME = 1000
_SHOWN_NAME = 120


@dataclass(frozen=True)
class Limits:
    """What one upload may hold.

    Args:
        pictures: images scored of one upload, and files looked at.
        file_bytes: encoded bytes of one image.
        pixels: width times height of one image.
        archive_entries: files and folders in one archive.
        unpacked_bytes: what the images of all archives of an upload unpack to, together.
        upload_bytes: of one uploaded file, archives included.
    """

    pictures: int = 200
    file_bytes: int = 25 * 2**20
    pixels: int = 50_000_000
    archive_entries: int = 2000
    unpacked_bytes: int = 500 * 2**20
    upload_bytes: int = 250 * 2**20


@dataclass(frozen=True)
class Refusal:
    """A file that is not scored, by the name that is shown, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """An image that is yet to be read.

    Args:
        name: that is shown: the name of the file, after that of its archive if it is in one.
        path: the uploaded file.
        member: number of the entry in that archive; None of a file of its own.
    """

    name: str
    path: Path
    member: int | None = None

    def read(self, limits: Limits) -> bytes:
        """The encoded image.

        Raises:
            ImageLoadError: it is too large, damaged, or no longer there.
        """
        try:
            if self.member is None:
                with open(self.path, "rb") as file:
                    return self._within(file, limits)
            with zipfile.ZipFile(self.path) as archive, archive.open(archive.infolist()[self.member]) as file:
                return self._within(file, limits)
        except FileNotFoundError as error:
            raise ImageLoadError(self.name, "it is no longer there; upload it again") from error
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ImageLoadError(self.name, f"it is damaged in its archive ({error})") from error

    def _within(self, file: IO[bytes], limits: Limits) -> bytes:
        content = file.read(limits.file_bytes + 1)
        if len(content) > limits.file_bytes:
            raise ImageLoadError(self.name, f"it is larger than {_size(limits.file_bytes)}, the limit for an image")
        return content


class ArchiveError(ValueError):
    """An archive that is refused as a whole; the message says why."""


def find_pictures(uploads: Sequence[tuple[str, Path]], limits: Limits) -> tuple[list[Picture], list[Refusal]]:
    """The pictures of uploaded files, and what is left out.

    Whether a file is an image shows when it is read; the images of an archive are the entries with an image's extension.

    Args:
        uploads: name that its user gave it, and place, of each file; one whose name ends in .zip is an archive.
        limits: of the upload.

    Returns:
        pictures in order, at most `limits.pictures` of them, and refusals.
    """
    pictures: list[Picture] = []
    refusals: list[Refusal] = []
    budget = _Budget(limits.unpacked_bytes)
    for name, path in uploads[: limits.pictures]:
        shown = shown_name(name)
        if not name.lower().endswith(".zip"):
            pictures.append(Picture(shown, path))
            continue
        try:
            found, refused = _archive_pictures(shown, path, limits, budget)
        except ArchiveError as error:
            refusals.append(Refusal(shown, str(error)))
        else:
            pictures += found
            refusals += refused
    left_out = max(len(pictures) - limits.pictures, 0) + len(uploads[limits.pictures :])
    if left_out:
        refusals.append(Refusal(f"{left_out} further files", f"at most {limits.pictures} are scored at a time"))
    return pictures[: limits.pictures], refusals


@dataclass
class _Budget:
    """How many bytes may still be unpacked of an upload."""

    left: int


def shown_name(name: str) -> str:
    """A file name for the page and the table: its last part, in one line of text, shortened."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    text = "".join(character if character.isprintable() else "?" for character in last) or "?"
    return text if len(text) <= _SHOWN_NAME else f"{text[:60]}...{text[-57:]}"


def _archive_pictures(shown: str, path: Path, limits: Limits, budget: _Budget) -> tuple[list[Picture], list[Refusal]]:
    # Counted before the directory is read: of each entry an object is kept, whatever the directory says their number is.
    if _count_records(path) > limits.archive_entries:
        raise ArchiveError(f"it holds more than {limits.archive_entries} files, the limit for an archive")
    try:
        with zipfile.ZipFile(path) as archive:
            return _checked_entries(archive, shown, path, limits, budget)
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, EOFError, OSError) as error:
        raise ArchiveError(f"it is no zip archive that can be read ({str(error)[:200]})") from error


def _count_records(path: Path) -> int:
    """How many entries an archive can have at most."""
    count, tail = 0, b""
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            chunk = tail + chunk
            count += chunk.count(_RECORD)
            tail = chunk[-len(_RECORD) + 1 :]
    return count


def _checked_entries(
    archive: zipfile.ZipFile, shown: str, path: Path, limits: Limits, budget: _Budget
) -> tuple[list[Picture], list[Refusal]]:
    pictures: list[Picture] = []
    refusals: list[Refusal] = []
    others = 0
    entries = archive.infolist()
    for entry in entries:  # before any is read: an archive with one such entry was not made by packing photographs
        _check_entry(entry)
    for number, entry in enumerate(entries):
        name = entry.orig_filename
        if entry.is_dir() or _is_clutter(name):
            continue
        if not name.lower().endswith(IMAGE_EXTENSIONS):
            others += 1
            continue
        picture = Picture(f"{shown}/{shown_name(name)}", path, number)
        fault = _fault(archive, entry, limits, budget)
        if fault:
            refusals.append(Refusal(picture.name, fault))
        else:
            pictures.append(picture)
    if others:
        refusals.append(Refusal(shown, f"{others} files in it are no images; archives in archives are not opened"))
    if not pictures and not refusals:
        raise ArchiveError(f"it holds no image; looked for {', '.join(IMAGE_EXTENSIONS)}")
    return pictures, refusals


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    parts = name.replace("\\", "/").split("/")
    shown = shown_name(name)
    if len(name) > _LONGEST_NAME or "\0" in name:
        raise ArchiveError(f"the name of an entry is not a plain one ('{shown}')")
    if not parts[0] or ".." in parts or ":" in parts[0]:
        raise ArchiveError(f"an entry's name leads out of the archive ('...{shown}'); pack the images anew")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"'{shown}' is a link or a device, not a file; pack the images themselves")
    if entry.flag_bits & 0x1:
        raise ArchiveError("it is encrypted; pack the images without a password")
    if entry.compress_type not in _METHODS:
        raise ArchiveError(f"'{shown}' is compressed in an unusual way; pack the images as an ordinary zip")


def _is_clutter(name: str) -> bool:
    """Whether a system put the entry beside the pictures."""
    path = PurePosixPath(name)
    return path.name.startswith(".") or path.parts[:1] == ("__MACOSX",) or path.name in ("Thumbs.db", "desktop.ini")


def _fault(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits, budget: _Budget) -> str | None:
    """What is wrong with an entry, found by unpacking it: what it declares of its size counts for nothing."""
    size = 0
    try:
        with archive.open(entry) as file:
            while chunk := file.read(_CHUNK_BYTES):
                size += len(chunk)
                budget.left -= len(chunk)
                if budget.left < 0:
                    raise ArchiveError(
                        f"its images unpack to more than {_size(limits.unpacked_bytes)}, the limit for an upload"
                    )
                if size > limits.file_bytes:
                    return f"it unpacks to more than {_size(limits.file_bytes)}, the limit for an image"
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"it is damaged in its archive ({str(error)[:200]})"
    return None


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:g} MiB"
