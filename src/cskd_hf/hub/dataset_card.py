"""The card of a rated set that `cskd-hf data convert` wrote."""

from __future__ import annotations

import os

from huggingface_hub import DatasetCard


def dataset_card(folder: str | os.PathLike, repo_id: str, *, license: str = "", source: str = "") -> DatasetCard:
    """The card of a converted rated set.

    Args:
        folder: of `cskd-hf data convert`.
        repo_id: `organisation/name` that the text loads it by.
        license: of images and ratings; none takes what the set says of itself.
        source: where images and ratings come from, a sentence or a URL; none takes what the set says of itself.
    """
    raise NotImplementedError
