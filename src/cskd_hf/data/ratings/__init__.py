"""Labelled data in the one schema that `schema` describes: read it, check it, convert it, draw from it.

ratings = load_ratings("ratings.csv")
train = select_split(ratings, "train")
few = rated_subset(train, n=100, seed=0)
"""

from .checks import RatingsError
from .loading import load_ratings
from .schema import attributes_of, build_ratings, rated_subset, score_values_of, select_split

__all__ = [
    "RatingsError",
    "attributes_of",
    "build_ratings",
    "load_ratings",
    "rated_subset",
    "score_values_of",
    "select_split",
]
