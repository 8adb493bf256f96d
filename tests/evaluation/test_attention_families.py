"""Which families of encoders give attention distance, which entropy alone, and which neither, and that patches lie where
they are taken to lie."""

from __future__ import annotations

import math

import pytest
import torch
import transformers as t

from cskd_hf.evaluation.attention import AttentionMeter, AttentionReader, NoAttentionError, eager_attention

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FIXED = {**TRANSFORMER, "image_size": 32, "patch_size": 8}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
PYRAMID = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 2, 1, 1], "num_attention_heads": [1, 1, 2, 2]}
CONVOLUTIONS = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4}

# Every patch attends to every patch; the number is of the tokens before the patches.
GLOBAL = {
    "aimv2": (t.Aimv2VisionConfig(**FIXED), 0),
    "beit": (t.BeitConfig(**FIXED, use_relative_position_bias=True), 1),
    "chinese_clip": (t.ChineseCLIPVisionConfig(**FIXED), 1),
    "clip": (t.CLIPVisionConfig(**FIXED), 1),
    "data2vec": (t.Data2VecVisionConfig(**FIXED), 1),
    "deit": (t.DeiTConfig(**FIXED), 2),
    "dinov2": (t.Dinov2Config(**TRANSFORMER, image_size=32, patch_size=8), 1),
    "dinov2_with_registers": (t.Dinov2WithRegistersConfig(**TRANSFORMER, image_size=32, patch_size=8), 5),
    "dinov3": (t.DINOv3ViTConfig(**FIXED, num_register_tokens=4), 5),
    "ijepa": (t.IJepaConfig(**FIXED), 0),
    "internvl": (t.InternVLVisionConfig(**TRANSFORMER, image_size=[32, 32], patch_size=[8, 8]), 1),
    "mlcd": (t.MLCDVisionConfig(**FIXED), 1),
    "pixio": (t.PixioConfig(**FIXED), 8),
    "sapiens2": (t.Sapiens2Config(**FIXED, num_key_value_heads=2), 9),
    "siglip": (t.SiglipVisionConfig(**FIXED), 0),
    "tipsv2": (t.AutoConfig.for_model("tipsv2_vision_model", **FIXED), 2),
    "vit": (t.ViTConfig(**FIXED), 1),
    "vit_msn": (t.ViTMSNConfig(**FIXED), 1),
}
# Stride in pixels and number of keys that a patch sees, by layer.
OTHERS = {
    "donut_swin": (t.DonutSwinConfig(**SWIN), [4, 4, 8, 8], [16, 16, 16, 16]),
    "glpn": (t.GLPNConfig(**PYRAMID), [4, 8, 8, 16, 32], [4, 4, 4, 4, 4]),
    "pvt": (t.PvtConfig(image_size=64, **PYRAMID), [4, 8, 8, 16, 32], [4, 4, 4, 4, 4]),
    "pvt_v2": (t.PvtV2Config(image_size=64, **PYRAMID), [4, 8, 8, 16, 32], [4, 4, 4, 4, 4]),
    "pvt_v2_linear": (
        t.PvtV2Config(image_size=64, **PYRAMID, linear_attention=True), [4, 8, 8, 16, 32], [49, 49, 49, 49, 49]
    ),
    "segformer": (t.SegformerConfig(**PYRAMID), [4, 8, 8, 16, 32], [4, 4, 4, 4, 4]),
    "swin": (t.SwinConfig(**SWIN), [4, 4, 8, 8], [16, 16, 16, 16]),
    "swinv2": (t.Swinv2Config(**SWIN), [4, 4, 8, 8], [16, 16, 16, 16]),
    "vitdet": (
        t.VitDetConfig(**{**FIXED, "image_size": 64}, window_block_indices=[0], window_size=4), [8, 8], [16, 64]
    ),
}  # fmt: skip
ENTROPY_ALONE = {
    "hiera": (t.HieraConfig(image_size=[64, 64], embed_dim=8, num_heads=[1, 2, 4, 8]), "order of mask units"),
    "vit_mae": (t.ViTMAEConfig(**FIXED), "shuffles its patches"),
    "yolos": (t.YolosConfig(**{**FIXED, "image_size": [32, 32]}, num_detection_tokens=4), "detection tokens follow"),
}
NEITHER = {
    "convnext": t.ConvNextConfig(**CONVOLUTIONS),
    "cvt": t.CvtConfig(embed_dim=[8, 8, 16], num_heads=[1, 1, 2], depth=[1, 2, 3]),
    "focalnet": t.FocalNetConfig(image_size=64, embed_dim=8, depths=[1, 1], focal_levels=[2, 2], focal_windows=[3, 3]),
    "levit": t.LevitConfig(
        image_size=64, hidden_sizes=[16, 16, 16], num_attention_heads=[1, 1, 1], depths=[1, 1, 1], key_dim=[8, 8, 8]
    ),
    "mobilenet_v2": t.MobileNetV2Config(depth_multiplier=0.25),
    "mobilevit": t.MobileViTConfig(image_size=64, hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8] * 7),
    "poolformer": t.PoolFormerConfig(**CONVOLUTIONS),
    "resnet": t.ResNetConfig(embedding_size=8, layer_type="basic", **CONVOLUTIONS),
    "swiftformer": t.SwiftFormerConfig(image_size=64, embed_dims=[8, 8, 16, 16], depths=[1, 1, 1, 1]),
}


