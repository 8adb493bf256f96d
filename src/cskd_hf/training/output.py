"""The folder of a run: whose it is, before anything is written to it."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path

from ..files import recover_folder
from .recipes import read_recipe
from .settings import LoopSettings, SettingsError


def prepare_output(settings: LoopSettings) -> None:
    """Refuse to mix runs in one folder; call it before anything slow starts.

    Raises:
        SettingsError: the folder holds a run and neither resume nor overwrite is set, or a resumed run's settings differ.
    """
    output = Path(settings.output_dir)
    main = int(os.environ.get("RANK", 0)) == 0
    if main:
        recover_folder(output / "checkpoint")
    recorded = output / "settings.yaml"
    if settings.overwrite and not settings.resume and main:
        for name in ("checkpoint", "best"):
            shutil.rmtree(output / name, ignore_errors=True)
        for name in (
            "log.jsonl",
            "settings.yaml",
            "results.json",
            "bad_images.jsonl",
            "leaks.json",
            "duplicates.json",
            "model.safetensors",
        ):
            (output / name).unlink(missing_ok=True)
    elif recorded.is_file() and settings.resume:
        _check_same_run(settings, recorded)
    elif recorded.is_file() and not settings.overwrite:
        raise SettingsError(
            f"'{output}' already holds a run; give --resume to go on with it, --overwrite to replace it, or another "
            "--output-dir."
        )


def _check_same_run(settings: LoopSettings, recorded: Path) -> None:
    before = asdict(
        type(settings)(**read_recipe(recorded, type(settings)))
    )  # settings that came later at their defaults
    fixed = [entry.name for entry in fields(settings) if not entry.metadata["resumable"]]
    now = asdict(settings)
    differing = [f"{name}: {before[name]!r} before, {now[name]!r} now" for name in fixed if before[name] != now[name]]
    if differing:
        raise SettingsError(
            f"the run in '{recorded.parent}' has other settings, so it cannot be resumed as this one: "
            f"{'; '.join(differing)}. Use its own settings (--recipe {recorded}), or another --output-dir."
        )
