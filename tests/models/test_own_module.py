"""A module of one's own as encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModel

import cskd_hf
from cskd_hf.cli import main
from cskd_hf.models import module_cskd
from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment, CSKDForImageAesthetics
from cskd_hf.training.arguments import TeacherSettings
from cskd_hf.training.build import build_model, build_preprocessing
from cskd_hf.training.settings import SettingsError

SOURCE = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
"""


class Scaled(nn.Module):
    """A map, scaled by a buffer that is in no checkpoint."""

    def __init__(self, width: int, form: str = "map") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 8, 8)
        self.form = form
        self.register_buffer("scale", torch.tensor(3.0), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = self.conv(pixels) * self.scale
        tokens = maps.flatten(2).transpose(1, 2)
        return {"map": maps, "tokens": tokens, "feature": tokens.mean(1), "wrong": maps[None]}[self.form]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(module_cskd, "_FACTORIES", {})
    cskd_hf.register_encoder("mine", Scaled)


def config_of(form: str = "map") -> cskd_hf.CSKDConfig:
    module = cskd_hf.CSKDModuleConfig(
        factory="mine", arguments={"width": 5, "form": form}, image_size=32, patch_size=8
    )
    return cskd_hf.CSKDConfig(backbone_config=module, reference_encoders=[{"name": "any", "dim": 4}])


@pytest.mark.parametrize("form", ["map", "tokens", "feature"])
def test_module_is_aligned_saved_and_loaded(form, tmp_path):
    torch.manual_seed(0)
    model = CSKDForFeatureAlignment(config_of(form))
    assert model.config.feature_size == 5
    pixels, targets = torch.randn(2, 3, 32, 32), torch.randn(2, 4)
    output = model(pixels, reference_embeds=targets)
    output.loss.backward()
    assert model.backbone.module.conv.weight.grad.abs().sum() > 0
    if form == "feature":
        with pytest.raises(ValueError, match="gives no token or feature map"):
            model.feature_map(output, pixels)
    else:
        assert model.feature_map(output, pixels).shape == (2, 5, 4, 4)
    model.save_pretrained(tmp_path)
    again = CSKDForFeatureAlignment.from_pretrained(tmp_path)
    assert torch.equal(model.eval()(pixels).aligned_embeds, again(pixels).aligned_embeds)
    student = CSKDForImageAesthetics.from_encoder(str(tmp_path))
    student.eval().save_pretrained(tmp_path / "student")
    assert torch.equal(student(pixels).score, AutoModel.from_pretrained(tmp_path / "student")(pixels).score)


def test_checkpoint_runs_nothing_that_is_not_registered(tmp_path, monkeypatch):
    CSKDForImageAesthetics(config_of()).save_pretrained(tmp_path)
    monkeypatch.setattr(module_cskd, "_FACTORIES", {})
    with pytest.raises(
        ValueError, match="'mine' is not registered in this process .registered: none.*Import the module"
    ):
        AutoModel.from_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"mine"', '"os:getcwd"'))
    with pytest.raises(ValueError, match="'os:getcwd' is not registered"):
        AutoModel.from_pretrained(tmp_path)


def test_what_is_no_encoder_is_refused():
    with pytest.raises(ValueError, match="the encoder 'mine' returns .1, 2, 5, 4, 4.; features"):
        CSKDForFeatureAlignment(config_of("wrong"))
    with pytest.raises(ValueError, match="registered already"):
        cskd_hf.register_encoder("mine", nn.Linear)


def test_encoder_of_the_command_line(photographs, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_encoders_of_a_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    settings = TeacherSettings(encoder="own_encoders_of_a_test:build", image_size=32)
    model = build_model(CSKDForImageAesthetics, settings)
    assert model.config.feature_size == 6
    preprocessing = build_preprocessing(settings, model)
    assert preprocessing.size == (32, 32)
    model.save_pretrained(tmp_path / "model")
    preprocessing.to_image_processor().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(module_cskd, "_FACTORIES", {})
    command = ["score", "--model", str(tmp_path / "model"), photographs]
    assert main(command) == 2
    assert "cskd-hf --import" in capsys.readouterr().err
    assert main(["--import", "own_encoders_of_a_test:build", *command]) == 0
    with pytest.raises(SettingsError, match="'own_encoders_of_a_test:missing' cannot be loaded"):
        build_model(CSKDForImageAesthetics, TeacherSettings(encoder="own_encoders_of_a_test:missing"))
