"""Files with the metadata of an exported graph, made without onnx."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_graph(file: Path, metadata: Mapping[str, Any], graph: bytes = b"") -> None:
    """Write a ModelProto of version 10 with a graph of these bytes, and metadata of which each value is JSON."""
    content = b"\x08\x0a" + _bytes(7, graph)
    for key, value in metadata.items():
        content += _bytes(14, _bytes(1, key.encode()) + _bytes(2, json.dumps(value).encode()))
    file.write_bytes(content)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
