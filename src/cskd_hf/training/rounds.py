"""Several rounds of distillation: each round's teacher is the last round's student.

Noisy Student (Xie et al., arXiv 1911.04252); with the same architecture and no noise, Born-Again Networks (Furlanello et al.,
arXiv 1805.04770).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .arguments import StudentSettings
from .distillation_settings import LAION
from .engine import make_accelerator
from .output import prepare_output
from .recipes import write_recipe
from .run_state import TrainingResult, finished_result

_SETTINGS = "settings.yaml"


def train_in_rounds(
    settings: StudentSettings, train: Callable[[StudentSettings, dict[str, Any]], TrainingResult]
) -> TrainingResult:
    """Train `settings.rounds` students one after another, in `output_dir/round-1` and so on.

    Each starts from the encoder of the settings again, unless these say otherwise: a student that started from its teacher
    would agree with it from the first step on. Seed and data stay the same, so that the rated images do. The last student
    is copied to `output_dir`, and its provenance lists the rounds. A resumed run skips the rounds that are done.

    Args:
        settings: checked.
        train: one round, from its settings and further entries of the checkpoint's provenance.

    Returns:
        the result of the last round, with the seconds and bad images of all of them.
    """
    prepare_output(settings)
    accelerator = make_accelerator(settings)
    output, main = Path(settings.output_dir), accelerator.is_main_process
    accelerator.wait_for_everyone()  # what follows is what the others' `prepare_output` would find
    if settings.resume and (result := finished_result(output)):
        return result
    if main and not settings.resume:
        for folder in output.glob("round-*"):
            shutil.rmtree(folder)
    if main:
        output.mkdir(parents=True, exist_ok=True)
        if not (output / _SETTINGS).is_file():
            write_recipe(settings, output / _SETTINGS)
    history: list[dict[str, Any]] = []
    seconds, bad_images = 0.0, 0
    for number in range(1, settings.rounds + 1):
        current = settings_of_round(settings, number)
        history.append({"round": number, "teacher": _named(current)})
        result = finished_result(Path(current.output_dir)) if current.resume else None
        if result is None:
            result = train(current, {"rounds": [dict(entry) for entry in history]})
        history[-1] |= {"step": result.best_step, **result.metrics}
        seconds, bad_images = seconds + result.seconds, max(bad_images, result.bad_images)
    result = replace(result, output_dir=str(output), seconds=round(seconds, 1), bad_images=bad_images)
    if main:
        _publish(Path(current.output_dir), output, result)
    accelerator.wait_for_everyone()
    return result


def settings_of_round(settings: StudentSettings, number: int) -> StudentSettings:
    """Settings of one of the rounds, counted from 1, as a run of one round."""
    folder = Path(settings.output_dir)
    changes: dict[str, Any] = {"rounds": 1, "output_dir": str(folder / f"round-{number}")}
    changes["resume"] = settings.resume and (folder / f"round-{number}" / _SETTINGS).is_file()
    if settings.pseudo_labels:
        changes["pseudo_labels"] = str(Path(settings.pseudo_labels) / f"round-{number}")
    if number > 1:
        last = str(folder / f"round-{number - 1}")
        changes["teacher"] = [last] + (settings.teacher if settings.round_teacher == "both" else [])
        changes["feature_start"] = "new"  # the student's feature is not what its encoder was aligned with
        if not any(name.startswith(LAION) for name in changes["teacher"]):
            changes["teacher_clip"] = ""
        if settings.round_start == "student":
            changes["encoder"] = last
    return replace(settings, **changes)


def _named(settings: StudentSettings) -> list[str]:
    """The teachers of a round without the maker's folders."""
    names = [Path(name).name if Path(name).exists() else name.rpartition("/")[2] for name in settings.teacher]
    return names + (["moving average"] if settings.ema_teacher else [])


def _publish(last: Path, output: Path, result: TrainingResult) -> None:
    """Copy the last round's model to the top; `results.json` comes last, and says that the run is done."""
    for path in sorted(last.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        if path.is_file() and path.name not in (_SETTINGS, "results.json"):
            shutil.copyfile(path, output / (path.name + ".partial"))
            os.replace(output / (path.name + ".partial"), output / path.name)
    (output / "results.json.partial").write_text(json.dumps(asdict(result), indent=1))
    os.replace(output / "results.json.partial", output / "results.json")
