"""Task vectors of raters: made, fitted to a new rater, and added to a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.ratings import RatingsError
from ..data.ratings.votes import load_votes
from ..data.sources import FolderSource
from ..evaluation.metrics import mae, srcc
from ..evaluation.predict import load_scorer
from ..models.modeling_cskd import CSKDForImageAesthetics
from ..training.settings import SettingsError
from .base import Base, save_scorer, tell_unreadable
from .layers import layer_effects, train_layers
from .ratings import MIN_RATINGS, check_few, on_scale, ratings_of
from .taste import (
    HEAD,
    bank_noise,
    choose_head_penalty,
    choose_images,
    fit_head,
    fit_scales,
    head_effects,
)
from .vectors import SUFFIX, TaskVector, VectorError, add_vector, base_of, load_bank

DEFAULT_PENALTY = 1000.0
"""Ridge penalty of a head vector where there is no bank to choose it on: near what the banks of simulated raters with
tastes of their own choose in benchmarks/personal_taste.py."""


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
    by_rater = on_scale(votes, general, scale)
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
    tell_unreadable(general)
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
    found, cells = ratings_of(ratings_file, general, rater, scale, images)
    general.read(cells, quiet)
    rated, pixels = general.rated(found)
    check_few(rated, ratings_file)
    facts = {"rater": rater or Path(ratings_file).stem}
    for name, vector in vectors.items():
        _check_base(general.model, vector, name)
    tell_unreadable(general)
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
    tell_unreadable(general)
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


def _check_base(model: CSKDForImageAesthetics, vector: TaskVector, name: str) -> None:
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
