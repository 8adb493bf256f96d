from __future__ import annotations

import json
import sys
import types

import pytest
import torch
import transformers
from torch import nn
from transformers import CLIPVisionModelWithProjection

from cskd_hf.data.views import Preprocessing
from cskd_hf.training.reference import ReferenceEncoder, load_reference


class MeanColour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.norm(pixels.mean((2, 3)) * self.scale)


def own_reference() -> ReferenceEncoder:
    return ReferenceEncoder(MeanColour(), Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3), name="colour")


def test_clip_gives_its_projected_embedding_under_its_own_preprocessing(clip):
    reference = ReferenceEncoder.from_pretrained(clip)
    crops = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    model = CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    with torch.no_grad():
        expected = model(pixel_values=reference.preprocessing(crops)).image_embeds
    assert torch.allclose(reference(crops), expected)
    assert reference.dim == 12 and reference.name == "tiny-clip"
    assert reference.preprocessing.size == (32, 32)
    assert reference.preprocessing.mean[0] == pytest.approx(0.48145466)


def test_any_transformers_encoder(vit_encoder, encoder):
    for folder, dim in ((vit_encoder, 16), (encoder, 16)):
        from transformers import ViTImageProcessor

        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        assert ReferenceEncoder.from_pretrained(folder)(torch.zeros(2, 3, 50, 50, dtype=torch.uint8)).shape == (2, dim)


def test_stays_frozen_and_in_evaluation_mode():
    reference = own_reference()
    nn.ModuleList([reference]).train()
    assert not any(module.training for module in reference.modules())
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert not reference(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).requires_grad


def test_own_module_by_name(monkeypatch):
    module = types.ModuleType("my_encoders")
    module.build, module.wrong = own_reference, lambda: 3
    monkeypatch.setitem(sys.modules, "my_encoders", module)
    assert load_reference("my_encoders:build").name == "colour"
    with pytest.raises(ValueError, match="returned int"):
        load_reference("my_encoders:wrong")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_reference("my_encoders:missing")


def test_fingerprint_follows_weights_and_preprocessing():
    one, two = own_reference(), own_reference()
    assert one.fingerprint() == two.fingerprint()
    with torch.no_grad():
        two.encoder.scale.add_(1e-3)
    assert one.fingerprint() != two.fingerprint()
    other = ReferenceEncoder(MeanColour(), Preprocessing((9, 9), (0.0,) * 3, (1.0,) * 3), name="colour")
    assert one.fingerprint() != other.fingerprint()


def test_encoder_without_one_feature_an_image_is_refused():
    with pytest.raises(ValueError, match=r"returns features of shape \(1, 3, 8, 8\)"):
        ReferenceEncoder(nn.Identity(), Preprocessing((8, 8)), name="identity")


def randomise(model: nn.Module) -> nn.Module:
    """Weights that are not those of a new model: biases, norms and scales away from 0 and 1."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
    "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def make_whole(kind: str) -> nn.Module:
    """A tiny model with a text tower."""
    if kind == "clip":
        return transformers.CLIPModel(
            transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)
        )
    if kind == "metaclip_2":
        config = transformers.MetaClip2Config(text_config=TEXT, vision_config=VISION, projection_dim=12)
        return transformers.MetaClip2Model(config)
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION))


@pytest.mark.parametrize("kind", ["clip", "metaclip_2", "siglip"])
def test_a_whole_model_gives_its_own_image_features(tmp_path, kind):
    model = randomise(make_whole(kind))
    model.save_pretrained(tmp_path)
    Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3).to_image_processor().save_pretrained(tmp_path)
    reference = ReferenceEncoder.from_pretrained(str(tmp_path), name=kind)
    crops = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=reference.preprocessing(crops)).pooler_output
    assert torch.allclose(reference(crops), expected, atol=1e-5)
    assert reference.dim == (16 if kind == "siglip" else 12)
    assert expected.std() > 0.01
    reference.use_tokens(7)
    assert reference.map_shape == (16, 4, 4)


def test_siglip_2_of_native_resolution_gives_its_own_image_features(tmp_path):
    """Against the model and its own processor, which cuts the patches; also its vision tower alone."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    vision = {name: value for name, value in VISION.items() if name != "image_size"} | {"num_patches": 16}
    model = randomise(transformers.Siglip2Model(transformers.Siglip2Config(text_config=TEXT, vision_config=vision)))
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=17)
    crops = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    inputs = processor([crop.permute(1, 2, 0).numpy() for crop in crops], return_tensors="pt")
    with torch.no_grad():
        expected = model.get_image_features(**inputs).pooler_output
    for part in (model, model.vision_model):
        folder = tmp_path / type(part).__name__
        part.save_pretrained(folder)
        processor.save_pretrained(folder)
        reference = ReferenceEncoder.from_pretrained(str(folder))
        assert reference.preprocessing.size == (32, 32) and reference.preprocessing.mean == (0.5,) * 3
        assert torch.allclose(reference(crops), expected, atol=1e-4)
        reference.use_tokens(7)
        assert reference.map_shape == (16, 4, 4)


DINO = {
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**VISION)),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**VISION, num_register_tokens=3)
    ),
    "dinov3_vit": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**VISION, num_register_tokens=3)),
    "dinov3_convnext": lambda: transformers.DINOv3ConvNextModel(
        transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 12, 16], depths=[1] * 4, image_size=32)
    ),
}


@pytest.mark.parametrize("kind", DINO)
def test_dino_gives_its_class_token_after_the_last_norm(tmp_path, kind):
    model = randomise(DINO[kind]())
    model.save_pretrained(tmp_path)
    # As DINOv3 publishes it: a processor that only torchvision has.
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({
            "image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 64, "width": 64}, "resample": 2,
            "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.2], "do_normalize": True, "do_rescale": True,
            "rescale_factor": 1 / 255, "crop_size": None, "do_center_crop": None,
        })
    )  # fmt: skip
    reference = ReferenceEncoder.from_pretrained(str(tmp_path))
    assert reference.preprocessing == Preprocessing((64, 64), (0.4, 0.5, 0.6), (0.2,) * 3, "bilinear")
    crops = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        hidden = model(pixel_values=reference.preprocessing(crops)).last_hidden_state
    assert torch.allclose(reference(crops), hidden[:, 0], atol=1e-5)
    reference.use_tokens(3)
    assert reference.map_shape == (16, 2, 2) if kind == "dinov3_convnext" else (16, 3, 3)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot be read.*hf auth login"):
        ReferenceEncoder.from_pretrained(str(tmp_path / "nowhere"))
    config = transformers.SiglipVisionConfig(**VISION, vision_use_head=False)
    transformers.SiglipVisionModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="without its pooling head"):
        ReferenceEncoder.from_pretrained(str(tmp_path / "headless"))
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)).save_pretrained(tmp_path / "tower")
    with pytest.raises(ValueError, match="visual_projection.*whole CLIP"):
        ReferenceEncoder.from_pretrained(str(tmp_path / "tower"))
    transformers.Dinov2Model(transformers.Dinov2Config(**VISION)).save_pretrained(tmp_path / "no_processor")
    with pytest.raises(ValueError, match="cannot be read.*preprocessor_config.json"):
        ReferenceEncoder.from_pretrained(str(tmp_path / "no_processor"))
