"""What a setting is, and those of the training loop. Imports no torch: `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def setting(default: Any, help: str, *, choices: tuple[str, ...] | None = None, resumable: bool = False) -> Any:
    """A field with its help text; `resumable` marks one that a resumed run may change without changing its result."""
    metadata = {"help": help, "choices": choices, "resumable": resumable}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class SettingsError(ValueError):
    """A setting is missing, unknown or out of range."""


@dataclass
class LoopSettings:
    """What the loop needs, whatever it trains."""

    output_dir: str = setting("", "folder for the trained model, checkpoints and log", resumable=True)
    seed: int = setting(0, "seed of the data order, views and new weights")
    max_steps: int = setting(1000, "optimiser steps")
    batch_size: int = setting(64, "images in a forward pass of one process")
    gradient_accumulation_steps: int = setting(1, "forward passes in an optimiser step")
    learning_rate: float = setting(1e-3, "peak learning rate")
    min_lr_ratio: float = setting(0.01, "last learning rate as a share of the peak (cosine schedule)")
    warmup_steps: int = setting(50, "steps of linear warm-up")
    weight_decay: float = setting(0.05, "AdamW weight decay; biases and norms have none")
    max_grad_norm: float = setting(3.0, "gradients are clipped to this norm; 0 clips nothing")
    mixed_precision: str = setting("no", "precision of the forward pass", choices=("no", "fp16", "bf16"))
    eval_every: int = setting(100, "steps between evaluations; 0 evaluates only at the end")
    save_every: int = setting(500, "steps between checkpoints for --resume; 0 keeps none", resumable=True)
    log_every: int = setting(10, "steps between lines of log.jsonl", resumable=True)
    patience: int = setting(0, "stop after so many evaluations without a better one; 0 never stops early")
    keep: str = setting("best", "which weights become the result", choices=("best", "last"))
    trackers: list[str] = setting([], "Accelerate trackers by name, e.g. tensorboard, wandb, trackio", resumable=True)
    num_workers: int = setting(0, "processes that decode images", resumable=True)
    cache_images: bool = setting(
        False, "keep decoded images in memory, at the size that the views need; each worker has its own"
    )
    max_bad_images: float = setting(0.05, "share of unreadable images above which training stops")
    resume: bool = setting(False, "go on from the last checkpoint in output_dir", resumable=True)
    overwrite: bool = setting(False, "replace a run that is already in output_dir", resumable=True)
    channels_last: bool = setting(False, "channels-last memory layout: faster for most CNNs, on CPU and GPU")
    gradient_checkpointing: bool = setting(
        False, "compute the encoder's activations again in the backward pass: less memory, more time"
    )
    compile: bool = setting(False, "torch.compile the model; the first steps take minutes")
    sync_batchnorm: bool = setting(False, "batch norms over the batches of all processes; GPUs only")
    ema_decay: float = setting(
        0.0, "decay of the moving average of the weights that becomes the result, e.g. 0.999; 0 takes the weights"
    )
    cpu: bool = setting(False, "train on the CPU even where there is a GPU")
    quiet: bool = setting(False, "no progress bars", resumable=True)

    def check(self) -> None:
        """Raises:
        SettingsError: a value is missing or out of range; the message names it and what is allowed.
        """
        if not self.output_dir:
            raise SettingsError("output_dir is not set; give --output-dir FOLDER.")
        for name in ("max_steps", "batch_size", "gradient_accumulation_steps", "log_every"):
            at_least(self, name, 1)
        for name in (
            "warmup_steps",
            "weight_decay",
            "max_grad_norm",
            "eval_every",
            "save_every",
            "patience",
            "num_workers",
        ):
            at_least(self, name, 0)
        for name in ("min_lr_ratio", "max_bad_images"):
            within(self, name, 0, 1)
        if not 0 <= self.ema_decay < 1:
            raise SettingsError(f"ema_decay={self.ema_decay} must be at least 0 and below 1.")
        if not self.learning_rate > 0:
            raise SettingsError(f"learning_rate={self.learning_rate} must be above 0.")
        for entry in fields(self):
            choices = entry.metadata["choices"]
            given = getattr(self, entry.name)
            for value in given if isinstance(given, list) else [given]:
                if choices and value not in choices:
                    raise SettingsError(f"{entry.name}={value!r} is not known; allowed: {', '.join(choices)}.")


def at_least(settings: Any, name: str, lowest: float) -> None:
    if getattr(settings, name) < lowest:
        raise SettingsError(f"{name}={getattr(settings, name)} must be at least {lowest}.")


def within(settings: Any, name: str, low: float, high: float) -> None:
    if not low <= getattr(settings, name) <= high:
        raise SettingsError(f"{name}={getattr(settings, name)} must be between {low} and {high}.")
