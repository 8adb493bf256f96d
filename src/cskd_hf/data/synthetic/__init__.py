"""Synthetic photographs with ratings and captions: the data of the demo and of the tests, made on the spot."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from .factors import CASTS, COLORS, LANDS, PLACEMENTS, SUBJECTS, TIMES, draw_factors
from .generate import SyntheticBatch, SyntheticPhotographs, to_dataset
from .rating import PARTS, SCORE_VALUES, RaterPopulation, latent_score, rating_parts

__all__ = [
    "CASTS",
    "COLORS",
    "LANDS",
    "PARTS",
    "PLACEMENTS",
    "SCORE_VALUES",
    "SUBJECTS",
    "TIMES",
    "RaterPopulation",
    "SyntheticBatch",
    "SyntheticPhotographs",
    "draw_factors",
    "latent_score",
    "rating_parts",
    "tiny_clip_path",
    "to_dataset",
]


def tiny_clip_path() -> Path:
    """Folder of the weights that ship with the package; `from_pretrained` of transformers' CLIP classes reads it."""
    return Path(str(files("cskd_hf") / "assets" / "tiny_clip"))
