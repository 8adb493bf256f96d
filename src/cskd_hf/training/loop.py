"""The one training loop: it knows batches, steps and checkpoints, and nothing of alignment or distillation."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast_object_list, gather_object
from tqdm import tqdm

from ..data.loading import ImageStream, build_loader
from .arguments import LoopSettings, SettingsError
from .checkpoint import replaced_folder
from .recipes import write_recipe
from .task import TrainingTask

logger = logging.getLogger(__name__)

_PROGRESS, _RESULTS = "progress.json", "results.json"


@dataclass
class Progress:
    """Where a run stands; saved beside the weights."""

    step: int = 0
    best_step: int = -1
    best: dict[str, float] = field(default_factory=dict)
    evaluations_since_best: int = 0


@dataclass
class TrainingResult:
    """What a run ended with.

    Args:
        output_dir: holds the model (`from_pretrained`), `settings.yaml`, `log.jsonl` and `results.json`.
        step: optimiser steps done.
        best_step: step of the best evaluation, -1 without one.
        metrics: evaluation of the weights that were kept.
        seconds: wall time of this run, without what was done before a resume.
        bad_images: number of unreadable images, listed in `bad_images.jsonl`.
    """

    output_dir: str
    step: int
    best_step: int
    metrics: dict[str, float]
    seconds: float
    bad_images: int


def make_accelerator(settings: LoopSettings) -> Accelerator:
    """Accelerate's engine for these settings."""
    return Accelerator(
        cpu=settings.cpu,
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        log_with=settings.trackers or None,
        project_dir=settings.output_dir,
        # Encoders may own layers that no loss reaches, e.g. a pooler that is not used.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


class TrainingLoop:
    """Trains a task on streams of images.

    Args:
        task: what is trained.
        streams: the images of a batch.
        settings: see [`LoopSettings`].
        accelerator: from `make_accelerator`.
        head_learning_rate: peak rate of everything outside the backbone; the learning rate where none.
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
        self._parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._bad: dict[tuple[str, str], str] = {}
        self._drawn = self._failed = 0
        self._waited = 0.0  # seconds for data, since the last line of the log
        for module in task.frozen():
            module.to(accelerator.device)
        if settings.channels_last:
            task.use_channels_last()
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
        if settings.resume and (self.output / _RESULTS).is_file():  # written last: this run is done
            recorded = json.loads((self.output / _RESULTS).read_text())
            return TrainingResult(**recorded | {"output_dir": str(self.output)})
        started = time.perf_counter()
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
            self._bar, self._logged = bar, (time.perf_counter(), 0)
            while self.progress.step < settings.max_steps and not self._out_of_patience():
                self._step(batches)
                self._after_step()
                bar.update()
        return self._finish(time.perf_counter() - started)

    def _start(self) -> None:
        checkpoint = self.output / "checkpoint"
        if self.settings.resume and checkpoint.is_dir():
            self._load(checkpoint)
        else:
            if self.accelerator.is_main_process:
                self.output.mkdir(parents=True, exist_ok=True)
                (self.output / "log.jsonl").unlink(missing_ok=True)
                write_recipe(self.settings, self.output / "settings.yaml")
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                for stream in self.streams.values():
                    self._list_bad(stream.images.damage)
            self._evaluate()
        if self.settings.trackers:
            flat = {
                name: value if isinstance(value, (int, float, str, bool)) else str(value)
                for name, value in asdict(self.settings).items()
            }
            self.accelerator.init_trackers("cskd", config=flat)

    def _step(self, batches: Any) -> None:
        self.wrapped.train()
        factor = learning_rate_factor(self.progress.step, self.settings)
        for group, peak in zip(self.optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak * factor
        for _ in range(self.settings.gradient_accumulation_steps):
            asked = time.perf_counter()
            batch = next(batches)
            self._waited += time.perf_counter() - asked
            batch = self._received(batch)
            with self.accelerator.accumulate(self.wrapped):
                parts = self.wrapped(batch)
                self.accelerator.backward(parts["loss"])
                if self.accelerator.sync_gradients and self.settings.max_grad_norm:
                    self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.settings.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in parts.items():
                self._parts[name].append(value.detach())
        self.progress.step += 1

    def _received(self, batch: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Note unreadable images, and move the rest to the device."""
        for stream in batch.values():
            errors = stream.pop("errors")
            self._drawn += len(stream["index"]) + len(errors)
            self._failed += len(errors)
            self._list_bad(errors)
        if self._drawn >= 100 and self._failed > self.settings.max_bad_images * self._drawn:
            raise SettingsError(
                f"{self._failed} of {self._drawn} images drawn so far are unreadable, more than max_bad_images="
                f"{self.settings.max_bad_images} allows; they are listed in '{self.output / 'bad_images.jsonl'}'. Mend "
                "or remove them, or raise --max-bad-images."
            )
        device = self.accelerator.device
        return {
            name: {k: v.to(device, non_blocking=True) for k, v in stream.items()} for name, stream in batch.items()
        }

    def _list_bad(self, errors: list[tuple[str, str, str]]) -> None:
        for source, key, reason in errors:
            if (source, key) not in self._bad:
                self._bad[source, key] = reason
                logger.warning("unreadable image left out: %s of %s (%s)", key, source, reason)
                with open(self.output / "bad_images.jsonl", "a") as file:
                    file.write(json.dumps({"source": source, "key": key, "reason": reason}) + "\n")

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
        self._logged = (time.perf_counter(), self._drawn)
        speed = (self._drawn - drawn) * self.accelerator.num_processes / (self._logged[0] - then)
        self._bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()} | {"images/s": f"{speed:.0f}"})
        rate = self.optimizer.param_groups[0]["lr"]
        line = {"step": self.progress.step, "learning_rate": rate, "images_per_second": round(speed, 1)}
        line["data_wait"] = round(self._waited / (self._logged[0] - then), 4)
        self._waited = 0.0
        self._write(line | means)
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} at step {self.progress.step}; the last checkpoint in '{self.output}' is "
                "whole. Lower --learning-rate, or train with --mixed-precision no."
            )

    def _evaluate(self) -> None:
        self.wrapped.eval()
        self._share_buffers()
        metrics = self.task.evaluate()
        if not metrics:
            return
        # One process decides what is better: figures that differ in the last bit would send the others another way.
        (metrics,) = broadcast_object_list([metrics])
        progress, name = self.progress, self.task.best_metric
        sign = 1 if self.task.greater_is_better else -1
        value = metrics[name]
        better = (
            not progress.best or not math.isfinite(progress.best[name]) or sign * value > sign * progress.best[name]
        )
        progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
        if better:
            progress.best, progress.best_step = metrics, progress.step
            if self.settings.keep == "best":
                self._save_model(self.output / "best")
        self._write({"step": progress.step, **{f"eval_{key}": figure for key, figure in metrics.items()}})

    def _share_buffers(self) -> None:
        """Give every process the running statistics of the first: what is evaluated is then what is saved."""
        if self.accelerator.distributed_type in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            for buffer in self.task.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _out_of_patience(self) -> bool:
        return 0 < self.settings.patience <= self.progress.evaluations_since_best

    def _write(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with open(self.output / "log.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
        if self.settings.trackers and self.accelerator.trackers:
            self.accelerator.log({key: value for key, value in line.items() if key != "step"}, step=line["step"])

    def _save_model(self, folder: Path) -> None:
        state = self.accelerator.get_state_dict(self.wrapped)  # a collective under FSDP: every process takes part
        if self.accelerator.is_main_process:
            own = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
            with replaced_folder(folder) as partial:
                self.task.model.save_pretrained(partial, state_dict=self.task.exported(own))
                self.task.preprocessing.to_image_processor().save_pretrained(partial)
        self.accelerator.wait_for_everyone()

    def _save(self, folder: Path) -> None:
        main = self.accelerator.is_main_process
        with (
            replaced_folder(folder)
            if main
            else contextlib.nullcontext(folder.with_name(folder.name + ".partial")) as partial
        ):
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(partial))
            if main:
                state = asdict(self.progress) | {
                    "drawn": self._drawn,
                    "failed": self._failed,
                    "world_size": self.accelerator.num_processes,
                    "model": _architecture(self.task),
                }
                (partial / _PROGRESS).write_text(json.dumps(state))
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()

    def _load(self, folder: Path) -> None:
        state = json.loads((folder / _PROGRESS).read_text())
        if state.pop("world_size") != self.accelerator.num_processes:
            raise SettingsError(
                f"the run in '{self.output}' was not started with {self.accelerator.num_processes} processes, so its "
                "data order would change; resume it with as many as it had."
            )
        before, now = state.pop("model"), _architecture(self.task)
        if before != now:
            raise SettingsError(
                f"the checkpoint '{folder}' is of {before}, but this run trains {now}; use its own encoder."
            )
        self.accelerator.load_state(str(folder))
        self._drawn, self._failed = state.pop("drawn"), state.pop("failed")
        listed = self.output / "bad_images.jsonl"
        lines = listed.read_text().splitlines() if listed.is_file() else []
        whole = [json.loads(line) for line in lines if line.endswith("}")]
        self._bad = {(entry.get("source", ""), entry["key"]): entry["reason"] for entry in whole}
        self.progress = Progress(**state)
        if self.accelerator.is_main_process and (self.output / "log.jsonl").is_file():
            lines = (self.output / "log.jsonl").read_text().splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= self.progress.step]
            (self.output / "log.jsonl").write_text("".join(line + "\n" for line in kept))
        logger.info("resumed '%s' at step %d", folder, self.progress.step)

    def _finish(self, seconds: float) -> TrainingResult:
        best = self.output / "best"
        if self.settings.keep == "last" or not self.progress.best:
            self._save_model(best)
        progress, bad = self.progress, set(gather_object(list(self._bad)))
        result = TrainingResult(
            str(self.output), progress.step, progress.best_step, progress.best, round(seconds, 1), len(bad)
        )
        if self.accelerator.is_main_process:
            # The weights come last: until they are there, the folder is not taken for a finished model.
            for path in sorted(best.iterdir(), key=lambda path: path.suffix == ".safetensors"):
                shutil.copyfile(path, self.output / (path.name + ".partial"))
                os.replace(self.output / (path.name + ".partial"), self.output / path.name)
            (self.output / _RESULTS).write_text(json.dumps(asdict(result), indent=1))
            shutil.rmtree(best)
        if self.settings.trackers:
            self.accelerator.end_training()
        self.accelerator.wait_for_everyone()
        return result


def learning_rate_factor(step: int, settings: LoopSettings) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine to `min_lr_ratio`."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(settings.max_steps - settings.warmup_steps, 1)
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done))


def _architecture(task: TrainingTask) -> str:
    backbone = task.model.backbone
    return f"{type(task.model).__name__} on {type(backbone).__name__} ({sum(p.numel() for p in backbone.parameters())} parameters)"
