from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from cskd_hf.training.result_weights import ResultWeights, ema_decay_at


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_decay_warms_up_to_the_one_of_the_settings():
    assert ema_decay_at(0, 0.99) == 0.1
    assert ema_decay_at(10, 0.99) == pytest.approx(11 / 20)
    assert ema_decay_at(10**6, 0.99) == 0.99


def test_average_of_weights_and_running_statistics_follows_the_formula():
    task = Task()
    weights = ResultWeights(task, Accelerator(cpu=True), ema_decay=0.5)
    expected: dict[str, torch.Tensor] = {}
    for updates in range(5):
        with torch.no_grad():
            for value in task.model.state_dict().values():
                value.add_(updates + 1)
        weights.update()
        decay = ema_decay_at(updates, 0.5) if updates else 0.0  # the first average is the weights themselves
        for name, value in task.model.state_dict().items():
            counter = not value.is_floating_point()
            expected[name] = value.clone() if counter or not updates else decay * expected[name] + (1 - decay) * value
    trained = task.model
    with weights.in_task() as averaged:
        assert task.model is averaged is not trained and not averaged.training
        for name, value in averaged.state_dict().items():
            torch.testing.assert_close(value, expected[name])
    assert task.model is trained


def test_without_an_average_the_trained_weights_count():
    task = Task()
    with ResultWeights(task, Accelerator(cpu=True), ema_decay=0).in_task() as model:
        assert model is task.model
