"""Attention maps whose distance and entropy are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel
from transformers.models.swin.modeling_swin import window_partition

from cskd_hf.evaluation.attention import (
    AttentionMeter,
    AttentionReader,
    attention_statistics,
    eager_attention,
    entropy_over_all_keys,
    uniform_attention,
)
from cskd_hf.evaluation.attention_geometry import global_geometry, window_geometry


def mean_distance(height: int, width: int, stride: tuple[float, float] = (1.0, 1.0)) -> float:
    """Mean over all pairs of cells: there are (height - i)(width - j) pairs that lie i down and j across."""
    total = 0.0
    for i in range(-height + 1, height):
        for j in range(-width + 1, width):
            total += (height - abs(i)) * (width - abs(j)) * math.hypot(i * stride[0], j * stride[1])
    return total / (height * width) ** 2


@pytest.mark.parametrize("grid, stride", [((4, 4), (8.0, 8.0)), ((3, 5), (16.0, 16.0)), ((2, 6), (4.0, 8.0))])
def test_even_attention(grid, stride):
    n = grid[0] * grid[1]
    found = attention_statistics(torch.full((2, 3, n, n), 1 / n), global_geometry(grid, stride))
    assert found.distance.shape == (2, 3)
    assert found.distance[1, 2].item() == pytest.approx(mean_distance(*grid, stride), rel=1e-5)
    assert found.entropy[1, 2].item() == pytest.approx(math.log(n), rel=1e-5)
    assert uniform_attention(global_geometry(grid, stride)) == pytest.approx(
        (mean_distance(*grid, stride), math.log(n)), rel=1e-5
    )


def test_mean_distance_of_a_row_is_the_textbook_one():
    assert mean_distance(1, 7) == pytest.approx((7**2 - 1) / (3 * 7))


def test_attention_to_oneself():
    found = attention_statistics(torch.eye(15)[None, None], global_geometry((3, 5), (8.0, 8.0)))
    assert found.distance.item() == found.entropy.item() == found.elsewhere.item() == 0


@pytest.mark.parametrize("shift, expected", [((0, 1), 16.0), ((1, 0), 8.0), ((1, 1), math.hypot(8, 16))])
def test_attention_to_a_neighbour(shift, expected):
    height, width = 4, 6
    places = torch.arange(height * width).view(height, width)
    inside = places[: height - shift[0], : width - shift[1]].flatten()
    attention = torch.zeros(1, 1, height * width, height * width)
    attention[0, 0, inside, inside + shift[0] * width + shift[1]] = 1
    found = attention_statistics(attention, global_geometry((height, width), (8.0, 16.0)))
    # Queries without a neighbour put no weight on any patch, and are left out.
    assert found.distance.item() == pytest.approx(expected)
    assert found.entropy.item() == 0


@pytest.mark.parametrize("prefix", [1, 5])
def test_tokens_that_are_no_patches_are_left_out(prefix):
    n = 12
    attention = torch.full((1, 2, prefix + n, prefix + n), 0.25 / n)
    attention[..., :prefix] = 0.75 / prefix
    attention[:, :, :prefix] = torch.nn.functional.one_hot(torch.tensor(prefix), prefix + n).float()
    found = attention_statistics(attention, global_geometry((3, 4), (8.0, 8.0), prefix))
    assert found.distance[0, 0].item() == pytest.approx(mean_distance(3, 4, (8, 8)), rel=1e-5)
    assert found.entropy[0, 0].item() == pytest.approx(math.log(n), rel=1e-5)
    assert found.elsewhere[0, 0].item() == pytest.approx(0.75)


def test_heads_and_images_are_kept_apart():
    n = 9
    attention = torch.stack([torch.eye(n), torch.full((n, n), 1 / n)])  # heads
    attention = torch.stack([attention, attention.flip(0)])  # images
    found = attention_statistics(attention, global_geometry((3, 3), (2.0, 2.0)))
    far = mean_distance(3, 3, (2, 2))
    assert found.distance.flatten().tolist() == pytest.approx([0, far, far, 0], rel=1e-5)


def test_merged_keys_lie_in_the_middle_of_their_patches():
    # 4 x 4 patches of 10 px and 2 x 2 keys: from the corner patch (0, 0) to the key of its own block is (5, 5).
    geometry = global_geometry((4, 4), (10.0, 10.0), key_grid=(2, 2))
    assert geometry.keys[0].tolist() == [[5, 5], [5, 25], [25, 5], [25, 25]]
    own = torch.tensor([0, 0, 1, 1]).repeat(4).view(4, 4) + 2 * torch.tensor([0, 0, 1, 1])[:, None]
    attention = torch.nn.functional.one_hot(own.flatten(), 4).float()[None, None]
    found = attention_statistics(attention, geometry)
    assert found.distance.item() == pytest.approx(math.hypot(5, 5))
    pooled = global_geometry((8, 8), (1.0, 1.0), key_grid=(7, 7), pooled_keys=True)
    assert pooled.keys[0, :7, 1].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]


def test_windows():
    geometry = window_geometry((8, 4), (4.0, 4.0), 4)
    assert geometry.windows == 2 and geometry.pairs.all()
    found = attention_statistics(torch.full((6, 1, 16, 16), 1 / 16), geometry)  # three images
    assert found.distance.flatten().tolist() == pytest.approx([mean_distance(4, 4, (4, 4))] * 3, rel=1e-5)
    assert found.entropy.flatten().tolist() == pytest.approx([math.log(16)] * 3, rel=1e-5)


def shifted_windows(height: int, width: int, window: int, shift: int) -> list[tuple[int, int]]:
    """Sizes of the rectangles that see each other when an image is cut at shift, shift + window, ... on both axes."""

    def lengths(whole: int) -> list[int]:
        cuts = [0, *range(shift, whole, window), whole]
        return [b - a for a, b in zip(cuts, cuts[1:]) if b > a]

    return [(rows, columns) for rows in lengths(height) for columns in lengths(width)]


def test_shifted_windows_see_only_what_is_beside_them_in_the_image():
    height, width, window, shift = 8, 12, 4, 2
    found = uniform_attention(window_geometry((height, width), (4.0, 4.0), window, shift))
    parts = shifted_windows(height, width, window, shift)
    assert sum(rows * columns for rows, columns in parts) == height * width
    cells = height * width
    distance = sum(r * c * mean_distance(r, c, (4, 4)) for r, c in parts) / cells
    entropy = sum(r * c * math.log(r * c) for r, c in parts) / cells
    assert found == pytest.approx((distance, entropy), rel=1e-5)


def test_window_places_are_those_of_transformers_own_partition():
    height, width, window, shift = 8, 12, 4, 2
    y, x = torch.meshgrid(torch.arange(height) * 4.0, torch.arange(width) * 4.0, indexing="ij")
    rolled = torch.roll(torch.stack([y, x], -1)[None], (-shift, -shift), (1, 2))
    theirs = window_partition(rolled, window).view(-1, window * window, 2)
    assert torch.equal(window_geometry((height, width), (4.0, 4.0), window, shift).queries, theirs)


def test_padding_of_windows_is_no_patch():
    geometry = window_geometry((3, 3), (1.0, 1.0), 4)
    found = attention_statistics(torch.full((1, 1, 16, 16), 1 / 16), geometry)
    assert found.distance.item() == pytest.approx(mean_distance(3, 3), rel=1e-5)
    assert found.entropy.item() == pytest.approx(math.log(9), rel=1e-5)
    assert found.elsewhere.item() == pytest.approx(7 / 16)


def test_entropy_over_all_keys():
    attention = torch.stack([torch.full((4, 6), 1 / 6), torch.eye(4, 6)])[None].expand(3, -1, -1, -1)
    assert entropy_over_all_keys(attention).tolist() == pytest.approx([math.log(6), 0], abs=1e-6)
    units = attention[:, :, None].expand(-1, -1, 5, -1, -1)  # (batch, heads, units, queries, keys)
    assert entropy_over_all_keys(units).tolist() == pytest.approx([math.log(6), 0], abs=1e-6)


def measure(model, pixel_values):
    model.eval()
    meter = AttentionMeter(model, tuple(pixel_values.shape[-2:]))
    with torch.no_grad(), eager_attention(model) as eager, AttentionReader(eager) as reader:
        for batch in pixel_values.split(2):
            outputs = eager(batch, output_attentions=True)
            meter.update(reader.maps(outputs, len(batch)), len(batch))
    return meter


def blind(model):
    """Scores of zero: every query attends evenly to all that it may see."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("query", "q_proj", "relative_position_bias")):
            torch.nn.init.zeros_(parameter)
    return model


