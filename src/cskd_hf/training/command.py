"""The commands that train: `align`, `teacher`, `student` and `features`. Settings are checked before torch is imported."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from .arguments import AlignSettings, FeatureSettings, StudentSettings, TeacherSettings
from .recipes import settings_from

if TYPE_CHECKING:
    from .run_state import TrainingResult


def align_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf align`; returns the exit code 0."""
    settings = settings_from(namespace, AlignSettings)
    from .align import align

    return _report(align(settings))


def teacher_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf teacher`; returns the exit code 0."""
    settings = settings_from(namespace, TeacherSettings)
    from .teacher import teach

    return _report(teach(settings))


def student_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf student`; returns the exit code 0."""
    settings = settings_from(namespace, StudentSettings)
    from .student import distil

    return _report(distil(settings))


def features_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf features`; returns the exit code 0."""
    settings = settings_from(namespace, FeatureSettings)
    from .stored_features import store_features

    for name, store in store_features(settings).items():
        if _is_main():
            unreadable = f", {len(store.unreadable)} unreadable (in its manifest.json)" if store.unreadable else ""
            print(f"{store.folder}: {len(store)} images x {store.n_views} views of {name}{unreadable}")
    return 0


def _report(result: TrainingResult) -> int:
    if _is_main():
        figures = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        best = f", best at step {result.best_step}: {figures}" if figures else ""
        print(f"{result.output_dir}: step {result.step}{best}")
    return 0


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"
