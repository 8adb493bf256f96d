"""Scores of uploaded pictures, and the table of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...models.image_loading_cskd import load_image
from .uploads import Limits, Picture, Refusal

if TYPE_CHECKING:
    from ...models.pipeline_cskd import ImageAestheticsPipeline

BATCH_SIZE = 16
THUMBNAIL_SIDE = 480
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Scored:
    """A picture with what the pipeline says of it, and a small copy to show, which is not kept after that."""

    picture: Picture
    result: dict[str, Any]
    thumbnail: Image.Image | None


def score_pictures(
    rate: ImageAestheticsPipeline,
    pictures: Sequence[Picture],
    limits: Limits,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Scored], list[Refusal]]:
    """Score pictures, of which only a batch is open at a time.

    Args:
        rate: the pipeline of the model.
        pictures: those to read.
        limits: of one of them.
        progress: called with how many are done, and of how many.

    Returns:
        The scored pictures, the best first, those with equal scores in their order; and those that cannot be read.
    """
    scored: list[Scored] = []
    refusals: list[Refusal] = []
    for first in range(0, len(pictures), BATCH_SIZE):
        progress(first, len(pictures))
        batch = pictures[first : first + BATCH_SIZE]
        thumbnails: dict[Picture, Image.Image] = {}

        def load(picture: Picture, thumbnails: dict[Picture, Image.Image] = thumbnails) -> Image.Image:
            image = open_picture(picture, limits)
            thumbnails[picture] = _thumbnail(image)
            return image

        for picture, result in zip(batch, rate.score_many(batch, load=load)):
            if "error" in result:
                refusals.append(Refusal(picture.name, result["error"]))
            else:
                scored.append(Scored(picture, result, thumbnails[picture]))
    return sorted(scored, key=lambda one: -one.result["score"]), refusals


def open_picture(picture: Picture, limits: Limits) -> Image.Image:
    """The decoded picture. Raises ImageLoadError where it cannot be read within the limits."""
    return load_image(picture.read(limits), max_pixels=limits.pixels)


def csv_table(scored: Sequence[Scored], refusals: Sequence[Refusal]) -> str:
    """All scores, the best first, then the files without one, as CSV.

    A name that a spreadsheet would run as a formula begins with an apostrophe.
    """
    attributes = list(scored[0].result.get("attributes", {})) if scored else []
    bins = list(scored[0].result["distribution"]) if scored else []
    calibrated = [name for name in ("percentile", "calibrated_score") if scored and name in scored[0].result]
    columns = ["rank", "file", "score", "score_std", "scale_low", "scale_high", *calibrated]
    columns += (
        [f"attribute_{_plain_cell(name)}" for name in attributes] + [f"share_{value}" for value in bins] + ["error"]
    )
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for rank, one in enumerate(scored, 1):
        result = one.result
        row = [rank, _plain_cell(one.picture.name), result["score"], result["score_std"], *result["scale"]]
        row += [result[name] for name in calibrated]
        row += [result["attributes"][name] for name in attributes] + [result["distribution"][value] for value in bins]
        table.writerow([*row, ""])
    for refusal in refusals:
        row = ["", _plain_cell(refusal.name), *[""] * (len(columns) - 3), _plain_cell(refusal.reason)]
        table.writerow(row)
    return text.getvalue()


def _plain_cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _thumbnail(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2.0)
    return small
