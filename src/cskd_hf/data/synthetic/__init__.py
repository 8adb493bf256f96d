"""Synthetic photographs with ratings and captions: the data of the demo and of the tests, made on the spot."""

from __future__ import annotations

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
    "to_dataset",
]
