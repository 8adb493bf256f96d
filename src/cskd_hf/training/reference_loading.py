"""Pretrained image encoders as references: which class, which feature, which preprocessing."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    CLIPVisionModelWithProjection,
    MetaClip2VisionModelWithProjection,
    PreTrainedConfig,
)
from transformers.image_processing_base import ImageProcessingMixin

from ..data.views import Preprocessing
from ..models.modeling_cskd import load_encoder

# Their text embeddings are compared with the projected image embedding, so that is the feature.
_PROJECTED = {
    "clip": CLIPVisionModelWithProjection,
    "clip_vision_model": CLIPVisionModelWithProjection,
    "metaclip_2": MetaClip2VisionModelWithProjection,
    "metaclip_2_vision_model": MetaClip2VisionModelWithProjection,
}
_NAFLEX = ("siglip2", "siglip2_vision_model")


class NaFlexEncoder(nn.Module):
    """A SigLIP 2 of native resolution on square images: it takes patches, so the pixel values are cut into them.

    Args:
        encoder: `Siglip2VisionModel`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """`(batch, 3, height, width)`, both sides a multiple of the patch size -> the encoder's output."""
        batch, channels, height, width = pixel_values.shape
        patch = self.config.patch_size
        rows, columns = height // patch, width // patch
        patches = pixel_values.view(batch, channels, rows, patch, columns, patch)
        # Rows of a patch, then columns, then channels, as Siglip2ImageProcessor lays them out.
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
        shapes = torch.tensor([[rows, columns]] * batch, device=patches.device)
        mask = torch.ones(batch, rows * columns, dtype=torch.long, device=patches.device)
        return self.encoder(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)


def load_reference_encoder(name_or_path: str) -> tuple[nn.Module, str, Preprocessing]:
    """A pretrained image encoder in float32, how its feature is pooled, and its preprocessing.

    The feature is the one that its makers compare or probe: CLIP and MetaCLIP 2, the projected embedding; SigLIP and
    SigLIP 2, the attention-pooled head's output; DINOv2 and DINOv3, the CLS token after the last norm (of a ConvNeXt,
    the mean); other encoders, their pooler's output or else the mean of their tokens or feature map.

    Args:
        name_or_path: on the Hub, or a folder, with its image processor.

    Raises:
        ValueError: it cannot be read, or lacks weights; the message names what.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path)
        model_type = config.model_type
        if model_type in _PROJECTED:
            encoder, pooling = _load_projected(_PROJECTED[model_type], name_or_path, config), "auto"
        else:
            encoder, pooling = load_encoder(name_or_path)
        _check_head(encoder, name_or_path)
        if model_type in _NAFLEX:
            return NaFlexEncoder(encoder), pooling, _naflex_preprocessing(name_or_path)
        return encoder, pooling, load_preprocessing(name_or_path)
    except OSError as error:
        raise ValueError(
            f"reference '{name_or_path}' cannot be read: {_first_lines(error)} It must be a Hub name or a folder with "
            "config.json, weights and preprocessor_config.json; for a gated model, accept its terms on its page and log "
            "in with `hf auth login`."
        ) from error


def _load_projected(model_class: type, name_or_path: str, config: PreTrainedConfig) -> nn.Module:
    vision_config = getattr(config, "vision_config", config)
    vision_config.projection_dim = config.projection_dim  # a whole model's own holds for both towers
    encoder, loaded = model_class.from_pretrained(
        name_or_path, config=vision_config, dtype=torch.float32, output_loading_info=True
    )
    if loaded["missing_keys"]:
        raise ValueError(
            f"'{name_or_path}' holds no weights for {sorted(loaded['missing_keys'])[0]}; give a whole CLIP."
        )
    return encoder


def _check_head(encoder: nn.Module, name_or_path: str) -> None:
    config = getattr(encoder, "config", None)
    if getattr(config, "vision_use_head", True) is False:
        raise ValueError(
            f"'{name_or_path}' is a SigLIP without its pooling head (vision_use_head=False), so it has no image "
            "embedding; give the checkpoint with the head."
        )


def load_preprocessing(name_or_path: str) -> Preprocessing:
    """The preprocessing of a checkpoint's image processor.

    Some processors, DINOv3's among them, exist for torchvision only; what they do is read from their file then.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path)
    except ImportError:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path)
        defaults = {
            "size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
            "image_mean": Preprocessing.mean, "image_std": Preprocessing.std, "resample": 2,
        }  # fmt: skip
        processor = SimpleNamespace(**defaults | {name: value for name, value in values.items() if value is not None})
    return Preprocessing.from_image_processor(processor)


def _naflex_preprocessing(name_or_path: str) -> Preprocessing:
    """The largest square that its processor would make of a square image."""
    processor = AutoImageProcessor.from_pretrained(name_or_path)
    side = math.isqrt(processor.max_num_patches) * processor.patch_size
    fixed = SimpleNamespace(
        size={"height": side, "width": side}, do_rescale=processor.do_rescale, rescale_factor=processor.rescale_factor,
        do_normalize=processor.do_normalize, image_mean=processor.image_mean, image_std=processor.image_std,
        resample=processor.resample,
    )  # fmt: skip
    return Preprocessing.from_image_processor(fixed)


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if text.endswith(".") else f"{text}."
