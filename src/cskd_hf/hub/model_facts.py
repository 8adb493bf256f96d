"""What a checkpoint itself says: architecture, preprocessing, hashes, and its answers for a few pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data.synthetic import SyntheticPhotographs
from ..data.views import Preprocessing
from ..evaluation.predict import weights_fingerprint
from ..files import file_digest
from ..models.image_loading_cskd import load_image
from ..models.modeling_cskd import CSKDForImageAesthetics

EXAMPLES = "widget"
"""Folder of the example pictures in a repository."""

_SIDE = 512  # of an example picture at most
_PROCEDURAL = 8  # pictures of which the lowest and the highest scored are shown


def model_facts(model: CSKDForImageAesthetics, preprocessing: Preprocessing) -> dict[str, Any]:
    """Architecture and preprocessing.

    Args:
        model: loaded in float32.
        preprocessing: its own.
    """
    config = model.config
    return {
        "class": type(model).__name__,
        "encoder": config.backbone_config.model_type,
        "encoder_class": type(model.backbone).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "encoder_parameters": sum(parameter.numel() for parameter in model.backbone.parameters()),
        "feature_size": config.feature_size,
        "pooling": config.pooling,
        "score_values": list(config.score_values),
        "attributes": dict(config.attributes or {}),
        "reference_encoders": list(config.reference_encoders),
        "calibration": getattr(config, "calibration", None),
        "prompt_bank": config.prompt_bank,
        "height": preprocessing.size[0],
        "width": preprocessing.size[1],
        "mean": [round(value, 6) for value in preprocessing.mean],
        "std": [round(value, 6) for value in preprocessing.std],
        "interpolation": preprocessing.interpolation,
    }


def file_hashes(folder: Path, model: CSKDForImageAesthetics) -> dict[str, str]:
    """`weights`, as evaluations state them, and the SHA-256 of each .safetensors file."""
    hashes = {"weights": weights_fingerprint(model)}
    return hashes | {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}


def show_examples(
    model: CSKDForImageAesthetics, preprocessing: Preprocessing, paths: Sequence[str | os.PathLike]
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Pictures, and what the model says of each.

    Pictures are written anew, at most 512 pixels wide or high: what a camera or phone notes in a file is not published.

    Args:
        model: loaded.
        preprocessing: its own.
        paths: of the pictures; none takes the highest and the lowest scored of eight procedural ones.

    Returns:
        `file` (in a repository), `title`, `score` and `distribution` (shares by bin) of each; and the files by name.

    Raises:
        ImageLoadError: a picture cannot be read.
    """
    if paths:
        pictures = [_answered(model, preprocessing, _jpeg(load_image(path))) for path in paths]
        chosen = [
            (f"{EXAMPLES}/{number}.jpg", f"Example {number}", *picture) for number, picture in enumerate(pictures, 1)
        ]
    else:
        drawn = SyntheticPhotographs(0).generate(_PROCEDURAL).images
        answers = [_answered(model, preprocessing, _png(Image.fromarray(image.numpy()))) for image in drawn]
        answers.sort(key=lambda answer: answer[1])
        titles = {"highest": answers[-1], "lowest": answers[0]}
        chosen = [
            (f"{EXAMPLES}/{name}.png", f"Procedural picture, scored {name} of {_PROCEDURAL}", *answer)
            for name, answer in titles.items()
        ]
    examples = [
        {"file": file, "title": title, "score": round(score, 4), "distribution": distribution}
        for file, title, _, score, distribution in chosen
    ]
    return examples, {file: data for file, _, data, *_ in chosen}


@torch.no_grad()
def _answered(
    model: CSKDForImageAesthetics, preprocessing: Preprocessing, data: bytes
) -> tuple[bytes, float, dict[str, float]]:
    """The file, its score, and the share of each bin."""
    pixels = preprocessing.to_image_processor()(images=load_image(data), return_tensors="pt")
    output = model.eval()(**pixels.to(model.device))
    shares = output.distribution[0].tolist()
    named = {f"{value:g}": round(share, 4) for value, share in zip(model.config.score_values, shares)}
    return data, output.score.item(), named


def _jpeg(image: Image.Image) -> bytes:
    image = image.copy()
    image.thumbnail((_SIDE, _SIDE))
    return _encoded(image, "JPEG", quality=90)


def _png(image: Image.Image) -> bytes:
    return _encoded(image, "PNG")


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
