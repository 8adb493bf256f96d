"""Saliency: where the score's gradient is, for convolutional encoders and transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import ViTConfig

from cskd_hf import CSKDForImageAesthetics
from cskd_hf.scoring.saliency import saliency_map, saliency_overlay, seen_picture
from tiny_scorers import ScoreOfOneCorner, save_scorer

VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)


@pytest.fixture(scope="module", params=["resnet", "vit"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CSKDForImageAesthetics:
    folder: Path = tmp_path_factory.mktemp(request.param)
    save_scorer(folder, backbone=VIT if request.param == "vit" else None)
    return CSKDForImageAesthetics.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_it_lies_where_the_score_depends_on_the_picture(model: CSKDForImageAesthetics, pixels: torch.Tensor):
    found = saliency_map(ScoreOfOneCorner(model), pixels)
    inside = found[:, :16, :16].sum((1, 2)) / found.sum((1, 2))
    everywhere = saliency_map(model, pixels)
    spread = everywhere[:, :16, :16].sum((1, 2)) / everywhere.sum((1, 2))
    assert (inside > 0.9).all() and (spread < 0.6).all()
    assert found[:, 20:, 20:].max() < 0.02


def test_its_form(model: CSKDForImageAesthetics, pixels: torch.Tensor):
    found = saliency_map(model, pixels, samples=2)
    assert found.shape == (2, 32, 32) and found.min() >= 0
    assert found.amax((1, 2)).tolist() == pytest.approx([1, 1])
    assert torch.equal(found, saliency_map(model, pixels, samples=2))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_is_that_of_the_plain_gradient_without_noise(model: CSKDForImageAesthetics, pixels: torch.Tensor):
    """By differences: of single pixels, the one with the larger gradient moves the score more."""
    found = saliency_map(ScoreOfOneCorner(model), pixels[:1], samples=1, noise=0.0)[0]
    with torch.no_grad():
        base = ScoreOfOneCorner(model)(pixels[:1]).score
        moved = []
        for row, column in ((8, 8), (24, 24)):
            other = pixels[:1].clone()
            other[..., row, column] += 0.1
            moved.append((ScoreOfOneCorner(model)(other).score - base).abs().item())
    assert moved[0] > moved[1] == 0 and found[8, 8] > found[24, 24]


def test_within_no_grad(model: CSKDForImageAesthetics, pixels: torch.Tensor):
    with torch.no_grad():
        assert saliency_map(model, pixels[:1], samples=1).max() == 1


def test_the_picture_that_the_model_gets():
    picture = Image.effect_noise((20, 10), 60).convert("RGB")
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    levels = torch.tensor(list(picture.getdata()), dtype=torch.float32).reshape(10, 20, 3).permute(2, 0, 1) / 255
    normalised = (levels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert list(seen_picture(normalised, mean, std).getdata()) == list(picture.getdata())


def test_the_overlay_colours_what_is_salient():
    saliency = torch.zeros(10, 20)
    saliency[2, 3] = 1
    overlay = saliency_overlay(Image.new("RGB", (20, 10), (90, 90, 90)), saliency)
    assert overlay.size == (20, 10) and overlay.getpixel((0, 0)) == (90, 90, 90)
    red, green, blue = overlay.getpixel((3, 2))
    assert red > 200 and blue < 50 and blue < green < red
