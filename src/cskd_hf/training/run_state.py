"""Where a run stands, and how it is put on disk: a checkpoint appears whole or not at all, and resumes exactly."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..files import half_written, replaced_folder, write_json
from .history import note_result
from .settings import SettingsError
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
        seconds: wall time, of a resumed run with that up to the checkpoint it went on from.
        bad_images: number of unreadable images, listed in `bad_images.jsonl`.
        peak_memory_mib: most memory that the first process held: of its GPU, or resident where there is none; 0 where
            the platform does not say.
    """

    output_dir: str
    step: int
    best_step: int
    metrics: dict[str, float]
    seconds: float
    bad_images: int
    peak_memory_mib: float = 0.0


def finished_result(output: Path) -> TrainingResult | None:
    """The result of a run that is done; its `results.json` is written last."""
    if not (output / _RESULTS).is_file():
        return None
    recorded = json.loads((output / _RESULTS).read_text())
    return TrainingResult(**recorded | {"output_dir": str(output)})


def publish_result(best: Path, result: TrainingResult) -> None:
    """Move the model of a finished run to the top of its folder, and write `results.json`."""
    output = Path(result.output_dir)
    note_result(best, result)
    # The weights come last: until they are there, the folder is not taken for a finished model.
    for path in sorted(best.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        shutil.copyfile(path, output / (path.name + ".partial"))
        os.replace(output / (path.name + ".partial"), output / path.name)
    write_json(output / _RESULTS, asdict(result))
    shutil.rmtree(best)


def save_checkpoint(folder: Path, accelerator: Accelerator, task: TrainingTask, state: dict[str, Any]) -> None:
    """Save weights, optimiser and random states with what the loop itself has to remember; every process takes part.

    Args:
        folder: of the checkpoint; the one before it stays until this one is whole.
        accelerator: knows the prepared objects and those that are registered for checkpointing.
        task: what is trained.
        state: of the loop, as JSON.
    """
    main = accelerator.is_main_process
    with replaced_folder(folder) if main else contextlib.nullcontext(half_written(folder)) as partial:
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        if main:
            facts = {"world_size": accelerator.num_processes, "model": _architecture(task)}
            (partial / _PROGRESS).write_text(json.dumps(state | facts))
        accelerator.wait_for_everyone()
    accelerator.wait_for_everyone()


def load_checkpoint(folder: Path, accelerator: Accelerator, task: TrainingTask) -> dict[str, Any]:
    """Load what `save_checkpoint` saved, and return its `state`.

    Raises:
        SettingsError: it is of another number of processes, or of another model.
    """
    state = json.loads((folder / _PROGRESS).read_text())
    if state.pop("world_size") != accelerator.num_processes:
        raise SettingsError(
            f"the run in '{folder.parent}' was not started with {accelerator.num_processes} processes, so its "
            "data order would change; resume it with as many as it had."
        )
    before, now = state.pop("model"), _architecture(task)
    if before != now:
        raise SettingsError(
            f"the checkpoint '{folder}' is of {before}, but this run trains {now}; use its own encoder."
        )
    accelerator.load_state(str(folder))
    return state


def _architecture(task: TrainingTask) -> str:
    backbone = task.model.backbone
    return f"{type(task.model).__name__} on {type(backbone).__name__} ({sum(p.numel() for p in backbone.parameters())} parameters)"
