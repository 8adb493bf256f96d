"""The `cull` command from end to end, with a tiny model."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cskd_hf import CSKDConfig
from cskd_hf.cli import main
from cskd_hf.data.synthetic import SyntheticPhotographs
from cskd_hf.scoring.cull.xmp import read_fields
from cskd_hf.scoring.folder import score_images
from tiny_scorers import save_scorer

STRANGE = "it's <!--<script>&amp; \u00fc.jpg"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_scorer(tmp_path_factory.mktemp("model"), attributes={"color": [1, 5]})


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photographs, three shots of one more, a file that breaks off, a raw file and a note."""
    folder = tmp_path_factory.mktemp("originals")
    for number, pixels in enumerate(SyntheticPhotographs(2).generate(10).images.numpy()):
        image = Image.fromarray(pixels).resize((120, 90))
        image.save(folder / (STRANGE if number == 4 else f"photo-{number}.jpg"), quality=92)
    image.resize((100, 75)).save(folder / "photo-9b.jpg", quality=70)
    image.point(lambda level: min(255, int(1.1 * level))).save(folder / "photo-9c.png")
    (folder / "broken.jpg").write_bytes((folder / "photo-0.jpg").read_bytes()[:700])
    (folder / "IMG_1.CR2").write_bytes(b"raw")
    (folder / "notes.txt").write_text("keep me")
    return folder


