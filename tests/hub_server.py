"""A Hub on the loopback interface: repositories with branches and commits, Git-LFS uploads, downloads, and faults on demand.

It keeps what the real Hub would refuse from being taken for good: an LFS object must have arrived, with its hash, before
a commit may name it; a commit whose parent is no longer the head is refused; a private repository is not there for those
without a token.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"
_LFS_SUFFIXES = (".safetensors", ".onnx", ".parquet", ".npy", ".bin", ".pkl", ".zip")
_TYPES = ("models", "datasets", "spaces")


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, or a commit hash, names."""
        if revision in self.branches:
            return self.branches[revision][-1]
        everything = itertools.chain(*self.branches.values())
        return next((commit for commit in everything if commit.oid == revision), None)


@dataclass
class Fault:
    """What happens to requests in place of an answer.

    Args:
        method, path: of the requests; the path is a regular expression.
        kind: a status such as 503; `drop`, which closes the connection before the request is handled, in the midst of its
            body; `lose`, which handles it and closes the connection before the answer; or `defer`, which closes the
            connection and handles it only when the next commit comes in.
        times: how many requests meet it.
    """

    method: str
    path: str
    kind: int | str
    times: int = 1


class HubServer:
    """A running server; `repos` by (type, name), `faults` that are still to come, and `requests` that came."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.deferred: list[tuple[str, bytes]] = []
        self.lock = threading.RLock()
        self._count = itertools.count()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def environment(self, home: Any) -> dict[str, str]:
        """What a process needs in its environment, from its start, to have this server for the Hub."""
        return {
            "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip

    def create(self, kind: str, name: str, private: bool) -> Repo:
        repo = self.repos[kind, name] = Repo(private, {"main": []})
        self.commit(repo, "main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return repo

    def commit(self, repo: Repo, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        oid = hashlib.sha1(f"{next(self._count)} {message}".encode()).hexdigest()
        repo.branches[branch].append(Commit(oid, message, files))
        return repo.branches[branch][-1]

    def commits(self, name: str, *, kind: str = "models", branch: str = "main") -> list[str]:
        """Messages of a branch's commits, after the one that made the repository."""
        return [commit.message for commit in self.repos[kind, name].branches[branch][1:]]

    def files(self, name: str, *, kind: str = "models", branch: str = "main") -> dict[str, bytes]:
        """Contents by path of a branch, without .gitattributes."""
        files = self.repos[kind, name].branches[branch][-1].files
        return {path: content for path, content in files.items() if path != ".gitattributes"}

    def fault_of(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A server that runs while the block does."""
    server = HubServer()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(_LFS_SUFFIXES) or size > 10 * 2**20


def object_id(path: str, content: bytes) -> str:
    """As the Hub names the content of a file: SHA-256 of an LFS object, the git hash of any other."""
    if is_lfs(path, len(content)):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler_of(server: HubServer) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"hub": server})


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    wbufsize = 2**16  # head and body in one packet: the kernel holds a small second one back

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault_of(self.command, path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.kind == "drop":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self._chunked() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if fault and isinstance(fault.kind, int):
            self._answer(fault.kind, {"error": "on purpose"})
            return
        if fault and fault.kind == "defer":
            self.hub.deferred.append((path, body))
            self._hang_up()
            return
        try:
            with self.hub.lock:
                while "/commit/" in path and self.hub.deferred:
                    self._route(*self.hub.deferred.pop(0))
                status, content, headers = self._route(path, body)
        except _Refused as refusal:
            status, content = refusal.status, {"error": str(refusal)}
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)} if refusal.code else {}
        if fault and fault.kind == "lose":
            self._hang_up()
            return
        self._answer(status, content, headers)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _route(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/lfs/(\w+)", path):
            return self._store(match[1], body)
        if path == "/lfs-verify":
            known = json.loads(body)["oid"] in self.hub.objects
            return (200, {}, {}) if known else self._refuse(404, "no such object")
        if match := re.fullmatch(r"/(?:(datasets|spaces)/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            self._repo(match[1] or "models", match[2], write=True)
            return self._batch(json.loads(body))
        if match := re.fullmatch(r"/(?:(datasets|spaces)/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[1] or "models", *match.groups()[1:])
        if match := re.fullmatch(rf"/api/({'|'.join(_TYPES)})/([\w.-]+/[\w.-]+)(?:/(\w+)(?:/(.+))?)?", path):
            return self._api(*match.groups(), body=body)
        return self._refuse(404, f"nothing at {path}")

    def _refuse(self, status: int, message: str, code: str = "") -> Any:
        raise _Refused(status, message, code)

    def _repo(self, kind: str, name: str, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get((kind, name))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not known):
            self._refuse(404, "Repository not found", "RepoNotFound")
        if write and not known:
            self._refuse(403, "no right to write")
        return repo

    def _at(self, repo: Repo, revision: str) -> Commit:
        return repo.find(revision) or self._refuse(404, f"no revision {revision}", "RevisionNotFound")

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{wanted.get('organization') or 'somebody'}/{wanted['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "Invalid credentials")
        if (kind, name) in self.hub.repos:
            return 409, {"error": "You already created this repo", "url": url}, {}
        self.hub.create(kind, name, wanted.get("visibility") == "private" or bool(wanted.get("private")))
        return 200, {"url": url, "name": name}, {}

    def _batch(self, wanted: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        objects = []
        for entry in wanted["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"},
                "verify": {"href": f"{self.hub.url}/lfs-verify"},
            }
            objects.append(entry if entry["oid"] in self.hub.objects else entry | {"actions": actions})
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _store(self, oid: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if hashlib.sha256(body).hexdigest() != oid:
            self._refuse(400, "the content has another hash")
        self.hub.objects[oid] = body
        return 200, {}, {}

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        commit = self._at(self._repo(kind, name), revision)
        if path not in commit.files:
            self._refuse(404, f"no file {path}", "EntryNotFound")
        content = commit.files[path]
        return 200, content, {"ETag": f'"{object_id(path, content)}"', "X-Repo-Commit": commit.oid}

    def _api(self, kind: str, name: str, verb: str | None, rest: str | None, body: bytes) -> Any:
        writes = verb in ("branch", "preupload", "commit")
        repo = self._repo(kind, name, write=writes)
        if verb is None or verb == "revision":
            commit = self._at(repo, rest or "main")
            siblings = [{"rfilename": path} for path in sorted(commit.files)]
            facts = {"id": name, "modelId": name, "sha": commit.oid, "private": repo.private, "siblings": siblings}
            return 200, facts | {"tags": [], "downloads": 0, "likes": 0}, {}
        if verb == "refs":
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commits[-1].oid}
                for branch, commits in repo.branches.items()
            ]
            return 200, {"branches": branches, "tags": [], "converts": []}, {}
        if verb == "tree":
            return 200, _tree(self._at(repo, rest)), {}
        if verb == "branch":
            if rest in repo.branches:
                self._refuse(409, "Reference already exists")
            repo.branches[rest] = list(repo.branches["main"])
            return 201, {}, {}
        if verb == "preupload":
            return self._preupload(self._at(repo, rest), json.loads(body))
        if verb == "commit":
            return self._commit(kind, name, repo, rest, [json.loads(line) for line in body.splitlines() if line])
        return self._refuse(404, f"nothing at {verb}")

    def _preupload(self, commit: Commit, wanted: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        files = [
            {
                "path": entry["path"],
                "uploadMode": "lfs" if is_lfs(entry["path"], entry["size"]) else "regular",
                "shouldIgnore": False,
                "oid": object_id(entry["path"], commit.files[entry["path"]])
                if entry["path"] in commit.files
                else None,
            }
            for entry in wanted["files"]
        ]
        return 200, {"files": files}, {}

    def _commit(self, kind: str, name: str, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> Any:
        if branch not in repo.branches:
            self._refuse(404, f"no branch {branch}", "RevisionNotFound")
        head = repo.branches[branch][-1]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head.oid):
            self._refuse(412, "A commit has happened since")
        files = dict(head.files)
        for line in lines[1:]:
            entry = line["value"]
            if line["key"] == "file":
                files[entry["path"]] = base64.b64decode(entry["content"])
            elif line["key"] == "lfsFile":
                if entry["oid"] not in self.hub.objects:
                    self._refuse(400, f"LFS pointer of {entry['path']} points to nothing")
                files[entry["path"]] = self.hub.objects[entry["oid"]]
            elif line["key"] == "deletedFile":
                if entry["path"] not in files:
                    self._refuse(404, "A file with this name doesn't exist", "EntryNotFound")
                del files[entry["path"]]
        commit = self.hub.commit(repo, branch, header["summary"], files)
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}/commit/{commit.oid}"
        return 200, {"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""}, {}


def _tree(commit: Commit) -> list[dict[str, Any]]:
    entries = []
    for path, content in sorted(commit.files.items()):
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
        if is_lfs(path, len(content)):
            sha256 = hashlib.sha256(content).hexdigest()
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
            )
            entry["oid"] = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}
        else:
            entry["oid"] = object_id(path, content)
        entries.append(entry)
    return entries
