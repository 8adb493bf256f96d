"""handler.py of Inference Endpoints, loaded and called as the endpoint's toolkit does."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from configparser import ConfigParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import pipeline

from cskd_hf.hub.endpoint import HANDLER_REQUIREMENTS, write_handler
from cskd_hf.hub.remote_code import add_remote_code
from image_files import encode, gradient, png_chunk
from tiny_scorers import save_scorer

WRONG_IMAGE = b"\xff\xd8\xff\xe0 not a photograph"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    save_scorer(folder, attributes={"color": [1, 5]})
    write_handler(folder)
    return folder


def load(repository: Path) -> Any:
    """As `check_and_register_custom_pipeline_from_directory` of the toolkit does."""
    spec = importlib.util.spec_from_file_location("handler.EndpointHandler", repository / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(repository))


@pytest.fixture(scope="module")
def handler(repository: Path) -> Any:
    return load(repository)


def request(handler: Any, body: bytes, content_type: str = "application/json", **query: Any) -> Any:
    """One request through the toolkit: it opens an image body itself, answers in strict JSON, and takes a query as
    parameters."""
    if content_type.startswith("image/"):
        data = {"inputs": Image.open(io.BytesIO(body)).convert("RGB")}
    else:
        data = json.loads(body)
    if query:
        data["parameters"] = query
    return json.loads(json.dumps(handler(data), allow_nan=False))


def ask(handler: Any, inputs: Any, **more: Any) -> Any:
    return request(handler, json.dumps({"inputs": inputs, **more}).encode())


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def test_an_image_body(handler: Any, repository: Path):
    image = gradient()
    answer = request(handler, encode(image), "image/png")
    expected = pipeline("image-aesthetics", model=str(repository))(image)
    del expected["provenance"]
    assert answer == expected and 1 <= answer["score"] <= 5 and answer["attributes"].keys() == {"color"}


def test_an_image_body_that_is_turned_by_exif(handler: Any):
    """The toolkit converts the image before we see it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(gradient().transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    upright = request(handler, encode(gradient()), "image/png")["score"]
    assert request(handler, turned, "image/png")["score"] == pytest.approx(upright, abs=1e-5)
    assert ask(handler, text(turned))["score"] == pytest.approx(upright, abs=1e-5)


def test_a_batch_in_which_some_cannot_be_read(handler: Any):
    images = [encode(gradient()), WRONG_IMAGE, encode(Image.new("RGB", (40, 30), "navy"), "JPEG")]
    answers = ask(handler, [*map(text, images), "data:image/png;base64," + text(images[0]), 7, None, "/etc/hostname"])
    alone = [request(handler, images[number], "image/png")["score"] for number in (0, 2)]
    assert [answer.get("score") is not None for answer in answers] == [True, False, True, True, False, False, False]
    assert [answers[number]["score"] for number in (0, 2, 3)] == pytest.approx([*alone, alone[0]], abs=1e-5)
    errors = [answers[number]["error"] for number in (1, 4, 5, 6)]
    assert all(answers[number].keys() == {"error"} for number in (1, 4, 5, 6))
    assert "damaged" in errors[0] and "base64" in errors[1] and "base64" in errors[2]
    assert "paths are not read" in errors[3]


def test_a_path_is_not_read_even_where_it_looks_like_base64(handler: Any, tmp_path: Path, monkeypatch):
    """`abcd` is both a file and base64."""
    (tmp_path / "abcd").write_bytes(encode(gradient()))
    monkeypatch.chdir(tmp_path)
    assert "error" in ask(handler, "abcd")


def test_parameters(handler: Any):
    image = text(encode(gradient()))
    assert "distribution" in ask(handler, image) and "provenance" not in ask(handler, image)
    answer = ask(handler, [image], parameters={"distribution": False, "provenance": True})[0]
    assert "distribution" not in answer and "provenance" in answer
    assert "distribution" not in request(handler, encode(gradient()), "image/png", distribution=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no 'inputs'"),
        ({"inputs": []}, "holds 0 images; allowed: 1 to 32"),
        ({"inputs": ["x"] * 33}, "holds 33 images; allowed: 1 to 32"),
        ({"inputs": "x", "parameters": {"top_k": 5}}, "unknown parameter 'top_k'; allowed: distribution, provenance"),
        ({"inputs": "x", "parameters": {"distribution": 1}}, "'distribution' is '1'; allowed: true or false"),
        ({"inputs": "x", "parameters": [1]}, "'parameters' is list"),
        ({"inputs": {"url": "x"}}, "allowed: an image body"),
    ],
)
def test_requests_that_are_refused(handler: Any, data: dict, message: str):
    answer = request(handler, json.dumps(data).encode())
    assert answer.keys() == {"error"} and message in answer["error"]