def build(config):
    torch.manual_seed(0)
    model = t.AutoModel.from_config(config).eval()
    for parameter in model.parameters():  # attention that is not even from the start
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def measure(model, height, width):
    meter = AttentionMeter(model, (height, width))
    with torch.no_grad(), eager_attention(model) as eager, AttentionReader(eager) as reader:
        outputs = eager(pixel_values=torch.randn(2, 3, height, width), output_attentions=True)
        meter.update(reader.maps(outputs, 2), 2)
    return meter


@pytest.mark.parametrize("family", GLOBAL)
def test_encoders_with_one_grid(family):
    config, prefix = GLOBAL[family]
    model = build(config)
    meter = measure(model, 32, 32)
    assert meter.reason == "" and meter.prefix == prefix
    layers = meter.layers()
    assert len(layers) == 2
    for layer in layers:
        assert layer.stride == [8, 8] and layer.max_entropy == pytest.approx(math.log(16))
        assert len(layer.distance) == len(layer.entropy) == 2
        assert all(0 < value < math.hypot(24, 24) for value in layer.distance)
        assert all(0 < value < layer.max_entropy for value in layer.entropy)
        assert (max(layer.elsewhere) == pytest.approx(0, abs=1e-5)) == (prefix == 0)


@pytest.mark.parametrize("family", GLOBAL)
def test_patches_follow_the_other_tokens_row_by_row(family):
    config, prefix = GLOBAL[family]
    model = build(config)
    for row, column in ((0, 1), (2, 0), (3, 3)):
        pixels = torch.zeros(2, 3, 32, 32)
        pixels[1, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
        with torch.no_grad():
            first = model(pixel_values=pixels, output_hidden_states=True).hidden_states[0]
        change = (first[1] - first[0]).abs().sum(-1)
        assert change.argmax().item() == prefix + 4 * row + column


@pytest.mark.parametrize("family", OTHERS)
def test_encoders_with_stages_or_windows(family):
    config, strides, keys = OTHERS[family]
    meter = measure(build(config), 64, 64)
    assert meter.reason == ""
    layers = meter.layers()
    assert [layer.stride for layer in layers] == [[stride, stride] for stride in strides]
    for layer, count in zip(layers, keys):
        # In a shifted window most patches see fewer.
        assert math.log(count) / 2 < layer.max_entropy <= math.log(count) + 1e-5
        assert all(0 <= value <= math.hypot(64, 64) for value in layer.distance)
        assert all(0 <= value <= layer.max_entropy + 1e-5 for value in layer.entropy)


@pytest.mark.parametrize("family", ENTROPY_ALONE)
def test_encoders_whose_tokens_have_no_known_place(family):
    config, reason = ENTROPY_ALONE[family]
    side = max(config.image_size) if isinstance(config.image_size, list) else config.image_size
    meter = measure(build(config), side, side)
    assert f"not defined here for '{config.model_type}'" in meter.reason and reason in meter.reason
    for layer in meter.layers():
        assert layer.distance is None and all(0 < value <= layer.max_entropy for value in layer.entropy)


@pytest.mark.parametrize("family", NEITHER)
def test_encoders_that_hand_out_no_attention(family):
    model = t.AutoModel.from_config(NEITHER[family]).eval()
    with pytest.raises(NoAttentionError, match=f"family '{NEITHER[family].model_type}', which hands out no attention"):
        measure(model, 64, 64)


def test_attentions_that_are_no_maps_are_refused():
    model = build(GLOBAL["vit"][0])
    reader = AttentionReader(model)
    for wrong in (torch.rand(2, 2, 17, 17), torch.full((4, 17, 17), 1 / 17)):
        with pytest.raises(NoAttentionError, match="no attention maps"):
            reader.maps({"attentions": (wrong,)}, 2)
