"""Strong views and mixtures: what they change, within which limits, and that chance belongs to the image and the step."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from cskd_hf.training.strong_views import _cover, _recolour, mixup, strong_views


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 24, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "change",
    [lambda c, i, s: strong_views(c, 1, i, s), lambda c, i, s: mixup(c, 1, i, s, 0.7)],
    ids=["strong", "mixup"],
)
def test_chance_belongs_to_image_and_step(crops, change):
    indices = [4, 9, 2, 7, 1, 2**62]
    torch.manual_seed(0)
    first = change(crops, indices, 3)
    torch.manual_seed(1)
    assert torch.equal(change(crops, indices, 3), first)
    assert first.dtype == torch.uint8 and first.shape == crops.shape
    assert (first != crops).flatten(1).any(1).all()
    for other in (change(crops, indices, 4), change(crops, [5, 8, 3, 6, 0, 1], 3)):
        assert (other != first).flatten(1).any(1).all()


def test_strong_view_of_an_image_is_the_same_in_any_batch(crops):
    whole = strong_views(crops, 1, range(6), 3)
    parts = torch.cat([strong_views(crops[:2], 1, [0, 1], 3), strong_views(crops[2:], 1, [2, 3, 4, 5], 3)])
    assert torch.equal(whole, parts)


def test_strength(crops):
    smooth = torch.nn.functional.interpolate(crops[:, :, :3, :3].float(), size=(24, 24), mode="bilinear").byte()
    assert (strong_views(smooth, 1, range(6), 3, strength=0).int() - smooth.int()).abs().max() <= 1

    def distance(strength: float) -> float:
        return (strong_views(smooth, 1, range(6), 3, strength).float() - smooth.float()).abs().mean().item()

    assert 0 < distance(0.3) < distance(1.0)


def test_colours_by_the_standard_librarys_yiq():
    pixels = torch.tensor([0.6, 0.3, 0.2])[None, :, None, None] * 255
    y, i, q = colorsys.rgb_to_yiq(0.6, 0.3, 0.2)
    for brightness, saturation, turn in ((1.3, 1, 0), (1, 0.5, 0), (1, 1, 0.25), (0.8, 1.2, 0.25)):
        # a quarter turn takes (I, Q) to (-Q, I)
        turned = (-q, i) if turn else (i, q)
        wanted = [y, saturation * turned[0], saturation * turned[1]]
        given = _recolour(pixels, *(torch.tensor([float(value)]) for value in (brightness, saturation, turn)))
        red, green, blue = (given[0, :, 0, 0] / 255).tolist()
        to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
        assert to_yiq @ [red, green, blue] == pytest.approx([brightness * value for value in wanted], abs=2e-3)


def test_one_rectangle_is_covered_with_the_mean(crops):
    pixels = crops.float()
    covered = _cover(pixels, torch.rand(6, 4, generator=torch.Generator().manual_seed(1)), 1.0)
    for before, after in zip(pixels, covered):
        changed = (before != after).any(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert changed.sum() == len(rows) * len(columns)
        assert 0.005 < changed.float().mean() < 0.27  # 2 % to 20 %, in whole pixels
        inside = after[:, rows[0], columns[0]]
        assert torch.allclose(inside, before.mean((1, 2)), atol=1e-3)


def test_mixture_lies_between_an_image_and_the_next(crops):
    mixed, following = mixup(crops, 1, range(6), 3, 1.0).float(), crops.roll(-1, 0).float()
    shares = []
    for image, other, mixture in zip(crops.float(), following, mixed):
        share = ((mixture - other) * (image - other)).sum() / (image - other).square().sum()
        assert (share * image + (1 - share) * other - mixture).abs().max() <= 1
        shares.append(share.item())
    assert all(-0.01 <= share <= 1.01 for share in shares)
    assert max(shares) - min(shares) > 0.2  # each image has its own


def test_half_precision_training_does_not_round_pixels(crops):
    exact = strong_views(crops, 1, range(6), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(strong_views(crops, 1, range(6), 3), exact)
