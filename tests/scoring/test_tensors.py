from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ViTConfig, pipeline

from cskd_hf import CSKDConfig, CSKDForImageAesthetics, TensorScorer, load_image
from cskd_hf.data.views import Preprocessing

BACKBONES = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "vit": ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    ),
}


@pytest.fixture(scope="module", params=BACKBONES)
def folder(request, tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    model = CSKDForImageAesthetics(CSKDConfig(backbone_config=BACKBONES[request.param]))
    model.classifier.weight.data *= 20  # a head of random weights gives everything the middle of the scale
    model.save_pretrained(folder)
    Preprocessing((32, 32), interpolation="bilinear").to_image_processor().save_pretrained(folder)
    return str(folder)


def test_scores_are_those_of_the_pipeline(folder, photographs):
    score_tensor = TensorScorer.from_pretrained(folder)
    rate = pipeline("image-aesthetics", model=folder)
    for number in (0, 7, 13):
        file = f"{photographs}/{number:02d}.png"
        pixels = torch.from_numpy(np.asarray(load_image(file)) / 255.0).permute(2, 0, 1)[None].float()
        # The pipeline rounds the resized picture to 256 levels.
        assert score_tensor(pixels).item() == pytest.approx(rate(file)["score"], abs=9e-3)


def test_gradient_is_that_of_finite_differences(folder):
    score_tensor = TensorScorer.from_pretrained(folder).double()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 40, 56, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    pixels.requires_grad_()
    gradient = torch.autograd.grad(score_tensor(pixels).sum(), pixels)[0]
    assert gradient.abs().max() > 0
    with torch.no_grad():
        for _ in range(3):
            # A third of the pixels, each the way that raises the score: a slope far above the rounding of float32.
            direction = gradient.sign() * (torch.rand(pixels.shape, generator=generator) < 1 / 3)
            step = 3e-4  # the score is float32 whatever the weights are
            ahead, behind = (score_tensor(pixels + sign * step * direction) for sign in (1, -1))
            slope = (ahead - behind).sum() / (2 * step)
            assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=0.05)


def test_one_picture_scores_alone_as_in_a_batch_and_weights_get_no_gradient(folder):
    score_tensor = TensorScorer.from_pretrained(folder).train()
    assert not score_tensor.training and not score_tensor.model.training
    pixels = torch.rand(5, 3, 48, 33, generator=torch.Generator().manual_seed(2)).requires_grad_()
    scores = score_tensor(pixels)
    alone = torch.cat([score_tensor(picture[None]) for picture in pixels])
    assert torch.allclose(scores, alone, atol=1e-5)
    scores.sum().backward()
    assert pixels.grad is not None and all(weight.grad is None for weight in score_tensor.parameters())


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (torch.zeros(3, 8, 8), "shape"),
        (torch.zeros(1, 1, 8, 8), "shape"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 8, 8), 128.0), "divide 0..255"),
        (torch.full((1, 3, 8, 8), -1.0), "-1..1"),
        (torch.full((1, 3, 8, 8), float("nan")), "nan"),
    ],
)
def test_other_inputs_are_refused(folder, pixels, said):
    with pytest.raises(ValueError, match=said):
        TensorScorer.from_pretrained(folder)(pixels)
