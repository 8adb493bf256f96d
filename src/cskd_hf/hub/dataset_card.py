"""The card of a rated set that `cskd-hf data convert` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.ratings.convert import size_category
from ..data.ratings.parquet import RATINGS_JSON, is_converted
from ..data.ratings.schema import SCHEMA_COLUMNS
from .licenses import license_metadata
from .rendering import render

_LABELS = ("distribution", "mean", "std", "n_votes")


@dataclass
class RatedSetFacts:
    """What a card says of a converted rated set.

    Attributes:
        info: `name`, `score_values`, `attributes`, `about`, and `license` and `source` where they are known.
        splits: of each its `images`, those `with_votes`, `mean` and `std` of the mean ratings, and the fewest and most
            `votes` of an image (null where these are not known).
        bytes: of all files.
        extra: columns beside those of the schema and the attributes, with their types.
    """

    info: dict[str, Any]
    splits: dict[str, dict[str, Any]]
    bytes: int
    extra: dict[str, str]

    @property
    def images(self) -> int:
        """Of all splits."""
        return sum(facts["images"] for facts in self.splits.values())


def read_rated_set(folder: str | os.PathLike, *, license: str = "", source: str = "") -> RatedSetFacts:
    """Count what is in a converted rated set; no image is read.

    Args:
        folder: of `cskd-hf data convert`.
        license: of images and ratings; none takes what the set says of itself.
        source: where they come from; none takes what the set says of itself.

    Raises:
        ValueError: the folder is none of `cskd-hf data convert`.
    """
    folder = Path(folder)
    files = sorted(folder.glob("data/*.parquet"))
    if not folder.is_dir() or not is_converted(folder) or not files:
        raise ValueError(f"'{folder}' is no rated set as `cskd-hf data convert` writes it; convert the set first.")
    info = json.loads((folder / RATINGS_JSON).read_text(encoding="utf-8"))
    info |= {name: value for name, value in (("license", license), ("source", source)) if value}
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(file.name.rsplit("-", 3)[0], []).append(file)  # train-00000-of-00002.parquet
    schema = pq.read_schema(files[0])
    known = {*SCHEMA_COLUMNS, *info.get("attributes", {})}
    return RatedSetFacts(
        info=info,
        splits={split: _split_facts(paths) for split, paths in parts.items()},
        bytes=sum(file.stat().st_size for file in files),
        extra={field.name: str(field.type) for field in schema if field.name not in known},
    )


def _split_facts(files: list[Path]) -> dict[str, Any]:
    table = pa.concat_tables([pq.read_table(file, columns=list(_LABELS)) for file in files])
    votes = pc.min_max(table["n_votes"]).as_py()
    return {
        "images": len(table),
        "with_votes": len(table) - table["distribution"].null_count,
        "mean": pc.mean(table["mean"]).as_py(),
        "std": pc.stddev(table["mean"]).as_py(),
        "votes": None if votes["min"] is None else [votes["min"], votes["max"]],
    }


def missing_set_facts(facts: RatedSetFacts) -> list[str]:
    """Why the card of a rated set would lack what its readers need; empty where it lacks nothing."""
    reasons = []
    if not facts.info.get("license"):
        reasons.append(
            "the licence of its images and ratings is not known; give --license, and only push what it allows to pass on."
        )
    if not facts.info.get("source"):
        reasons.append(
            "nothing says where its images and ratings come from; give --source, a sentence or a web address."
        )
    return reasons


def dataset_card(folder: str | os.PathLike, repo_id: str, *, license: str = "", source: str = "") -> DatasetCard:
    """The card of a converted rated set.

    Args:
        folder: of `cskd-hf data convert`.
        repo_id: `organisation/name` that the text loads it by.
        license, source: as of `read_rated_set`.

    Raises:
        ValueError: the folder is none of `cskd-hf data convert`.
    """
    return set_card(read_rated_set(folder, license=license, source=source), repo_id)


def set_card(facts: RatedSetFacts, repo_id: str) -> DatasetCard:
    """The card of a rated set from its facts."""
    info = facts.info
    data = DatasetCardData(
        **license_metadata(info.get("license", "")),
        pretty_name=info["name"],
        task_categories=["image-classification"],
        size_categories=[size_category(facts.images)],
        tags=["image-aesthetics", "image-quality-assessment", "ratings"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in facts.splits],
            }
        ],
    )
    values = info["score_values"]
    text = render(
        "dataset_card.md",
        facts=facts,
        info=info,
        values=", ".join(f"{value:g}" for value in values),
        low=values[0],
        high=values[-1],
        bins=len(values),
        attributes=info.get("attributes") or {},
        with_votes=sum(split["with_votes"] for split in facts.splits.values()),
        rows=[(split, *_cells(found)) for split, found in facts.splits.items()],
        repo_id=repo_id,
        ratings_json=RATINGS_JSON,
    )
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _cells(split: Mapping[str, Any]) -> tuple[str, ...]:
    """Images, with votes, votes an image, mean and standard deviation of the mean ratings."""
    votes = "not known" if split["votes"] is None else " to ".join(f"{end:,}" for end in split["votes"])
    return (
        f"{split['images']:,}",
        f"{split['with_votes']:,}",
        votes,
        f"{split['mean']:.3f}",
        f"{split['std']:.3f}",
    )