def test_swin_that_attends_evenly():
    config = SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4)
    meter = measure(blind(SwinModel(config)), torch.randn(3, 3, 64, 64))
    layers = meter.layers()
    assert [layer.stride for layer in layers] == [[4, 4], [4, 4], [8, 8], [8, 8]] and not meter.reason
    assert [len(layer.distance) for layer in layers] == [1, 1, 2, 2]
    for layer, (side, stride, shift) in zip(layers, [(16, 4, 0), (16, 4, 2), (8, 8, 0), (8, 8, 2)]):
        parts = shifted_windows(side, side, 4, shift)
        distance = sum(r * c * mean_distance(r, c, (stride, stride)) for r, c in parts) / side**2
        entropy = sum(r * c * math.log(r * c) for r, c in parts) / side**2
        assert layer.distance == pytest.approx([distance] * len(layer.distance), rel=1e-4)
        assert layer.entropy == pytest.approx([entropy] * len(layer.entropy), rel=1e-4)
        assert (layer.uniform_distance, layer.max_entropy) == pytest.approx((distance, entropy), rel=1e-4)
        assert layer.elsewhere == pytest.approx([0] * len(layer.elsewhere), abs=1e-5)


def test_vit_that_attends_evenly_on_images_that_are_not_square():
    config = ViTConfig(
        image_size=(32, 48), patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )  # fmt: skip
    meter = measure(blind(ViTModel(config)), torch.randn(3, 3, 32, 48))
    for layer in meter.layers():
        assert layer.distance == pytest.approx([mean_distance(4, 6, (8, 8))] * 2, rel=1e-4)
        assert layer.entropy == pytest.approx([math.log(24)] * 2, rel=1e-4)
        assert layer.elsewhere == pytest.approx([1 / 25] * 2, rel=1e-4)
    assert meter.images == 3 and meter.prefix == 1


def test_the_meter_is_the_mean_over_images_whatever_the_batches():
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model, pixels = ViTModel(config), 3 * torch.randn(3, 3, 32, 32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    together = measure(model, pixels).layers()[0]
    alone = [measure(model, image[None]).layers()[0] for image in pixels]
    for name in ("distance", "entropy"):
        means = torch.tensor([getattr(layer, name) for layer in alone]).mean(0)
        assert getattr(together, name) == pytest.approx(means.tolist(), rel=1e-5)


def test_the_encoders_own_attention_comes_back_after():
    model = ViTModel(
        ViTConfig(image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    before = model.config._attn_implementation
    measure(model, torch.randn(1, 3, 32, 32))
    assert before == model.config._attn_implementation == "sdpa"
