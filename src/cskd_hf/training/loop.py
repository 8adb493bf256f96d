"""The one training loop: it knows batches, steps and checkpoints, and nothing of alignment or distillation."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from tqdm import tqdm

from ..data.loading import ImageStream, build_loader
from ..files import replaced_folder
from .engine import fit_engine, make_accelerator
from .recipes import write_recipe
from .result_weights import ResultWeights
from .run_log import ImageCount, RunLog
from .run_state import Progress, TrainingResult, finished_result, load_checkpoint, publish_result, save_checkpoint
from .settings import LoopSettings
from .task import TrainingTask

__all__ = ["TrainingLoop", "TrainingResult", "learning_rate_factor", "make_accelerator"]

logger = logging.getLogger(__name__)


class TrainingLoop:
    """Trains a task on streams of images.

    Args:
        task: what is trained.
        streams: the images of a batch.
        settings: see [`LoopSettings`].
        accelerator: from `make_accelerator`.
        head_learning_rate: peak rate of everything outside the backbone; the learning rate where none.

    Raises:
        SettingsError: the model or the device does not support a switch of the settings.
    """

    def __init__(
        self,
        task: TrainingTask,
        streams: dict[str, ImageStream],
        settings: LoopSettings,
        accelerator: Accelerator,
        head_learning_rate: float | None = None,
    ) -> None:
        self.task, self.streams, self.settings, self.accelerator = task, streams, settings, accelerator
        self.output = Path(settings.output_dir)
        self.progress = Progress()
        self.log = RunLog(settings, accelerator)
        self.images = ImageCount(self.output, settings.max_bad_images)
        self._parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._waited = 0.0  # seconds for data, since the last line of the log
        self._earlier = 0.0  # seconds up to the checkpoint that the run was resumed from
        fit_engine(accelerator, settings)
        for module in task.frozen():
            module.to(accelerator.device)
        if settings.channels_last:
            task.use_channels_last()
        if settings.gradient_checkpointing:
            task.use_gradient_checkpointing()
        if settings.sync_batchnorm:
            task.use_sync_batchnorm(accelerator.device)
        self.weights = ResultWeights(task, accelerator, settings.ema_decay)
        if remembered := task.remembered():
            accelerator.register_for_checkpointing(*remembered)
        if settings.compile:
            task.use_compile()
        groups = task.parameter_groups(settings.learning_rate, settings.weight_decay, head_learning_rate)
        self._peak_rates = [group["lr"] for group in groups]
        self.wrapped, self.optimizer = accelerator.prepare(task, torch.optim.AdamW(groups))

    def run(self) -> TrainingResult:
        """Train to the last step, or until no evaluation is better for `patience` evaluations.

        Raises:
            SettingsError: too many images are unreadable.
            FloatingPointError: the loss is not finite; the last checkpoint stays.
        """
        settings, accelerator = self.settings, self.accelerator
        if settings.resume and (result := finished_result(self.output)):
            return result
        self._started = time.perf_counter()
        self._start()
        accumulation = settings.gradient_accumulation_steps
        loader = build_loader(
            self.streams,
            self.progress.step * accumulation,
            settings.max_steps * accumulation,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            num_workers=settings.num_workers,
        )
        batches = iter(loader)
        hidden = settings.quiet or not accelerator.is_main_process
        with tqdm(
            total=settings.max_steps, initial=self.progress.step, desc=type(self.task).__name__, disable=hidden
        ) as bar:
            self._bar, self._logged = bar, (time.perf_counter(), self.images.drawn)
            while self.progress.step < settings.max_steps and not self._out_of_patience():
                self._step(batches)
                self._after_step()
                bar.update()
        return self._finish()

    def _seconds(self) -> float:
        return self._earlier + time.perf_counter() - self._started

    def _start(self) -> None:
        self.log.trackers.start()
        checkpoint = self.output / "checkpoint"
        if self.settings.resume and checkpoint.is_dir():
            self._load(checkpoint)
        else:
            if self.accelerator.is_main_process:
                self.output.mkdir(parents=True, exist_ok=True)
                self.log.path.unlink(missing_ok=True)
                write_recipe(self.settings, self.output / "settings.yaml")
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                for stream in self.streams.values():
                    self.images.list(stream.images.damage)
            self._evaluate()

    def _step(self, batches: Any) -> None:
        self.wrapped.train()
        self.task.start_step(self.progress.step, self.settings.max_steps)
        factor = learning_rate_factor(self.progress.step, self.settings)
        for group, peak in zip(self.optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor
        for _ in range(self.settings.gradient_accumulation_steps):
            asked = time.perf_counter()
            batch = next(batches)
            self._waited += time.perf_counter() - asked
            batch = self._received(batch)
            with self.accelerator.accumulate(self.wrapped):
                with self.accelerator.autocast():  # Accelerate itself puts it around the forward, but not under FSDP2
                    parts = self.wrapped(batch)
                self.accelerator.backward(parts["loss"])
                if self.accelerator.sync_gradients and self.settings.max_grad_norm:
                    self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.settings.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in parts.items():
                self._parts[name].append(value.detach())
        self.weights.update()
        self.task.end_step()
        self.progress.step += 1

    def _received(self, batch: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Note unreadable images, and move the rest to the device."""
        self.images.note(batch)
        device = self.accelerator.device
        return {
            name: {k: v.to(device, non_blocking=True) for k, v in stream.items()} for name, stream in batch.items()
        }

    def _after_step(self) -> None:
        step, settings = self.progress.step, self.settings
        last = step == settings.max_steps
        evaluating = last or (settings.eval_every and step % settings.eval_every == 0)
        saving = settings.save_every and (last or step % settings.save_every == 0)
        # Logging refuses a loss that is not finite, so it goes before anything is written over good weights.
        if step % settings.log_every == 0 or evaluating or saving:
            self._log_parts()
        if evaluating:
            self._evaluate()
        if saving:
            self._save(self.output / "checkpoint")

    def _log_parts(self) -> None:
        reduce = self.accelerator.reduce
        means = {name: reduce(torch.stack(values).mean(), "mean").item() for name, values in self._parts.items()}
        self._parts.clear()
        then, drawn = self._logged
        self._logged = (time.perf_counter(), self.images.drawn)
        speed = (self.images.drawn - drawn) * self.accelerator.num_processes / (self._logged[0] - then)
        self._bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()} | {"images/s": f"{speed:.0f}"})
        rate = self.optimizer.param_groups[0]["lr"]
        line = {"step": self.progress.step, "learning_rate": rate, "images_per_second": round(speed, 1)}
        line["data_wait"] = round(self._waited / (self._logged[0] - then), 4)
        self._waited = 0.0
        self.log.write(line | means)
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} at step {self.progress.step}; the last checkpoint in '{self.output}' is "
                "whole. Lower --learning-rate, or train with --mixed-precision no."
            )

    def _evaluate(self) -> None:
        """Evaluate the weights that would be the result if the run ended now, and keep them if they are the best."""
        self.wrapped.eval()
        with self.weights.in_task():
            metrics = self.task.evaluate()
            if not metrics:
                return
            # One process decides what is better: figures that differ in the last bit would send the others another way.
            (metrics,) = broadcast_object_list([metrics])
            progress, name = self.progress, self.task.best_metric
            sign = 1 if self.task.greater_is_better else -1
            value = metrics[name]
            better = (
                not progress.best
                or not math.isfinite(progress.best[name])
                or sign * value > sign * progress.best[name]
            )
            progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
            if better:
                progress.best, progress.best_step = metrics, progress.step
                if self.settings.keep == "best":
                    self._save_model(self.output / "best")
        self.log.write({"step": progress.step, **{f"eval_{key}": figure for key, figure in metrics.items()}})

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress.evaluations_since_best

    def _save_model(self, folder: Path) -> None:
        """Save the model that is in the task now, and its image processor."""
        if self.accelerator.is_main_process:
            with replaced_folder(folder) as partial:
                model = self.task.model
                model.save_pretrained(partial, state_dict=self.task.exported(model.state_dict()))
                self.task.preprocessing.to_image_processor().save_pretrained(partial)
        self.accelerator.wait_for_everyone()

    def _save(self, folder: Path) -> None:
        counts = {"drawn": self.images.drawn, "failed": self.images.failed, "seconds": self._seconds()}
        save_checkpoint(folder, self.accelerator, self.task, asdict(self.progress) | counts)

    def _load(self, folder: Path) -> None:
        state = load_checkpoint(folder, self.accelerator, self.task)
        self.images.restore(state.pop("drawn"), state.pop("failed"))
        self._earlier = state.pop("seconds", 0.0)  # checkpoints of earlier versions have none
        self.progress = Progress(**state)
        self.log.cut(self.progress.step)
        logger.info("resumed '%s' at step %d", folder, self.progress.step)

    def _finish(self) -> TrainingResult:
        best = self.output / "best"
        if self.settings.keep == "last" or not self.progress.best:
            with self.weights.in_task():
                self._save_model(best)
        progress, bad = self.progress, set(gather_object(list(self.images.bad)))
        result = TrainingResult(
            str(self.output),
            progress.step,
            progress.best_step,
            progress.best,
            round(self._seconds(), 1),
            len(bad),
            round(peak_memory_mib(self.accelerator.device), 1),
        )
        if self.accelerator.is_main_process:
            publish_result(best, result)
        self.log.trackers.finish()
        self.accelerator.wait_for_everyone()
        return result


def peak_memory_mib(device: torch.device) -> float:
    """Most memory so far in MiB: allocated on a CUDA device, else resident in this process; 0 where nobody says."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


def learning_rate_factor(step: int, settings: LoopSettings) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine to `min_lr_ratio`."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(settings.max_steps - settings.warmup_steps, 1)
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done))
