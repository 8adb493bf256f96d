"""Evaluation of predictions: figures, groups, what is left out, comparison and files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cskd_hf.data.ratings import build_ratings
from cskd_hf.evaluation.evaluate import (
    EvaluationSettings,
    ScoredImages,
    evaluate_scores,
    evaluation_table,
)

VALUES = (1.0, 2.0, 3.0, 4.0, 5.0)
QUICK = EvaluationSettings(n_resamples=100)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), (number % 256, 90, 120)).save(buffer, "PNG")
    return buffer.getvalue()


def rated(n: int = 60, **columns):
    rng = np.random.default_rng(0)
    images = [{"path": f"{i}.png", "bytes": picture(i)} for i in range(n)]
    data = {"image": images, "distribution": rng.dirichlet(np.ones(5), n)}
    data |= {"theme": [("sea", "town", "wood")[i % 3] for i in range(n)]} | columns
    return build_ratings(data, VALUES, name="made up")


def scored(ratings, noise: float = 0.3, values=VALUES, **more) -> ScoredImages:
    rng = np.random.default_rng(1)
    true = np.asarray(ratings["distribution"][:])
    predicted = (1 - noise) * true + noise * rng.dirichlet(np.ones(5), len(true))
    return ScoredImages(ratings, predicted @ np.array(values), values, predicted, **more)


def test_runs():
    ratings = rated()
    result = evaluate_scores(scored(ratings), settings=QUICK)
    print(evaluation_table(result))
