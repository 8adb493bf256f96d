"""Scores of files and folders, and the `cskd-hf score` command."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..data.sources import IMAGE_EXTENSIONS, list_images
from .engine import ScoringError, load_pipeline

if TYPE_CHECKING:
    from ..models.pipeline_cskd import ImageAestheticsPipeline

OUTPUT_EXTENSIONS = (".csv", ".jsonl")
_RESULT = ("score", "score_std", "scale", "percentile", "calibrated_score", "error")
_COLUMNS = ("path", "score", "score_std", "scale_low", "scale_high", "percentile", "calibrated_score", "error")


def score_images(
    model: str, images: Sequence[str], *, batch_size: int = 16, quiet: bool = False
) -> Iterator[dict[str, Any]]:
    """Score files and folders, one result at a time, so that any number of images fits in memory.

    A score depends on the image alone, not on its batch or the order of the files, up to rounding.

    Args:
        model: checkpoint: Hub name or folder.
        images: files, and folders that are searched at any depth; an image found twice is scored once.
        batch_size: images a forward.
        quiet: no progress bar.

    Returns:
        For each image, in the order given and sorted within a folder, `path`, `score` and `score_std` on the scale of
        the ratings, and `scale` (lowest and highest possible score), of a calibrated model also `percentile` and
        `calibrated_score`; or `path` and `error` where it cannot be read.

    Raises:
        FileNotFoundError: a file or folder does not exist; nothing has been scored then.
        ScoringError: no image at all, a batch size below 1, or a checkpoint that is no image-aesthetics model.
    """
    if batch_size < 1:
        raise ScoringError(f"batch_size={batch_size} must be at least 1.")
    paths = _find(images)
    return _results(load_pipeline(model), paths, batch_size, quiet)


def score_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf score`: print a ranked table, and write every result to a file where one is asked for.

    Args:
        namespace: with `model`, `images`, `output`, `batch_size`, `top` and `quiet`, as cli.py parses them.

    Returns:
        exit code: 0 if anything was scored, 1 if no image could be read.

    Raises:
        FileNotFoundError, ScoringError: as in `score_images`, and for an `output` of an unknown extension.
    """
    if namespace.top < 0:
        raise ScoringError(f"--top {namespace.top} must be at least 1, or 0 for all.")
    _check_output(namespace.output)
    results = score_images(namespace.model, namespace.images, batch_size=namespace.batch_size, quiet=namespace.quiet)
    scored, unreadable = [], []
    with _writer(namespace.output) as write:
        for result in results:
            write(result)
            (unreadable if "error" in result else scored).append(result)
    scored.sort(key=lambda result: -result["score"])
    if scored:
        _print_table(scored[: namespace.top or None], total=len(scored))
    for result in unreadable:
        print(f"not scored: {_printable(result['path'])}: {result['error']}", file=sys.stderr)
    return 0 if scored else 1


def _find(images: Sequence[str]) -> list[str]:
    for image in images:
        if not os.path.exists(image):
            raise FileNotFoundError(f"'{image}' does not exist; give image files or folders.")
    found: dict[str, None] = {}
    for image in images:
        path = Path(image)
        below = list_images(path) if path.is_dir() else [""]
        found |= dict.fromkeys(str(path / name) for name in below)
    if not found:
        raise ScoringError(
            f"no image in {', '.join(repr(str(image)) for image in images)}; looked for {', '.join(IMAGE_EXTENSIONS)} "
            "at any depth."
        )
    return list(found)


def _results(
    rate: ImageAestheticsPipeline, paths: list[str], batch_size: int, quiet: bool
) -> Iterator[dict[str, Any]]:
    with tqdm(total=len(paths), unit="image", disable=quiet) as bar:
        for first in range(0, len(paths), batch_size):
            batch = paths[first : first + batch_size]
            yield from _score_batch(rate, batch)
            bar.update(len(batch))


def _score_batch(rate: ImageAestheticsPipeline, paths: list[str]) -> list[dict[str, Any]]:
    return [
        {"path": path} | {key: result[key] for key in _RESULT if key in result}
        for path, result in zip(paths, rate.score_many(map(Path, paths)))
    ]


def _check_output(output: str | None) -> None:
    if output is not None and Path(output).suffix.lower() not in OUTPUT_EXTENSIONS:
        raise ScoringError(f"--output '{output}' must end in {' or '.join(OUTPUT_EXTENSIONS)}.")


@contextlib.contextmanager
def _writer(output: str | None) -> Iterator[Callable[[dict[str, Any]], object]]:
    """A function that writes one result. The file gets its name when all are written; until then it ends in .partial."""
    if output is None:
        yield lambda result: None
        return
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    # A file name need not be valid text; surrogateescape gives the bytes back that it was read from.
    with open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        if path.suffix.lower() == ".csv":
            table = csv.DictWriter(file, _COLUMNS)
            table.writeheader()
            yield lambda result: table.writerow(_csv_row(result))
        else:
            yield lambda result: file.write(json.dumps(result) + "\n")
    os.replace(partial, path)


def _csv_row(result: dict[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in result.items() if key != "scale"}
    if "scale" in result:
        row["scale_low"], row["scale_high"] = result["scale"]
    return row


def _print_table(results: list[dict[str, Any]], total: int) -> None:
    low, high = results[0]["scale"]
    shown = f"the best {len(results)} of {total} images" if len(results) < total else f"{total} images"
    print(f"{shown}, on a scale of {low:g} to {high:g}, the best first")
    calibrated = "percentile" in results[0]
    print(f"{'score':>7}  {'std':>6}  {'better than  ' if calibrated else ''}path")
    for result in results:
        share = f"{result['percentile']:9.1f} %  " if calibrated else ""
        print(f"{result['score']:7.3f}  {result['score_std']:6.3f}  {share}{_printable(result['path'])}")


def _printable(path: str) -> str:
    """The path in one line of valid text; a terminal refuses half a character, and a file name may hold one."""
    return "".join(character if character.isprintable() else "?" for character in path)
