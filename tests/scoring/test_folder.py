"""Scoring of files and folders, and the `score` command."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from cskd_hf import CSKDForFeatureAlignment, CSKDForImageAesthetics
from cskd_hf.cli import main
from cskd_hf.scoring.folder import ScoringError, score_images
from tiny_scorers import save_scorer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_scorer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Seven images at several depths, one broken and one empty file, a text file and a hidden image."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "album"
    for i in range(7):
        path = folder / ("sub/deep" if i % 2 else ".") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = rng.uniform(0, 255, 3)
        pixels = rng.normal(colour, 20, (30 + i, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "3-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photograph")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no image")
    Image.new("RGB", (9, 9)).save(folder / ".hidden.png")
    return folder


def by_path(results: list[dict]) -> dict[str, float]:
    return {result["path"]: result["score"] for result in results if "score" in result}


def test_scores_are_those_of_the_pipeline(model: str, album: Path):
    results = list(score_images(model, [str(album)], quiet=True))
    rate = pipeline("image-aesthetics", model=model)
    scored = [result for result in results if "score" in result]
    assert len(scored) == 7 and np.ptp([result["score"] for result in scored]) > 0.05
    for result in scored:
        expected = rate(result["path"])
        assert result["score"] == pytest.approx(expected["score"], abs=1e-4)
        assert result["score_std"] == pytest.approx(expected["score_std"], abs=1e-4)
        assert result["scale"] == [1.0, 5.0]
        assert result.keys() == {"path", "score", "score_std", "scale"}


def test_scores_depend_on_neither_batch_nor_order(model: str, album: Path):
    expected = by_path(list(score_images(model, [str(album)], batch_size=1, quiet=True)))
    assert len(expected) == 7
    files = sorted(expected, key=lambda path: path[::-1])
    for paths, batch_size in (([str(album)], 3), (files, 4), (files[::-1], 100)):
        found = by_path(list(score_images(model, paths, batch_size=batch_size, quiet=True)))
        assert found == pytest.approx(expected, abs=1e-4)


def test_images_of_unlike_shapes_share_a_batch(tmp_path: Path, model: str, album: Path):
    """A processor that keeps the aspect ratio gives tensors that cannot be stacked."""
    from transformers import CLIPImageProcessor

    folder = tmp_path / "keeps-ratio"
    CSKDForImageAesthetics.from_pretrained(model).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(folder)
    together = by_path(list(score_images(str(folder), [str(album)], batch_size=9, quiet=True)))
    alone = by_path(list(score_images(str(folder), [str(album)], batch_size=1, quiet=True)))
    assert len(together) == 7 and together == pytest.approx(alone, abs=1e-4)
    assert list(together) == list(alone)


def test_order_of_the_results(model: str, album: Path):
    results = score_images(model, [str(album / "4.png"), str(album), str(album / "0.png")], batch_size=4, quiet=True)
    names = [Path(result["path"]).relative_to(album).as_posix() for result in results]
    assert names == [
        "4.png", "0.png", "2.png", "3-broken.jpg", "6.png", "empty.png", "sub/deep/1.png", "sub/deep/3.png", "sub/deep/5.png",
    ]  # fmt: skip


def test_unreadable_files_are_reported_in_their_place(model: str, album: Path):
    results = {Path(result["path"]).name: result for result in score_images(model, [str(album)], quiet=True)}
    assert results["empty.png"].keys() == {"path", "error"}
    assert "empty" in results["empty.png"]["error"]
    assert "error" in results["3-broken.jpg"] and "score" in results["6.png"]


def test_streams(model: str, album: Path):
    """The first results come before the last files are read: a file may vanish in between."""
    files = [str(album / f"{i}.png") for i in (0, 2, 4, 6)]
    results = score_images(model, files, batch_size=2, quiet=True)
    first = next(results)
    os.remove(files[3])
    rest = list(results)
    assert "score" in first and [("score" in result) for result in rest] == [True, True, False]
    assert rest[2]["error"] == "there is no such file"


def test_missing_path_is_refused_before_anything_is_loaded(album: Path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        score_images("no-such-model", [str(album), str(album / "nowhere.png")])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_is_checked(model: str, album: Path, batch_size: int):
    with pytest.raises(ScoringError, match=f"batch_size={batch_size}"):
        score_images(model, [str(album)], batch_size=batch_size)


def test_folder_without_images(model: str, tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ScoringError, match=r"no image in .*\.jpg"):
        score_images(model, [str(tmp_path)])


def test_checkpoints_that_cannot_score(model: str, tmp_path: Path, album: Path):
    phase_1 = save_scorer(tmp_path / "aligned", CSKDForFeatureAlignment)
    with pytest.raises(ScoringError, match=r"aligned' cannot score images: this is a phase-1 checkpoint"):
        score_images(phase_1, [str(album)])
    without_weights = Path(save_scorer(tmp_path / "no-weights"))
    (without_weights / "model.safetensors").unlink()
    with pytest.raises(ScoringError, match="no-weights' cannot score images: .*model.safetensors") as caught:
        score_images(str(without_weights), [str(album)])
    assert "Traceback" not in str(caught.value)
    with pytest.raises(ScoringError, match="absent' cannot score images: there is no such folder"):
        score_images(str(tmp_path / "absent"), [str(album)])


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    code = main(["score", *map(str, arguments), "--quiet"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_ranks(model: str, album: Path, capsys: pytest.CaptureFixture):
    expected = by_path(list(score_images(model, [str(album)], quiet=True)))
    code, out, err = run(capsys, model, album)
    lines = [line.split() for line in out.splitlines()[2:]]
    assert code == 0 and "7 images, on a scale of 1 to 5" in out
    assert [path for *_, path in lines] == sorted(expected, key=lambda path: -expected[path])
    assert [float(score) for score, *_ in lines] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-3)
    assert "3-broken.jpg: " in err and "empty.png: it is empty" in err and "Traceback" not in err


def test_command_top(model: str, album: Path, capsys: pytest.CaptureFixture):
    _, everything, _ = run(capsys, model, album)
    _, best, _ = run(capsys, model, album, "--top", 2)
    assert best.splitlines()[2:] == everything.splitlines()[2:4]
    assert best.startswith("the best 2 of 7 images")


@pytest.mark.parametrize("extension", ["csv", "jsonl", "CSV"])
def test_command_writes_every_result(model: str, album: Path, capsys: pytest.CaptureFixture, extension: str):
    output = album.parent / "new" / f"scores.{extension}"
    code, _, _ = run(capsys, model, album, "--output", output, "--top", 1, "--batch-size", 2)
    expected = list(score_images(model, [str(album)], batch_size=2, quiet=True))
    text = output.read_text(encoding="utf-8")
    assert code == 0 and os.listdir(output.parent) == [output.name]
    if extension == "jsonl":
        assert [json.loads(line) for line in text.splitlines()] == expected
        return
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["path"] for row in rows] == [result["path"] for result in expected]
    for row, result in zip(rows, expected):
        assert row["error"] == result.get("error", "")
        assert row["score"] == str(result.get("score", ""))
        assert (row["scale_low"], row["scale_high"]) == (("1.0", "5.0") if "score" in result else ("", ""))


def test_command_refuses_other_extensions_before_scoring(album: Path, capsys: pytest.CaptureFixture):
    output = album.parent / "scores.xlsx"
    code, out, err = run(capsys, "no-such-model", album, "--output", output)
    assert code == 2 and out == "" and not output.exists()
    assert ".csv or .jsonl" in err and "scores.xlsx" in err


def test_command_keeps_the_old_file_when_it_fails(model: str, album: Path, monkeypatch: pytest.MonkeyPatch):
    output = album.parent / "scores.csv"
    output.write_text("old")
    monkeypatch.setattr("cskd_hf.models.pipeline_cskd.ImageAestheticsPipeline._forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["score", model, str(album), "--output", str(output), "--quiet"])
    assert output.read_text() == "old"


def test_command_without_one_readable_image(model: str, album: Path, capsys: pytest.CaptureFixture):
    code, out, err = run(capsys, model, album / "empty.png")
    assert (code, out) == (1, "") and "empty.png: it is empty" in err


def test_command_names_a_missing_path_without_a_traceback(model: str, album: Path, capsys: pytest.CaptureFixture):
    code, _, err = run(capsys, model, album / "nowhere")
    assert code == 2 and "nowhere' does not exist" in err and "Traceback" not in err


def test_command_refuses_a_negative_top(model: str, album: Path, capsys: pytest.CaptureFixture):
    code, _, err = run(capsys, model, album, "--top", -1)
    assert code == 2 and "--top -1" in err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such file names")
def test_file_names_that_are_no_text(model: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = os.fsencode(tmp_path / "a") + b"\xff\n.png"
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", path)
    code, out, _ = run(capsys, model, tmp_path, "--output", tmp_path / "scores.csv")
    assert code == 0 and out.encode().splitlines()[2].endswith(b"a??.png")
    assert path in (tmp_path / "scores.csv").read_bytes()
