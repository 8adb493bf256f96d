"""A trained scorer as a stock transformers image classifier, which needs neither this package nor remote code."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.utils import ModelOutput

from ..data.views import Preprocessing
from ..evaluation.predict import load_scorer
from ..files import replaced_folder
from ..models.configuration_cskd import POOLINGS
from ..models.encoders_cskd import pool_features, run_encoder
from ..models.modeling_cskd import CSKDForImageAesthetics
from .places import checked_output
from .stock import StockClassifier, UnfitStock, build_stock, head_shares

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Largest difference of a probability of the exported classifier that passes."""


class ExportError(ValueError):
    """A checkpoint that cannot be exported in this form; the message names the encoder, its pooling and the reason."""


def export_native(checkpoint: str | os.PathLike, output: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a checkpoint as the stock image classifier of its encoder, with the score bins as labels.

    The probabilities of `pipeline("image-classification", model=output, top_k=BINS)` are the distribution of the
    checkpoint, and each label is the value of its bin, so the score is the sum of label x probability. (`top_k` must be
    given: the pipeline takes None for its default, 5.) Projector and attributes have no place in a stock classifier and
    are left out; `score_values` and `provenance` stay in config.json.

    Images are read by the stock pipeline, not by `load_image`: it drops an alpha channel instead of laying the picture
    over white, cuts 16-bit values off at 255, and takes embedded colour profiles for sRGB. Ordinary 8-bit sRGB
    photographs get the same scores.

    Args:
        checkpoint: trained teacher or student, Hub name or folder.
        output: folder to make. It appears only when the classifier, saved and loaded again, gives the distribution of
            the checkpoint to 1e-5 on seeded random images.
        overwrite: replace an earlier export in `output`.

    Returns:
        The folder: config.json, preprocessor_config.json, model.safetensors.

    Raises:
        ExportError: transformers has no classifier of this encoder that pools as the checkpoint does.
        ValueError: `output` exists, see `checked_output`; there is no such checkpoint, or it has no trained head.
    """
    output = checked_output(checkpoint, output, overwrite)
    model, preprocessing = load_scorer(os.fspath(checkpoint))
    model.eval()
    pixels = probe_pixels(preprocessing)
    try:
        stock = build_stock(model, pixels[:1])
        _transfer_head(model, stock, pixels)
    except UnfitStock as error:
        raise _refused(model, error) from error
    if model.config.attributes:
        logger.warning(
            "left out: the attributes %s, which a stock classifier has no place for", list(model.config.attributes)
        )
    processor = AutoImageProcessor.from_pretrained(os.fspath(checkpoint))
    with replaced_folder(output) as partial:
        stock.model.save_pretrained(partial)
        processor.save_pretrained(partial)
        _check(model, AutoModelForImageClassification.from_pretrained(partial).eval(), pixels)
    return output


def probe_pixels(preprocessing: Preprocessing, count: int = 4) -> torch.Tensor:
    """Seeded random images of several brightnesses and grains, prepared for the model.

    Returns:
        `(count, 3, height, width)`, float32.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = preprocessing.size
    images = []
    for number in range(count):
        grain = 2 ** (2 * number)
        coarse = torch.rand(1, 3, -(-height // grain), -(-width // grain), generator=generator)
        level = torch.rand(1, 3, 1, 1, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, size=(height, width))
        images.append((255 * (0.5 * level + 0.5 * fine)).byte())
    return preprocessing(torch.cat(images))


@torch.no_grad()
def _transfer_head(model: CSKDForImageAesthetics, stock: StockClassifier, pixels: torch.Tensor) -> None:
    """Give the classifier the scorer's head, where what its own heads are given makes up the pooled feature.

    Raises:
        UnfitStock: it does not.
    """
    given = stock.head_input(pixels)
    outputs = run_encoder(model.backbone, pixels)
    shares = _shares(given, outputs, model.config.pooling)
    if shares is None:
        reason = f"the head of {type(stock.model).__name__} is not given this feature"
        if _is_mean_of_patches(given, outputs):
            reason += " but the mean of the patch tokens, without the CLS token"
        elif fitting := [name for name in POOLINGS if _shares(given, outputs, name)]:
            reason += f"; it is given that of pooling '{fitting[-1]}' (--pooling {fitting[-1]} in training)"
        elif stock.additions:
            reason += f"; the class has parts that the checkpoint lacks: {', '.join(stock.additions[:3])}"
        raise UnfitStock(reason)
    stock.fill_heads(model.classifier, shares)


def _is_mean_of_patches(given: torch.Tensor, outputs: ModelOutput) -> bool:
    hidden = outputs.get("last_hidden_state")
    return hidden is not None and hidden.dim() == 3 and head_shares(given, hidden[:, 1:].mean(1), 1) is not None


def _shares(given: torch.Tensor, outputs: ModelOutput, pooling: str) -> tuple[float, ...] | None:
    hidden = outputs.get("last_hidden_state")
    tokens = hidden.shape[1] if hidden is not None and hidden.dim() == 3 else 1
    try:
        return head_shares(given, pool_features(outputs, pooling), tokens)
    except ValueError:  # the encoder has nothing to pool in this way
        return None


@torch.no_grad()
def _check(model: CSKDForImageAesthetics, stock: PreTrainedModel, pixels: torch.Tensor) -> None:
    """Raises:
    ExportError: the distributions differ.
    """
    expected = model(pixels).distribution
    found = stock(pixel_values=pixels).logits.float().softmax(-1)
    gap = (expected - found).abs().max().item()
    if not gap <= TOLERANCE:
        raise _refused(model, f"the saved {type(stock).__name__} gives probabilities that differ by up to {gap:.2g}")


def _refused(model: CSKDForImageAesthetics, reason: object) -> ExportError:
    config = model.config
    return ExportError(
        f"no stock image classifier of transformers does what this checkpoint does (encoder "
        f"{type(model.backbone).__name__} of model_type '{config.backbone_config.model_type}', pooling "
        f"'{config.pooling}'): {reason}. It can still be used and published with its own class."
    )
