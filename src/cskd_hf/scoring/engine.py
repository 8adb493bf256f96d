"""What scores: one interface for a torch checkpoint and an exported graph, between the image door and the results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from safetensors import SafetensorError

from .errors import ScoringError
from .preparation import Preparation

if TYPE_CHECKING:
    from ..models.pipeline_cskd import ImageAestheticsPipeline


_HEAVY = 20_000_000  # parameters of a model whose forward, not the reading, takes the time


class Engine(Protocol):
    """Scores prepared pixels.

    Attributes:
        scale: lowest and highest possible score.
        settings: everything that a score depends on (hash of the weights, preprocessing, reduced decoding, ...), of what
            JSON holds: scores of unlike settings are not mixed in one file.
        preparation: the function behind `prepare`; can be pickled, so that processes can do without the model.
    """

    scale: tuple[float, float]
    settings: dict[str, Any]
    preparation: Any

    def prepare(self, source: Any) -> np.ndarray:
        """Read an image through the door, and prepare it as the image processor does. Threads may share it.

        Args:
            source: what `load_image` takes.

        Returns:
            float32 `(3, height, width)`.

        Raises:
            ImageLoadError: it cannot be read.
        """
        ...

    def score(self, pixels: np.ndarray, *, embeds: bool = False) -> list[dict[str, Any]]:
        """Score prepared images.

        Args:
            pixels: float32 `(batch, 3, height, width)`.
            embeds: also give `embeds`, float32 `(dim,)`: the embedding aligned with CLIP where the model has one, else the
                pooled feature.

        Returns:
            For each image what the pipeline gives: `score`, `score_std`, `scale`, `distribution`, `provenance`, and where
            the model has them `percentile`, `calibrated_score` and `attributes`.

        Raises:
            ScoringError: `embeds` of a graph that gives none.
        """
        ...


def load_engine(
    model: str, *, reduced_decoding: bool = False, allow_truncated: bool = False, device: str | None = None
) -> Engine:
    """The engine of a checkpoint (Hub name or folder), or of an exported `.onnx` file or its folder.

    Args:
        model: what scores.
        reduced_decoding: decode JPEG files at a reduced scale that is still twice the model's input or more. Faster, and
            changes a score a little (see `load_image`); without it scores are exactly the pipeline's.
        allow_truncated: score the readable part of a file that breaks off, rather than report it.
        device: as torch names it; none takes an accelerator where there is one. Only for a checkpoint.

    Raises:
        ScoringError: there is no such checkpoint, or it cannot score images.
    """
    if is_onnx(model):
        from .onnx_engine import OnnxEngine

        return OnnxEngine(model, reduced_decoding=reduced_decoding, allow_truncated=allow_truncated)
    return TorchEngine(
        load_pipeline(model, device), reduced_decoding=reduced_decoding, allow_truncated=allow_truncated
    )


def is_onnx(model: str) -> bool:
    """Whether it is an exported graph: a file .onnx, or a folder that holds one and no torch weights."""
    path = Path(model)
    if path.is_dir():
        return any(path.glob("*.onnx")) and not (path / "model.safetensors").exists()
    return path.suffix.lower() == ".onnx"


def load_pipeline(model: str, device: str | None = None) -> ImageAestheticsPipeline:
    """The "image-aesthetics" pipeline of a checkpoint: Hub name or folder.

    Raises:
        ScoringError: there is no such checkpoint, or it is no image-aesthetics model, or no such device; the message says
            which.
    """
    from transformers import pipeline

    _check_device(device)
    try:
        return pipeline("image-aesthetics", model=model, **({"device": device} if device else {}))
    except (ValueError, OSError, SafetensorError) as error:  # no checkpoint, not one of ours, or an incomplete one
        reason = str(error).strip()
        if "Traceback" in reason:  # transformers puts one in the message; its last line names the cause
            reason = reason.splitlines()[-1]
        if not Path(model).is_dir():
            reason = f"there is no such folder, and as the name of a Hub model: {reason}"
        raise ScoringError(f"'{model}' cannot score images: {reason}") from error


def _check_device(device: str | None) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ScoringError(f"--device {device} cannot be used: {reason}") from error


class TorchEngine:
    """Scores with the pipeline of a checkpoint.

    Args:
        rate: the pipeline.
        reduced_decoding, allow_truncated: as in `load_engine`.
    """

    def __init__(
        self, rate: ImageAestheticsPipeline, *, reduced_decoding: bool = False, allow_truncated: bool = False
    ) -> None:
        import torch

        config = rate.model.config
        self.rate = rate
        # The same weights in another order: convolutions take a fifth less time with it, transformers as long as before.
        rate.model.to(memory_format=torch.channels_last)
        self.scale = (float(config.score_values[0]), float(config.score_values[-1]))
        self.preparation = Preparation(
            rate.image_processor, reduced_decoding=reduced_decoding, allow_truncated=allow_truncated
        )
        self._settings: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What a score depends on; the weights are hashed when it is first asked for."""
        if self._settings is None:
            from ..evaluation.predict import weights_fingerprint

            config = self.rate.model.config
            self._settings = {
                "weights": weights_fingerprint(self.rate.model),
                "score_values": list(config.score_values),
                "calibration": _digest(config.calibration),
                # Weights are hashed without the prompts, which no score depends on.
                **({"prompt_bank": _digest(config.prompt_bank)} if config.prompt_bank else {}),
                **self.preparation.settings,
            }
        return self._settings

    def prepare(self, source: Any) -> np.ndarray:
        """As in `Engine`."""
        return self.preparation(source)

    @contextmanager
    def beside(self, readers: int) -> Iterator[None]:
        """Forwards beside threads that read. Threads of a forward wait for each other, and one that shares its core with a
        reader holds up all of them, so a light model leaves most cores to the readers. For a heavy one these wait anyway.

        Args:
            readers: number of the threads.
        """
        import torch

        threads, parameters = torch.get_num_threads(), list(self.rate.model.parameters())
        light = sum(parameter.numel() for parameter in parameters) < _HEAVY and parameters[0].device.type == "cpu"
        torch.set_num_threads(max(1, threads // 4) if light and readers else threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def score(self, pixels: np.ndarray, *, embeds: bool = False) -> list[dict[str, Any]]:
        """As in `Engine`."""
        import torch

        model = self.rate.model
        caught: list[Any] = []
        hook = model.register_forward_hook(lambda *arguments: caught.append(arguments[2])) if embeds else None
        try:
            outputs = self.rate.forward({"pixel_values": torch.from_numpy(pixels).to(model.dtype)})
        finally:
            if hook is not None:
                hook.remove()
        results = [
            self.rate.postprocess({name: value[row : row + 1] for name, value in outputs.items()})
            for row in range(len(pixels))
        ]
        if embeds:
            output = caught[0]
            vectors = output.pooler_output if output.aligned_embeds is None else output.aligned_embeds
            for result, vector in zip(results, vectors.float().cpu().numpy().reshape(len(pixels), -1)):
                result["embeds"] = vector
        return results


def _digest(value: Any) -> str | None:
    return None if not value else hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
