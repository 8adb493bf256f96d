"""Tiny checkpoints that score images, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, ResNetConfig

from cskd_hf import CSKDConfig, CSKDForImageAesthetics
from cskd_hf.data.views import Preprocessing
from cskd_hf.models.modeling_cskd import CSKDImageAestheticsOutput

SCORES = (1.0, 2.0, 3.0, 4.0, 5.0)


def save_scorer(
    folder: Path,
    model_class: type = CSKDForImageAesthetics,
    *,
    backbone: PreTrainedConfig | None = None,
    attributes: dict | None = None,
) -> str:
    """Save a model of `model_class` and its preprocessing of 32 x 32 pixels; returns the folder."""
    torch.manual_seed(0)
    backbone = backbone or ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic"
    )
    model = model_class(CSKDConfig(backbone_config=backbone, score_values=SCORES, attributes=attributes))
    if model_class is CSKDForImageAesthetics:
        model.classifier.weight.data *= 20  # scores of unlike images should differ clearly
    model.save_pretrained(folder)
    Preprocessing(size=(32, 32)).to_image_processor().save_pretrained(folder)
    return str(folder)


class ScoreOfOneCorner(nn.Module):
    """Its score is that of another model for the upper left quarter alone."""

    def __init__(self, model: CSKDForImageAesthetics) -> None:
        super().__init__()
        self.model = model
        self.device, self.dtype = model.device, model.dtype

    def forward(self, pixel_values: torch.Tensor) -> CSKDImageAestheticsOutput:
        mask = torch.zeros_like(pixel_values)
        mask[..., : mask.shape[-2] // 2, : mask.shape[-1] // 2] = 1
        return self.model(pixel_values=pixel_values * mask)
