"""Pretrained image encoders as references: which class, which feature, which preprocessing."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import transformers
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

    Some processors, DINOv3's among them, exist for torchvision only; what they do is read from their file then. Others
    have on the Hub the name of a class that transformers 5 dropped, as MobileNetV2's does: its successor is taken.

    Raises:
        OSError: there is no such checkpoint, or it has no image processor.
        ValueError: its processor does what [`Preprocessing`] does not, or is of an unknown class.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_path)
    except ValueError:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path)
        old = str(values.get("image_processor_type", ""))
        kind = getattr(transformers, old.replace("FeatureExtractor", "ImageProcessor"), None)
        if not old.endswith("FeatureExtractor") or kind is None:
            raise
        processor = kind.from_dict(values)
    except ImportError:
        values, _ = ImageProcessingMixin.get_image_processor_dict(name_or_path)
        defaults = {
            "size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
            "image_mean": Preprocessing.mean, "image_std": Preprocessing.std, "resample": 2,
        }  # fmt: skip
        processor = SimpleNamespace(**defaults | {name: value for name, value in values.items() if value is not None})
    return Preprocessing.from_image_processor(processor)


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if text.endswith(".") else f"{text}."
