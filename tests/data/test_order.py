from __future__ import annotations

import pickle
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


def test_streams_have_shares_but_no_indices():
    order = ImageOrder([10, None, None], weights=[2, 1, 1], seed=0)
    sources = [order.draw(position) for position in range(2000)]
    assert Counter(source for source, _ in sources) == {0: 1000, 1: 500, 2: 500}
    for source in range(3):
        assert [nth for own, nth in sources if own == source] == list(range(2000 // (2 if source == 0 else 4)))
    assert all(order(position)[0] < 10 for position, (source, _) in enumerate(sources) if source == 0)
    assert ImageOrder([None]).draw(77) == (0, 77)
    with pytest.raises(ValueError, match="length is not known.*need 2 weights"):
        ImageOrder([10, None])


@pytest.mark.parametrize("parts", [1, 3])
def test_images_drawn_before_a_batch_are_counted(parts):
    order = ImageOrder([10, None], weights=[2, 1], seed=0)
    for part in range(parts):
        drawn = Counter()
        for batch in range(150):
            assert order.drawn(1, batch, 8, part, parts) == drawn[1]
            first = (batch * parts + part) * 8
            drawn.update(order.draw(position)[0] for position in range(first, first + 8))
    assert ImageOrder([None]).drawn(0, 5, 8, 0, 3) == 40


def test_order_can_be_sent_to_another_process():
    order = ImageOrder([3, None], weights=[1, 1], seed=4)
    copy = pickle.loads(pickle.dumps(order))
    assert [copy.draw(position) for position in range(50)] == [order.draw(position) for position in range(50)]
