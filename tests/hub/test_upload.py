"""Uploads to a Hub on the loopback interface, through the faults that networks and servers have."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub_environments import clean_environment
from hub_server import TOKEN, Fault, HubServer, hub_server

# One process that has imported everything with the server as its Hub, for all tests: the Hub's address is read at import.
_WORKER = """
import json, os, sys
from cskd_hf.hub.upload import upload_folder
for line in sys.stdin:
    wanted = json.loads(line)
    os.environ["HF_TOKEN"] = wanted.pop("token")
    try:
        pushed = upload_folder(**{"waits": [0, 0]} | wanted)
        print(json.dumps({"commit": pushed.commit, "url": pushed.url}), flush=True)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
"""
NAME = "somebody/model"


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with hub_server() as running:
        yield running


@pytest.fixture(scope="module")
def worker(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(package=True) | server.environment(tmp_path_factory.mktemp("home")),
    )
    yield process
    process.stdin.close()
    process.wait(60)


@pytest.fixture
def push(server: HubServer, worker: subprocess.Popen, folder: Path) -> Any:
    """Push `folder` by the worker; returns what it answers. The server starts without repositories and faults."""
    for state in (server.repos, server.objects, server.faults, server.requests, server.deferred):
        state.clear()

    def push(**wanted: Any) -> dict[str, str]:
        arguments = {"folder": str(folder), "repo_id": NAME, "token": TOKEN} | wanted
        worker.stdin.write(json.dumps(arguments) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())

    return push


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "examples").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}\n')
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    (folder / "second.safetensors").write_bytes(bytes(range(255, -1, -1)) * 8)
    (folder / "examples" / "a.txt").write_text("an example")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_commit_of_the_whole_folder(push: Any, server: HubServer, folder: Path):
    answer = push(message="first")
    assert server.commits(NAME) == ["first"]
    assert server.files(NAME) == contents(folder)
    assert answer["commit"] == server.repos["models", NAME].branches["main"][-1].oid
    assert answer["url"] == f"{server.url}/{NAME}/commit/{answer['commit']}"


def test_the_same_again_is_no_second_commit(push: Any, server: HubServer):
    assert push()["commit"] == push()["commit"]
    assert len(server.commits(NAME)) == 1


def test_what_an_earlier_push_left_goes_in_the_same_commit(push: Any, server: HubServer, folder: Path):
    (folder / "old.onnx").write_bytes(b"graph")
    (folder / "notes.txt").write_text("kept")
    push(message="first")
    (folder / "old.onnx").unlink()
    (folder / "notes.txt").unlink()
    (folder / "config.json").write_text("{}")
    push(message="second", replaces=["*.onnx"])
    assert server.commits(NAME) == ["first", "second"]
    assert server.files(NAME) == contents(folder) | {"notes.txt": b"kept"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/api/repos/create", 503),
        Fault("POST", "/api/repos/create", "lose"),
        Fault("GET", f"/api/models/{NAME}/tree", 500),
        Fault("POST", "/commit/main", 502),
        Fault("POST", "/commit/main", "drop"),
        Fault("POST", "/commit/main", "lose"),
        Fault("POST", "/api/validate-yaml", "drop"),
    ],
    ids=lambda fault: f"{fault.path}-{fault.kind}",
)
def test_faults_that_pass_leave_one_whole_commit(push: Any, server: HubServer, folder: Path, fault: Fault):
    """Also where the commit was made and only its answer was lost: it is found, not made again."""
    server.faults.append(fault)
    answer = push()
    assert fault.times == 0
    assert "error" not in answer
    assert len(server.commits(NAME)) == 1
    assert server.files(NAME) == contents(folder)


@pytest.mark.parametrize("kind", [503, "drop", "lose"])
def test_interrupted_uploads_are_taken_up_again(push: Any, server: HubServer, folder: Path, kind: int | str):
    server.faults += [Fault("PUT", "/lfs/", kind), Fault("POST", "/commit/main", 503)]
    assert "error" not in push()
    uploads = [path for method, path in server.requests if method == "PUT"]
    # Both files, and the one whose upload failed: the second attempt, after the failed commit, sends neither again.
    assert len(uploads) == 3 and len(set(uploads)) == 2
    assert len(server.commits(NAME)) == 1 and server.files(NAME) == contents(folder)


def test_a_commit_that_lands_late_is_not_made_twice(push: Any, server: HubServer, folder: Path):
    """The second attempt is on its way when the first, whose answer never came, takes effect."""
    server.faults.append(Fault("POST", "/commit/main", "defer"))
    assert "error" not in push()
    assert server.deferred == [] and len([path for _, path in server.requests if "/commit/" in path]) == 2
    assert len(server.commits(NAME)) == 1 and server.files(NAME) == contents(folder)


def test_a_branch_that_moves_meanwhile_is_met_again(push: Any, server: HubServer, folder: Path):
    push(message="first")
    (folder / "config.json").write_text("{}")
    server.faults.append(Fault("POST", "/commit/main", 412))
    push(message="second")
    assert server.commits(NAME) == ["first", "second"] and server.files(NAME) == contents(folder)


def test_a_hub_that_stays_down_is_no_push(push: Any, server: HubServer):
    server.faults.append(Fault("POST", "/commit/main", 503, times=99))
    error = push()["error"]
    assert error.startswith("PublishError: 'somebody/model' was NOT pushed, after 3 attempts: HfHubHTTPError:")
    assert server.commits(NAME) == [] and server.files(NAME) == {}
    server.faults.clear()
    push()
    assert len(server.commits(NAME)) == 1


def test_a_commit_that_holds_something_else_is_no_push(push: Any, server: HubServer, monkeypatch: pytest.MonkeyPatch):
    commit = server.commit

    def forgetful(repo: Any, branch: str, message: str, files: dict[str, bytes]) -> Any:
        cut = {path: content[:-1] if path == "model.safetensors" else content for path, content in files.items()}
        return commit(repo, branch, message, {path: cut[path] for path in cut if path != "config.json"})

    monkeypatch.setattr(server, "commit", forgetful)
    assert "was NOT pushed whole" in (error := push()["error"])
    assert "lacks config.json, model.safetensors or holds other content" in error


def test_branches(push: Any, server: HubServer, folder: Path):
    push(message="on main")
    (folder / "config.json").write_text("{}")
    push(message="on v2", revision="v2")
    push(message="on v2 again", revision="v2")
    assert (server.commits(NAME), server.commits(NAME, branch="v2")) == (["on main"], ["on main", "on v2"])
    assert server.files(NAME)["config.json"] != server.files(NAME, branch="v2")["config.json"] == b"{}"


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_data_sets_and_spaces(push: Any, server: HubServer, folder: Path, kind: str):
    answer = push(repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    assert answer["url"].startswith(f"{server.url}/{kind}s/{NAME}/commit/")
    assert server.files(NAME, kind=f"{kind}s") == contents(folder)


def test_private(push: Any, server: HubServer):
    push(private=True)
    assert server.repos["models", NAME].private
    server.repos["models", NAME].private = False
    assert "exists and is public, so nothing was pushed" in push(private=True)["error"]
    assert len(server.commits(NAME)) == 1


def test_refusals_are_not_tried_again(push: Any, server: HubServer):
    assert "the Hub refuses to take 'somebody/model': HfHubHTTPError: " in (error := push(token="wrong")["error"])
    assert "401" in error
    assert [path for _, path in server.requests].count("/api/repos/create") == 1
    assert server.repos == {}


def test_pickles(push: Any, server: HubServer, folder: Path):
    server.commit(server.create("models", NAME, False), "main", "an old one", {"pytorch_model.bin": b"weights"})
    assert "already holds what is a pickle by its name (pytorch_model.bin)" in push()["error"]
    assert "error" not in push(replaces=["*.bin"])
    (folder / "examples" / "a.txt").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    server.requests.clear()
    assert "so none is pushed: examples/a.txt: it is a pickle" in push()["error"]
    assert server.requests == []


def test_nothing_to_push(push: Any, tmp_path: Path):
    assert "is not there or has no files" in push(folder=str(tmp_path / "nowhere"))["error"]
