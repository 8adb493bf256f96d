"""Every image encoder family of the installed transformers, tiny: what `cskd-hf encoders` calls supported is tried."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as t
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from cskd_hf.cli import main
from cskd_hf.models.encoders_cskd import build_encoder, run_encoder
from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment, load_encoder
from cskd_hf.training.encoder_survey import SIDE, encoder_families, survey_encoders, tiny_config

FAMILIES = encoder_families()


@pytest.fixture(scope="module")
def reports():
    return {report.family: report for report in survey_encoders()}


def test_at_least_forty_families_are_supported(reports):
    supported = {name for name, report in reports.items() if report.supported}
    assert len(supported) >= 40
    # One of each kind: classifier, backbone alone, tower of a CLIP, tower without an Auto class, packed patches, CNN.
    assert {"vit", "hgnet_v2", "clip_vision_model", "blip_vision_model", "siglip2_vision_model", "resnet"} <= supported
    assert all(report.reason for name, report in reports.items() if name not in supported)


def test_reasons_name_what_a_family_needs(reports):
    assert "grid_thw" in reports["qwen3_vl_vision"].reason
    assert "pixel_values" in reports["imagegpt"].reason
    assert "video" in reports["xclip_vision_model"].reason
    assert "2 images" in reports["pixtral"].reason  # packs a batch into one image


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, reports, tmp_path):
    report = reports[name]
    if not report.supported:
        pytest.skip(report.reason)
    torch.manual_seed(0)
    encoder = build_encoder(tiny_config(FAMILIES[name].config_class))
    encoder.save_pretrained(tmp_path / "encoder")
    model = CSKDForFeatureAlignment.from_encoder(
        str(tmp_path / "encoder"), reference_encoders=[{"name": "any", "dim": 8}]
    )
    theirs = encoder.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.backbone.state_dict().items())

    pixels, targets = torch.randn(4, 3, SIDE, SIDE), torch.randn(4, 8)
    losses = train(model, pixels, targets)
    assert losses[-1] < losses[0]
    if report.gradient_checkpointing:
        assert_checkpointing_gives_the_same_gradient(model, pixels, targets)

    model.eval().save_pretrained(tmp_path / "model")
    again = CSKDForFeatureAlignment.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        output, other = model(pixels), again(pixels)
        alone = model(pixels[:1])
    assert output.pooler_output.shape == (4, model.config.feature_size)
    assert torch.allclose(output.aligned_embeds, other.aligned_embeds, atol=1e-5)
    assert torch.allclose(output.pooler_output[:1], alone.pooler_output, atol=1e-4, rtol=1e-3)
    if report.map in ("tokens", "feature map"):
        maps = model.feature_map(output, pixels)
        assert maps.shape[:2] == (4, output.last_hidden_state.shape[1 if report.map == "feature map" else 2])
        assert maps.dim() == 4


def train(model: CSKDForFeatureAlignment, pixels: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """Losses of a few steps of the encoder alone: the projector stays as it is."""
    optimiser = torch.optim.AdamW(model.backbone.parameters(), lr=3e-3)
    model.train()
    losses = []
    for _ in range(6):
        torch.manual_seed(1)
        loss = model(pixels, reference_embeds=targets).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def assert_checkpointing_gives_the_same_gradient(model, pixels, targets):
    gradients = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        torch.manual_seed(2)
        model.zero_grad()
        model(pixels, reference_embeds=targets).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    model.gradient_checkpointing_disable()
    plain, recomputed = gradients
    assert plain.keys() == recomputed.keys()
    assert all(torch.allclose(plain[name], recomputed[name], atol=1e-5) for name in plain)


@pytest.mark.parametrize("name", ["clip", "siglip2", "metaclip_2", "blip", "align", "altclip", "chinese_clip"])
def test_vision_tower_of_a_whole_checkpoint(name, tmp_path):
    torch.manual_seed(0)
    whole = t.AutoModel.from_config(tiny_config(CONFIG_MAPPING[name])).eval()
    whole.save_pretrained(tmp_path)
    tower, pooling = load_encoder(str(tmp_path))
    assert pooling == "auto"
    pixels = torch.randn(2, 3, SIDE, SIDE)
    expected, found = run_encoder(whole.vision_model, pixels), run_encoder(tower.eval(), pixels)
    assert torch.allclose(expected.last_hidden_state, found.last_hidden_state, atol=1e-6)


@pytest.mark.parametrize("auto", [t.AutoModelForImageClassification, t.AutoBackbone], ids=["classifier", "backbone"])
@pytest.mark.parametrize("name", ["hgnet_v2", "pp_lcnet", "swin", "resnet", "beit"])
def test_classifier_and_backbone_checkpoints(auto, name, tmp_path):
    torch.manual_seed(0)
    saved = auto.from_config(tiny_config(CONFIG_MAPPING[name]))
    saved.save_pretrained(tmp_path)
    model = CSKDForFeatureAlignment.from_encoder(str(tmp_path))
    weights = saved.state_dict()
    found = [key for key in model.backbone.state_dict() if any(full.endswith(key) for full in weights)]
    assert len(found) == len(model.backbone.state_dict())
    for key, value in model.backbone.state_dict().items():
        assert any(full.endswith(key) and torch.equal(weights[full], value) for full in weights), key
    again = CSKDForFeatureAlignment(model.config)
    assert type(again.backbone) is type(model.backbone)


def test_checkpoint_of_an_unfit_family_is_refused_by_name(tmp_path):
    tiny_config(CONFIG_MAPPING["qwen3_vl"]).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="model_type 'qwen3_vl_vision', which cannot be a backbone: it takes .*grid_thw"
    ):
        CSKDForFeatureAlignment.from_encoder(str(tmp_path))


def test_command(capsys):
    assert main(["encoders", "vit", "qwen3_vl", "clip", "--json"]) == 0
    rows = {row["family"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"vit", "qwen3_vl_vision", "clip_vision_model"}
    assert rows["vit"]["supported"] and rows["vit"]["map"] == "tokens" and rows["vit"]["width"] == "hidden_size"
    assert main(["encoders", "resnet", "qwen3_vl"]) == 0
    table = capsys.readouterr().out
    assert "ResNetModel" in table and "not supported" in table and "grid_thw" in table
    assert main(["encoders", "vti"]) == 2
    assert "no image encoder named 'vti'" in capsys.readouterr().err
