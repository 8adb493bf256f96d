"""`cskd-hf push`: a checkpoint to the Hub, or, of a dry run, to a folder."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .card_options import parse_data_licenses, read_about
from .folder import WRITTEN, PublishedFolder, build_folder
from .upload import Pushed, check_repo_id, upload_folder


@dataclass(frozen=True)
class PublishResult:
    """What was pushed, or, of a dry run, written.

    Args:
        files: of the repository, relative, with forward slashes, sorted.
        folder: the written folder of a dry run, else None.
        pushed: the commit; None of a dry run.
    """

    files: tuple[str, ...]
    folder: PublishedFolder | None = None
    pushed: Pushed | None = None


def publish(
    checkpoint: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: str | os.PathLike | None = None,
    native: bool = False,
    evaluations: Sequence[str | os.PathLike] = (),
    license: str = "",
    data_licenses: Mapping[str, str] | None = None,
    examples: Sequence[str | os.PathLike] = (),
    about: str = "",
    overwrite: bool = False,
) -> PublishResult:
    """Build the repository folder of a checkpoint and push it in one commit; see `build_folder` for what is refused.

    Args:
        checkpoint, native, evaluations, license, data_licenses, examples, about: as of `build_folder`.
        repo_id: `organisation/name`.
        private, revision: as of `upload_folder`.
        dry_run: write the folder here and upload nothing.
        overwrite: replace the folder of a dry run if it exists.

    Raises:
        PublishError: the folder is refused, or the Hub did not take it; nothing is then reported as pushed.
        ExportError: native, of an encoder without a stock classifier.
    """
    check_repo_id(repo_id)
    building = {"repo_id": repo_id, "native": native, "evaluations": evaluations, "license": license} | {
        "data_licenses": data_licenses, "examples": examples, "about": about
    }  # fmt: skip
    if dry_run is not None:
        folder = build_folder(checkpoint, dry_run, overwrite=overwrite, **building)
        return PublishResult(folder.files, folder=folder)
    with tempfile.TemporaryDirectory(prefix="cskd-hf-") as work:
        folder = build_folder(checkpoint, Path(work) / repo_id.rpartition("/")[2], **building)
        pushed = upload_folder(
            folder.path, repo_id, private=private, revision=revision, message="Upload model with cskd-hf",
            replaces=WRITTEN,
        )  # fmt: skip
    return PublishResult(folder.files, pushed=pushed)


def push_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf push`; returns the exit code 0."""
    result = publish(
        namespace.checkpoint,
        namespace.repo_id,
        private=namespace.private,
        revision=namespace.revision,
        dry_run=namespace.dry_run,
        native=namespace.native,
        evaluations=namespace.evaluation,
        license=namespace.license,
        data_licenses=parse_data_licenses(namespace.data_license),
        examples=namespace.example,
        about=read_about(namespace.about),
        overwrite=namespace.overwrite,
    )
    if result.pushed is None:
        print(f"{namespace.dry_run}: {', '.join(result.files)}")
        print("a dry run: the same files would be pushed; nothing was uploaded")
    else:
        print(f"{result.pushed.url}: {len(result.files)} files in one commit, loaded and compared before")
    return 0
