"""`cskd-hf finetune`: a scorer from one's own ratings, with an honest estimate of how good it is."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.ratings import RatingsError
from ..files import replaced_folder
from ..training.settings import SettingsError
from .encoded import Encoded, check_ratings, encode_ratings
from .estimate import SEMI, Estimate, measure, predict_held_out, verdict
from .fits import Fitter, mode_for
from .folds import Plan, joined_groups, make_plan, picture_groups
from .outcome import Finetuned
from .report import RESULTS, write_report_files
from .scale import read_ratings
from .settings import MIN_RATINGS, PROBE_FOLDS, TUNED_FOLDS, FinetuneSettings

logger = logging.getLogger(__name__)

_WORK = ".work-"


def finetune(settings: FinetuneSettings) -> Finetuned:
    """Fine-tune a model on rated images; write model, estimate and report to the output folder.

    Raises:
        SettingsError: the settings do not fit, or the output folder holds something else.
        RatingsError: the ratings cannot be used: too few, all equal, or of an unknown scale.
    """
    settings.check()
    started = time.perf_counter()
    quiet = settings.quiet or not sys.stderr.isatty()
    settings = replace(settings, quiet=quiet)
    output = Path(settings.output)
    _refuse_foreign(output, settings.overwrite)
    ratings, scale = read_ratings(settings)
    check_ratings(np.asarray(ratings["mean"][:]), len(ratings), settings.ratings)  # before anything slow
    encoded = encode_ratings(settings, ratings)
    groups = picture_groups(encoded.ratings, quiet=quiet)
    check_ratings(encoded.means.numpy(), len(np.unique(groups)), settings.ratings)
    pictures = len(np.unique(groups))
    if settings.group_by:
        groups = joined_groups(groups, encoded.ratings, settings.group_by)
        check_ratings(encoded.means.numpy(), len(np.unique(groups)), f"{settings.ratings}, by {settings.group_by}")
    plan = make_plan(
        encoded.ratings, groups, folds=settings.folds or PROBE_FOLDS, holdout=settings.holdout, seed=settings.seed
    )
    mode = mode_for(settings, len(plan.final))
    if not settings.folds and (mode != "probe" or settings.unlabeled):  # each fold is a training
        plan = make_plan(encoded.ratings, groups, folds=TUNED_FOLDS, holdout=settings.holdout, seed=settings.seed)
    _check_plan(plan, encoded, settings)
    logger.info(
        "%d ratings: %s, estimate by %s", len(encoded.ratings), mode, f"{len(plan.folds)}-fold {plan.kind}" if len(plan.folds) > 1 else plan.kind
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=output) as work, _quiet_training():
        fitter = Fitter(settings, encoded, groups, mode, Path(work))
        held = predict_held_out(fitter, plan, quiet=quiet)
        estimate = measure(held, fitter, settings.seed)
        shipped, reason = _choose(settings, estimate)
        final = _fit_final(fitter, plan, shipped, output / "model")
    seconds = time.perf_counter() - started
    result = Finetuned(settings, scale, mode, encoded, pictures, plan, held, estimate, shipped, reason, final, seconds)
    write_report_files(output, result)
    return result


def _check_plan(plan: Plan, encoded: Encoded, settings: FinetuneSettings) -> None:
    """Refuse a test split that measures nothing, or that leaves nothing to train on."""
    if plan.kind != "test split":
        return
    check_ratings(encoded.means.numpy()[plan.final], len(plan.final), f"{settings.ratings}, without its test split")
    if len(plan.held_out) < MIN_RATINGS:
        raise RatingsError(
            f"{settings.ratings}: the test split has {len(plan.held_out)} images; at least {MIN_RATINGS} are needed to "
            "measure on. Move more images there, or leave the column `split` out to measure by cross-validation."
        )


def _choose(settings: FinetuneSettings, estimate: Estimate) -> tuple[str, str]:
    """Which candidate is saved, and why. Chance would often favour the second of two like models, so it has to be
    clearly ahead."""
    if not estimate.semi:
        return "finetuned", "there is no other"
    if settings.ship != "auto":
        return (SEMI if settings.ship == "semi" else "finetuned"), f"--ship {settings.ship} asks for it"
    if verdict(estimate.semi)[0] == "yes":
        return SEMI, "its held-out SRCC is higher, and the 95 % interval of the difference leaves out 0"
    return "finetuned", "the unrated images made no model that is clearly ahead of it on the held-out images"


def _fit_final(fitter: Fitter, plan: Plan, shipped: str, folder: Path) -> dict[str, Any]:
    """The shipped model, of all ratings but those of a test split."""
    with replaced_folder(folder) as partial:
        if shipped != SEMI:
            return fitter.fit(plan.final, partial)
        teacher = fitter.work / "final-teacher"
        facts = fitter.fit(plan.final, teacher)
        test = plan.held_out if plan.kind == "test split" else np.zeros(0, dtype=np.int64)
        facts |= fitter.learn_from_unrated(plan.final, test, teacher, facts["penalty"], partial)
        shutil.rmtree(teacher)
        return facts


def _refuse_foreign(output: Path, overwrite: bool) -> None:
    """Refuse a folder with somebody's files; what a killed run left there is removed."""
    if not output.exists():
        return
    if not output.is_dir():
        raise SettingsError(f"'{output}' is a file; give --output a folder.")
    abandoned = list(output.glob(f"{_WORK}*"))
    others = set(output.iterdir()) - set(abandoned)
    if others and not (output / RESULTS).is_file():
        raise SettingsError(f"'{output}' exists and holds no fine-tune; give --output another folder.")
    if others and not overwrite:
        raise SettingsError(
            f"'{output}' already holds a fine-tune; give --overwrite to replace it, or --output another folder."
        )
    for path in abandoned:
        shutil.rmtree(path)


class _quiet_training:
    """The lines of each fold's training say nothing that the report does not say."""

    def __enter__(self) -> None:
        self._log = logging.getLogger("cskd_hf.training")
        self._before = self._log.level
        self._log.setLevel(logging.WARNING)

    def __exit__(self, *error: object) -> None:
        self._log.setLevel(self._before)
