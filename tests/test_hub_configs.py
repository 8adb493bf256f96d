from __future__ import annotations

import json

import pytest
import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, MobileNetV2Config, MobileNetV2ForImageClassification

from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.complexity import count_macs, count_parameters, on_meta
from cskd_hf.models.configuration_cskd import CSKDConfig
from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment, CSKDForImageAesthetics
from cskd_hf.models.module_cskd import CSKDModuleConfig, register_encoder
from cskd_hf.training.arguments import AlignSettings
from cskd_hf.training.build import build_model, build_preprocessing
from hub_config_facts import HUB_CONFIGS, MODELS, TABLE, counted, stated, table

SMALL = [folder for folder in MODELS if stated(folder)["parameters"] < 5e6]
# Of the published classifiers without their last layer (1000 classes), from torchvision and timm; of CLIP without the
# projection. A ViTModel has a pooler (384 x 385) that they lack.
PUBLISHED_PARAMETERS = {
    "mobilenet_v2-224": 3_504_872 - 1_281_000,
    "efficientnet_b0-224": 5_288_548 - 1_281_000,
    "mobilevit_small-256": 5_578_632 - 641_000,
    "resnet18-224": 11_689_512 - 513_000,
    "resnet50-224": 25_557_032 - 2_049_000,
    "convnext_tiny-224": 28_589_128 - 769_000,
    "swin_tiny-224": 28_288_354 - 769_000,
    "vit_small-224": 22_050_664 - 385_000 + 384 * 385,
    "clip_vit_b32-224": 87_849_216 - 768 * 512,
    "clip_vit_b16-224": 86_192_640 - 768 * 512,
    "clip_vit_l14-224": 303_966_208 - 1024 * 768,
}
# In 1e9, from the same; they differ in what they count beside convolutions and matrix products.
PUBLISHED_GMACS = {
    "mobilenet_v2-224": 0.30,
    "efficientnet_b0-224": 0.39,
    "resnet18-224": 1.82,
    "resnet50-224": 4.1,
    "convnext_tiny-224": 4.47,
    "swin_tiny-224": 4.5,
    "vit_small-224": 4.6,
    "clip_vit_b16-224": 17.6,
}


def named(folders):
    return pytest.mark.parametrize("folder", folders, ids=lambda path: path.name)


@named(MODELS)
def test_facts_are_those_of_the_model_on_meta(folder):
    assert isinstance(AutoConfig.from_pretrained(folder), CSKDConfig)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(processor).__module__.startswith("transformers.")
    facts = stated(folder)
    assert facts == {"encoder": facts["encoder"], "pretrained": facts["pretrained"], **counted(folder)}
    assert facts["encoder"] and all(len(name.split("/")) == 2 for name in facts["pretrained"])
    assert facts["image_size"] == [int(folder.name.rpartition("-")[2])] * 2
    if folder.name in PUBLISHED_PARAMETERS:
        assert facts["parameters"] == PUBLISHED_PARAMETERS[folder.name]
    if folder.name in PUBLISHED_GMACS:
        assert facts["macs"] / 1e9 == pytest.approx(PUBLISHED_GMACS[folder.name], rel=0.03)


def test_readme_has_the_table():
    assert TABLE.search((HUB_CONFIGS / "README.md").read_text()).group() == table()


@named(SMALL)
def test_config_is_built_aligned_saved_and_scored(folder, tmp_path):
    settings = AlignSettings(encoder=str(folder))
    references = [{"name": "clip", "dim": 8}]
    model = build_model(CSKDForFeatureAlignment, settings, reference_encoders=references)
    side = build_preprocessing(settings, model).size[0]
    assert side == stated(folder)["image_size"][0]
    output = model(torch.randn(2, 3, side, side), reference_embeds=torch.randn(2, 8))
    output.loss.backward()
    assert all(p.grad is not None for p in model.projectors.parameters())
    model.save_pretrained(tmp_path)
    student = CSKDForImageAesthetics.from_encoder(str(tmp_path), score_values=[1, 2, 3]).eval()
    assert 1 < student(torch.randn(1, 3, side, side)).score.item() < 3


@named(MODELS)
def test_preprocessing_survives_in_a_checkpoint(folder, tmp_path):
    """What a student trained from this config is saved with does what the config says, less the crop."""
    preprocessing = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(folder))
    preprocessing.to_image_processor().save_pretrained(tmp_path)
    again = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(tmp_path))
    assert again == preprocessing
    mean_of = {"clip": 0.4815, "siglip": 0.5, "mobilenet": 0.5, "mobilevit": 0.0}
    expected = next((mean for name, mean in mean_of.items() if folder.name.startswith(name)), 0.485)
    assert preprocessing.mean[0] == pytest.approx(expected, abs=1e-4)
    # EfficientNet's processor divides by its std twice.
    std_of = {"clip": 0.2686, "siglip": 0.5, "mobilenet": 0.5, "mobilevit": 1.0}
    expected = next((std for name, std in std_of.items() if folder.name.startswith(name)), 0.229)
    assert preprocessing.std[0] == pytest.approx(expected, abs=1e-4)
    assert preprocessing.flip_channels == folder.name.startswith("mobilevit")


class Counted(nn.Module):
    """Layers whose multiply-adds are known: a convolution, a depthwise one, a linear layer and an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 5)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.depthwise(self.convolution(pixels))).flatten(2).transpose(1, 2)
        tokens = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return self.linear(tokens).mean(1)


def test_multiply_adds_and_parameters_of_known_layers():
    register_encoder("tests-counted", Counted)
    config = CSKDConfig(backbone_config=CSKDModuleConfig(factory="tests-counted", image_size=16), feature_size=5)
    model = on_meta(config)
    model.backbone.module.to("meta")  # a module of one's own is built on the CPU
    positions = 8 * 8
    expected = positions * (3 * 8 * 9 + 8 * 9 + 8 * 5) + 2 * positions * positions * 8
    assert count_macs(model, (16, 16)) == expected
    assert count_parameters(model.backbone) == (3 * 8 * 9 + 8) + (8 * 9 + 8) + 2 * 8 + (8 * 5 + 5)


def test_encoder_with_the_image_processor_of_an_older_transformers(tmp_path):
    """As MobileNetV2 is on the Hub: transformers 5 does not know the name of its image processor."""
    config = MobileNetV2Config(depth_multiplier=0.25, image_size=96)
    MobileNetV2ForImageClassification(config).save_pretrained(tmp_path)
    own = json.loads((HUB_CONFIGS / "students" / "mobilenet_v2_0.35-96" / "preprocessor_config.json").read_text())
    old = {**own, "image_processor_type": "MobileNetV2FeatureExtractor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    settings = AlignSettings(encoder=str(tmp_path))
    model = build_model(CSKDForFeatureAlignment, settings, reference_encoders=[{"name": "clip", "dim": 8}])
    expected = Preprocessing((96, 96), (0.5,) * 3, (0.5,) * 3, "bilinear")
    assert build_preprocessing(settings, model) == expected
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old | {"image_processor_type": "NoSuch"}))
    with pytest.raises(ValueError, match="Unrecognized image processor"):
        build_preprocessing(settings, model)


def test_there_are_configs_of_each_kind():
    assert {folder.parent.name for folder in MODELS} == {"students", "teachers"}
    assert list((HUB_CONFIGS / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", sorted((HUB_CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launch_configurations_are_accelerates(path):
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).num_processes == yaml.safe_load(path.read_text())["num_processes"] == 2
