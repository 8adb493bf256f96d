"""Finds pickles, which run whatever code they name when they are loaded: by their content, whatever a file is called."""

from __future__ import annotations

import ast
import bz2
import gzip
import lzma
import pickletools
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

PICKLE_SUFFIXES = frozenset({
    ".bin", ".ckpt", ".cloudpickle", ".dill", ".joblib", ".pickle", ".pk", ".pkl", ".pt", ".pt2", ".pth"
})  # fmt: skip
_MAX_BYTES = 256 * 2**20
_MAX_DEPTH = 4
# Opcodes that call something; those that only import are added where a file says that it is a pickle.
_CALLS = frozenset({"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})
_IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL"})
_GLOBAL_NAME = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_NPY = b"\x93NUMPY"
_OPAQUE = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "rar"}


class _Unclear(Exception):
    """What cannot be looked into, and why."""


def find_pickles(folder: Path) -> dict[str, str]:
    """Files of a folder, at any depth, that are pickles, hold one, or cannot be looked into, with the reason.

    A file counts when `pickle.load` (which `torch.load`, `joblib.load` and `numpy.load` of objects end in) would make an
    object of it or call what it names; so do archives and compressed files with such a file inside.

    Args:
        folder: every file below it is read.

    Returns:
        Reason by relative path with forward slashes, sorted.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name = path.relative_to(folder).as_posix()
        with open(path, "rb") as stream:
            if reason := _reason(stream, name):
                found[name] = reason
    return found


def pickle_name(name: str) -> str | None:
    """The ending of a file name that pickles have, if it has one."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in PICKLE_SUFFIXES else None


def _reason(stream: BinaryIO, name: str, depth: int = 0) -> str | None:
    """Why a file must not be pushed; None for one that may be."""
    if suffix := pickle_name(name):
        return f"a name in '{suffix}' is that of a pickle"
    if is_pickle(stream):
        return "it is a pickle"
    try:
        if _holds_objects(stream):
            return "it is a numpy array of objects, which numpy stores as a pickle"
        for inner, member in _members(stream):
            with member:
                if depth == _MAX_DEPTH:
                    raise _Unclear(f"holds archives in archives, more than {_MAX_DEPTH} deep")
                if reason := _reason(member, inner, depth + 1):
                    return f"it holds '{inner}': {reason}"
    except _Unclear as unclear:
        return f"it {unclear}, so that nobody can say whether it holds a pickle"
    return None


def is_pickle(stream: BinaryIO) -> bool:
    """Whether `pickle.load` would make an object of a file from its start, or call something before it fails.

    The operations are read, never run, and their stack is counted, so that text which begins like one is no pickle.
    """
    stream.seek(0)
    stack: list[object] = []
    protocol = 0
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "PROTO":
                protocol = argument
            if opcode.name == "GLOBAL" and not _GLOBAL_NAME.fullmatch(argument):
                return False
            if not _apply(opcode, stack):
                return False
            if opcode.name in _CALLS or (protocol >= 2 and opcode.name in _IMPORTS):
                return True
    except (ValueError, IndexError, OverflowError):  # not, or no more, an operation
        return False
    return protocol >= 2 or not stream.read(64).strip()


def _apply(opcode: pickletools.OpcodeInfo, stack: list[object]) -> bool:
    """Do to the stack what an operation does, by kind of object as in `pickletools.dis`; False where it cannot."""
    mark, before = pickletools.markobject, opcode.stack_before
    needed = len(before)
    if mark in before or (opcode.name == "POP" and stack and stack[-1] is mark):
        if mark not in stack:
            return False
        while stack.pop() is not mark:
            pass
        needed = before.index(mark) if mark in before else 0
    if len(stack) < needed:
        return False
    del stack[len(stack) - needed :]
    stack.extend(opcode.stack_after)
    return True


def _holds_objects(stream: BinaryIO) -> bool:
    """Whether it is a .npy file whose values are Python objects."""
    stream.seek(0)
    if stream.read(len(_NPY)) != _NPY:
        return False
    try:
        major = stream.read(2)[0]
        length = struct.unpack("<H", stream.read(2))[0] if major == 1 else struct.unpack("<I", stream.read(4))[0]
        header = ast.literal_eval(stream.read(length).decode("utf-8"))
        return np.lib.format.descr_to_dtype(header["descr"]).hasobject
    except Exception as error:  # a forged header may be anything
        raise _Unclear(f"is a numpy array without a readable header ({type(error).__name__})") from error


def _members(stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    """Name and content of each file of an archive, or of what is compressed; nothing for any other file."""
    stream.seek(0)
    start = stream.read(8)
    for magic, kind in _OPAQUE.items():
        if start.startswith(magic):
            raise _Unclear(f"is compressed with {kind}, which is not looked into")
    if zipfile.is_zipfile(stream):
        yield from _of_zip(stream)
    elif start.startswith(b"\x1f\x8b"):
        yield "its content", _limited(lambda: gzip.GzipFile(fileobj=_rewound(stream)))
    elif start.startswith(b"BZh"):
        yield "its content", _limited(lambda: bz2.BZ2File(_rewound(stream)))
    elif start.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
        yield "its content", _limited(lambda: lzma.LZMAFile(_rewound(stream)))
    elif len(start) > 2 and start[0] == 0x78 and int.from_bytes(start[:2], "big") % 31 == 0:
        if content := _of_zlib(stream):
            yield "its content", content
    else:
        yield from _of_tar(stream)


def _rewound(stream: BinaryIO) -> BinaryIO:
    stream.seek(0)
    return stream


def _of_zip(stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile:  # bytes at the end that look like a directory of files
        return
    for entry in archive.infolist():
        if entry.flag_bits & 1:
            raise _Unclear("is an encrypted archive")
        if not entry.is_dir():
            yield entry.filename, _limited(lambda entry=entry: archive.open(entry))


def _of_tar(stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    stream.seek(0)
    try:
        archive = tarfile.open(fileobj=stream, mode="r:")
    except tarfile.TarError:
        return
    try:
        for entry in archive:
            if entry.isfile():
                yield entry.name, _limited(lambda entry=entry: archive.extractfile(entry))
    except tarfile.TarError as error:
        raise _Unclear(f"is a broken tar archive ({error})") from error


def _of_zlib(stream: BinaryIO) -> BinaryIO | None:
    """What a zlib stream holds; None for what only begins like one."""
    stream.seek(0)
    engine = zlib.decompressobj()
    content = tempfile.SpooledTemporaryFile(max_size=2**24)
    try:
        while not engine.eof and (chunk := engine.unconsumed_tail or stream.read(2**20)):
            content.write(engine.decompress(chunk, 2**20))
            if content.tell() > _MAX_BYTES:
                raise _Unclear(f"holds more than {_MAX_BYTES // 2**20} MiB compressed")
    except zlib.error:
        if not content.tell():
            content.close()
            return None
    return content


def _limited(opened: Callable[[], BinaryIO]) -> BinaryIO:
    """A copy that can be read from any place, of at most `_MAX_BYTES`."""
    copy = tempfile.SpooledTemporaryFile(max_size=2**24)
    try:
        with opened() as source:
            while chunk := source.read(2**20):
                copy.write(chunk)
                if copy.tell() > _MAX_BYTES:
                    raise _Unclear(f"holds a file of more than {_MAX_BYTES // 2**20} MiB compressed")
    except (
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        raise _Unclear(f"is a broken archive ({type(error).__name__}: {error})") from error
    return copy