def test_limits(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CSKD_MAX_IMAGES", "2")
    monkeypatch.setenv("CSKD_MAX_BYTES", "4000")
    monkeypatch.setenv("CSKD_MAX_PIXELS", "2000")
    handler = load(repository)
    small, wide = text(encode(gradient())), text(encode(Image.new("RGB", (50, 41))))
    long = text(b"\x89PNG" + bytes(5000))
    answers = [ask(handler, image) for image in (small, wide, long)]
    assert "score" in answers[0]
    assert "2050 pixels, allowed: at most 2000" in answers[1]["error"] and "4000 bytes" in answers[2]["error"]
    assert "allowed: 1 to 2" in ask(handler, [small] * 3)["error"]
    assert "2050 pixels" in request(handler, encode(Image.new("RGB", (50, 41))), "image/png")["error"]
    monkeypatch.setenv("CSKD_MAX_IMAGES", "many")
    with pytest.raises(ValueError, match="CSKD_MAX_IMAGES is 'many'"):
        load(repository)


def test_a_header_that_declares_a_bomb(handler: Any):
    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    assert "3600000000 pixels, allowed: at most 50000000" in ask(handler, text(bomb))["error"]


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    """A server of one picture, and the list of paths that it was asked for."""
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.startswith("/redirect"):
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{self.server.server_port}/picture.png")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encode(gradient()))

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests clean."""

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_urls_are_off(handler: Any, web: tuple[str, list[str]]):
    address, asked = web
    for url in (f"{address}/picture.png", f"HTTP{address[4:]}/picture.png", "file:///etc/hostname", f" {address}/a"):
        assert "error" in ask(handler, url)
    assert "fetches no URLs" in ask(handler, f"{address}/picture.png?token=secret")["error"]
    assert asked == []


def test_urls_of_allowed_hosts(repository: Path, web: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch):
    address, asked = web
    monkeypatch.setenv("CSKD_URL_HOSTS", "images.example.org, 127.0.0.1")
    handler = load(repository)
    answers = ask(handler, [f"{address}/a.png", address.replace("127.0.0.1", "localhost") + "/b.png"])
    assert "score" in answers[0] and "host is not among those" in answers[1]["error"]
    assert "host is not among those" in ask(handler, f"{address}/redirect")["error"]
    assert asked == ["/a.png", "/redirect"]


WITHOUT_PACKAGE = """
import importlib.util, json, sys
assert importlib.util.find_spec("cskd_hf") is None
sys.path.insert(0, sys.argv[1])  # as the toolkit does
import handler
endpoint = handler.EndpointHandler(sys.argv[1])
answers = endpoint({"inputs": json.load(open(sys.argv[2]))})
assert type(endpoint.rate).__module__.startswith("transformers_modules."), type(endpoint.rate)
print(json.dumps(answers))
"""


def test_without_the_package_the_repository_runs_its_own_code(repository: Path, handler: Any, tmp_path: Path):
    """In an environment that has transformers and torch, but not cskd_hf."""
    folder = tmp_path / "repository"
    shutil.copytree(repository, folder)
    add_remote_code(folder)
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    # Folders of .pth files are no site folders: what pip installed as editable is not found through them.
    places = [path for path in sys.path if path.endswith("site-packages")]
    if any(Path(place, "cskd_hf").is_dir() for place in places):
        pytest.skip(
            "cskd_hf is installed as a copy beside what it needs, so no environment has the one without the other"
        )
    Path(found.stdout.strip(), "rest.pth").write_text("\n".join(places))
    inputs = [text(encode(gradient())), text(WRONG_IMAGE)]
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [python, "-c", WITHOUT_PACKAGE, folder, tmp_path / "inputs.json"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout.splitlines()[-1])
    expected = ask(handler, inputs)
    assert answers[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-6)
    assert answers[0].keys() == expected[0].keys() and answers[1] == expected[1]


def test_requirements_are_those_of_the_package(repository: Path):
    setup = ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    stated = setup["options"]["install_requires"].split()
    assert set(HANDLER_REQUIREMENTS) <= set(stated)
    assert (repository / "requirements.txt").read_text().split() == list(HANDLER_REQUIREMENTS)


def test_the_package_can_be_required(tmp_path: Path):
    write_handler(tmp_path, package="cskd_hf==0.1.0")
    assert (tmp_path / "requirements.txt").read_text().split() == ["cskd_hf==0.1.0", *HANDLER_REQUIREMENTS]
