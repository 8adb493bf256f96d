"""A trained scorer as ONNX graphs: one for pictures of any size, one for pixels that are prepared already."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import AutoImageProcessor

from .. import __version__
from ..data.views import Preprocessing
from ..evaluation.predict import load_scorer, weights_fingerprint
from ..files import public, replaced_folder, write_json
from ..models.modeling_cskd import CSKDForImageAesthetics
from ..scoring.onnx_metadata import FIELDS
from .image_graph import (
    IMAGE,
    OPSET,
    PIXELS,
    ImagePlan,
    UnfitProcessor,
    channels_first,
    check_plan,
    image_graph,
    plan_of,
    probe_images,
    processed,
)
from .native import ExportError, probe_pixels
from .places import EXPORT_FILE, checked_output

if TYPE_CHECKING:
    import onnx
    import onnxruntime

logger = logging.getLogger(__name__)

MODEL_FILE, PIPELINE_FILE = "model.onnx", "pipeline.onnx"
TOLERANCE = 1e-3
"""Largest difference of a score, as a share of the scale, that passes."""
_LARGEST = 2**31 - 2**20  # a protocol buffer has at most 2 GiB


@dataclass(frozen=True)
class Scorer:
    """A checkpoint that is being exported.

    Args:
        name: as it was given.
        model: in evaluation mode, float32.
        preprocessing: of views.
        processor: its image processor.
    """

    name: str
    model: CSKDForImageAesthetics
    preprocessing: Preprocessing
    processor: Any

    @classmethod
    def load(cls, checkpoint: str | os.PathLike) -> Scorer:
        """Load a checkpoint: Hub name or folder.

        Raises:
            ValueError: there is none, or it has no trained head.
        """
        name = os.fspath(checkpoint)
        model, preprocessing = load_scorer(name)
        return cls(name, model.eval(), preprocessing, AutoImageProcessor.from_pretrained(name))

    @property
    def span(self) -> float:
        """Length of the scale."""
        return self.model.config.score_values[-1] - self.model.config.score_values[0]

    def refused(self, form: str, reason: object) -> ExportError:
        """The error of an encoder that cannot be exported."""
        config = self.model.config
        return ExportError(
            f"'{self.name}' cannot be exported as {form} (encoder {type(self.model.backbone).__name__} of model_type "
            f"'{config.backbone_config.model_type}', pooling '{config.pooling}'): {reason}."
        )

    def metadata(self) -> dict[str, Any]:
        """What a graph must know to score without the checkpoint; see `read_metadata`."""
        config = self.model.config
        known = {
            "score_values": list(config.score_values),
            "attributes": {name: list(scale) for name, scale in (config.attributes or {}).items()},
            "prompt_bank": config.prompt_bank,
            "calibration": config.calibration,
            "provenance": public(config.provenance),
            "preprocessing": self.processor.to_dict(),
            "weights": weights_fingerprint(self.model),
            "cskd_hf": __version__,
        }
        return {name: known[name] for name in FIELDS}


class ScorerModule(nn.Module):
    """A scorer with only the outputs that an exported program gives, as a tuple."""

    def __init__(self, model: CSKDForImageAesthetics) -> None:
        super().__init__()
        self.model = model
        self.names = ["distribution", "score"]
        if model.attribute_head is not None:
            self.names.append("attributes")
        if model.config.prompt_bank:
            self.names.append("prompt_attributes")
        self.names.append("aligned_embeds" if len(model.projectors) else "pooler_output")
        self.eval()

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`(batch, 3, height, width)` to the outputs of `names`."""
        output = self.model(pixel_values=pixel_values)
        return tuple(getattr(output, name) for name in self.names)


def export_onnx(checkpoint: str | os.PathLike, output: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a checkpoint as two ONNX graphs, each with everything that is needed to score in its metadata.

    `pipeline.onnx` takes decoded pictures: `image`, uint8 `(batch, 3, height, width)`, red, green, blue, of any size. Resize,
    crop and normalisation of the checkpoint's image processor are in the graph, as Pillow does them. `model.onnx` takes
    `pixel_values`, float32 `(batch, 3, height, width)`, as the image processor makes them, so that pictures of unlike sizes
    fit in one batch. Both give `distribution` `(batch, bins)`, `score` `(batch,)`, where the model has them `attributes` and
    `prompt_attributes` `(batch, number)`, and `aligned_embeds` `(batch, dim)`, of a model without projector `pooler_output`.
    The weights are in both files.

    Args:
        checkpoint: trained teacher or student, Hub name or folder.
        output: folder to make. It appears only when both graphs, run by onnxruntime, give the scores of the checkpoint to
            1e-3 of the scale on seeded pictures of several sizes.
        overwrite: replace an earlier export in `output`.

    Returns:
        The folder: model.onnx, pipeline.onnx and export.json, which holds the differences that were measured.

    Raises:
        ExportError: the encoder or the image processor cannot be put into a graph, or the graph gives other scores.
        ValueError: `output` exists, see `checked_output`; there is no such checkpoint, or it has no trained head; onnx is not installed.
    """
    output = checked_output(checkpoint, output, overwrite)
    require_onnx()
    scorer = Scorer.load(checkpoint)
    plan, model = build_model(scorer)
    with replaced_folder(output) as partial:
        write_graphs(scorer, plan, model, partial)
        report = {"format": "onnx", **check_graphs(scorer, partial)}
        write_json(partial / EXPORT_FILE, report)
    return output


def require_onnx() -> None:
    """Raises:
    ValueError: a package of the extra is missing.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"ONNX export needs {', '.join(missing)}; install with: pip install 'cskd_hf[onnx]'")


