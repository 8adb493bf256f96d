"""A trained scorer as int8 ONNX graphs, with what the rounding costs, measured on images it was not calibrated on."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from ..data.ratings import score_values_of
from ..data.sources import list_images
from ..evaluation.metrics import srcc
from ..evaluation.predict import RatedImages
from ..files import replaced_folder, write_json
from ..models.image_loading_cskd import ImageLoadError
from ..scoring.preparation import Preparation
from .image_graph import PIXELS
from .native import ExportError
from .onnx_graphs import (
    MODEL_FILE,
    Scorer,
    build_model,
    check_graphs,
    require_onnx,
    session_of,
    write_graphs,
)
from .places import EXPORT_FILE, checked_output
from .quantisation import SCHEMES, Scheme, levels_of, quantise

logger = logging.getLogger(__name__)

FEWEST = 16
GOOD_SRCC, GOOD_DIFFERENCE = 0.99, 0.01
_BATCH = 16
_REPEATS = 15


@dataclass(frozen=True)
class Agreement:
    """How close int8 scores are to the float ones of the same images.

    Args:
        images: how many.
        srcc: rank correlation of the two.
        mean_difference, largest_difference: absolute, as shares of the scale.
    """

    images: int
    srcc: float
    mean_difference: float
    largest_difference: float

    @property
    def good(self) -> bool:
        """Whether no more layers need to stay in float."""
        return self.srcc >= GOOD_SRCC and self.mean_difference <= GOOD_DIFFERENCE


def export_int8(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    calibration_images: str | os.PathLike,
    ratings: datasets.Dataset | None = None,
    limit: int = 512,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a checkpoint as two ONNX graphs whose weights and activations are whole numbers of 8 bits.

    The graphs are those of `export_onnx`. Half of the calibration images set the ranges of the activations, and choose
    among ways to do so (`quantisation.SCHEMES`): from everything in int8 on, layers are left in float until the scores of
    that half agree with the float scores to SRCC 0.99 and on average 1 % of the scale. The other half, which nothing was
    chosen by, measures the result.

    Args:
        checkpoint: trained teacher or student, Hub name or folder.
        output: folder to make; it appears whole or not at all.
        calibration_images: folder of images like those that will be scored.
        ratings: rated images, in the schema of `cskd_hf.data.ratings`, to measure the loss of SRCC on.
        limit: images that are used of the folder.
        overwrite: replace an earlier export in `output`.
        quiet: no progress bar.

    Returns:
        The folder: model.onnx, pipeline.onnx and export.json with the agreement on the held-out half, the SRCC of the
        float and the int8 scores with the ratings, the speed, and every scheme that was tried.

    Raises:
        ExportError: as in `export_onnx`, or fewer than 16 images can be read, or no scheme works.
        ValueError: as in `export_onnx`, or `limit` or `ratings` is too small.
    """
    output = checked_output(checkpoint, output, overwrite)
    if limit < FEWEST:
        raise ValueError(f"--limit {limit} must be at least {FEWEST}, better 200 or more.")
    if ratings is not None and len(ratings) < 2:
        raise ValueError(f"there are {len(ratings)} rated images; a loss of SRCC needs at least 2.")
    require_onnx()
    scorer = Scorer.load(checkpoint)
    plan, model = build_model(scorer)
    pixels, unreadable = _calibration_pixels(scorer, Path(calibration_images), limit, quiet)
    half = len(pixels) // 2
    with replaced_folder(output) as partial, tempfile.TemporaryDirectory() as temporary:
        write_graphs(scorer, plan, model, Path(temporary))
        float_file = Path(temporary, MODEL_FILE)
        float_gap = check_graphs(scorer, Path(temporary))["difference"][MODEL_FILE]
        scheme, graph, tried = _choose(scorer, float_file, pixels[:half], quiet)
        report = {"scheme": scheme.name, "calibration_images": half, "unreadable": unreadable, "tried": tried}
        write_graphs(scorer, plan, graph, partial, {"quantisation": {"scheme": scheme.name}})
        before, after = float_file, partial / MODEL_FILE
        report["held_out"] = asdict(_agreement(scorer, before, after, pixels[half:]))
        if ratings is not None:
            report["ratings"] = _rated(scorer, before, after, ratings, quiet)
        report["speed"] = _speed(before, after, pixels[:_BATCH])
        report["bytes"] = {"float": before.stat().st_size, "int8": after.stat().st_size}
        gaps = check_graphs(scorer, partial, tolerance=None)["difference"]
        write_json(
            partial / EXPORT_FILE,
            {"format": "int8", "difference": gaps, "float_difference": float_gap, "quantisation": report},
        )
    return output


