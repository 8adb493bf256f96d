"""Experiment trackers of a run, by name through Accelerate: TensorBoard, W&B, Trackio and its others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from .recipes import nearest
from .settings import LoopSettings, SettingsError

logger = logging.getLogger(__name__)

PROJECT = "cskd"
_EXTRAS = {"tensorboard": "cskd_hf[tracking]", "wandb": "cskd_hf[wandb]", "trackio": "cskd_hf[trackio]"}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that would be left out: Accelerate says nothing where one is not installed.

    Args:
        names: as Accelerate calls them; "all" stands for those that are installed.

    Raises:
        SettingsError: one is unknown, or its package is not installed; the message says what to install.
    """
    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    installed = {str(name) for name in get_available_trackers()}
    # Classes that were registered with Accelerate are not in its list of packages.
    packages = {str(getattr(kind, "name", name)) for name, kind in LOGGER_TYPE_TO_CLASS.items()}
    for name in names:
        if name == "all":
            continue
        if name not in known:
            raise SettingsError(f"trackers names '{name}', which Accelerate does not know{nearest(name, known)}.")
        if name in packages - installed:
            package = _EXTRAS.get(name, name.replace("comet_ml", "comet-ml"))
            raise SettingsError(
                f"tracker '{name}' needs a library that is not installed: pip install '{package}'. Without a tracker, "
                "log.jsonl in the output folder holds all figures."
            )


class Trackers:
    """The trackers of one run. They are a second copy of log.jsonl: one that fails while the run is going on is reported
    once and left out, it ends no training.

    Args:
        settings: of the run; `trackers` are the names.
        accelerator: whose main process reports.
    """

    def __init__(self, settings: LoopSettings, accelerator: Accelerator) -> None:
        self.settings, self.accelerator = settings, accelerator

    def start(self) -> None:
        """Open them, and tell them the settings of the run.

        Raises:
            SettingsError: one cannot start, e.g. for want of an account.
        """
        if not self.settings.trackers:
            return
        flat = {
            name: value if isinstance(value, (int, float, str, bool)) else str(value)
            for name, value in asdict(self.settings).items()
        }
        named = {"name": Path(self.settings.output_dir).resolve().name}
        try:
            self.accelerator.init_trackers(PROJECT, config=flat, init_kwargs={"wandb": named, "trackio": named})
        except Exception as error:  # whatever a service's library raises
            raise SettingsError(
                f"the trackers {', '.join(self.settings.trackers)} did not start ({type(error).__name__}: {error}). W&B "
                "without an account or network: WANDB_MODE=offline. Or leave --trackers out; log.jsonl holds all figures."
            ) from error

    def write(self, values: dict[str, Any], step: int) -> None:
        """Report figures of a step."""
        self._each("report to", lambda tracker: tracker.log(values, step=step))

    def finish(self) -> None:
        """Close them. (Accelerate's `end_training` would also end the process group, in which the run goes on.)"""
        self._each("close", lambda tracker: tracker.finish())

    def _each(self, what: str, act: Any) -> None:
        for tracker in list(self.accelerator.trackers) if self.settings.trackers else []:
            try:
                act(tracker)
            except Exception as error:  # whatever a service's library raises
                self.accelerator.trackers.remove(tracker)
                logger.warning(
                    "could not %s tracker %s (%s: %s); it is left out from here on, log.jsonl goes on",
                    what, tracker.name, type(error).__name__, error,
                )  # fmt: skip