def build_model(scorer: Scorer) -> tuple[ImagePlan, onnx.ModelProto]:
    """The plan of the checkpoint's image processor, tried, and the graph of its model.

    Raises:
        ExportError: the processor or the encoder cannot be put into a graph.
    """
    try:
        plan = plan_of(scorer.processor)
        check_plan(plan, scorer.processor)
    except UnfitProcessor as error:
        raise scorer.refused("ONNX", f"its image processor cannot be put into a graph: {error}") from error
    if plan.output_size is None:
        raise scorer.refused(
            "ONNX",
            f"its image processor {type(scorer.processor).__name__} gives images of unlike shapes; set a height and width, "
            "or a crop, in its preprocessor_config.json",
        )
    return plan, _model_graph(scorer, plan.output_size)


def _model_graph(scorer: Scorer, size: tuple[int, int]) -> onnx.ModelProto:
    module = ScorerModule(scorer.model)
    example = torch.zeros(2, 3, *size)
    levels = {name: logging.getLogger(name).level for name in ("onnxscript", "onnx_ir", "torch.onnx")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[PIXELS],
                output_names=module.names,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        model = program.model_proto
    except Exception as error:  # whatever torch's exporter raises is the reason why the encoder cannot be exported
        raise scorer.refused("ONNX", f"torch.onnx.export fails with {first_line(error)}") from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    if model.ByteSize() > _LARGEST:
        raise scorer.refused("ONNX", f"its weights take {model.ByteSize() / 2**30:.1f} GiB; one file holds at most 2")
    return model


def first_line(error: BaseException) -> str:
    """The innermost cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [""])[0][:300].rstrip(". ")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def write_graphs(
    scorer: Scorer,
    plan: ImagePlan,
    model: onnx.ModelProto,
    folder: Path,
    further: Mapping[str, Any] | None = None,
) -> None:
    """Write model.onnx, and pipeline.onnx with the image processor before it.

    Args:
        plan: of the image processor.
        model: from `pixel_values` on.
        folder: exists.
        further: more metadata.
    """
    import onnx

    before = image_graph(plan)
    before.ir_version = model.ir_version
    before = onnx.compose.add_prefix(before, "image_", rename_inputs=False, rename_outputs=False)
    del before.opset_import[:]
    before.opset_import.extend(model.opset_import)
    whole = onnx.compose.merge_models(before, model, io_map=[(PIXELS, PIXELS)], name="image_aesthetics")
    texts = {name: json.dumps(value) for name, value in {**scorer.metadata(), **(further or {})}.items()}
    for name, graph in ((MODEL_FILE, model), (PIPELINE_FILE, whole)):
        _without_traces(graph.graph)
        del graph.metadata_props[:]
        graph.producer_name, graph.producer_version, graph.doc_string = "cskd_hf", __version__, ""
        onnx.helper.set_model_props(graph, texts)
        onnx.save(graph, folder / name)


def _without_traces(graph: onnx.GraphProto) -> None:
    """Drop what the exporter notes of each node: stack traces, with the places of the maker's machine."""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _without_traces(inner)


def session_of(path: str | os.PathLike) -> onnxruntime.InferenceSession:
    """A session on the CPU with as many threads as torch has here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def check_graphs(scorer: Scorer, folder: Path, tolerance: float | None = TOLERANCE) -> dict[str, Any]:
    """Compare both graphs with the model: on pixels in batches of 1 and 3, and on pictures of several sizes.

    Args:
        tolerance: as a share of the scale; None only measures, as of an int8 graph.

    Returns:
        `difference`, the largest of the scores as a share of the scale, for `model.onnx` and `pipeline.onnx`.

    Raises:
        ExportError: they differ by more.
    """
    pixels = probe_pixels(scorer.preprocessing)
    session = session_of(folder / MODEL_FILE)
    gaps = {MODEL_FILE: 0.0, PIPELINE_FILE: 0.0}
    for batch in (pixels[:1], pixels[1:]):
        gaps[MODEL_FILE] = max(gaps[MODEL_FILE], _gap(scorer, batch, session, {PIXELS: batch.numpy()}))
    session = session_of(folder / PIPELINE_FILE)
    for image in probe_images():
        prepared = torch.from_numpy(processed(scorer.processor, image))[None]
        given = {IMAGE: channels_first(image)}
        gaps[PIPELINE_FILE] = max(gaps[PIPELINE_FILE], _gap(scorer, prepared, session, given))
    for name, gap in gaps.items():
        if tolerance is not None and not gap <= tolerance:
            rounding = "; its resize rounds single pixels to another of 255 levels than Pillow does, at most"
            raise scorer.refused(
                "ONNX",
                f"{name} gives scores that differ by up to {gap:.2g} of the scale, more than {tolerance:g}"
                + (rounding if name == PIPELINE_FILE else ""),
            )
    return {"difference": gaps}


def _gap(scorer: Scorer, pixels: torch.Tensor, session: onnxruntime.InferenceSession, given: dict) -> float:
    """The largest difference of a score as a share of the scale; infinite where there is none to take."""
    expected = scorer.model(pixels).score.numpy()
    score = session.run(["score"], given)[0]
    gap = float(np.abs(score - expected).max()) / scorer.span if score.shape == expected.shape else math.inf
    return gap if math.isfinite(gap) else math.inf