def _calibration_pixels(scorer: Scorer, folder: Path, limit: int, quiet: bool) -> tuple[np.ndarray, int]:
    """Up to `limit` prepared images `(images, 3, height, width)` of a folder in seeded order, and how many of those that
    were tried could not be read.

    Raises:
        ExportError: there are too few.
    """
    names = list_images(folder) if folder.is_dir() else []
    order = np.random.default_rng(0).permutation(len(names))
    prepare, found, unreadable = Preparation(scorer.processor), [], 0
    with tqdm(total=min(limit, len(names)), desc="calibration images", unit="image", disable=quiet) as bar:
        for number in order:
            if len(found) == limit:
                break
            path = folder / names[number]
            try:
                found.append(prepare(str(path)))
                bar.update()
            except ImageLoadError as error:
                logger.warning("left out: %s: %s", path, error.reason)
                unreadable += 1
    if len(found) < FEWEST:
        raise ExportError(
            f"'{folder}' holds {len(found)} readable images; int8 needs at least {FEWEST}, better 200 or more, like those "
            "that will be scored."
        )
    return np.stack(found), unreadable


def _choose(scorer: Scorer, float_file: Path, pixels: np.ndarray, quiet: bool) -> tuple[Scheme, Any, list[dict]]:
    """The first level of schemes with a good agreement on the calibration images, and the best scheme of it; where none is
    good, the best of all.

    Raises:
        ExportError: onnxruntime can quantise the graph by none.
    """
    best: tuple[float, Scheme, Any] | None = None
    tried: list[dict[str, Any]] = []
    expected = _scores(float_file, pixels)
    levels = levels_of(float_file, SCHEMES)
    with tqdm(total=sum(map(len, levels)), desc="quantisation", unit="scheme", disable=quiet) as bar:
        for level in levels:
            for scheme in level:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, MODEL_FILE)
                    try:
                        graph = quantise(float_file, file, scheme, pixels)
                        agreement = _compared(scorer, expected, _scores(file, pixels))
                    except Exception as error:  # the quantiser has no exceptions of its own
                        line = (str(error).splitlines() or [""])[0][:200]
                        tried.append({"scheme": scheme.name, "error": f"{type(error).__name__}: {line}"})
                        continue
                    finally:
                        bar.update()
                tried.append({"scheme": scheme.name, **asdict(agreement), "good": agreement.good})
                gap = agreement.mean_difference
                rank = (not agreement.good, gap if math.isfinite(gap) else math.inf)
                if best is None or rank < best[0]:
                    best = rank, scheme, graph
            if any(entry.get("good") for entry in tried):
                break
    if best is None:
        raise scorer.refused("int8", f"onnxruntime quantises its graph by no scheme: {tried[0]['error']}")
    if not any(entry.get("good") for entry in tried):
        logger.warning("no scheme agrees well with the float scores; the best of them is written")
    return best[1], best[2], tried


def _scores(file: Path, pixels: np.ndarray) -> np.ndarray:
    session = session_of(file)
    batches = (pixels[first : first + _BATCH] for first in range(0, len(pixels), _BATCH))
    return np.concatenate([session.run(["score"], {PIXELS: batch})[0] for batch in batches]).astype(float)


def _compared(scorer: Scorer, expected: np.ndarray, found: np.ndarray) -> Agreement:
    gaps = np.abs(expected - found) / scorer.span
    alike = srcc(found, expected) if np.ptp(found) > 0 and np.ptp(expected) > 0 else 0.0
    return Agreement(len(found), float(alike), float(gaps.mean()), float(gaps.max()))


