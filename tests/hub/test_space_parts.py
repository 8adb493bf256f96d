"""The app's scores, table, page, gate and repository, without gradio."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import SpaceCard
from PIL import Image
from transformers import pipeline

from cskd_hf.cli import main
from cskd_hf.hub.space import page, scoring
from cskd_hf.hub.space.gate import MAX_EVENT_BYTES, Gate
from cskd_hf.hub.space.repository import GRADIO_VERSION, PYTHON_VERSION
from cskd_hf.hub.space.scoring import csv_table, score_pictures
from cskd_hf.hub.space.uploads import Limits, Picture, Refusal
from image_files import encode, gradient
from tiny_scorers import save_scorer

LIMITS = Limits(pixels=10_000)
EVIL = '<img src=x onerror="alert(1)">&.jpg'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_scorer(tmp_path_factory.mktemp("model"), attributes={"color": [1, 5], "<light>": [0, 1]})


@pytest.fixture(scope="module")
def rate(checkpoint: str) -> Any:
    return pipeline("image-aesthetics", model=checkpoint)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    found = []
    for number, (name, image) in enumerate(
        {"=SUM(1).png": gradient(), EVIL: Image.new("RGB", (60, 50), "navy"), "wide.png": Image.new("RGB", (101, 100))}.items()
    ):  # fmt: skip
        path = tmp_path / f"{number}.png"
        path.write_bytes(encode(image))
        found.append(Picture(name, path))
    (tmp_path / "text.jpg").write_text("a shopping list")
    return [*found, Picture("text.jpg", tmp_path / "text.jpg")]


def test_scores_are_those_of_the_pipeline(rate: Any, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scoring, "BATCH_SIZE", 2)
    calls = []
    scored, refused = score_pictures(rate, pictures, LIMITS, lambda done, total: calls.append((done, total)))
    assert calls == [(0, 4), (2, 4)]
    expected = sorted((rate(str(picture.path)) for picture in pictures[:2]), key=lambda result: -result["score"])
    assert [one.result["score"] for one in scored] == pytest.approx([result["score"] for result in expected], abs=1e-5)
    assert expected[0]["score"] - expected[1]["score"] > 0.01
    assert {one.name: one.reason for one in refused}.keys() == {"wide.png", "text.jpg"}
    assert "10100 pixels, allowed: at most 10000" in refused[0].reason and "not an image" in refused[1].reason
    assert max(scored[0].thumbnail.size) <= 480


def test_the_table(rate: Any, pictures: list[Picture]):
    scored, refused = score_pictures(rate, pictures, LIMITS)
    rows = list(csv.DictReader(io.StringIO(csv_table(scored, [*refused, Refusal("@a.zip", "-no")]))))
    assert [row["rank"] for row in rows] == ["1", "2", "", "", ""]
    assert [float(row["score"]) for row in rows[:2]] == [one.result["score"] for one in scored]
    for row, one in zip(rows, scored):
        assert float(row["attribute_color"]) == one.result["attributes"]["color"]
        assert sum(float(row[f"share_{value}"]) for value in range(1, 6)) == pytest.approx(1)
        assert (row["scale_low"], row["scale_high"], row["error"]) == ("1.0", "5.0", "")
    assert "not an image" in rows[3]["error"] and rows[3]["score"] == ""
    # A spreadsheet would run these as formulas.
    assert {row["file"] for row in rows} == {"'=SUM(1).png", EVIL, "wide.png", "text.jpg", "'@a.zip"}
    assert rows[4]["error"] == "'-no"


def test_percentiles_of_a_calibrated_model(rate: Any, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch):
    scored, refused = score_pictures(rate, pictures[:1], LIMITS)
    assert "better than" not in page.table(scored).lower() and "percentile" not in csv_table(scored, refused)
    score = scored[0].result["score"]
    calibration = {"images": 3, "quantiles": [score - 1, score - 0.5, score + 0.5]}
    monkeypatch.setattr(rate.model.config, "calibration", calibration)
    scored, refused = score_pictures(rate, pictures, LIMITS)
    row = next(csv.DictReader(io.StringIO(csv_table(scored[-1:], refused))))
    assert float(row["percentile"]) == scored[-1].result["percentile"]
    image = Image.new("RGB", (4, 4))
    details = [page.detail(1, one, rate.model.config.attributes, image, image) for one in scored]
    assert any("better than 75 % of the reference set" in detail for detail in details)
    assert '<td class="number">75 %</td>' in page.table(scored)


def test_the_page_escapes_what_it_is_given(rate: Any, pictures: list[Picture]):
    scored, refused = score_pictures(rate, pictures, LIMITS)
    scales = rate.model.config.attributes
    image = Image.new("RGB", (4, 4))
    parts = [
        page.notes(scored, [*refused, Refusal(EVIL, EVIL)]),
        page.table(scored),
        *(page.detail(rank, one, scales, image, image) for rank, one in enumerate(scored, 1)),
        page.problem(EVIL),
        page.heading("T", EVIL, (1.0, 5.0), LIMITS, 2),
    ]
    assert sum("&lt;img src=x" in part for part in parts) == 5
    assert not any("<img src=x" in part or "<light>" in part for part in parts)
    assert "<b>2 images scored</b>, from 1 to 5" in parts[0] and "not an image of a format" in parts[0]
    assert f"{scored[0].result['score']:.2f}" in parts[1] and page.table([]) == ""


def test_bars_show_the_distribution(rate: Any, pictures: list[Picture]):
    scored, _ = score_pictures(rate, pictures[:1], LIMITS)
    heights = [float(height) for height in re.findall(r'<rect .*?height="([\d.]+)"', page.table(scored))]
    shares = list(scored[0].result["distribution"].values())
    assert [height / max(heights) for height in heights] == pytest.approx([s / max(shares) for s in shares], abs=1e-2)


# The gate: what passes, and what does not reach gradio.


def ask(gate: Gate, path: str, body: bytes = b"", kind: str = "http", piece: int = 1000) -> tuple[int, bytes]:
    """One request by ASGI: the status, and the body that the app behind the gate got (as its answer)."""
    messages = [
        {"type": "http.request", "body": body[first : first + piece], "more_body": first + piece < len(body)}
        for first in range(0, max(len(body), 1), piece)
    ]
    sent: list[dict] = []

    async def receive() -> dict:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(gate({"type": kind, "path": path, "method": "POST"}, receive, send))
    return sent[0].get("status", 0), b"".join(message.get("body", b"") for message in sent)


async def echo(scope: dict, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    (tmp_path / "uploads").mkdir()
    return Gate(echo, tmp_path / "uploads")


@pytest.mark.parametrize(
    "path", ["/", "/config", "/assets/index.js", "/gradio_api/upload", "/gradio_api/heartbeat/a1", "/gradio_api/file=/a/b.webp"]
)  # fmt: skip
def test_the_gate_lets_the_page_through(gate: Gate, path: str):
    assert ask(gate, path, b"x") == (200, b"x")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://169.254.169.254/latest", "/gradio_api/file=HTTPS://a/b", "/gradio_api/proxy=https://a.hf.space/b",
        "/gradio_api/call/score", "/gradio_api/run/predict", "/gradio_api/api/predict", "/gradio_api/info", "/gradio_api/component_server",
        "/gradio_api/vibe-code/", "/gradio_api/deep_link", "/monitoring", "/docs", "/openapi.json", "/login", "//config", "/config/x",
        "/gradio_api/process_recording", "/gradio_api/stream/1", "/gradio_api/upload/x",
    ],
)  # fmt: skip
def test_the_gate_knows_no_other_routes(gate: Gate, path: str):
    status, body = ask(gate, path, b"x")
    assert status == 404 and json.loads(body) == {"error": "this app has no such page"}


def test_the_gate_refuses_web_sockets(gate: Gate):
    assert ask(gate, "/gradio_api/queue/join", kind="websocket") == (0, b"")


def test_events_name_uploaded_files_only(gate: Gate, tmp_path: Path):
    join = "/gradio_api/queue/join"
    uploaded = str(tmp_path / "uploads" / "1" / "a.jpg")
    fine = json.dumps({"data": [[{"path": uploaded, "url": None}]] * 40, "fn_index": 0}).encode()
    assert ask(gate, join, fine) == (200, fine) and len(fine) > 2000
    (tmp_path / "uploads" / "link").symlink_to("/etc")
    for path in (
        "http://127.0.0.1/a.jpg", "https://a/b", "/etc/passwd", f"{tmp_path}/uploads/../secret", "uploads/1/a.jpg",
        str(tmp_path / "uploads"), str(tmp_path / "uploads" / "link" / "passwd"), f"{uploaded}\0", "", None, 7, ["/etc"],
    ):  # fmt: skip
        status, body = ask(gate, join, json.dumps({"data": [[{"path": uploaded}, {"deep": {"path": path}}]]}).encode())
        assert status == 403 and "only uploaded files" in json.loads(body)["error"], path


def test_events_that_are_no_events(gate: Gate):
    join = "/gradio_api/queue/join"
    assert ask(gate, join, b"{")[0] == 400 and ask(gate, join, b"\xff")[0] == 400
    assert ask(gate, join, b"[" * 100_000)[0] == 400
    assert ask(gate, join, b" " * (MAX_EVENT_BYTES + 1), piece=2**16)[0] == 413


# The repository of a Space.


def front_matter(space: Path) -> dict:
    card = SpaceCard.load(space / "README.md")
    assert card.data.to_dict()["sdk"] == "gradio"
    return yaml.safe_load((space / "README.md").read_text().split("---")[1])


def test_space_of_a_folder_runs_without_the_package(tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture):
    space = tmp_path / "space"
    assert main(["app", "--model", checkpoint, "--dry-run", str(space)]) == 0
    assert "hf upload" in capsys.readouterr().out
    assert sorted(path.name for path in space.iterdir()) == [
        "README.md", "app.py", "cskd_hf", "examples", "model", "requirements.txt",
    ]  # fmt: skip
    assert {path.name for path in (space / "model").iterdir()} == {
        "config.json", "preprocessor_config.json", "model.safetensors",
    }  # fmt: skip
    matter = front_matter(space)
    assert matter | {"title": "", "short_description": ""} == {
        "title": "", "short_description": "", "sdk": "gradio", "sdk_version": GRADIO_VERSION, "python_version": PYTHON_VERSION,
        "app_file": "app.py", "license": "apache-2.0", "tags": ["image-aesthetics"],
    }  # fmt: skip
    assert len(matter["short_description"]) <= 60  # the Hub's limit
    text = "".join(path.read_text() for path in (space / "app.py", space / "README.md", space / "requirements.txt"))
    assert str(tmp_path) not in text and checkpoint not in text
    assert not list(space.rglob("__pycache__"))
    # The copied package is the one that is found from the Space's folder.
    code = "import cskd_hf, cskd_hf.hub.space.uploads as found; print(found.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(space / "cskd_hf" / "hub" / "space" / "uploads.py")


def test_space_of_a_hub_model(tmp_path: Path):
    space = tmp_path / "space"
    arguments = [
        "app",
        "--model",
        "org/cskd-student",
        "--dry-run",
        str(space),
        "--package",
        "cskd_hf @ git+https://example.org/cskd_hf",
    ]
    assert main(arguments) == 0
    assert sorted(path.name for path in space.iterdir()) == ["README.md", "app.py", "examples", "requirements.txt"]
    assert front_matter(space)["models"] == ["org/cskd-student"]
    assert (space / "requirements.txt").read_text().split("\n")[0].startswith("cskd_hf @ git+")
    assert "run_app('org/cskd-student'" in (space / "app.py").read_text()
    compile((space / "app.py").read_text(), "app.py", "exec")
    assert all(Image.open(path).size == (384, 384) for path in (space / "examples").iterdir())


def test_requirements_are_those_of_the_package(tmp_path: Path):
    main(["app", "--model", "org/name", "--dry-run", str(tmp_path / "space")])
    setup = ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    stated = {_sorted(line) for line in setup["options"]["install_requires"].split()}
    assert {_sorted(line) for line in (tmp_path / "space" / "requirements.txt").read_text().split()} == stated
    low, high = re.fullmatch(r"gradio>=(\d+),<(\d+)", setup["options.extras_require"]["app"].strip()).groups()
    assert int(low) <= int(GRADIO_VERSION.split(".")[0]) < int(high)


def _sorted(requirement: str) -> tuple[str, frozenset[str]]:
    name, versions = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
    return name, frozenset(versions.split(","))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{empty}", "--dry-run", "{out}"], "has no config.json"),
        (["--model", "org/name", "--package", "cskd_hf"], "give --dry-run DIR too"),
    ],
)
def test_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str):
    (tmp_path / "empty").mkdir()
    names = {"empty": tmp_path / "empty", "out": tmp_path / "out"}
    assert main(["app", *(argument.format(**names) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_command_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["app", "--model", "org/name"]) == 2
    assert "pip install 'cskd_hf[app]'" in capsys.readouterr().err


def test_a_folder_that_is_no_space_is_left_alone(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    assert main(["app", "--model", checkpoint, "--dry-run", str(tmp_path / "mine")]) == 2
    assert "is no Space of an earlier run" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"
    for _ in range(2):  # an earlier Space is replaced
        assert main(["app", "--model", checkpoint, "--dry-run", str(tmp_path / "space")]) == 0


def test_the_old_form_of_the_command_is_told_the_new_one(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main(["app", "runs/student"])
    assert "'runs/student' is one argument too many; a model is --model" in capsys.readouterr().err
