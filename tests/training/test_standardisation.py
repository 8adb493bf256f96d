from __future__ import annotations

import pytest
import torch

from cskd_hf.training.standardisation import FeatureStatistics, PhiS, equal_diagonal_rotation, hadamard


def features(dim: int, count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(dim)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mixing + 40


@pytest.mark.parametrize("dim", [1, 2, 4, 12, 16, 20, 48, 384, 768, 1152, 1280, 1408])
def test_hadamard_rows_are_orthogonal_signs(dim):
    matrix = hadamard(dim)
    assert set(matrix.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(matrix @ matrix.T, dim * torch.eye(dim, dtype=torch.float64))


@pytest.mark.parametrize("dim", [3, 6, 10, 14, 28, 52])
def test_other_dims_get_equal_variances_by_plane_rotations(dim):
    assert hadamard(dim) is None
    eigenvalues = torch.linspace(0, 5, dim, dtype=torch.float64) ** 3
    rotation = equal_diagonal_rotation(eigenvalues)
    assert torch.allclose(rotation @ rotation.T, torch.eye(dim, dtype=torch.float64), atol=1e-10)
    rotated = rotation @ torch.diag(eigenvalues) @ rotation.T
    assert torch.allclose(rotated.diagonal(), eigenvalues.mean().expand(dim), atol=1e-8)


def test_statistics_in_one_pass_are_those_of_the_whole():
    rows = features(6)
    statistics = FeatureStatistics.compute([*rows.split(33), torch.zeros(2, 6)], "mine")  # zeros: unreadable images
    assert statistics.count == 200 and statistics.source == "mine"
    assert torch.allclose(statistics.mean, rows.mean(0))
    assert torch.allclose(statistics.covariance, torch.cov(rows.T, correction=0))


def test_statistics_survive_a_file(tmp_path):
    statistics = FeatureStatistics.compute([features(5)], "clip weights=abc")
    statistics.save(tmp_path / "deep" / "0.safetensors")
    read = FeatureStatistics.load(tmp_path / "deep" / "0.safetensors")
    assert torch.equal(read.mean, statistics.mean) and torch.equal(read.covariance, statistics.covariance)
    assert (read.count, read.source) == (200, "clip weights=abc")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["0.safetensors"]


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="two readable images"):
        FeatureStatistics.compute([torch.zeros(4, 3)])
    with pytest.raises(ValueError, match="are the same"):
        FeatureStatistics.compute([torch.ones(4, 3)])


@pytest.mark.parametrize("dim", [7, 12, 16])
def test_every_channel_has_mean_0_and_variance_1_and_the_way_back_is_exact(dim):
    rows = features(dim, count=60)
    transform = PhiS(FeatureStatistics.compute([rows]))
    standardised = transform(rows)
    assert standardised.mean(0).abs().max() < 1e-4
    assert torch.allclose(standardised.var(0, correction=0), torch.ones(dim), atol=1e-4)
    assert torch.allclose(transform.invert(standardised), rows.float(), atol=1e-3)
    # A rotation and one scale: all distances keep their proportions.
    proportions = torch.pdist(standardised) / torch.pdist(rows.float())
    assert proportions.max() / proportions.min() == pytest.approx(1, abs=1e-3)


def test_more_channels_than_images():
    rows = features(32, count=10)
    assert torch.allclose(
        PhiS(FeatureStatistics.compute([rows]))(rows).var(0, correction=0), torch.ones(32), atol=1e-3
    )


def test_fold_gives_a_layer_of_raw_features():
    transform = PhiS(FeatureStatistics.compute([features(8)]))
    layer, inputs = torch.nn.Linear(5, 8), torch.randn(3, 5)
    weight, bias = transform.fold(layer.weight, layer.bias)
    assert weight.dtype == torch.float32
    folded = torch.nn.functional.linear(inputs, weight, bias)
    assert torch.allclose(folded, transform.invert(layer(inputs)), atol=1e-3)
