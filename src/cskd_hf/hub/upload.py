"""A folder to the Hub in one commit: tried again where the connection or the Hub fails, and verified file by file."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .checks import PublishError, check_no_pickles, relative_files
from .pickles import pickle_name

logger = logging.getLogger(__name__)

WAITS = (1.0, 4.0, 15.0, 60.0)
"""Seconds before each further attempt at a push; huggingface_hub itself repeats single requests before that."""

# Beside 5xx: timeouts, too many requests, and a branch that moved while the files were on their way.
_RETRIED = frozenset({408, 409, 412, 429})


@dataclass(frozen=True)
class Pushed:
    """A commit on the Hub that holds a folder, verified file by file: its web address and its hash."""

    url: str
    commit: str


@dataclass(frozen=True)
class _Target:
    repo_id: str
    repo_type: str
    private: bool
    revision: str | None
    space_sdk: str | None
    message: str
    replaces: tuple[str, ...]


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no `organisation/name`.

    Raises:
        PublishError: it is none; says why.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"'{repo_id}' is no name of a repository: {error} Give organisation/name.") from error
    if repo_id.count("/") != 1:
        raise PublishError(f"'{repo_id}' is no name of a repository; give organisation/name.")


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
    waits: Sequence[float] = WAITS,
) -> Pushed:
    """Push a folder in one commit, again and again where the connection or the Hub fails, and verify what arrived.

    A commit whose answer was lost is found on the next attempt, and the same files pushed again make no second one.

    Args:
        folder: every file of it is pushed.
        repo_id: `organisation/name`; made where it does not exist.
        repo_type: `model`, `dataset` or `space`.
        private: of a repository that does not exist yet; one that is public is refused.
        revision: branch; made where it does not exist. By default the main one.
        message: of the commit.
        replaces: patterns of files (`*.onnx`) that are deleted in the same commit where the folder has them no more.
        space_sdk: of a new Space, e.g. `gradio`.
        waits: seconds before each further attempt.

    Raises:
        PublishError: the folder holds a pickle, or the Hub did not take it, with the reason. A repository that was made
            for it stays, without a commit of it.
    """
    folder = Path(folder)
    files = relative_files(folder)
    if not files:
        raise PublishError(f"'{folder}' is not there or has no files, so there is nothing to push.")
    check_no_pickles(folder)
    target = _Target(repo_id, repo_type, private, revision, space_sdk, message, tuple(replaces))
    for wait in (*waits, None):
        try:
            return _attempt(folder, files, target)
        except OfflineModeIsEnabled as error:
            raise PublishError("nothing can be pushed offline: unset HF_HUB_OFFLINE, or write a dry run.") from error
        except PublishError:
            raise
        except ValueError as error:  # of the metadata of the card, or of an answer that is none
            raise PublishError(f"the Hub refuses to take '{repo_id}': {_short(error)}") from error
        except (HfHubHTTPError, ConnectionError, TimeoutError, RuntimeError, _transport_error()) as error:
            if not _transient(error):
                raise PublishError(f"the Hub refuses to take '{repo_id}': {_short(error)}") from error
            if wait is None:
                raise PublishError(
                    f"'{repo_id}' was NOT pushed, after {len(waits) + 1} attempts: {_short(error)} Push it again: what "
                    "has arrived is not sent twice."
                ) from error
            logger.warning("pushing '%s' failed (%s); again in %g s", repo_id, _short(error), wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _attempt(folder: Path, files: list[str], target: _Target) -> Pushed:
    api = HfApi()
    repo = api.create_repo(
        target.repo_id,
        repo_type=target.repo_type,
        private=target.private or None,
        space_sdk=target.space_sdk,
        exist_ok=True,
    )
    place = {"repo_id": repo.repo_id, "repo_type": target.repo_type}
    if target.revision:
        api.create_branch(**place, branch=target.revision, exist_ok=True)
    info = api.repo_info(**place, revision=target.revision)
    if target.private and not info.private:
        raise PublishError(
            f"'{repo.repo_id}' exists and is public, so nothing was pushed; make it private in its settings, or push "
            "without --private."
        )
    operations = [CommitOperationAdd(name, folder / name) for name in files]
    operations += _deletions(api.list_repo_files(**place, revision=target.revision), files, target)
    commit = api.create_commit(
        **place,
        operations=operations,
        commit_message=target.message,
        revision=target.revision,
        # Two attempts must not both land, should the first one only have been slow.
        parent_commit=info.sha,
    )
    _verify(api, folder, files, place, commit.oid)
    return Pushed(str(commit.commit_url), commit.oid)


def _deletions(there: list[str], files: list[str], target: _Target) -> list[CommitOperationDelete]:
    """Of the repository's files that are not pushed again, those that an earlier push wrote.

    Raises:
        PublishError: one that stays is a pickle by its name.
    """
    others = [name for name in there if name not in files]
    stale = [name for name in others if any(fnmatch(name, pattern) for pattern in target.replaces)]
    if pickles := [name for name in others if name not in stale and pickle_name(name)]:
        raise PublishError(
            f"'{target.repo_id}' already holds what is a pickle by its name ({', '.join(pickles)}), which would stay "
            "beside the pushed files; delete it there first."
        )
    return [CommitOperationDelete(name) for name in stale]


def _verify(api: HfApi, folder: Path, files: list[str], place: dict[str, str], commit: str) -> None:
    """Compare the commit's tree with the folder, by the hashes that git and Git-LFS keep.

    Raises:
        PublishError: a file is missing there, or another one.
    """
    tree = {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in api.list_repo_tree(**place, recursive=True, revision=commit)
        if isinstance(entry, RepoFile)
    }
    wrong = [name for name in files if tree.get(name) not in _hashes(folder / name)]
    if wrong:
        raise PublishError(
            f"'{place['repo_id']}' was NOT pushed whole: its commit {commit[:8]} lacks {', '.join(wrong)} or holds other "
            "content there. Push it again."
        )


def _hashes(path: Path) -> tuple[str, str]:
    """SHA-256 of a file, by which Git-LFS names it, and the hash of its git blob."""
    content, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            content.update(chunk)
            blob.update(chunk)
    return content.hexdigest(), blob.hexdigest()


def _transport_error() -> type[Exception]:
    """What the HTTP client of the installed huggingface_hub (httpx or httpx2) raises where a connection fails."""
    return importlib.import_module(type(get_session()).__module__.partition(".")[0]).TransportError


def _transient(error: Exception) -> bool:
    """Whether another attempt may succeed: no answer, an answer that says so, or a failed upload to Xet storage."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in _RETRIED
    return True


def _short(error: Exception) -> str:
    """The first lines of a message, in one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:500]}"