def _agreement(scorer: Scorer, before: Path, after: Path, pixels: np.ndarray) -> Agreement:
    return _compared(scorer, _scores(before, pixels), _scores(after, pixels))


def _rated(scorer: Scorer, before: Path, after: Path, ratings: datasets.Dataset, quiet: bool) -> dict[str, Any]:
    """SRCC of float and int8 scores with the ratings, and the loss."""
    images = RatedImages(ratings, scorer.preprocessing, batch_size=_BATCH)
    own, theirs = scorer.model.config.score_values, score_values_of(ratings)
    if (own[0], own[-1]) != (theirs[0], theirs[-1]):
        logger.warning(
            "the model scores from %g to %g, the ratings go from %g to %g", own[0], own[-1], theirs[0], theirs[-1]
        )
    rows: list[int] = []
    scores: tuple[list, list] = [], []
    sessions = [session_of(file) for file in (before, after)]
    batches: Iterable = tqdm(images.batches(), desc="rated images", unit="batch", disable=quiet)
    for numbers, pixels in batches:
        rows += numbers
        for session, found in zip(sessions, scores):
            found += session.run(["score"], {PIXELS: pixels.numpy()})[0].tolist()
    if len(rows) < 2:
        logger.warning("only %d of the rated images can be read, so there is no SRCC", len(rows))
        return {"images": len(rows), "srcc_float": None, "srcc_int8": None, "srcc_loss": None}
    means = images.means[rows]
    exact, rounded = (srcc(found, means) for found in scores)
    return {"images": len(rows), "srcc_float": exact, "srcc_int8": rounded, "srcc_loss": exact - rounded}


def _speed(before: Path, after: Path, pixels: np.ndarray) -> dict[str, Any]:
    """Median seconds of a forward, float and int8 in turn, of one image and of a batch; and their ratio."""
    sessions = {"float": session_of(before), "int8": session_of(after)}
    speed: dict[str, Any] = {}
    for size in (1, len(pixels)):
        taken: dict[str, list[float]] = {name: [] for name in sessions}
        for repeat in range(_REPEATS + 2):  # the first two warm up
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(["score"], {PIXELS: pixels[:size]})
                if repeat >= 2:
                    taken[name].append(time.perf_counter() - start)
        medians = {name: float(np.median(times)) for name, times in taken.items()}
        speed[f"batch_{size}"] = {**medians, "ratio": medians["float"] / medians["int8"]}
    return speed


def summary(report: dict[str, Any]) -> Sequence[str]:
    """What the command says of the `quantisation` part of export.json."""
    held, speed = report["held_out"], report["speed"]
    lines = [
        f"scheme: {report['scheme']}, ranges from {report['calibration_images']} images",
        f"on {held['images']} other images: SRCC {held['srcc']:.4f} with the float scores, which differ by "
        f"{100 * held['mean_difference']:.2f} % of the scale on average, {100 * held['largest_difference']:.2f} % at most",
    ]
    rated = report.get("ratings")
    if rated and rated["srcc_loss"] is None:
        lines.append(f"on {rated['images']} rated images: no SRCC")
    elif rated:
        lines.append(
            f"on {rated['images']} rated images: SRCC {rated['srcc_float']:.4f} in float, {rated['srcc_int8']:.4f} in int8 "
            f"(loss {rated['srcc_loss']:+.4f})"
        )
    for name, times in speed.items():
        size = name.removeprefix("batch_")
        lines.append(f"a forward of {size}: {1e3 * times['float']:.1f} ms in float, {1e3 * times['int8']:.1f} ms in int8 "
                     f"({times['ratio']:.2f} times as fast)")  # fmt: skip
    sizes = report["bytes"]
    lines.append(f"{MODEL_FILE}: {sizes['float'] / 1e6:.1f} MB in float, {sizes['int8'] / 1e6:.1f} MB in int8")
    return lines
