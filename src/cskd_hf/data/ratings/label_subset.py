"""The `cskd-hf data subset` command."""

from __future__ import annotations

import argparse
from pathlib import Path

from .audit import location_of, reading_options
from .checks import RatingsError
from .label_lists import few_rated, write_label_list
from .locations import open_ratings
from .schema import descriptions_of, select_split


def subset_command(namespace: argparse.Namespace) -> int:
    """The `cskd-hf data subset` command: draw rated images and write the list of their keys."""
    location, reading = location_of(namespace.data, namespace.folder), reading_options(namespace)
    if bool(namespace.labels) == bool(namespace.label_share):
        raise RatingsError("give --labels N or --label-share SHARE, one of them.")
    if namespace.labels < 0 or not 0 <= namespace.label_share <= 1:
        raise RatingsError("--labels must be at least 1, and --label-share above 0, at most 1.")
    if Path(namespace.output).exists() and not namespace.overwrite:
        raise RatingsError(f"'{namespace.output}' exists; give --overwrite to replace it, or another --output.")
    ratings = open_ratings(location, **{"images": "ignore", **reading})
    train = select_split(ratings, namespace.split)
    few = {"labels": namespace.labels, "label_share": namespace.label_share, "seed": namespace.seed}
    keys = few_rated(train, ratings, **few)["key"][:]
    name = descriptions_of(ratings)[0]["name"]
    write_label_list(namespace.output, keys, name=name, split=namespace.split, total=len(train), seed=namespace.seed)
    print(f"{namespace.output}: {len(keys)} of the {len(train)} images in the split '{namespace.split}' of {name}")
    return 0
