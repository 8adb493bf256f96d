from __future__ import annotations

from collections import Counter

import pytest

from cskd_hf.data.order import ImageOrder


def test_every_image_once_before_any_twice():
    order = ImageOrder([3, 4], seed=5)
    drawn = [order(position) for position in range(21)]
    for epoch in range(3):
        part = drawn[7 * epoch : 7 * epoch + 7]
        assert sorted(index for index, _ in part) == list(range(7))
        assert {passes for _, passes in part} == {epoch}


def test_order_is_a_function_of_seed_and_position():
    forwards = [ImageOrder([50], seed=1)(position) for position in range(120)]
    backwards = ImageOrder([50], seed=1)
    assert [backwards(position) for position in reversed(range(120))][::-1] == forwards
    assert [ImageOrder([50], seed=2)(position) for position in range(120)] != forwards


def test_weights_are_shares_and_each_source_is_drawn_without_replacement():
    order = ImageOrder([10, 300], weights=[1, 3], seed=0)
    drawn = [order(position) for position in range(2000)]
    first = [index for index, _ in drawn if index < 10]
    assert len(first) == 500
    assert set(Counter(first).values()) == {50}
    second = Counter(index for index, _ in drawn if index >= 10)
    assert set(second.values()) == {5}
    # Epoch numbers count the passes over the image's own source.
    assert max(passes for index, passes in drawn if index < 10) == 49
    assert max(passes for index, passes in drawn if index >= 10) == 4


@pytest.mark.parametrize(("sizes", "weights"), [([], None), ([3, 0], None), ([3, 3], [1]), ([3, 3], [1, 0])])
def test_refuses(sizes, weights):
    with pytest.raises(ValueError, match="need"):
        ImageOrder(sizes, weights)
