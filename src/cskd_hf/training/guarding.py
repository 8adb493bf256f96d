"""Unlabelled images without copies of evaluation images, and without copies of one another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..data.collection import ImageCollection
from ..data.evaluation_images import open_evaluation
from ..data.fingerprints import Fingerprints, concatenate, take_fingerprints
from ..data.leak_guard import Findings, LeakError, LeakGuard, find_duplicates
from ..data.mixture import open_images, split_holdout
from ..data.sources import DatasetSource, NamedSource
from ..files import write_json
from .arguments import AlignSettings, StudentSettings
from .settings import SettingsError

logger = logging.getLogger(__name__)

_LEAKS, _DUPLICATES = "leaks.json", "duplicates.json"
_SHOWN = 3  # pairs in an error message


def alignment_images(
    settings: AlignSettings, target_side: int, accelerator: Accelerator
) -> tuple[ImageCollection, ImageCollection, dict[str, Any]]:
    """Phase 1's images to train on, those held out, and the numbers of those left out, see `guarded`.

    Args:
        settings: of the run.
        target_side: short side in pixels that is enough for its views.
        accelerator: of the run.
    """
    images = open_images(settings.images, target_side, settings.cache_images)
    images, left_out = guarded(images, settings, accelerator)
    return *split_holdout(images, settings.holdout), left_out


def guarded(
    images: ImageCollection,
    settings: AlignSettings | StudentSettings,
    accelerator: Accelerator,
    rated: datasets.Dataset | None = None,
) -> tuple[ImageCollection, dict[str, Any]]:
    """Leave out what the settings say, and list it in `leaks.json` and `duplicates.json` in the output folder.

    Images of streams have no index: copies of evaluation images among them are left out as they come, and named in the
    run's list of bad images.

    Each process takes the fingerprints of its share of the images; all come to the same answer from all fingerprints.

    Args:
        images: unlabelled.
        settings: of an alignment or a student, with its `images` and `output_dir`.
        accelerator: of the run.
        rated: rated images outside the training split; they are evaluation images as well.

    Returns:
        the images that remain, and the numbers of the others, for the model's provenance.

    Raises:
        LeakError: there are leaks, and the settings refuse them.
        SettingsError: one of the sources has no image left.
    """
    if accelerator.is_main_process:
        for name in (_LEAKS, _DUPLICATES):  # of an attempt with other settings
            (Path(settings.output_dir) / name).unlink(missing_ok=True)
    places = settings.images
    look_for_leaks = settings.leaks != "off" and (settings.evaluation_images or rated is not None)
    if not look_for_leaks and settings.duplicates == "keep":
        return images, {}
    indexed = [(source, place) for source, place in zip(images.sources, places) if hasattr(source, "__len__")]
    named = ImageCollection([NamedSource(source, place) for source, place in indexed])
    decode = bool(look_for_leaks) or settings.duplicates == "perceptual"
    prints = _fingerprints(named, accelerator, settings.quiet, decode, "unlabelled images")
    rows, counts = np.arange(len(images)), {}
    if look_for_leaks:
        guard = LeakGuard(_evaluation(settings, rated, accelerator))
        images.leak_guard = guard
        rows, found = _without_leaks(prints, guard, settings, accelerator)
        counts |= found
    if settings.duplicates != "keep":
        rows, found = _without_duplicates(prints, rows, settings, accelerator)
        counts |= found
    if len(rows) == len(images):
        return images, counts
    images = images.subset(rows)
    for place, size in zip(places, images.sizes):
        if size == 0:
            raise SettingsError(
                f"no image of '{place}' remains: all are copies of evaluation images or of other images, see "
                f"'{settings.output_dir}'; leave this place out of --images."
            )
    return images, counts


def _without_leaks(
    prints: Fingerprints, guard: LeakGuard, settings: AlignSettings | StudentSettings, accelerator: Accelerator
) -> tuple[np.ndarray, dict[str, int]]:
    leaks = guard.find(prints)
    counts = {"evaluation_images": len(guard), "leaks": len(leaks.matches)}
    about = {"action": settings.leaks, "images": len(prints), "unreadable": len(prints.unreadable)}
    about |= {"plain": prints.plain(), "same_name_only": leaks.other_pictures}
    _write(Path(settings.output_dir) / _LEAKS, about | counts | leaks.report(), accelerator)
    logger.info(
        "leak guard: %d of %d unlabelled images are among the %d evaluation images (%s)",
        *(len(leaks.matches), len(prints), len(guard), _kinds(leaks)),
    )
    if leaks.matches and settings.leaks == "refuse":
        raise LeakError(_refusal(leaks, settings))
    return np.setdiff1d(np.arange(len(prints)), list(leaks.matches)), counts


def _without_duplicates(
    prints: Fingerprints, rows: np.ndarray, settings: AlignSettings | StudentSettings, accelerator: Accelerator
) -> tuple[np.ndarray, dict[str, int]]:
    quiet = settings.quiet or not accelerator.is_main_process
    found = find_duplicates(prints.take(rows), perceptual=settings.duplicates == "perceptual", quiet=quiet)
    about = {"kind": settings.duplicates, "images": len(rows), "duplicates": len(found.matches)}
    _write(Path(settings.output_dir) / _DUPLICATES, about | found.report(), accelerator)
    logger.info("%d of %d unlabelled images are copies of others (%s)", len(found.matches), len(rows), _kinds(found))
    return np.delete(rows, list(found.matches)), {"duplicates": len(found.matches)}


def _fingerprints(
    images: ImageCollection, accelerator: Accelerator, quiet: bool, decode: bool, description: str
) -> Fingerprints:
    rank, world_size = accelerator.process_index, accelerator.num_processes
    shares = [np.arange(first, len(images), world_size) for first in range(world_size)]
    mine = take_fingerprints(
        images.subset(shares[rank]), perceptual=decode, quiet=quiet or rank > 0, description=description
    )
    if world_size == 1:
        return mine
    return concatenate(gather_object([mine])).take(np.argsort(np.concatenate(shares)))


def _evaluation(
    settings: AlignSettings | StudentSettings, rated: datasets.Dataset | None, accelerator: Accelerator
) -> Fingerprints:
    sources = [NamedSource(open_evaluation(place), place) for place in settings.evaluation_images]
    if rated is not None:
        sources.append(NamedSource(DatasetSource(rated), "ratings"))
    return _fingerprints(ImageCollection(sources), accelerator, settings.quiet, True, "evaluation images")


def _kinds(findings: Findings) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in findings.counts().items())


def _refusal(leaks: Findings, settings: AlignSettings | StudentSettings) -> str:
    pairs = list(leaks.matches.values())[:_SHOWN]
    shown = "; ".join(f"'{match.key}' is '{match.original}' ({match.kind})" for match in pairs)
    return (
        f"{len(leaks.matches)} unlabelled images are evaluation images: {shown}"
        f"{'; ...' if len(leaks.matches) > _SHOWN else ''}. All are listed in "
        f"'{Path(settings.output_dir) / _LEAKS}'; remove them, or leave them out with --leaks drop."
    )


def _write(path: Path, report: dict[str, Any], accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        write_json(path, report)
