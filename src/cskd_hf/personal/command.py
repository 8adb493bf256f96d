"""`cskd-hf personalize`: task vectors of raters, made, fitted to a new rater, and added to a model."""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..data.ratings import RatingsError, load_ratings
from ..data.ratings.votes import Votes, load_votes
from ..data.sources import FolderSource
from ..data.views import Preprocessing
from ..evaluation.metrics import mae, srcc
from ..evaluation.predict import load_scorer
from ..files import replaced_file, replaced_folder
from ..models.image_loading_cskd import ImageLoadError, load_image
from ..models.modeling_cskd import CSKDForImageAesthetics
from ..training.settings import SettingsError
from .layers import layer_effects, train_layers
from .taste import (
    HEAD,
    RatedFeatures,
    bank_noise,
    choose_head_penalty,
    choose_images,
    fit_head,
    fit_scales,
    head_effects,
)
from .vectors import SUFFIX, TaskVector, VectorError, add_vector, load_bank

DEFAULT_PENALTY = 1000.0
"""Ridge penalty of a head vector where there is no bank to choose it on: near what the banks of simulated raters with
tastes of their own choose in benchmarks/personal_taste.py."""

MIN_RATINGS = 5


class Base:
    """The general scorer, and what it makes of images; each image is read once.

    Args:
        name: Hub name or folder of a scorer.
        folder: that image paths start from.
        pixels: keep pixel values as well as features, for vectors of layers.
    """

    def __init__(self, name: str, folder: str | os.PathLike, pixels: bool = False) -> None:
        self.model, self.preprocessing = load_scorer(name)
        self.model.eval()
        self.folder = Path(folder)
        self.unreadable: dict[str, str] = {}
        self._keep_pixels = pixels
        self._pixels: dict[str, torch.Tensor] = {}
        self._features: dict[str, torch.Tensor] = {}

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score."""
        values = self.model.config.score_values
        return float(values[0]), float(values[-1])

    @torch.no_grad()
    def read(self, images: Mapping[str, Any], quiet: bool) -> None:
        """Encode images by key, each once; those that cannot be read are noted and left out."""
        processor = self.preprocessing.to_image_processor()
        for key, image in tqdm(images.items(), desc="encoding images", unit="image", disable=quiet):
            if key in self._features or key in self.unreadable:
                continue
            place = self.folder / image if isinstance(image, (str, os.PathLike)) else image
            try:
                picture = load_image(place)
            except ImageLoadError as error:
                self.unreadable[key] = error.reason
                continue
            pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
            self._features[key] = self.model.encode(pixels)[0][0].float()
            if self._keep_pixels:
                self._pixels[key] = pixels[0]

    def rated(self, ratings: Mapping[str, float]) -> tuple[RatedFeatures, torch.Tensor | None]:
        """Features, and pixels where they are kept, of the images of one rater that can be read."""
        keys = [key for key in ratings if key in self._features]
        values = torch.tensor([ratings[key] for key in keys], dtype=torch.float64)
        features = torch.stack([self._features[key] for key in keys]) if keys else torch.zeros(0, 1)
        return RatedFeatures(features, values), torch.stack([self._pixels[key] for key in keys]) if self._pixels and keys else None  # fmt: skip


def make_vectors(
    base: str,
    votes_file: str,
    output: str,
    *,
    images: str | None = None,
    parts: str = "head",
    min_ratings: int = 20,
    scale: Sequence[float] = (),
    dtype: str = "float32",
    steps: int = 30,
    learning_rate: float = 3e-5,
    seed: int = 0,
    quiet: bool = True,
) -> dict[str, Path]:
    """A task vector for each rater of a file with one row a vote.

    Args:
        base: the general scorer, Hub name or folder.
        votes_file: with columns of image, rater and rating.
        output: folder for one file a rater.
        images: folder that the image paths start from; the file's own by default.
        parts: "head" in closed form; "last" and "all" train layers by gradient as well, from that head.
        min_ratings: raters with fewer ratings are left out.
        scale: lowest and highest rating, where it is not the base's scale.
        dtype: "float32" or "float16".
        steps, learning_rate: of the gradient.
        seed: of batches.
        quiet: no progress bars.

    Returns:
        the file of each rater.

    Raises:
        RatingsError: no rater has enough ratings, or a rating is off the scale.
    """
    if min_ratings < MIN_RATINGS:
        raise SettingsError(f"min_ratings={min_ratings} must be at least {MIN_RATINGS}.")
    votes = load_votes(votes_file)
    general = Base(base, images or Path(votes_file).parent, pixels=parts != "head")
    by_rater = _on_scale(votes, general, scale)
    chosen = {rater: found for rater, found in by_rater.items() if len(found) >= min_ratings}
    needed = {key for found in chosen.values() for key in found}
    general.read({key: image for key, image in zip(votes.keys, votes.images) if key in needed}, quiet)
    raters = {rater: general.rated(found) for rater, found in chosen.items()}
    raters = {rater: found for rater, found in raters.items() if len(found[0].ratings) >= min_ratings and found[0].ratings.std() > 0}  # fmt: skip
    if not raters:
        most = max(map(len, by_rater.values()), default=0)
        raise RatingsError(
            f"{votes_file}: none of {len(by_rater)} raters has {min_ratings} readable, different ratings (the most is "
            f"{most}); collect more, or give a smaller --min-ratings."
        )
    penalty = choose_head_penalty(general.model, [found[0] for found in raters.values()], seed)
    paths = {}
    for rater, (rated, pixels) in tqdm(raters.items(), desc="task vectors", unit="rater", disable=quiet):
        vector = fit_head(general.model, rated, penalty, rater=rater)
        if parts != "head":
            vector = train_layers(
                general.model, general.preprocessing, pixels, rated.ratings, parts=parts, start=vector, steps=steps,
                learning_rate=learning_rate, seed=seed, rater=rater, penalty=penalty,
            )  # fmt: skip
        paths[rater] = _file_of(rater, Path(output), paths.values())
        vector.save(paths[rater], dtype)
    _tell_unreadable(general)
    return paths


def fit_rater(
    base: str,
    ratings_file: str,
    *,
    bank: str | None = None,
    images: str | None = None,
    rater: str | None = None,
    scale: Sequence[float] = (),
    quiet: bool = True,
) -> tuple[TaskVector, dict[str, float]]:
    """The vector of a new rater, from a few ratings: a weighted sum of a bank's vectors, or without a bank of the head.

    Args:
        base: the general scorer.
        ratings_file: image and rating; with `rater` one row a vote.
        bank: folder of other raters' vectors.
        images: folder that the image paths start from; the file's own by default.
        rater: whose ratings to take of a file with several raters.
        scale: lowest and highest rating, where it is not the base's scale.
        quiet: no progress bar.

    Returns:
        the vector; and held-out figures of leaving each image out in turn: `srcc` and `mae` of the personal scorer,
        `general_srcc` and `general_mae` (empty without a bank).

    Raises:
        RatingsError: fewer than five readable ratings, or all equal.
        VectorError: the bank was made for another base.
    """
    vectors = load_bank(bank) if bank else {}
    heads_only = all(set(vector.tensors) <= set(HEAD) for vector in vectors.values())
    general = Base(base, images or Path(ratings_file).parent, pixels=not heads_only)
    found, cells = _ratings_of(ratings_file, general, rater, scale, images)
    general.read(cells, quiet)
    rated, pixels = general.rated(found)
    _check_few(rated, ratings_file)
    facts = {"rater": rater or Path(ratings_file).stem}
    for name, vector in vectors.items():
        _check_base(general.model, vector, name)
    _tell_unreadable(general)
    if not vectors:
        return fit_head(general.model, rated, DEFAULT_PENALTY, **facts), {}
    others = [vector for vector in vectors.values() if vector.facts.get("rater") != facts["rater"]] or list(vectors.values())  # fmt: skip
    effects = head_effects(general.model, rated.features, others) if heads_only else layer_effects(general.model, pixels, others)  # fmt: skip
    fit = fit_scales(general.model, rated, others, effects, noise=bank_noise(others), **facts)
    true = rated.ratings.numpy()
    figures = {"srcc": srcc(fit.left_out, true), "mae": mae(fit.left_out, true)}
    figures |= {"general_srcc": srcc(fit.general, true), "general_mae": mae(fit.general, true)}
    fit.vector.facts["left_out"] = figures
    return fit.vector, figures


def images_to_ask(base: str, bank: str, images: str, count: int = 20, quiet: bool = True) -> list[str]:
    """Which images of a folder a new rater should rate: those that tell most of the rater's taste, see `choose_images`.

    Args:
        base: the general scorer.
        bank: folder of vectors of heads.
        images: folder.
        count: images to choose.
        quiet: no progress bar.

    Raises:
        VectorError: the bank was made for another base, or changes layers.
        SettingsError: fewer images than `count`.
    """
    vectors, source = load_bank(bank), FolderSource(images)
    if not 1 <= count <= len(source):
        raise SettingsError(f"count={count} must be between 1 and {len(source)}, the images in '{images}'.")
    general = Base(base, images)
    for name, vector in vectors.items():
        _check_base(general.model, vector, name)
        if not set(vector.tensors) <= set(HEAD):
            raise VectorError(
                f"'{name}' changes layers; choosing images takes a bank of --parts head, which is quick."
            )
    general.read({path: path for path in source.paths}, quiet)
    _tell_unreadable(general)
    paths = [path for path in source.paths if path not in general.unreadable]
    rated, _ = general.rated(dict.fromkeys(paths, 0.0))
    bank_vectors = list(vectors.values())
    effects = head_effects(general.model, rated.features, bank_vectors)
    return [paths[row] for row in choose_images(effects, count, bank_noise(bank_vectors))]


def apply_vectors(base: str, vectors: Sequence[str], output: str, scales: Sequence[float] = ()) -> None:
    """Add vectors to a scorer and save the result, which loads as any other.

    Args:
        base: Hub name or folder of the base, or of a model that vectors were added to.
        vectors: files.
        output: folder for the model.
        scales: factor of each vector, or one for all; 1 by default.

    Raises:
        VectorError: a vector of another base.
        SettingsError: the output exists and is no model, or a number of scales that does not fit.
    """
    factors = list(scales) or [1.0]
    factors = factors * len(vectors) if len(factors) == 1 else factors
    if len(factors) != len(vectors):
        raise SettingsError(f"{len(vectors)} vectors need one --scale for all or one each; given: {list(scales)}.")
    target = Path(output)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / "config.json").is_file())):
        raise SettingsError(f"'{output}' exists and is no model; give --output another folder.")
    model, preprocessing = load_scorer(base)
    for path, factor in zip(vectors, factors):
        add_vector(model, TaskVector.load(path), factor)
    save_scorer(model, preprocessing, target)


def save_scorer(model: CSKDForImageAesthetics, preprocessing: Preprocessing, folder: Path) -> None:
    """Model and image processor, whole or not at all."""
    with replaced_folder(folder) as partial:
        model.save_pretrained(partial)
        preprocessing.to_image_processor().save_pretrained(partial)


def personalize_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf personalize vectors | ask | fit | apply`; returns the exit code 0."""
    quiet = getattr(namespace, "quiet", True) or not sys.stderr.isatty()
    if namespace.action == "vectors":
        paths = make_vectors(
            namespace.base, namespace.votes, namespace.output, images=namespace.images, parts=namespace.parts,
            min_ratings=namespace.min_ratings, scale=namespace.scale, dtype="float16" if namespace.half else "float32",
            steps=namespace.steps, learning_rate=namespace.learning_rate, seed=namespace.seed, quiet=quiet,
        )  # fmt: skip
        size = max(path.stat().st_size for path in paths.values()) / 2**20
        print(f"{namespace.output}: {len(paths)} task vectors of at most {size:.2f} MiB")
    elif namespace.action == "fit":
        vector, figures = fit_rater(
            namespace.base, namespace.ratings, bank=namespace.bank, images=namespace.images, rater=namespace.rater,
            scale=namespace.scale, quiet=quiet,
        )  # fmt: skip
        vector.save(namespace.output)
        print(f"{namespace.output}: from {vector.facts['ratings']} ratings")
        if figures:
            print(
                "each rating left out in turn: SRCC {srcc:.3f} (general scorer {general_srcc:.3f}), MAE {mae:.3f} "
                "({general_mae:.3f}); of so few ratings these are rough".format(**figures)
            )
    elif namespace.action == "ask":
        chosen = images_to_ask(namespace.base, namespace.bank, namespace.images, namespace.count, quiet)
        with replaced_file(namespace.output) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["image", "rating"], *([path, ""] for path in chosen)])
        print(
            f"{namespace.output}: {len(chosen)} images to rate; write each rating behind its image, then `personalize fit`"
        )
    else:
        apply_vectors(namespace.base, namespace.vectors, namespace.output, namespace.scale)
        print(f"{namespace.output}: saved; score with `cskd-hf score {namespace.output} IMAGES`")
    return 0


