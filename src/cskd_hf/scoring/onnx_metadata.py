"""What an exported graph says of itself, read without onnx or onnxruntime and without its weights."""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO

# Fields of the protocol buffers ModelProto and StringStringEntryProto (onnx.proto).
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

FIELDS = (
    "score_values",
    "attributes",
    "prompt_bank",
    "calibration",
    "provenance",
    "preprocessing",
    "weights",
    "cskd_hf",
)
"""Keys of the metadata that every exported graph has; each value is JSON."""


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The metadata of an exported graph.

    Args:
        path: a file .onnx.

    Returns:
        `score_values`; `attributes`, the scale of each by name; `prompt_bank`, `calibration` and `provenance`, as the
        checkpoint's config has them; `preprocessing`, what its preprocessor_config.json holds; `weights`, the fingerprint of the torch weights
        that were exported; `cskd_hf`, the version that wrote it; of an int8 graph also `quantisation`. Empty for a file
        that `cskd-hf export` did not write.
    """
    with open(path, "rb") as file:
        try:
            found = dict(_entries(file))
            return {name: json.loads(value) for name, value in found.items()} if found.keys() >= set(FIELDS) else {}
        except (EOFError, ValueError):  # another kind of file, or one that breaks off
            return {}


def _entries(file: BinaryIO):
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    while file.tell() < end:
        field, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            _varint(file)
        elif kind in (_FIXED64, _FIXED32):
            file.seek(8 if kind == _FIXED64 else 4, os.SEEK_CUR)
        elif kind != _BYTES:
            raise ValueError("not a protocol buffer")
        else:
            size = _varint(file)
            if field == _METADATA_PROPS:
                yield _pair(file, size)
            else:
                file.seek(size, os.SEEK_CUR)


def _pair(file: BinaryIO, size: int) -> tuple[str, str]:
    texts, end = {}, file.tell() + size
    while file.tell() < end:
        field = _varint(file) // 8
        texts[field] = file.read(_varint(file)).decode()
    return texts.get(_KEY, ""), texts.get(_VALUE, "")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while shift < 64:
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7
    raise ValueError("not a protocol buffer")
