from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoImageProcessor

from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment, CSKDForImageAesthetics
from cskd_hf.training.arguments import AlignSettings
from cskd_hf.training.build import build_model, build_preprocessing

HUB_CONFIGS = Path(__file__).parents[1] / "hub_configs"
MODELS = sorted(path.parent for path in HUB_CONFIGS.glob("*/*/config.json"))


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_config_is_built_aligned_saved_and_scored(folder, tmp_path):
    settings = AlignSettings(encoder=str(folder))
    references = [{"name": "clip", "dim": 8}]
    model = build_model(CSKDForFeatureAlignment, settings, reference_encoders=references)
    side = build_preprocessing(settings, model).size[0]
    assert side == AutoImageProcessor.from_pretrained(folder).size["height"] == int(folder.name.rpartition("-")[2])
    output = model(torch.randn(2, 3, side, side), reference_embeds=torch.randn(2, 8))
    output.loss.backward()
    assert all(p.grad is not None for p in model.projectors.parameters())
    model.save_pretrained(tmp_path)
    student = CSKDForImageAesthetics.from_encoder(str(tmp_path), score_values=[1, 2, 3]).eval()
    assert 1 < student(torch.randn(1, 3, side, side)).score.item() < 3


def test_there_are_configs_of_each_kind():
    assert {folder.parent.name for folder in MODELS} == {"students", "teachers"}
    assert list((HUB_CONFIGS / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", sorted((HUB_CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_configurations_are_accelerates(path):
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).num_processes == yaml.safe_load(path.read_text())["num_processes"] == 2
