"""A published ImageNet encoder as a transformers model: MobileNetV1 with LeakyReLU, from its own state dict.

It also shows what an architecture that transformers does not have needs to serve as reference, teacher or student: a
config, a model, and two lines that register them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, MobileNetV1Config, MobileNetV1Model

from cskd_hf.data.views import Preprocessing


class LeakyMobileNetConfig(MobileNetV1Config):
    model_type = "leaky_mobilenet_v1"


class LeakyMobileNetModel(MobileNetV1Model):
    """MobileNetV1 whose activations let a tenth of negative values through, with symmetric padding."""

    config_class = LeakyMobileNetConfig

    def __init__(self, config: LeakyMobileNetConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer)
        for layer in [self.conv_stem, *self.layer]:
            layer.activation = nn.LeakyReLU(0.1)


AutoConfig.register(LeakyMobileNetConfig.model_type, LeakyMobileNetConfig)
AutoModel.register(LeakyMobileNetConfig, LeakyMobileNetModel)


def save_as_transformers_model(state_dict: Path, folder: Path) -> None:
    """Write the encoder of a torch state dict as a transformers model folder with its image processor.

    Args:
        state_dict: `.pth` file: stem and 13 depthwise-separable blocks of width 0.25, each convolution followed by its
            batch norm; a classifier, which is left out.
        folder: to write.
    """
    config = LeakyMobileNetConfig(depth_multiplier=0.25, tf_padding=False, layer_norm_eps=1e-5, image_size=224)
    model = LeakyMobileNetModel(config)
    theirs = {
        name: value for name, value in torch.load(state_dict, weights_only=True).items() if not name.startswith("fc.")
    }
    ours = model.state_dict()
    # Both list their layers from the input on, convolution before norm: the order is the mapping, the shapes check it.
    if [tuple(v.shape) for v in theirs.values()] != [tuple(v.shape) for v in ours.values()]:
        raise ValueError(f"'{state_dict}' is not the MobileNetV1 of width 0.25 that this benchmark is made for.")
    model.load_state_dict(dict(zip(ours, theirs.values())))
    model.save_pretrained(folder)
    Preprocessing((224, 224), interpolation="bilinear").to_image_processor().save_pretrained(folder)
