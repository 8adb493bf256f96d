"""Ways to round a graph to int8: what sets the ranges of activations, and which layers stay in float."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .image_graph import PIXELS

_CHUNK = 8  # images whose activations are held in memory at once
_MATMULS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Scheme:
    """A way to round a graph to int8.

    Args:
        ranges: what sets the range of an activation: "MinMax", "Percentile" (99.99 % of its values) or "Entropy".
        kept: layers that stay in float, beside the heads: any of "depthwise", "first" and "joins" (all that are no
            convolutions or matrix products).
    """

    ranges: str
    kept: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """One line for people."""
        return f"{self.ranges}, in float: {', '.join(('heads', *self.kept))}"


SCHEMES = ((), ("first",), ("depthwise", "joins"), ("depthwise", "first", "joins"))
"""Layers in float, level by level; at each the three ways to set ranges are tried.

Depthwise layers are never in float without the joins: between activations in int8, onnxruntime 1.32 changes what a float
depthwise convolution gives when it optimises (on a MobileNetV1, an error of 2.4 % of the scale became 7.6 %).
"""


def levels_of(file: Path, kept: Sequence[tuple[str, ...]]) -> list[list[Scheme]]:
    """The schemes for a graph, level by level; levels that would be the same for it are left out."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    levels, seen = [], set()
    for names in kept:
        excluded = frozenset(excluded_nodes(graph, names)), "joins" in names
        if excluded not in seen:
            seen.add(excluded)
            levels.append([Scheme(ranges, names) for ranges in ("MinMax", "Percentile", "Entropy")])
    return levels


def excluded_nodes(graph: Any, kept: Sequence[str]) -> list[str]:
    """Names of the nodes that stay in float: the heads with all after them, and what `kept` says.

    Args:
        graph: `onnx.GraphProto` from prepared pixels to scores.
        kept: as in `Scheme`.
    """
    found = _heads(graph)
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    if "first" in kept and convolutions:
        found.append(convolutions[0].name)
    if "depthwise" in kept:
        for node in convolutions:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            if groups > 1 and weights.get(node.input[1], (0, 0))[1] == 1:
                found.append(node.name)
    return list(dict.fromkeys(found))


def _heads(graph: Any) -> list[str]:
    """From each output back to the matrix product that it is made by."""
    makers = {output: node for node in graph.node for output in node.output}
    waiting, found = [output.name for output in graph.output], []
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in found:
            continue
        if node.op_type in ("Conv", "GlobalAveragePool", "ReduceMean", "AveragePool"):
            continue  # the pooled feature itself is an output
        found.append(node.name)
        if node.op_type not in ("Gemm", "MatMul"):
            waiting += node.input
    return found


def quantise(source: Path, target: Path, scheme: Scheme, pixels: np.ndarray) -> Any:
    """Round a graph to int8 and write it: weights by channel, activations by tensor.

    Weights are rounded to 7 bits: processors without VNNI instructions add two products in 16 bits, which 8 bits would
    overflow, and a score would depend on the machine.

    Args:
        source: float graph.
        target: file to write.
        scheme: how.
        pixels: calibration images `(images, 3, height, width)`.

    Returns:
        `onnx.ModelProto` of what was written.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = target.with_name("ready.onnx")
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    model = onnx.load(ready)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"
    onnx.save(model, ready)
    whole = len(pixels) - len(pixels) % _CHUNK or len(pixels)
    with contextlib.redirect_stdout(io.StringIO()):  # the histograms report on themselves
        quantize_static(
            str(ready),
            str(target),
            _reader(pixels[:whole]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_MATMULS) if "joins" in scheme.kept else None,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded_nodes(model.graph, scheme.kept),
            calibrate_method=getattr(CalibrationMethod, scheme.ranges),
            extra_options={"CalibStridedMinMax": min(_CHUNK, whole), "CalibPercentile": 99.99},
        )
    return onnx.load(target)


def _reader(pixels: np.ndarray) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Hands out one image after another, of a range that can be set."""

        def __init__(self) -> None:
            self.rows = iter(range(len(pixels)))

        def __len__(self) -> int:
            return len(pixels)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rows = iter(range(start_index, end_index))

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {PIXELS: pixels[row : row + 1]}

    return Reader()
