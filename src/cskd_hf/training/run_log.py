"""What a run writes down while it trains: figures of its steps, and the images that could not be read."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from .settings import LoopSettings, SettingsError
from .trackers import Trackers

logger = logging.getLogger(__name__)


class RunLog:
    """`log.jsonl` of a run, one line a logged step or evaluation, and the trackers of its settings.

    Args:
        settings: of the run.
        accelerator: whose main process writes.
    """

    def __init__(self, settings: LoopSettings, accelerator: Accelerator) -> None:
        self.accelerator, self.trackers = accelerator, Trackers(settings, accelerator)
        self.path = Path(settings.output_dir) / "log.jsonl"

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; `step` is the step that its other figures belong to."""
        if self.accelerator.is_main_process:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
        self.trackers.write({key: value for key, value in line.items() if key != "step"}, line["step"])

    def cut(self, step: int) -> None:
        """Drop what was written after a step, and a line that was cut short: the resumed run writes it again."""
        if self.accelerator.is_main_process and self.path.is_file():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, self.path)


class ImageCount:
    """Images that this process drew, and those among them that could not be read.

    Args:
        folder: of the run; unreadable images are listed in its `bad_images.jsonl`, once each.
        max_bad: share of unreadable images above which training stops.
    """

    def __init__(self, folder: Path, max_bad: float) -> None:
        self.path, self.max_bad = folder / "bad_images.jsonl", max_bad
        self.drawn = self.failed = 0
        self.bad: dict[tuple[str, str], str] = {}

    def note(self, batch: dict[str, dict[str, Any]]) -> None:
        """Count a batch's images, and take its `errors` out of it.

        Raises:
            SettingsError: too many images are unreadable.
        """
        for stream in batch.values():
            errors = stream.pop("errors")
            self.drawn += len(stream["index"]) + len(errors)
            self.failed += len(errors)
            self.list(errors)
        if self.drawn >= 100 and self.failed > self.max_bad * self.drawn:
            raise SettingsError(
                f"{self.failed} of {self.drawn} images drawn so far are unreadable, more than max_bad_images="
                f"{self.max_bad} allows; they are listed in '{self.path}'. Mend or remove them, or raise "
                "--max-bad-images."
            )

    def list(self, errors: Sequence[tuple[str, str, str]]) -> None:
        """Write down source, key and reason of what is bad, once each."""
        for source, key, reason in errors:
            if (source, key) not in self.bad:
                self.bad[source, key] = reason
                logger.warning("left out: %s of %s (%s)", key, source, reason)
                with open(self.path, "a") as file:
                    file.write(json.dumps({"source": source, "key": key, "reason": reason}) + "\n")

    def restore(self, drawn: int, failed: int) -> None:
        """Go on from a checkpoint's counts."""
        self.drawn, self.failed = drawn, failed
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        whole = [line for line in lines if line.endswith("}")]  # a crash may have cut the last one short
        self.bad = {(entry["source"], entry["key"]): entry["reason"] for entry in map(json.loads, whole)}
