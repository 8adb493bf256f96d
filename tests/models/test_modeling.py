from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, ResNetConfig, ViTConfig, ViTModel

import cskd_hf
from cskd_hf.models.configuration_cskd import CSKDConfig
from cskd_hf.models.modeling_cskd import (
    CSKDForFeatureAlignment,
    CSKDForImageAesthetics,
    pool_features,
    rating_loss,
    squared_emd,
)

RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic")


def tiny_config(**kwargs) -> CSKDConfig:
    kwargs = {"score_values": [1, 1.5, 2, 2.5, 3]} | kwargs
    return CSKDConfig(backbone_config=RESNET, reference_encoders=[{"name": "clip", "dim": 6}], **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loader", [AutoModel, AutoModelForImageClassification, CSKDForImageAesthetics])
def test_save_and_load_are_exact(tmp_path, dtype, loader):
    torch.manual_seed(0)
    model = CSKDForImageAesthetics(tiny_config()).to(dtype).eval()
    model.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path).eval()
    assert type(again) is CSKDForImageAesthetics
    assert again.dtype == dtype
    for (name, mine), theirs in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    pixels = torch.randn(2, 3, 32, 32, dtype=dtype)
    assert torch.equal(model(pixels).score, again(pixels).score)


def test_score_values_survive_loading_through_the_meta_device(tmp_path):
    model = CSKDForImageAesthetics(tiny_config(score_values=[0.1, 0.37, 0.9])).eval()
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([-100.0, 100.0, -100.0]))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    score = again(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16)).score
    assert score.dtype == torch.float32
    assert score.item() == pytest.approx(0.37, abs=1e-6)  # not rounded to bfloat16


def test_output_is_what_it_says():
    model = CSKDForImageAesthetics(tiny_config()).eval()
    output = model(torch.randn(3, 3, 32, 32), labels=torch.full((3, 5), 0.2))
    assert output.logits.shape == output.distribution.shape == (3, 5)
    assert torch.allclose(output.distribution.sum(-1), torch.ones(3))
    values = torch.tensor([1, 1.5, 2, 2.5, 3])
    assert torch.allclose(output.score, (output.distribution * values).sum(-1))
    assert output.pooler_output.shape == (3, 16)
    assert output.aligned_embeds.shape == (3, 6)
    assert output.last_hidden_state.dim() == 4
    output.loss.backward()
    assert model.classifier.weight.grad.abs().sum() > 0
    assert isinstance(model(torch.randn(1, 3, 32, 32), return_dict=False), tuple)


def test_squared_emd_by_hand():
    # All mass one bin away: CDFs differ by 1 in one of three bins.
    predicted, target = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 1.0, 0]])
    assert squared_emd(predicted, target).item() == pytest.approx(1 / 3)
    assert squared_emd(predicted, torch.tensor([[0, 0, 1.0]])).item() == pytest.approx(2 / 3)
    assert squared_emd(target, target).item() == 0


def test_rating_loss_takes_histograms_and_means():
    values = torch.tensor([1.0, 2.0, 3.0])
    distribution = torch.tensor([[0.0, 1.0, 0.0]])
    assert rating_loss(distribution, torch.tensor([3.0]), values).item() == pytest.approx(
        0.25
    )  # half the scale, squared
    assert rating_loss(distribution, torch.tensor([[0.0, 0.0, 1.0]]), values).item() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"labels of shape \(1, 2\)"):
        rating_loss(distribution, torch.zeros(1, 2), values)


def test_alignment_checkpoint_becomes_a_student_with_a_new_head(tmp_path):
    aligned = CSKDForFeatureAlignment(tiny_config())
    aligned.save_pretrained(tmp_path)
    student = CSKDForImageAesthetics.from_encoder(str(tmp_path), score_values=[1, 2, 3])
    assert student.config.score_values == [1, 2, 3]
    assert student.classifier.out_features == 3
    for part in ("backbone", "projectors"):
        mine, theirs = getattr(student, part).state_dict(), getattr(aligned, part).state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_from_encoder_loads_pretrained_weights(vit_encoder):
    model = CSKDForImageAesthetics.from_encoder(vit_encoder)
    vit = ViTModel.from_pretrained(vit_encoder)
    assert all(torch.equal(model.backbone.state_dict()[name], value) for name, value in vit.state_dict().items())
    rebuilt = CSKDForImageAesthetics(model.config)
    assert type(rebuilt.backbone) is ViTModel