def _on_scale(votes: Votes, general: Base, scale: Sequence[float]) -> dict[str, dict[str, float]]:
    """Ratings by rater, on the base's scale."""
    low, high = _ends(scale, general)
    bad = np.flatnonzero((votes.ratings < low) | (votes.ratings > high))
    if len(bad):
        place = votes.row_names[bad[0]] if votes.row_names else f"row {bad[0] + 1}"
        raise RatingsError(_off_scale(f"{votes.source}: {place}", votes.ratings[bad[0]], low, high))
    by_rater = votes.by_rater()
    return {rater: {key: _mapped(value, low, high, general) for key, value in found.items()} for rater, found in by_rater.items()}  # fmt: skip


def _ratings_of(
    file: str, general: Base, rater: str | None, scale: Sequence[float], images: str | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Ratings by key on the base's scale, and the image of each key."""
    if rater is not None:
        votes = load_votes(file)
        by_rater = _on_scale(votes, general, scale)
        if rater not in by_rater:
            shown = ", ".join(list(by_rater)[:10])
            raise RatingsError(f"{file}: there is no rater {rater!r}; the first of {len(by_rater)}: {shown}.")
        cells = dict(zip(votes.keys, votes.images))
        return by_rater[rater], {key: cells[key] for key in by_rater[rater]}
    low, high = _ends(scale, general)
    ratings = load_ratings(file, image_dir=images, score_values=[low, high])
    cells = dict(zip(ratings["key"][:], ratings.with_format("arrow")[:]["image"].to_pylist()))
    found = {key: _mapped(mean, low, high, general) for key, mean in zip(ratings["key"][:], ratings["mean"][:])}
    return found, cells


def _ends(scale: Sequence[float], general: Base) -> tuple[float, float]:
    if scale and (len(scale) != 2 or not scale[0] < scale[1]):
        raise SettingsError(f"scale={list(scale)} must be two rising numbers, e.g. 1 5.")
    return (float(scale[0]), float(scale[1])) if scale else general.scale


def _mapped(value: float, low: float, high: float, general: Base) -> float:
    to_low, to_high = general.scale
    return to_low + (value - low) * (to_high - to_low) / (high - low)


def _off_scale(place: str, value: float, low: float, high: float) -> str:
    return (
        f"{place}: the rating {value:g} is outside {low:g} to {high:g}; correct it, or give the scale of the ratings with "
        "--scale LOW HIGH (it is mapped to the base's)."
    )


def _check_few(rated: RatedFeatures, file: str) -> None:
    if len(rated.ratings) < MIN_RATINGS:
        raise RatingsError(
            f"{file}: {len(rated.ratings)} readable ratings; at least {MIN_RATINGS} are needed, about 20 are advised."
        )
    if rated.ratings.std() == 0:
        raise RatingsError(
            f"{file}: all {len(rated.ratings)} ratings are equal, so they tell no taste; rate more images."
        )


def _check_base(model: CSKDForImageAesthetics, vector: TaskVector, name: str) -> None:
    from .vectors import base_of

    if vector.base != base_of(model):
        raise VectorError(
            f"the task vector '{name}' was made for the base {vector.base}, but this model is {base_of(model)}; give the "
            "model that the bank was made with."
        )


def _file_of(rater: str, folder: Path, taken: Any) -> Path:
    """A file name that any system takes; raters whose names become equal get a number."""
    stem = re.sub(r"[^\w.-]+", "_", rater).strip("._") or "rater"
    path, number = folder / f"{stem}{SUFFIX}", 2
    while path in set(taken):
        path, number = folder / f"{stem}-{number}{SUFFIX}", number + 1
    return path


def _tell_unreadable(general: Base) -> None:
    if general.unreadable:
        key, reason = next(iter(general.unreadable.items()))
        print(
            f"{len(general.unreadable)} images could not be read and were left out, e.g. {key}: {reason}",
            file=sys.stderr,
        )


__all__ = ["Base", "apply_vectors", "fit_rater", "images_to_ask", "make_vectors", "personalize_command"]
