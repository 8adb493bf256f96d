"""Pushing a converted rated set to the Hub: the Parquet files, ratings.json and the card, in one commit."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import DatasetCard

from ..data.ratings.convert import UNPUBLISHED
from ..data.ratings.parquet import RATINGS_JSON
from ..files import replaced_folder, write_json
from .card import CARD
from .dataset_card import RatedSetFacts, missing_set_facts, read_rated_set, set_card
from .upload import check_repo_id, upload_folder


@dataclass(frozen=True)
class PushedRatings:
    """What was pushed, or, of a dry run, written.

    Args:
        folder: that was pushed or written; none after a push, whose folder is gone.
        files: all of its files, relative, sorted.
        images: in all splits.
        url: of the commit; none of a dry run.
    """

    folder: Path | None
    files: tuple[str, ...]
    images: int
    url: str | None = None


def push_ratings(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    license: str = "",
    source: str = "",
    private: bool = False,
    revision: str | None = None,
    dry_run: str | os.PathLike | None = None,
) -> PushedRatings:
    """Push a rated set that `cskd-hf data convert` wrote.

    The card is generated; a README.md that its owner has rewritten is pushed as it is, if it states a licence.

    Args:
        folder: of `cskd-hf data convert`; stays as it is.
        repo_id: `organisation/name`; made where it does not exist.
        license: of images and ratings, a Hub id or any other text; none takes what the set says of itself.
        source: where they come from; none takes what the set says of itself.
        private: of a repository that does not exist yet.
        revision: branch; none takes the main one.
        dry_run: write the repository's folder here and upload nothing.

    Raises:
        ValueError: the folder is none of `cskd-hf data convert`, or the card would lack licence or source.
        PublishError: `repo_id` is no name of a repository, or the Hub did not take it.
    """
    check_repo_id(repo_id)
    folder = Path(folder)
    facts = read_rated_set(folder, license=license, source=source)
    own = _own_card(folder)
    if own is None and (reasons := missing_set_facts(facts)):
        raise ValueError(f"'{folder}' is not pushed: {' '.join(reasons)}")
    if dry_run is not None:
        _refuse_foreign(Path(dry_run))
        with replaced_folder(Path(dry_run)) as partial:
            files = _stage(folder, partial, facts, repo_id, own, shutil.copyfile)
        return PushedRatings(Path(dry_run), files, facts.images)
    # Beside the set, where links cost no space.
    with tempfile.TemporaryDirectory(prefix=".push-", dir=folder.resolve().parent) as staged:
        files = _stage(folder, Path(staged), facts, repo_id, own, _link)
        pushed = upload_folder(
            staged,
            repo_id,
            repo_type="dataset",
            private=private,
            revision=revision,
            message=f"Upload {facts.info['name']}: {facts.images:,} rated images",
            replaces=["data/*.parquet"],
        )
    return PushedRatings(None, files, facts.images, pushed.url)


def _own_card(folder: Path) -> str | None:
    """The README.md of the folder, if it is not the one that `cskd-hf data convert` wrote.

    Raises:
        ValueError: it has no licence.
    """
    path = folder / CARD
    text = path.read_text(encoding="utf-8") if path.is_file() else UNPUBLISHED
    if UNPUBLISHED in text:
        return None
    if not DatasetCard(text, ignore_metadata_errors=True).data.get("license"):
        raise ValueError(
            f"'{path}' states no licence; set `license` in its front matter, or remove it to have one generated."
        )
    return text


def _refuse_foreign(place: Path) -> None:
    if place.exists() and not (place / RATINGS_JSON).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"'{place}' exists and holds no rated set; give --dry-run another folder.")


def _stage(
    folder: Path,
    staged: Path,
    facts: RatedSetFacts,
    repo_id: str,
    own: str | None,
    put: Callable[[Path, Path], object],
) -> tuple[str, ...]:
    """Fill the folder of the repository; returns its files."""
    (staged / "data").mkdir()
    for file in sorted(folder.glob("data/*.parquet")):
        put(file, staged / "data" / file.name)
    write_json(staged / RATINGS_JSON, facts.info)
    (staged / CARD).write_text(own or str(set_card(facts, repo_id)), encoding="utf-8")
    return tuple(sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()))


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(file, place)


def push_ratings_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf data push`; returns the exit code 0.

    Raises:
        ValueError, PublishError: see `push_ratings`.
    """
    pushed = push_ratings(
        namespace.ratings,
        namespace.repo,
        license=namespace.license,
        source=namespace.source,
        private=namespace.private,
        revision=namespace.revision,
        dry_run=namespace.dry_run,
    )
    place = pushed.url or f"written to {pushed.folder}, nothing was uploaded"
    print(f"{namespace.repo}: {pushed.images:,} rated images, {len(pushed.files)} files; {place}")
    return 0
