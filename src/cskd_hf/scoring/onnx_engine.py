"""Scores by onnxruntime, from a graph that `cskd-hf export` wrote: without the torch weights."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..files import file_digest
from .errors import ScoringError
from .onnx_metadata import read_metadata
from .preparation import Preparation

_RESULTS = ("distribution", "score", "attributes", "prompt_attributes")
_EMBEDS = ("aligned_embeds", "pooler_output")


class OnnxEngine:
    """Scores with an exported graph; see `Engine`.

    Of a `pipeline.onnx` the part after its preprocessing is run, since images of unlike sizes do not fit in one batch; the
    preparation is that of the checkpoint's image processor, whose settings are in the file.

    Args:
        model: a file .onnx, or a folder with model.onnx or pipeline.onnx.
        reduced_decoding, allow_truncated: as in `load_engine`.

    Raises:
        ScoringError: there is no such file, `cskd-hf export` did not write it, or onnxruntime is not installed.
    """

    def __init__(
        self, model: str | os.PathLike, *, reduced_decoding: bool = False, allow_truncated: bool = False
    ) -> None:
        path = find_graph(model)
        known = read_metadata(path)
        if not known:
            raise ScoringError(
                f"'{path}' cannot score images: it has no score_values and preprocessing in its metadata; make it with "
                "`cskd-hf export CHECKPOINT --format onnx --output DIR`."
            )
        self.path = path
        self.session = _session(path)
        self.scale = (float(known["score_values"][0]), float(known["score_values"][-1]))
        self.preparation = Preparation(
            image_processor(known["preprocessing"]),
            reduced_decoding=reduced_decoding,
            allow_truncated=allow_truncated,
        )
        self.settings = {
            "weights": known["weights"],
            "score_values": known["score_values"],
            "calibration": known["calibration"],
            "graph": file_digest(path),
            **({"prompt_bank": known["prompt_bank"]} if known["prompt_bank"] else {}),
            **self.preparation.settings,
        }
        of_config = ("score_values", "provenance", "calibration", "prompt_bank")
        self._known = SimpleNamespace(**{name: known[name] for name in of_config})
        self._known.attributes = tuple(known["attributes"])
        self._outputs = [output.name for output in self.session.get_outputs()]

    def prepare(self, source: Any) -> np.ndarray:
        """As in `Engine`."""
        return self.preparation(source)

    def score(self, pixels: np.ndarray, *, embeds: bool = False) -> list[dict[str, Any]]:
        """As in `Engine`."""
        from ..models.pipeline_cskd import score_result

        outputs = dict(zip(self._outputs, self.session.run(None, {"pixel_values": pixels})))
        tensors = {name: torch.from_numpy(np.asarray(outputs[name])) for name in _RESULTS if name in outputs}
        results = [
            score_result(self._known, **{name: value[row] for name, value in tensors.items()})
            for row in range(len(pixels))
        ]
        if embeds:
            found = next((outputs[name] for name in _EMBEDS if name in outputs), None)
            if found is None:
                raise ScoringError(f"'{self.path}' gives no embeddings; export it again, or give the checkpoint.")
            for result, vector in zip(results, found.reshape(len(pixels), -1)):
                result["embeds"] = vector
        return results


def find_graph(model: str | os.PathLike) -> Path:
    """The file of a graph: itself, or of a folder model.onnx, else pipeline.onnx.

    Raises:
        ScoringError: there is none.
    """
    path = Path(model)
    choices = [path / "model.onnx", path / "pipeline.onnx"] if path.is_dir() else [path]
    for choice in choices:
        if choice.is_file():
            return choice
    raise ScoringError(f"there is no {' or '.join(repr(str(choice)) for choice in choices)}.")


def image_processor(settings: dict[str, Any]) -> Any:
    """The image processor of a preprocessor_config.json."""
    from transformers import AutoImageProcessor

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return AutoImageProcessor.from_pretrained(folder)


def _session(path: Path) -> Any:
    """A session from `pixel_values` on, with as many threads as torch has here.

    Raises:
        ScoringError: onnxruntime is not installed, or cannot run the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ScoringError(f"'{path}' needs onnxruntime; install with: pip install 'cskd_hf[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait by spinning would take the cores from those that read.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        if session.get_inputs()[0].name == "pixel_values":
            return session
        part = _after_preprocessing(path, [output.name for output in session.get_outputs()])
        return onnxruntime.InferenceSession(part, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        raise ScoringError(
            f"onnxruntime {onnxruntime.__version__} cannot run '{path}': {str(error).splitlines()[0][:300]}"
        ) from error


def _after_preprocessing(path: Path, outputs: list[str]) -> bytes:
    import onnx

    model = onnx.load(path)
    return onnx.utils.Extractor(model).extract_model(["pixel_values"], outputs).SerializeToString()
