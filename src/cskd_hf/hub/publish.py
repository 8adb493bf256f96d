"""Pushing a checkpoint, or any checked folder, to the Hub in one commit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .folder import PublishedFolder


@dataclass(frozen=True)
class PublishResult:
    """What was pushed, or, of a dry run, written.

    Args:
        folder: what was built.
        url: of the commit; None of a dry run.
        commit: its hash; None of a dry run.
    """

    folder: PublishedFolder
    url: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Pushed:
    """A commit on the Hub that holds a folder, verified file by file: its web address and its hash."""

    url: str
    commit: str


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
) -> PublishResult:
    """Build the repository folder of a checkpoint and push it in one commit; see `build_folder` for what is refused.

    Args:
        checkpoint, native, evaluations, license, data_licenses: as of `build_folder`.
        repo_id: `organisation/name`.
        private: of a repository that does not exist yet.
        revision: branch; made where it does not exist. By default the main one.
        dry_run: write the folder here and upload nothing.

    Raises:
        PublishError: the folder is refused, or the Hub did not take it; nothing is then reported as pushed.
    """
    raise NotImplementedError


def upload_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload with cskd-hf",
    replaces: Sequence[str] = (),
    space_sdk: str | None = None,
) -> Pushed:
    """Push a folder in one commit, again and again where the connection or the Hub fails, and verify what arrived.

    The same files pushed again make no second commit.

    Args:
        folder: every file of it is pushed.
        repo_id: `organisation/name`; made where it does not exist.
        repo_type: `model`, `dataset` or `space`.
        private: of a repository that does not exist yet.
        revision: branch; made where it does not exist. By default the main one.
        message: of the commit.
        replaces: patterns of files (`*.onnx`) that are deleted in the same commit where the folder has them no more.
        space_sdk: of a new Space, e.g. `gradio`.

    Raises:
        PublishError: the folder holds a pickle, or the Hub did not take it, with the reason.
    """
    raise NotImplementedError