@pytest.fixture
def album(originals: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for path in originals.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def cull(model: str, album: Path, *options: str) -> tuple[int, list[dict[str, str]], dict]:
    output = album.parent / "report"
    code = main(
        ["cull", "--model", model, str(album), "--output", str(output), "--quiet", "--device", "cpu", *options]
    )
    with open(output / "photographs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return code, rows, json.loads((output / "results.json").read_text(encoding="utf-8"))


def sheet_data(output: Path) -> list[dict]:
    page = (output / "contact_sheet.html").read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def test_a_folder(model: str, album: Path, capsys: pytest.CaptureFixture):
    before = snapshot(album)
    code, rows, results = cull(model, album)
    assert snapshot(album) == before, "nothing beside the report may change"
    assert code == 3 and "broken.jpg" in capsys.readouterr().err
    assert sorted(path.name for path in (album.parent / "report").iterdir()) == [
        "contact_sheet.html", "photographs.csv", "results.json",
    ]  # fmt: skip
    scored = {row["path"]: row for row in rows if not row["error"]}
    assert len(rows) == 13 and len(scored) == 12
    for expected in score_images(model, [str(album)], quiet=True):
        if "score" in expected:
            row = scored[expected["path"]]
            assert float(row["score"]) == pytest.approx(expected["score"], abs=1e-5)
            assert float(row["attribute_color"]) == pytest.approx(expected["attributes"]["color"], abs=1e-5)
    ranked = sorted(scored.values(), key=lambda row: float(row["score"]))
    stars = [int(row["stars"]) for row in ranked]
    assert stars == sorted(stars) and set(stars) == {1, 2, 3, 4, 5}
    assert "1 skipped" in results["facts"]["raw files"] and results["stars_from"] == "folder"


def test_the_best_of_a_group_is_the_highest_score(model: str, album: Path):
    _, rows, results = cull(model, album)
    grouped = [row for row in rows if row["group"]]
    assert {Path(row["path"]).name for row in grouped} == {"photo-9.jpg", "photo-9b.jpg", "photo-9c.png"}
    best = max(grouped, key=lambda row: float(row["score"]))
    assert {row["path"]: row["choice"] for row in grouped} == {
        row["path"]: "best" if row is best else "other" for row in grouped
    }
    assert results["groups"][0]["best"] == best["path"] and len(results["groups"][0]["others"]) == 2
    assert all(row["choice"] in ("single", "") for row in rows if not row["group"])


def test_the_sheet_needs_nothing_else(model: str, album: Path):
    cull(model, album)
    page = (album.parent / "report" / "contact_sheet.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and not re.search(r"https?://|@import|<link", page)
    entries = sheet_data(album.parent / "report")
    assert len(entries) == 12 and STRANGE in {entry["name"] for entry in entries}
    assert "<!--" not in page and "broken.jpg" in page
    for entry in entries:
        assert entry["link"].startswith("./../album/") and len(entry["thumbnail"]) < 40_000
        assert entry["attributes"].keys() == {"color"}


def test_a_sheet_of_a_few(model: str, album: Path):
    """The others of a group go first, then the lowest scores."""
    _, rows, results = cull(model, album, "--sheet-limit", "4")
    kept = sorted(
        (row for row in rows if row["score"] and row["choice"] != "other"), key=lambda row: -float(row["score"])
    )
    assert {entry["name"] for entry in sheet_data(album.parent / "report")} == {
        Path(row["path"]).name for row in kept[:4]
    }
    assert results["on_the_sheet"] == 4
    assert "8 more photographs are not shown" in (album.parent / "report" / "contact_sheet.html").read_text()


def test_sidecars_on_request(model: str, album: Path):
    before = snapshot(album)
    code, rows, results = cull(model, album, "--xmp", "darktable", "--xmp-label")
    after = snapshot(album)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 12
    labels = {"best": "Green", "other": "Red"}
    for row in rows:
        if row["score"]:
            expected = {"Rating": row["stars"]} | ({"Label": labels[row["choice"]]} if row["group"] else {})
            assert read_fields(Path(row["path"] + ".xmp").read_bytes()) == expected
    assert {one["what"] for one in results["sidecars"]} == {"written"}
    # A second run must not take its own ratings for somebody's.
    cull(model, album, "--xmp", "darktable", "--stars", "1", "2", "3", "4")
    assert snapshot(album) == after


def test_percentiles_of_the_model(model: str, album: Path, tmp_path: Path):
    calibrated = tmp_path / "calibrated"
    calibrated.mkdir()
    for path in Path(model).iterdir():
        (calibrated / path.name).write_bytes(path.read_bytes())
    config = CSKDConfig.from_pretrained(calibrated)
    config.calibration = {"reference": "r", "images": 9, "quantiles": list(np.linspace(1, 1.1, 11))}
    config.save_pretrained(calibrated)
    _, rows, results = cull(str(calibrated), album)
    assert results["stars_from"] == "model" and {row["stars"] for row in rows if row["score"]} == {"5"}
    _, rows, results = cull(str(calibrated), album, "--stars-from", "folder")
    assert results["stars_from"] == "folder" and len({row["stars"] for row in rows if row["score"]}) == 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--xmp-label"], "--xmp-label needs --xmp"),
        (["--overwrite-ratings"], "--overwrite-ratings needs --xmp"),
        (["--stars", "9", "8", "7", "6"], "four rising percentiles"),
        (["--stars-from", "model"], "calibrate"),
        (["--sheet-limit", "0"], "at least 1"),
    ],
)
def test_wrong_options(model: str, album: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture):
    before = snapshot(album)
    arguments = ["cull", "--model", model, str(album), "--output", str(album.parent / "report"), "--quiet", *options]
    assert main(arguments) == 2
    assert reason in capsys.readouterr().err and snapshot(album) == before


def test_nothing_readable(model: str, tmp_path: Path):
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "bad.jpg").write_bytes(b"bad")
    code, rows, _ = cull(model, tmp_path / "album")
    assert code == 1 and rows[0]["error"] and sheet_data(tmp_path / "report") == []


def test_an_exported_graph(model: str, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from cskd_hf.export.onnx_graphs import export_onnx

    _, expected, _ = cull(model, album)
    exported = export_onnx(model, tmp_path / "onnx")
    for graph in (exported, exported / "pipeline.onnx"):
        code, rows, _ = cull(str(graph), album)
        assert code == 3
        same = ("path", "stars", "group", "choice", "error")
        assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in expected]
        scores = [[float(row["score"]) for row in table if row["score"]] for table in (rows, expected)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert any(row["choice"] == "best" for row in expected)

    without = onnx.load(exported / "model.onnx")
    kept = [output for output in without.graph.output if output.name != "pooler_output"]
    del without.graph.output[:]
    without.graph.output.extend(kept)
    onnx.save(without, tmp_path / "without.onnx")
    capsys.readouterr()
    where = ["--output", str(tmp_path / "none"), "--quiet"]
    assert main(["cull", "--model", str(tmp_path / "without.onnx"), str(album), *where]) == 2
    assert "gives no embeddings; export it again, or give the checkpoint" in capsys.readouterr().err
