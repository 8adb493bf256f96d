"""The app over HTTP, as somebody who sends requests of their own would use it. Needs gradio."""

from __future__ import annotations

import csv
import io
import json
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from image_files import encode, gradient
from tiny_scorers import save_scorer

pytest.importorskip("gradio", reason="the app needs gradio, the extra `app`")

from gradio.route_utils import delete_files_created_by_app  # noqa: E402

from cskd_hf.hub.space.app import ScoringApp  # noqa: E402
from cskd_hf.hub.space.uploads import Limits  # noqa: E402
from cskd_hf.scoring.folder import load_pipeline  # noqa: E402


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("uploads")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_scorer(tmp_path_factory.mktemp("model"), attributes={"color": [1, 5]})


@pytest.fixture(scope="module")
def app(uploads: Path, checkpoint: str) -> ScoringApp:
    return ScoringApp(load_pipeline(checkpoint), "tiny", limits=Limits(pictures=3, upload_bytes=2**20))


@pytest.fixture(scope="module")
def address(app: ScoringApp) -> Iterator[str]:
    _, url, _ = app.launch("127.0.0.1", None, prevent_thread_lock=True, quiet=True)
    yield url.rstrip("/")
    app.blocks.close(verbose=False)


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody may be made to ask, and what it was asked."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encode(gradient()))

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests clean."""

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def ask(url: str, body: bytes | None = None, content_type: str = "application/json") -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": content_type} if body is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, *files: tuple[str, bytes]) -> tuple[int, Any]:
    boundary = "b0undary"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    status, answer = ask(f"{address}/gradio_api/upload", body, f"multipart/form-data; boundary={boundary}")
    return status, json.loads(answer) if status == 200 else answer


def file_data(path: str, **more: Any) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def join(address: str, data: list, event: str = "change") -> tuple[int, dict | None]:
    """Send an event as the page does: the status, and, where it was taken, the message that ends it."""
    config = json.loads(ask(f"{address}/config")[1])
    number = next(one["id"] for one in config["dependencies"] if one["targets"][0][1] == event)
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": number, "session_hash": session, "event_data": {"index": 0, "value": None}}
    status, _ = ask(f"{address}/gradio_api/queue/join", json.dumps(body).encode())
    if status != 200:
        return status, None
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream:
            message = json.loads(line[5:]) if line.startswith(b"data:") else {}
            if message.get("msg") == "process_completed":
                return status, message
    raise AssertionError("the event did not end")


def test_an_upload_is_scored(address: str, checkpoint: str):
    names = [("one.png", encode(gradient())), ("two.jpg", b"a shopping list")]
    status, paths = upload(address, *names)
    uploaded = [file_data(path, orig_name=f"<{name}>") for path, (name, _) in zip(paths, names)]
    joined, message = join(address, [uploaded])
    assert (status, joined, message["success"]) == (200, 200, True)
    _, notes, gallery, _, table, download = message["output"]["data"]
    assert "1 image scored" in notes and "&lt;two.jpg&gt;</b>: it is not an image" in notes
    expected = load_pipeline(checkpoint)(paths[0])["score"]
    assert gallery[0]["caption"] == f"{expected:.2f}  <one.png>" and "&lt;one.png&gt;" in table
    status, content = ask(download["value"]["url"])
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert status == 200 and [row["file"] for row in rows] == ["<one.png>", "<two.jpg>"]
    assert float(rows[0]["score"]) == pytest.approx(expected, abs=1e-5)


def test_no_address_is_fetched(address: str, elsewhere: tuple[str, list[str]]):
    """Not as the path of a file, nor as its url, nor through the routes of files and proxies."""
    other, asked = elsewhere
    assert join(address, [[file_data(f"{other}/a.png")]]) == (403, None)
    assert join(address, [[file_data(f"{other}/a.png", url=f"{other}/a.png")]]) == (403, None)
    assert join(address, [[file_data("https://example.org/a.png")]]) == (403, None)
    _, paths = upload(address, ("a.png", encode(gradient())))
    assert join(address, [[file_data(paths[0], url=f"{other}/a.png")]])[1]["success"] is True
    for route in (
        f"file={other}/a.png",
        f"proxy={other}/a.png",
        "file=https://example.org/a",
        "proxy=https://a.hf.space/b",
    ):
        assert ask(f"{address}/gradio_api/{route}")[0] == 404
    assert asked == []


def test_no_file_of_this_machine_is_read(address: str, checkpoint: str, uploads: Path):
    secret = f"{checkpoint}/config.json"
    _, paths = upload(address, ("a.png", encode(gradient())))
    (uploads / "link.png").symlink_to(secret)
    for path in (
        secret,
        "/etc/passwd",
        f"{Path(paths[0]).parent}/../../../{secret}",
        str(uploads / "link.png"),
        "setup.cfg",
    ):
        assert join(address, [[file_data(path)]]) == (403, None)
    for path in (secret, "/etc/passwd", f"{uploads}/../{secret}", "setup.cfg"):
        status, body = ask(f"{address}/gradio_api/file={path}")
        assert status in (403, 404) and b"cskd" not in body and b"root:" not in body


def test_files_without_the_mark_of_gradio(address: str):
    """gradio moves only marked ones to its folder; an unmarked path must not be opened as it is."""
    _, message = join(address, [[{"path": "/etc/passwd"}]])
    assert message is None
    _, paths = upload(address, ("a.png", encode(gradient())))
    assert join(address, [[{"path": paths[0]}]])[1]["success"] is False


def test_an_upload_that_is_too_large(address: str):
    status, answer = upload(address, ("large.png", bytes(2**20 + 1)))
    assert status == 413 and b"maximum allowed size" in answer
    assert upload(address, ("small.png", b"x"))[0] == 200


def test_a_name_with_a_path_stays_in_the_folder_of_uploads(address: str, uploads: Path):
    _, paths = upload(address, ("../../../evil.png", b"x"), ("/etc/evil.png", b"x"))
    assert all(Path(path).resolve().is_relative_to(uploads.resolve()) for path in paths)


def test_there_is_no_interface_for_programs(address: str):
    for route in (
        "info",
        "openapi.json",
        "call/_score_uploads",
        "run/predict",
        "api/_score_uploads",
        "component_server",
    ):
        assert ask(f"{address}/gradio_api/{route}")[0] == 404
        assert ask(f"{address}/gradio_api/{route}", b'{"data": []}')[0] == 404


def test_a_choice_without_a_ranking(address: str):
    _, message = join(address, [None], event="select")
    assert message["success"] and "upload the pictures again" in message["output"]["data"][0]


def test_the_page_names_no_other_host(address: str):
    _, body = ask(f"{address}/")
    assert b"fonts.googleapis.com" not in body and b"Image aesthetics" in body


def test_what_was_uploaded_is_deleted(address: str, app: ScoringApp, uploads: Path):
    """By gradio's own clearing, as it runs every hour; pictures, their small copies and tables."""
    _, paths = upload(address, ("a.png", encode(gradient())))
    assert join(address, [[file_data(paths[0])]])[1]["success"] is True
    assert app.blocks.delete_cache == (3600, 3600)
    suffixes = {path.suffix for path in uploads.rglob("*") if path.is_file()}
    assert suffixes >= {".png", ".webp", ".csv"}
    delete_files_created_by_app(app.blocks, age=-1)
    assert [path for path in uploads.rglob("*") if path.is_file() and not path.is_symlink()] == []
