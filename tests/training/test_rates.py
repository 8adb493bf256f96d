"""Layers of encoders: rates that rise from stem to head, and first layers that stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    ConvNextConfig,
    MobileNetV2Config,
    PvtConfig,
    ResNetConfig,
    Swinv2Config,
    ViTConfig,
)

from cskd_hf.data.views import Preprocessing
from cskd_hf.models.configuration_cskd import CSKDConfig, CSKDModuleConfig
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.models.module_cskd import register_encoder
from cskd_hf.training.rated_task import RatingTask
from cskd_hf.training.rates import freeze_layers, layer_depths, rate_factors
from cskd_hf.training.settings import SettingsError

VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[2, 1, 1, 1], layer_type="bottleneck")
# Config, number of layers, the beginnings of parameters that are in the stem, in layer 1, in the last layer, after it.
FAMILIES = {
    "vit": (VIT, 3, "embeddings.", "layers.0.", "layers.2.", "layernorm."),
    "swin": (
        Swinv2Config(embed_dim=8, depths=[1, 2], num_heads=[2, 2], window_size=4, image_size=32, patch_size=4),
        3, "embeddings.", "encoder.layers.0.blocks.0.", "encoder.layers.1.blocks.1.", "layernorm.",
    ),
    "convnext": (
        ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1]),
        5, "embeddings.", "encoder.stages.0.layers.0.", "encoder.stages.3.layers.0.", "layernorm.",
    ),
    "resnet": (RESNET, 5, "embedder.", "encoder.stages.0.layers.0.", "encoder.stages.3.layers.0.", None),
    "mobilenet_v2": (
        MobileNetV2Config(depth_multiplier=0.25, image_size=32), 16, "conv_stem.", "layer.0.", "layer.15.", "conv_1x1."
    ),
    # Its patch embeddings and its blocks are two lists beside one another, used by turns.
    "pvt": (
        PvtConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 2], num_attention_heads=[1, 1, 2, 2], image_size=32),
        5, "encoder.patch_embeddings.0.", "encoder.block.0.0.", "encoder.block.3.1.", "encoder.layer_norm.",
    ),
}  # fmt: skip


def build(config) -> CSKDForImageAesthetics:
    torch.manual_seed(0)
    return CSKDForImageAesthetics(CSKDConfig(backbone_config=config, score_values=[1, 2, 3]))


def preprocessing(side: int = 32) -> Preprocessing:
    return Preprocessing(size=(side, side))


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_rise_from_stem_to_head_and_every_parameter_has_one(family):
    config, layers, *places = FAMILIES[family]
    model = build(config)
    state = torch.random.get_rng_state()
    depths, found = layer_depths(model, preprocessing())
    assert found == layers
    assert torch.equal(torch.random.get_rng_state(), state) and model.training
    assert set(depths) == {name for name, _ in model.backbone.named_parameters()}
    for start, depth in zip(places, (0, 1, layers, layers + 1)):
        if start is not None:
            found = {depths[name] for name in depths if name.startswith(start)}
            assert found == {depth}, (start, found)
    assert set(range(1, layers + 1)) <= set(depths.values()) <= set(range(layers + 2))

    task = RatingTask(model, preprocessing())
    task.layer_decay = 0.5
    groups = task.parameter_groups(1.0, 0.1, 3.0)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in task.parameters() if p.requires_grad)
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.backbone.named_parameters():
        assert rate_of[id(parameter)] == 0.5 ** (layers + 1 - depths[name])
    assert {rate_of[id(parameter)] for parameter in model.classifier.parameters()} == {3.0}
    assert all(group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0.0) for group in groups)


@pytest.mark.parametrize("family", FAMILIES)
def test_depth_never_falls_along_the_forward_pass(family):
    model = build(FAMILIES[family][0])
    depths, _ = layer_depths(model, preprocessing())
    order: list[str] = []
    for name, module in model.backbone.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    model.eval().encode(torch.zeros(1, 3, 32, 32))
    called = [depths[next(iter(n for n in depths if n.rpartition(".")[0] == name))] for name in order]
    assert called == sorted(called) and len(set(called)) > 3


def test_without_decay_the_groups_are_those_of_before():
    task = RatingTask(build(VIT), preprocessing())
    assert {(group["lr"], group["weight_decay"]) for group in task.parameter_groups(1.0, 0.1, 3.0)} == {
        (1.0, 0.1), (1.0, 0.0), (3.0, 0.1), (3.0, 0.0),
    }  # fmt: skip
    assert rate_factors({"a": 0, "b": 2}, 1, 0.5) == {"a": 0.25, "b": 1.0}


def test_encoder_without_lists_of_blocks_has_its_matrices_as_layers():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(8, 8, 3)  # registered first, used last
            self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, pixel_values):
            return self.last(self.norm(self.first(pixel_values)))

    register_encoder("plain_encoder_of_a_test", lambda **_: Plain())
    model = build(CSKDModuleConfig(factory="plain_encoder_of_a_test", image_size=32))
    depths = {name.split(".")[-2]: depth for name, depth in layer_depths(model, preprocessing())[0].items()}
    assert depths == {"first": 1, "norm": 1, "last": 2}


@pytest.mark.parametrize(("freeze", "expected"), [("2", 2), ("0.4", 2), ("0.99", 5), ("5", 5)])
def test_first_layers_are_not_trained(freeze, expected):
    model = build(RESNET)
    depths, _ = layer_depths(model, preprocessing())
    freeze_layers(model, preprocessing(), freeze)
    frozen = {name for name, parameter in model.backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, depth in depths.items() if depth <= expected}
    task = RatingTask(model, preprocessing())
    grouped = {id(parameter) for group in task.parameter_groups(1.0, 0.1) for parameter in group["params"]}
    assert not grouped & {id(p) for name, p in model.backbone.named_parameters() if name in frozen}
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    task.train()
    model(torch.randn(4, 3, 32, 32)).score.sum().backward()
    moved = {name for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {name.replace("weight", "running_mean") for name in depths if "normalization.weight" in name}
    still = {name.replace("weight", "running_mean") for name in frozen if "normalization.weight" in name}
    assert still and moved & statistics == statistics - still


def test_frozen_encoder_trains_the_head_alone_and_drops_nothing_out():
    model = build(ViTConfig(**{**VIT.to_diff_dict(), "hidden_dropout_prob": 0.5}))
    freeze_layers(model, preprocessing(), "encoder")
    task = RatingTask(model, preprocessing())
    task.train()
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(pixels).logits, model(pixels).logits) and model.training
    groups = task.parameter_groups(1.0, 0.1)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.classifier.parameters()}


def test_more_layers_than_there_are():
    with pytest.raises(SettingsError, match="freeze=4, but the encoder has 3 layers"):
        freeze_layers(build(VIT), preprocessing(), "4")
