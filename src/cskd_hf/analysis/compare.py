"""`cskd-hf analyze`: what encoders attend to and how collapsed their features are, several checkpoints side by side."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..data.loading import plain_crops
from ..data.mixture import open_images, sample_images
from ..data.views import Preprocessing
from ..evaluation import collapse
from ..evaluation.attention import AttentionMeter, AttentionReader, LayerSummary, NoAttentionError, eager_attention
from ..models.modeling_cskd import CSKDForFeatureAlignment
from ..training.arguments import AlignSettings
from ..training.build import build_model, build_preprocessing
from ..training.reference import ReferenceEncoder, load_reference
from ..training.settings import SettingsError

logger = logging.getLogger(__name__)

_MAP_BYTES = 64 * 2**20  # of the attention maps of a batch; the batch is made to fit
_MOST_IMAGES_A_BATCH = 64


@dataclass
class FeatureSummary:
    """Measures of the pooled features of all images; see `evaluation.collapse`.

    Args:
        images, dim: shape of the features.
        effective_rank: of the centred features; `rank_limit` is the largest possible, min(images - 1, dim).
        mean_cosine: of two different images' features, not centred.
        token_cosine: of two different patches of an image, in the last token or feature map.
        cka: debiased linear CKA to the reference; none without one.
        singular_values: of the centred features, divided by their sum.
    """

    images: int
    dim: int
    effective_rank: float
    rank_limit: int
    mean_cosine: float
    token_cosine: float | None
    cka: float | None
    singular_values: list[float]


@dataclass
class Analysis:
    """What is known of one checkpoint.

    Args:
        name: in tables and plots.
        location: what was given.
        family: model_type of the encoder.
        parameters: of the encoder.
        size: height and width of its input in pixels.
        features: see [`FeatureSummary`].
        layers: of its attention, in order; empty for an encoder that has or hands out none.
        message: why there is no attention, or no distance.
    """

    name: str
    location: str
    family: str
    parameters: int
    size: tuple[int, int]
    features: FeatureSummary
    layers: list[LayerSummary] = field(default_factory=list)
    message: str = ""

    def figures(self) -> dict[str, float | None]:
        """One figure for each measure: those of attention are means over layers and heads.

        `head_spread` is the standard deviation of the distance over the heads of a layer, `entropy_share` the entropy
        divided by its maximum, `distance_share` the distance divided by that of even attention; `elsewhere` is the share
        of attention that goes to tokens which are no patches.
        """
        features, layers = self.features, self.layers
        placed = layers and layers[0].distance is not None
        return {
            "effective_rank": features.effective_rank,
            "mean_cosine": features.mean_cosine,
            "token_cosine": features.token_cosine,
            "cka": features.cka,
            "distance": _mean(np.mean(layer.distance) for layer in layers) if placed else None,
            "distance_share": _mean(np.mean(layer.distance) / layer.uniform_distance for layer in layers if layer.uniform_distance) if placed else None,
            "head_spread": _mean(np.std(layer.distance) for layer in layers) if placed else None,
            "entropy": _mean(np.mean(layer.entropy) for layer in layers) if layers else None,
            "entropy_share": _mean(np.mean(layer.entropy) / layer.max_entropy for layer in layers if layer.max_entropy) if layers else None,
            "elsewhere": _mean(np.mean(layer.elsewhere) for layer in layers) if placed else None,
        }  # fmt: skip


def _mean(values: Any) -> float | None:
    values = [float(value) for value in values]
    return float(np.mean(values)) if values else None


def load_checkpoint(location: str, seed: int = 0) -> tuple[CSKDForFeatureAlignment, Preprocessing]:
    """An encoder to analyse, in evaluation mode, with its preprocessing.

    Args:
        location: a CSKD checkpoint or any transformers image encoder (of a CLIP-like model, its vision tower), by Hub name
            or folder; a config.json, or a folder with only that, gives random weights.
        seed: of random weights.
    """
    settings = AlignSettings(encoder=location)
    torch.manual_seed(seed)
    model = build_model(CSKDForFeatureAlignment, settings).eval()
    return model, build_preprocessing(settings, model)


def analyse(
    model: CSKDForFeatureAlignment,
    preprocessing: Preprocessing,
    crops: torch.Tensor,
    *,
    name: str,
    location: str = "",
    reference_features: torch.Tensor | None = None,
    quiet: bool = True,
) -> Analysis:
    """Attention and features of one encoder on given images.

    Attention is summed up batch by batch, and a batch is as large as 64 MB of attention maps allow.

    Args:
        model: in evaluation mode.
        preprocessing: of the encoder.
        crops: uint8 `(images, 3, side, side)`.
        name, location: see [`Analysis`].
        reference_features: of the same images, `(images, dim)`, for CKA.
        quiet: no progress bar.

    Returns:
        the analysis; `message` says what of it the encoder does not allow.
    """
    encoder = model.backbone
    meter = AttentionMeter(encoder, preprocessing.size)
    with torch.no_grad(), _eager_backbone(model) as eager, AttentionReader(eager) as reader:
        first = preprocessing(crops[:1].to(model.device))
        reason, map_bytes = _try_attention(model, reader, first)
        batch_size = max(1, min(_MOST_IMAGES_A_BATCH, _MAP_BYTES // max(map_bytes, 1)))
        pooled, cosines = [], []
        for start in tqdm(range(0, len(crops), batch_size), desc=name, disable=quiet, leave=False):
            batch = preprocessing(crops[start : start + batch_size].to(model.device))
            features, outputs = model.encode(batch, **({} if reason else {"output_attentions": True}))
            if not reason:
                meter.update(reader.maps(outputs, len(batch)), len(batch))
            pooled.append(features.float().cpu())
            cosines.append(_token_cosine(outputs, meter.prefix).cpu())
    return Analysis(
        name=name,
        location=location,
        family=encoder.config.model_type,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        size=preprocessing.size,
        features=summarise_features(torch.cat(pooled), torch.cat(cosines), reference_features),
        layers=meter.layers() if not reason else [],
        message=reason or meter.reason,
    )


@contextmanager
def _eager_backbone(model: CSKDForFeatureAlignment) -> Iterator[nn.Module]:
    encoder = model.backbone
    with eager_attention(encoder) as eager:
        model.backbone = eager
        try:
            yield eager
        finally:
            model.backbone = encoder


def _try_attention(
    model: CSKDForFeatureAlignment, reader: AttentionReader, pixel_values: torch.Tensor
) -> tuple[str, int]:
    """Why the encoder gives no attention maps, or nothing; and the bytes of all maps of one image."""
    try:
        maps = reader.maps(model.encode(pixel_values, output_attentions=True)[1], 1)
    except NoAttentionError as error:
        return str(error), 0
    except Exception as error:  # some families fail inside transformers once they are asked for attention
        family = model.backbone.config.model_type
        first = (str(error).splitlines() or [""])[0][:160]
        return (
            f"the family '{family}' fails when it is asked for attention maps ({type(error).__name__}: {first}); only the "
            "measures of its features are shown"
        ), 0
    return "", sum(4 * entry.weights.numel() for entry in maps)


def _token_cosine(outputs: Any, prefix: int) -> torch.Tensor:
    """Of the last map, `(batch,)`; NaN where there is none."""
    hidden = outputs.get("last_hidden_state")
    if hidden is None:
        return torch.full((1,), float("nan"), dtype=torch.float64)
    if hidden.dim() == 4:  # (B, C, H, W)
        hidden = hidden.flatten(2).transpose(1, 2)
    return collapse.mean_token_cosine(hidden[:, prefix:])


def summarise_features(
    features: torch.Tensor, token_cosines: torch.Tensor | None = None, reference_features: torch.Tensor | None = None
) -> FeatureSummary:
    """The measures of collapse of features `(images, dim)`; see [`FeatureSummary`]."""
    images, dim = features.shape
    values = collapse.singular_values(features)
    return FeatureSummary(
        images=images,
        dim=dim,
        effective_rank=collapse.effective_rank(features),
        rank_limit=min(images - 1, dim),
        mean_cosine=collapse.mean_pairwise_cosine(features),
        token_cosine=None if token_cosines is None else _finite(token_cosines.mean().item()),
        cka=None if reference_features is None else collapse.linear_cka(features, reference_features),
        singular_values=(values / values.sum().clamp_min(1e-300)).tolist(),
    )


def reference_features(reference: ReferenceEncoder, crops: torch.Tensor, batch_size: int = 32) -> torch.Tensor:
    """Features of a reference encoder, `(images, dim)`, on the CPU."""
    return torch.cat(
        [reference(crops[start : start + batch_size]).cpu() for start in range(0, len(crops), batch_size)]
    )


def analyse_all(
    checkpoints: Mapping[str, str],
    images: Sequence[str],
    *,
    reference: str | None = None,
    max_images: int = 500,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = True,
) -> tuple[list[Analysis], FeatureSummary | None]:
    """Several checkpoints on the same images.

    Args:
        checkpoints: name -> location, see `load_checkpoint`.
        images: folders, saved datasets or Parquet files; every encoder sees each image whole, made square.
        reference: encoder that features are compared with by CKA.
        max_images: evenly spaced over all images; 500 crops of 224 pixels take 75 MB.
        seed: of random weights.
        device: to run on.
        quiet: no progress bars.

    Returns:
        one analysis a checkpoint, in order, and the features' measures of the reference.

    Raises:
        SettingsError: too few images.
    """
    loaded = load_reference(reference).to(device) if reference else None
    sides = [max(loaded.preprocessing.size)] if loaded else []
    sides += [max(load_checkpoint(location, seed)[1].size) for location in checkpoints.values()]
    crops = _sample(images, max(sides), max_images)
    target = None if loaded is None else reference_features(loaded, crops)
    found = []
    for name, location in checkpoints.items():  # one at a time in memory
        model, preprocessing = load_checkpoint(location, seed)
        found.append(
            analyse(
                model.to(device), preprocessing, crops,
                name=name, location=location, reference_features=target, quiet=quiet,
            )
        )  # fmt: skip
        if found[-1].message:
            logger.warning("%s: %s", name, found[-1].message)
    return found, None if target is None else summarise_features(target)


def _sample(locations: Sequence[str], side: int, max_images: int) -> torch.Tensor:
    crops = plain_crops(sample_images(open_images(locations, side, cache=False), max_images), side)
    if len(crops) < 4:
        raise SettingsError(f"{len(crops)} readable images are too few to compare features on; give at least 4.")
    return crops


def to_json(value: Any) -> Any:
    """Dataclasses and what is in them as plain JSON values: numbers of six figures, none for what is not finite."""
    if isinstance(value, Analysis):
        return to_json({**asdict(value), "figures": value.figures()})
    if hasattr(value, "__dataclass_fields__"):
        return to_json(asdict(value))
    if isinstance(value, Mapping):
        return {key: to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
