from __future__ import annotations

import sys
import types

import pytest
import torch
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
