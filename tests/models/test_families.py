"""Encoders of many families as backbones: built tiny, saved as a pretrained model, used, saved and loaded."""

from __future__ import annotations

import pytest
import torch
import transformers as t

from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.training.arguments import TeacherSettings
from cskd_hf.training.build import build_model, build_preprocessing

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FIXED = {**TRANSFORMER, "image_size": 32, "patch_size": 8}
FAMILIES = {
    "beit": t.BeitConfig(**FIXED),
    "clip": t.CLIPVisionConfig(**FIXED),
    "convnext": t.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4),
    "deit": t.DeiTConfig(**FIXED),
    "dinov2": t.Dinov2Config(**TRANSFORMER, image_size=32, patch_size=8),
    "dinov3": t.DINOv3ViTConfig(**FIXED),
    "mobilenet_v2": t.MobileNetV2Config(depth_multiplier=0.25, image_size=32),
    "regnet": t.RegNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, groups_width=8),
    "resnet": t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic"),
    "siglip": t.SiglipVisionConfig(**FIXED),
    "swin": t.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=32, patch_size=4, window_size=4),
    "vit": t.ViTConfig(**FIXED),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_pretrained_encoder_becomes_a_model_that_trains_and_is_saved_exactly(family, tmp_path):
    torch.manual_seed(0)
    encoder = t.AutoModel.from_config(FAMILIES[family])
    encoder.save_pretrained(tmp_path / "encoder")
    model = CSKDForImageAesthetics.from_encoder(str(tmp_path / "encoder"))
    theirs = encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.backbone.state_dict().items())
    pixels = torch.randn(2, 3, 32, 32)
    model(pixels, labels=torch.full((2, 10), 0.1)).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())
    model.eval().save_pretrained(tmp_path / "model")
    again = t.AutoModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.allclose(model(pixels).score, again(pixels).score, atol=1e-5)
    saved = again.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()  # the maker's path is not published


@pytest.mark.parametrize("classifier", [t.ViTForImageClassification, t.DeiTForImageClassification])
def test_pooler_that_is_not_in_the_checkpoint_is_not_used(classifier, tmp_path):
    classifier(FAMILIES[classifier.config_class.model_type]).save_pretrained(tmp_path)
    one, two = (CSKDForImageAesthetics.from_encoder(str(tmp_path)).eval() for _ in range(2))
    assert one.config.pooling == "cls"
    with torch.no_grad():
        features = [model.encode(torch.ones(1, 3, 32, 32))[0] for model in (one, two)]
    assert torch.equal(*features)


def test_checkpoint_that_lacks_encoder_weights_is_refused(tmp_path):
    model = t.ViTModel(FAMILIES["vit"])
    state = {name: value for name, value in model.state_dict().items() if "embeddings" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="holds no weights for .* parts of ViTModel, embeddings"):
        CSKDForImageAesthetics.from_encoder(str(tmp_path))


def test_other_image_sizes(tmp_path):
    t.ViTModel(FAMILIES["vit"]).save_pretrained(tmp_path)
    settings = TeacherSettings(encoder=str(tmp_path), image_size=64)
    model = build_model(CSKDForImageAesthetics, settings)
    assert build_preprocessing(settings, model).size == (64, 64)
    assert model(torch.randn(1, 3, 64, 64)).score.shape == (1,)


def test_encoder_of_grey_images_is_refused_by_name():
    with pytest.raises(ValueError, match="model_type 'vit' cannot be a backbone"):
        CSKDForImageAesthetics.from_encoder(t.ViTModel(t.ViTConfig(**FIXED, num_channels=1)))
