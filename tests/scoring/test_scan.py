"""Reading ahead: order, limits of memory, and errors."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from cskd_hf.models.image_loading_cskd import ImageLoadError
from cskd_hf.scoring.engine import load_engine
from cskd_hf.scoring.scan import PixelBudget, in_batches, scan, scan_batches


class Stub:
    """Scores a number by itself; negative ones cannot be read, and those above 900 break the preparation."""

    preparation = None

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.read = itertools.count()

    def prepare(self, path: str) -> np.ndarray:
        next(self.read)
        number = int(str(path))
        if number < 0:
            raise ImageLoadError(path, "it is negative")
        if number > 900:
            raise RuntimeError("too strange")
        return np.full((3, 1 + number % 2, 1), number, np.float32)

    def score(self, pixels: np.ndarray) -> list[dict]:
        self.batches.append(len(pixels))
        return [{"score": float(value) if value != 13 else float("nan")} for value in pixels[:, 0, 0, 0]]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_results_come_in_order_each_in_its_place(workers: int, batch_size: int):
    numbers = [5, -1, 2, 999, 7, 13, 3, 3, 0, -2, 6]
    results = list(scan(Stub(), map(str, numbers), batch_size=batch_size, workers=workers))
    assert [result["path"] for result in results] == [str(number) for number in numbers]
    for number, result in zip(numbers, results):
        if number == 13:
            assert result["error"] == "the model's score of it is not a number"
        elif number < 0:
            assert result["error"] == "it is negative"
        elif number == 999:
            assert result["error"] == "it cannot be prepared (RuntimeError: too strange)"
        else:
            assert result["score"] == number


@pytest.mark.parametrize("workers", [0, 2])
def test_an_endless_stream_is_read_only_a_little_ahead(workers: int):
    stub = Stub()
    taken = list(itertools.islice(scan(stub, map(str, itertools.repeat(1)), batch_size=4, workers=workers), 40))
    assert len(taken) == 40 and next(stub.read) <= 40 + 4 * 4


def test_an_error_of_the_model_ends_the_run_and_its_threads():
    stub = Stub()
    stub.score = lambda pixels: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(scan(stub, map(str, range(100)), workers=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cskd-read")]


def test_state_is_taken_before_the_file_is_read():
    seen = []
    stub = Stub()
    prepare = stub.prepare
    stub.prepare = lambda path: seen.append(("read", path)) or prepare(path)
    batches = in_batches(["1", "2"], 2)
    scored = list(scan_batches(stub, batches, workers=0, state_of=lambda path: seen.append(("state", path))))
    assert [kind for kind, _ in seen] == ["state", "read", "state", "read"] and len(scored[0]) == 2


def test_pixels_at_once_are_bounded_and_nobody_is_passed_over():
    budget = PixelBudget(100)
    lock, held, most, order = threading.Lock(), [0], [0], []
    sizes = [60, 30, 500, 10, 90, 20, 40] * 5

    def work(size: int) -> None:
        with budget.of(size):
            with lock:
                order.append(size)
                held[0] += size
                most[0] = max(most[0], held[0] if size <= 100 else 0)
                assert size <= 100 or held[0] == size  # a large one is alone
            with lock:
                held[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(order) == len(sizes) and 0 < most[0] <= 100 and held == [0]


def test_a_waiting_large_picture_is_not_overtaken():
    budget, order = PixelBudget(100), []

    def work(name: str, pixels: int) -> None:
        with budget.of(pixels):
            order.append(name)

    with budget.of(60):
        large = threading.Thread(target=work, args=("large", 90))
        large.start()
        while not budget._waiting:
            large.join(0.01)
        small = threading.Thread(target=work, args=("small", 10))
        small.start()
        while len(budget._waiting) < 2:
            small.join(0.01)
        assert order == []
    for thread in (large, small):
        thread.join(30)
    assert order == ["large", "small"]


@pytest.mark.parametrize(("readers", "heavy", "expected"), [(2, False, 1), (0, False, 4), (2, True, 4)])
def test_threads_of_a_forward_beside_readers(model: str, monkeypatch, readers: int, heavy: bool, expected: int):
    if heavy:
        monkeypatch.setattr("cskd_hf.scoring.engine._HEAVY", 10)
    engine, before, seen = load_engine(model, device="cpu"), torch.get_num_threads(), []
    monkeypatch.setattr(
        engine.rate,
        "forward",
        lambda inputs, forward=engine.rate.forward: seen.append(torch.get_num_threads()) or forward(inputs),
    )
    try:
        torch.set_num_threads(4)
        pixels = engine.prepare(Image.new("RGB", (40, 30)))
        monkeypatch.setattr(engine, "prepare", lambda path: pixels)
        assert len(list(scan(engine, ["a", "b"], workers=readers))) == 2
        assert seen == [expected] and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
