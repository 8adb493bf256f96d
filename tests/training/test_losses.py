from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cskd_hf.training.losses import CosineLoss, WhitenedSmoothL1Loss

cosine, whitened_smooth_l1 = CosineLoss(), WhitenedSmoothL1Loss()


def test_cosine():
    reference = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert cosine(5 * reference, reference).item() == pytest.approx(0)
    assert cosine(-reference, reference).item() == pytest.approx(2)
    assert cosine(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), reference).item() == pytest.approx(0.5)


def test_whitened_smooth_l1_by_hand():
    reference = torch.tensor([[1.0, 3.0]])  # whitened: -1, 1
    assert whitened_smooth_l1(F.layer_norm(reference, (2,)), reference).item() == pytest.approx(0, abs=1e-6)
    # differences 1 and 0 below beta 2: 0.5 d^2 / 2; difference 5 above it: 5 - 1
    assert whitened_smooth_l1(torch.tensor([[0.0, 1.0]]), reference).item() == pytest.approx(0.125, abs=1e-4)
    assert whitened_smooth_l1(torch.tensor([[-6.0, 1.0]]), reference).item() == pytest.approx(2.0, abs=1e-3)


def test_whitening_ignores_scale_and_offset_of_the_reference():
    projected, reference = torch.randn(4, 8), torch.randn(4, 8)
    one = whitened_smooth_l1(projected, reference)
    assert torch.allclose(one, whitened_smooth_l1(projected, 30 * reference + 7), atol=1e-5)
