"""timm models through transformers' wrapper."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import TimmWrapperConfig

from cskd_hf.models.configuration_cskd import CSKDConfig
from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment


def config_of(architecture: str, **model_args) -> CSKDConfig:
    wrapped = TimmWrapperConfig(architecture=architecture, model_args=model_args or None)
    return CSKDConfig(backbone_config=wrapped, reference_encoders=[{"name": "any", "dim": 4}])


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_missing_timm_is_named_with_its_extra():
    with pytest.raises(ValueError, match=r"it needs timm, which is an extra: pip install 'cskd_hf\[timm\]'"):
        CSKDForFeatureAlignment(config_of("resnet18"))


@pytest.mark.parametrize("architecture, model_args", [("resnet18", {}), ("vit_tiny_patch16_224", {"img_size": 64})])
def test_timm_model_is_aligned_saved_and_loaded(architecture, model_args, tmp_path):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = CSKDForFeatureAlignment(config_of(architecture, **model_args))
    pixels, targets = torch.randn(2, 3, 64, 64), torch.randn(2, 4)
    model.gradient_checkpointing_enable()
    output = model(pixels, reference_embeds=targets)
    output.loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    assert output.pooler_output.shape == (2, model.config.feature_size)
    model.eval().save_pretrained(tmp_path)
    again = CSKDForFeatureAlignment.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.allclose(model(pixels).aligned_embeds, again(pixels).aligned_embeds, atol=1e-5)