def test_vision_tower_of_a_clip_is_a_backbone(clip):
    model = CSKDForImageAesthetics.from_encoder(clip)
    assert type(model.backbone).__name__ == "CLIPVisionModel"
    assert model(torch.randn(1, 3, 32, 32)).score.shape == (1,)


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler", "auto"])
def test_pooling_of_tokens(pooling):
    vit = ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    )
    outputs = vit.eval()(torch.randn(2, 3, 32, 32))
    expected = {
        "cls": outputs.last_hidden_state[:, 0],
        "mean": outputs.last_hidden_state.mean(1),
        "pooler": outputs.pooler_output,
        "auto": outputs.pooler_output,
    }[pooling]
    assert torch.equal(pool_features(outputs, pooling), expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "max"}, "pooling='max' is not known; allowed: auto, cls, mean, pooler"),
        ({"projector": "deep"}, "projector='deep'"),
        ({"score_values": [3, 2, 1]}, "strictly rising"),
        ({"score_values": [1]}, "at least two"),
        ({"reference_encoders": [{"name": "a"}]}, "'dim'"),
        ({"reference_encoders": [{"name": "a", "dim": 2}, {"name": "a", "dim": 2}]}, "twice"),
        ({"backbone_config": {"hidden_size": 3}}, "model_type"),
        ({"attributes": {"color": [5, 1]}}, r"attributes holds 'color': \[5, 1\].*rising numbers"),
        ({"attributes": {"color": [1]}}, "lowest and highest"),
        ({"attributes": {"color": [1, float("inf")]}}, "finite"),
        ({"attributes": {"": [1, 5]}}, r"needs a name \(text\)"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        CSKDConfig(**fields)


def test_checkpoint_of_another_architecture_is_refused_with_both_names(vit_encoder):
    with pytest.raises(ValueError, match="model_type 'vit', not 'cskd'"):
        CSKDForImageAesthetics.from_pretrained(vit_encoder)


def test_config_round_trip(tmp_path):
    config = tiny_config(provenance={"command": "student"})
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is CSKDConfig
    assert again.backbone_config.hidden_sizes == [8, 8, 16, 16]
    assert again.id2label == {0: "1", 1: "1.5", 2: "2", 3: "2.5", 4: "3"}
    assert again.provenance == {"command": "student"}


def test_package_names_resolve_and_unknown_ones_do_not():
    for name in cskd_hf.__all__:
        assert getattr(cskd_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'CSKDModel'"):
        _ = cskd_hf.CSKDModel


def test_attributes_lie_on_their_scales_and_keep_their_places_in_a_saved_model(tmp_path):
    torch.manual_seed(0)
    model = CSKDForImageAesthetics(tiny_config(attributes={"light": [-1, 1], "color": [1, 5]})).eval()
    assert model.config.attributes == {"color": [1, 5], "light": [-1, 1]}
    with torch.no_grad():
        model.attribute_head.weight.mul_(20)
        model.attribute_head.bias.copy_(torch.tensor([0.0, 100.0]))
    pixels = torch.randn(3, 3, 32, 32)
    output = model(pixels)
    logit = model.attribute_head(output.pooler_output)[:, 0]
    assert torch.allclose(output.attributes[:, 0], 1 + 4 * torch.sigmoid(logit))
    assert torch.allclose(output.attributes[:, 1], torch.ones(3))
    model.save_pretrained(tmp_path)
    for loader in (AutoModel, AutoModelForImageClassification, CSKDForImageAesthetics):
        again = loader.from_pretrained(tmp_path).eval()
        assert list(again.config.attributes) == ["color", "light"]
        assert torch.equal(again(pixels).attributes, output.attributes)
    aligned, loaded = CSKDForFeatureAlignment.from_pretrained(tmp_path, output_loading_info=True)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    again = CSKDForImageAesthetics.from_encoder(str(tmp_path), attributes={"depth": [0, 1]})
    assert again.attribute_head.out_features == 1 and len(again.config.score_values) == 10


def test_model_without_attributes_is_as_it_was():
    model = CSKDForImageAesthetics(tiny_config()).eval()
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "projectors", "classifier"}
    output = model(torch.randn(1, 3, 32, 32))
    assert model.config.attributes == {} and output.attributes is None and "attributes" not in output
