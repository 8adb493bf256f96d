"""The weights that a run evaluates and saves: the trained ones, their moving average, or a whole copy of sharded ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.optim.swa_utils import AveragedModel

from .settings import SettingsError
from .task import TrainingTask


def ema_decay_at(updates: int, decay: float) -> float:
    """Decay of the moving average after a number of updates: min(decay, (1 + n) / (10 + n)).

    The warm-up of TensorFlow's `ExponentialMovingAverage(num_updates=n)`: a short run, or the first steps of a long
    one, does not keep the weights it started from.

    Args:
        updates: n, averages taken so far.
        decay: of the settings, 0 to 1.
    """
    return min(decay, (1 + updates) / (10 + updates))


def moving_average(model: nn.Module, device: torch.device, decay: float) -> AveragedModel:
    """The exponential moving average of a model's weights and running statistics, in evaluation mode; see `ema_decay_at`.

    `update_parameters(model)` takes in the weights as they are.
    """
    averaged = AveragedModel(model, device, multi_avg_fn=_average(decay), use_buffers=True)
    return averaged.requires_grad_(False).eval()


def _average(decay: float):
    @torch.no_grad()
    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], updates: torch.Tensor | int) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - ema_decay_at(int(updates), decay))
        else:  # counters and positions have no average
            torch._foreach_copy_(averaged, current)

    return update


class ResultWeights:
    """The weights of the task's model that count.

    - With `ema_decay`, the exponential moving average of the weights over optimiser steps, by torch's `AveragedModel`,
      in float32. The running statistics of norms are averaged alike (as torchvision's reference training does), counters
      are copied. Each process averages what DDP keeps equal, so the averages are equal as well.
    - Under FSDP2, a copy that is whole on every process: evaluation is then free to run another number of batches on
      each, and in float32. It lies in CPU memory between evaluations; it has to fit the device during one.
    - Otherwise the trained weights themselves.

    Make it before `accelerator.prepare`, which changes the model.

    Args:
        task: owns the model.
        accelerator: of the run.
        ema_decay: 0 for no average.

    Raises:
        SettingsError: an average is asked for where weights are sharded.
    """

    def __init__(self, task: TrainingTask, accelerator: Accelerator, ema_decay: float) -> None:
        self.task, self.accelerator = task, accelerator
        self.averaged: AveragedModel | None = None
        self._whole: nn.Module | None = None
        engine = accelerator.distributed_type
        if ema_decay:
            if engine in (DistributedType.FSDP, DistributedType.DEEPSPEED):
                raise SettingsError(
                    f"ema_decay={ema_decay} is not supported under {engine.value}, which shards what would be averaged; "
                    "train without --ema-decay, or with plain multi-process training."
                )
            self.averaged = moving_average(task.model, accelerator.device, ema_decay)
            accelerator.register_for_checkpointing(self.averaged)
        elif engine == DistributedType.FSDP:
            self._whole = copy.deepcopy(task.model).cpu().requires_grad_(False).eval()

    def update(self) -> None:
        """Take in the weights of an optimiser step."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.task.model)

    @contextmanager
    def in_task(self) -> Iterator[nn.Module]:
        """Put the weights that count into the task while the block runs, for its evaluation and for saving."""
        trained = self.task.model
        self._share_buffers()
        if self.averaged is not None:
            self.task.model = self.averaged.module
        elif self._whole is not None:
            self.task.model = self._gather().to(self.accelerator.device)
        try:
            yield self.task.model
        finally:
            self.task.model = trained
            if self._whole is not None:
                self._whole.cpu()

    @torch.no_grad()
    def _gather(self) -> nn.Module:
        """The whole copy, with the values that the sharded weights have now; every process takes part."""
        whole = self._whole.state_dict()
        for name, value in self.task.model.state_dict().items():
            whole[name].copy_(value.full_tensor() if hasattr(value, "full_tensor") else value)
        return self._whole

    def _share_buffers(self) -> None:
        """Give every process the running statistics of the first: what is evaluated is then what is saved."""
        if self.accelerator.num_processes > 1:
            models = [self.task.model] + ([self.averaged.module] if self.averaged is not None else [])
            for model in models:
                for buffer in model.buffers():
                    torch.distributed.broadcast(buffer, 0)
