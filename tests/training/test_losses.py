from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cskd_hf.training.arguments import _ALIGNMENT_LOSSES
from cskd_hf.training.losses import (
    ALIGNMENT_LOSSES,
    CosineLoss,
    MSELoss,
    PhiSLoss,
    PhiSSmoothL1Loss,
    WhitenedSmoothL1Loss,
    build_losses,
    needs_statistics,
)
from cskd_hf.training.standardisation import FeatureStatistics, PhiS
from cskd_hf.training.token_alignment import TOKEN_LOSSES, TokenAlignment, TokenCosineLoss, TokenWhitenedSmoothL1Loss

cosine, mse, whitened_smooth_l1 = CosineLoss(), MSELoss(), WhitenedSmoothL1Loss()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_settings_name_every_loss():
    assert list(_ALIGNMENT_LOSSES) == [*ALIGNMENT_LOSSES, *TOKEN_LOSSES]


def test_cosine():
    reference = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert cosine(5 * reference, reference).item() == pytest.approx(0)
    assert cosine(-reference, reference).item() == pytest.approx(2)
    assert cosine(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), reference).item() == pytest.approx(0.5)


def test_mse_by_hand_and_the_cosine_as_its_form_on_unit_length():
    assert mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 2.0]])).item() == 2
    one, two = torch.randn(6, 5), torch.randn(6, 5)
    unit = mse(F.normalize(one), F.normalize(two)).item()
    assert cosine(one, two).item() == pytest.approx(unit * 5 / 2, abs=1e-5)


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


def test_phi_s_losses_are_in_units_of_the_references_spread():
    rows = torch.randn(300, 12) * torch.linspace(0.1, 9, 12) + 5
    transform = PhiS(FeatureStatistics.compute([rows]))
    squared, smooth = PhiSLoss(transform), PhiSSmoothL1Loss(transform)
    assert squared(rows, rows).item() == pytest.approx(0, abs=1e-6)
    # Whoever predicts the mean is off by the variance, which is 1.
    mean = rows.mean(0).expand_as(rows)
    assert squared(mean, rows).item() == pytest.approx(1, abs=1e-3)
    scaled = PhiS(FeatureStatistics.compute([100 * rows]))
    assert squared(mean + 1, rows).item() == pytest.approx(
        PhiSLoss(scaled)(100 * (mean + 1), 100 * rows).item(), rel=1e-3
    )
    expected = F.smooth_l1_loss(transform(mean), transform(rows), beta=2.0)
    assert smooth(mean, rows).item() == pytest.approx(expected.item())


def test_only_phi_s_needs_statistics():
    assert [name for name in ALIGNMENT_LOSSES if needs_statistics([name])] == ["phi_s", "phi_s_smooth_l1"]
    assert needs_statistics(["cosine", "phi_s", "token_cosine"]) and not needs_statistics(["token_cosine"])
    assert list(build_losses(["cosine", "mse"])) == ["cosine", "mse"]


@pytest.mark.parametrize(("ours", "theirs"), [((2, 2), (7, 7)), ((7, 5), (3, 6)), ((4, 4), (4, 4)), ((1, 1), (3, 3))])
def test_maps_of_any_size_meet_on_the_common_grid(ours, theirs):
    alignment = TokenAlignment(6, 5)
    projected, target = alignment(torch.randn(2, 6, *ours), torch.randn(2, 5, *theirs))
    positions = min(ours[0], theirs[0]) * min(ours[1], theirs[1])
    assert projected.shape == target.shape == (2, positions, 5)


def test_token_losses_compare_the_same_positions():
    alignment = TokenAlignment(4, 4)
    with torch.no_grad():
        alignment.projection.weight.copy_(torch.eye(4))
    small = torch.randn(2, 4, 3, 3)
    large = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # its area average is the small one
    for loss in (TokenCosineLoss(), TokenWhitenedSmoothL1Loss()):
        matching = loss(
            *alignment(large, small) if isinstance(loss, TokenCosineLoss) else whitened(*alignment(large, small))
        )
        assert matching.item() == pytest.approx(0, abs=1e-5)
        assert loss(*alignment(large.transpose(2, 3), small)).item() > 0.05


def whitened(projected: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return F.layer_norm(projected, projected.shape[-1:]), target
