"""Degraded copies: what they change, that chance belongs to the image and the step, and the hinge between the two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from cskd_hf.training import degraded_views as module
from cskd_hf.training.degraded_views import degradation_loss, degraded_views

SIDE = 64


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """Soft blobs with some texture, uint8 `(3, 64, 64)`."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)[0]
    return (255 * (0.85 * smooth + 0.15 * torch.rand(smooth.shape, generator=generator))).byte()


def test_chance_belongs_to_image_and_step(picture: torch.Tensor):
    crops, indices = picture.expand(8, -1, -1, -1), [4, 9, 2, 7, 1, 2**62, 5, 6]
    views, strengths = degraded_views(crops, 1, indices, 3)
    again, same = degraded_views(crops[2:5], 1, indices[2:5], 3)
    assert torch.equal(again, views[2:5]) and torch.equal(same, strengths[2:5])
    assert views.shape == crops.shape and views.dtype == torch.uint8
    assert (views != crops).flatten(1).any(1).all() and len(set(strengths.tolist())) == 8
    assert ((strengths >= 0.2) & (strengths <= 1)).all()
    for other in (degraded_views(crops, 1, indices, 4)[1], degraded_views(crops, 2, indices, 3)[1]):
        assert (other != strengths).all()
    seen = {
        tuple(view.flatten().tolist()) for view in degraded_views(picture.expand(60, -1, -1, -1), 1, range(60), 0)[0]
    }
    assert len(seen) > 50  # two JPEGs may be of one quality


@pytest.mark.parametrize(
    "kind", sorted(set(module._KINDS), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
def test_stronger_is_further(picture: torch.Tensor, kind):
    def distance(strength: float) -> float:
        view = kind(picture.float(), strength, np.random.default_rng(0)).clamp(0, 255)
        assert view.shape == picture.shape
        return (view - picture.float()).abs().mean().item()

    assert 0.1 < distance(0.2) < distance(0.6) < distance(1.0)


def test_blur_is_pillows(picture: torch.Tensor):
    found = module._blurred(picture.float(), 1.0, np.random.default_rng(0))
    theirs = Image.fromarray(picture.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(SIDE / 40))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    gap = (found - torch.from_numpy(np.array(theirs)).permute(2, 0, 1).float())[inner].abs()
    assert gap.mean() < 1.5  # Pillow's is three box blurs


def test_hinge_pushes_copies_alone():
    scores = torch.tensor([0.5, 0.5, 0.5], requires_grad=True)
    degraded = torch.tensor([0.3, 0.45, 0.6], requires_grad=True)
    loss = degradation_loss(scores, degraded, torch.tensor([1.0, 1.0, 0.5]), margin=0.1)
    assert loss.item() == pytest.approx((0 + 0.05 + 0.15) / 3)
    loss.backward()
    assert scores.grad is None and degraded.grad.tolist() == pytest.approx([0, 1 / 3, 1 / 3])
