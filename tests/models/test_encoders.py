"""Maps of encoders, by hand."""

from __future__ import annotations

import pytest
import torch
import transformers as t

from cskd_hf.models.modeling_cskd import spatial_features

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT = t.ViTConfig(**TRANSFORMER, image_size=32, patch_size=8)


def outputs_of(hidden: torch.Tensor) -> t.utils.ModelOutput:
    return t.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)


@pytest.mark.parametrize("specials", [0, 1, 2])
def test_tokens_become_the_grid_of_patches_whatever_its_shape(specials):
    grid = torch.arange(2 * 5 * 4 * 6).view(2, 5, 4, 6).float()  # 32 x 48 pixels in patches of 8
    tokens = torch.cat([torch.full((2, specials, 5), -1.0), grid.flatten(2).transpose(1, 2)], 1)
    assert torch.equal(spatial_features(outputs_of(tokens), (2, 3, 32, 48), VIT), grid)


def test_registers_are_left_out():
    config = t.DINOv3ViTConfig(**TRANSFORMER, image_size=32, patch_size=8, num_register_tokens=3)
    pixels = torch.randn(1, 3, 32, 48)
    outputs = t.DINOv3ViTModel(config).eval()(pixels)
    maps = spatial_features(outputs, pixels.shape, config)
    assert maps.shape == (1, 16, 4, 6)
    assert torch.equal(maps[0, :, 0, 0], outputs.last_hidden_state[0, 4])


def test_hierarchical_tokens():
    config = t.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], image_size=32, patch_size=4, window_size=4)
    pixels = torch.randn(1, 3, 32, 48)
    assert spatial_features(t.SwinModel(config)(pixels), pixels.shape, config).shape == (1, 16, 4, 6)


def test_feature_map_is_kept():
    hidden = torch.randn(2, 5, 3, 4)
    assert spatial_features(outputs_of(hidden), (2, 3, 32, 32), t.ResNetConfig()) is hidden


def test_output_without_a_map_is_refused():
    with pytest.raises(ValueError, match="17 tokens of an encoder of model_type 'vit' do not form a grid"):
        spatial_features(outputs_of(torch.randn(1, 17, 16)), (1, 3, 40, 40), VIT)
    with pytest.raises(ValueError, match="'vit' gives no token or feature map"):
        spatial_features(outputs_of(torch.randn(1, 16)), (1, 3, 40, 40), VIT)
