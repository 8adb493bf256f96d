"""The `cskd-hf score` command."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cskd_hf import CSKDForImageAesthetics
from cskd_hf.cli import main
from cskd_hf.scoring.command import ledger_path
from cskd_hf.scoring.folder import score_images
from cskd_hf.scoring.ledger import Ledger
from cskd_hf.scoring.preparation import Preparation


def by_path(results: list[dict]) -> dict[str, float]:
    return {result["path"]: result["score"] for result in results if "score" in result}


def read_rows(output: Path) -> list[dict]:
    if output.suffix == ".parquet":
        return pq.read_table(output).to_pylist()
    lines = output.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines] if output.suffix == ".jsonl" else list(csv.DictReader(lines))


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are read, in some order."""
    seen: list[str] = []
    call = Preparation.__call__
    monkeypatch.setattr(Preparation, "__call__", lambda self, path: seen.append(str(path)) or call(self, path))
    return seen


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    code = main(["score", *map(str, arguments), "--quiet"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_ranks(model: str, album: Path, capsys: pytest.CaptureFixture):
    expected = by_path(list(score_images(model, [str(album)], quiet=True)))
    code, out, err = run(capsys, "--model", model, album)
    lines = [line.split() for line in out.splitlines()[2:]]
    assert code == 3 and "7 images, on a scale of 1 to 5" in out
    assert [path for *_, path in lines] == sorted(expected, key=lambda path: -expected[path])
    assert [float(score) for score, *_ in lines] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-3)
    assert "3-broken.jpg: " in err and "empty.png: it is empty" in err and "Traceback" not in err


def test_command_top(model: str, album: Path, capsys: pytest.CaptureFixture):
    _, everything, _ = run(capsys, "--model", model, album)
    _, best, _ = run(capsys, "--model", model, album, "--top", 2)
    assert best.splitlines()[2:] == everything.splitlines()[2:4]
    assert best.startswith("the best 2 of 7 images")


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet", "CSV"])
def test_command_writes_every_result(model: str, album: Path, capsys: pytest.CaptureFixture, extension: str):
    output = album.parent / "new" / f"scores.{extension}"
    code, _, _ = run(capsys, "--model", model, album, "--output", output, "--batch-size", 2)
    expected = list(score_images(model, [str(album)], batch_size=2, quiet=True))
    assert code == 3 and sorted(os.listdir(output.parent)) == [output.name, f"{output.name}.ledger"]
    rows = read_rows(output)
    if extension == "jsonl":
        assert rows == expected
        return
    assert [row["path"] for row in rows] == [result["path"] for result in expected]
    missing = "" if extension.lower() == "csv" else None
    cell = str if extension.lower() == "csv" else float
    for row, result in zip(rows, expected):
        assert row["error"] == result.get("error", missing)
        assert row["score"] == (cell(result["score"]) if "score" in result else missing)
        scale = (cell(1.0), cell(5.0)) if "score" in result else (missing, missing)
        assert (row["scale_low"], row["scale_high"]) == scale


def test_command_sorts_and_keeps_the_best(model: str, album: Path, capsys: pytest.CaptureFixture):
    output = album.parent / "scores.jsonl"
    run(capsys, "--model", model, album, "--output", output, "--sort", "score")
    rows = read_rows(output)
    scores = [row["score"] for row in rows if "score" in row]
    assert len(rows) == 9 and ["error" in row for row in rows] == [False] * 7 + [True] * 2
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 7
    code, out, err = run(capsys, "--model", model, album, "--output", output, "--top", 3)
    assert (code, read_rows(output)) == (3, rows[:3])
    assert out.startswith("the best 3 of 7 images") and err.count("not scored") == 2


def test_command_scores_only_what_is_new_or_has_changed(
    model: str, album: Path, capsys: pytest.CaptureFixture, prepared: list[str]
):
    output = album.parent / "scores.jsonl"
    run(capsys, "--model", model, album, "--output", output)
    before = read_rows(output)
    assert len(prepared) == 9
    prepared.clear()
    Image.new("RGB", (40, 40), "red").save(album / "8.png")
    Image.new("RGB", (40, 40), "blue").save(album / "0.png")
    os.remove(album / "2.png")
    run(capsys, "--model", model, album, "--output", output)
    # Files with an error are tried again: permission or memory may have been what was missing.
    assert sorted(Path(path).name for path in prepared) == ["0.png", "3-broken.jpg", "8.png", "empty.png"]
    expected = list(score_images(model, [str(album)], quiet=True))
    assert by_path(read_rows(output)) == pytest.approx(by_path(expected), abs=1e-4)
    assert by_path(before) != by_path(read_rows(output))


def test_command_resumes_by_content(model: str, album: Path, capsys: pytest.CaptureFixture, prepared: list[str]):
    output = album.parent / "scores.csv"
    arguments = ["--model", model, album / "0.png", album / "4.png", "--output", output, "--resume-by", "hash"]
    run(capsys, *arguments)
    os.utime(album / "0.png", (1, 1))
    status = os.stat(album / "4.png")
    pixels = np.zeros((34, 40, 3), np.uint8)
    Image.fromarray(pixels).save(album / "4.png")
    os.utime(album / "4.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    prepared.clear()
    run(capsys, *arguments)
    assert [Path(path).name for path in prepared] == ["4.png"]
    prepared.clear()
    run(capsys, *arguments[:-2])
    assert [Path(path).name for path in prepared] == ["0.png"]


def test_command_does_not_mix_models_or_settings(
    model: str, album: Path, capsys: pytest.CaptureFixture, tmp_path: Path
):
    output = tmp_path / "scores.jsonl"
    run(capsys, "--model", model, album, "--output", output)
    before = output.read_bytes()
    code, _, err = run(capsys, "--model", model, album, "--output", output, "--reduced-decoding")
    assert (
        code == 2 and "9 results of another model or setting (other: reduced_decoding)" in err and "--restart" in err
    )
    other = CSKDForImageAesthetics.from_pretrained(model)
    other.classifier.weight.data *= -1
    other.save_pretrained(tmp_path / "other")
    shutil.copy(Path(model) / "preprocessor_config.json", tmp_path / "other")
    code, _, err = run(capsys, "--model", tmp_path / "other", album, "--output", output)
    assert code == 2 and "(other: weights)" in err and output.read_bytes() == before
    assert run(capsys, "--model", tmp_path / "other", album, "--output", output, "--restart")[0] == 3
    assert by_path(read_rows(output)) == pytest.approx(
        by_path(list(score_images(str(tmp_path / "other"), [str(album)], quiet=True))), abs=1e-4
    )


@pytest.mark.parametrize("options", [[], ["--restart"]])
def test_command_refuses_an_output_that_several_processes_write_to(
    model: str, album: Path, options: list[str], capsys: pytest.CaptureFixture
):
    """These have closed the common ledger, and each holds a part."""
    common = ledger_path(album.parent / "scores.csv")
    with Ledger(common) as ledger:
        ledger.list_files([str(album / "0.png")])
        ledger.close(keep_empty=True)
    before = common.read_bytes()
    with Ledger(f"{common}-1") as part:
        code, _, err = run(capsys, "--model", model, album, "--output", album.parent / "scores.csv", *options)
        assert code == 2 and "scores.csv.ledger-1' is in use" in err and common.read_bytes() == before
        part.accept({})  # it is there still


def test_command_names_a_damaged_checkpoint(model: str, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    shutil.copytree(model, tmp_path / "half")
    weights = tmp_path / "half" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, err = run(capsys, "--model", tmp_path / "half", album)
    assert code == 2 and "half' cannot score images" in err and "Traceback" not in err


def test_a_device_for_all_processes_is_refused(
    model: str, album: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run(capsys, "--model", model, album, "--output", "scores.csv", "--device", "cuda:1")
    assert code == 2 and "each of the processes takes a device of its own" in err


def test_command_refuses_a_second_run_into_one_output(model: str, album: Path, capsys: pytest.CaptureFixture):
    output = album.parent / "scores.csv"
    with Ledger(ledger_path(output)):
        code, _, err = run(capsys, "--model", model, album, "--output", output)
    assert code == 2 and "another run scores into this output" in err and not output.exists()


def test_command_refuses_a_file_that_is_no_ledger(model: str, album: Path, capsys: pytest.CaptureFixture):
    output = album.parent / "scores.csv"
    ledger_path(output).write_text("notes of mine, " * 100)
    code, _, err = run(capsys, "--model", model, album, "--output", output)
    assert code == 2 and "cannot be used as the ledger" in err
    assert ledger_path(output).read_text().startswith("notes of mine")


@pytest.mark.parametrize("wrong", [["--workers", -1], ["--batch-size", 0], ["--top", -1]])
def test_command_refuses_numbers(model: str, album: Path, capsys: pytest.CaptureFixture, wrong: list):
    code, _, err = run(capsys, "--model", model, album, *wrong)
    assert code == 2 and " ".join(map(str, wrong)) in err


def test_command_says_when_all_is_well(model: str, album: Path, capsys: pytest.CaptureFixture):
    assert run(capsys, "--model", model, album / "sub")[0] == 0


def test_command_refuses_other_extensions_before_scoring(album: Path, capsys: pytest.CaptureFixture):
    output = album.parent / "scores.xlsx"
    code, out, err = run(capsys, "--model", "no-such-model", album, "--output", output)
    assert code == 2 and out == "" and not output.exists()
    assert ".csv, .jsonl or .parquet" in err and "scores.xlsx" in err


def test_command_keeps_the_old_file_when_it_fails(model: str, album: Path, monkeypatch: pytest.MonkeyPatch):
    output = album.parent / "scores.csv"
    output.write_text("old")
    monkeypatch.setattr("cskd_hf.models.pipeline_cskd.ImageAestheticsPipeline._forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["score", "--model", model, str(album), "--output", str(output), "--quiet"])
    assert output.read_text() == "old"


def test_command_without_one_readable_image(model: str, album: Path, capsys: pytest.CaptureFixture):
    code, out, err = run(capsys, "--model", model, album / "empty.png")
    assert (code, out) == (1, "") and "empty.png: it is empty" in err


def test_command_names_a_missing_path_without_a_traceback(model: str, album: Path, capsys: pytest.CaptureFixture):
    code, _, err = run(capsys, "--model", model, album / "nowhere")
    assert code == 2 and "nowhere' does not exist" in err and "Traceback" not in err


@pytest.mark.parametrize("command", ["score", "cull"])
def test_a_device_for_an_exported_graph_is_refused(command: str, album: Path, capsys: pytest.CaptureFixture):
    assert main([command, "--model", "model.onnx", str(album), "--device", "cuda:0"]) == 2
    assert "--device cuda:0 is for a checkpoint; 'model.onnx' is an exported graph" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such file names")
def test_file_names_that_are_no_text(model: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = os.fsencode(tmp_path / "a") + b"\xff\n.png"
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", path)
    code, out, _ = run(capsys, "--model", model, tmp_path, "--output", tmp_path / "scores.csv")
    assert code == 0 and out.encode().splitlines()[2].endswith(b"a??.png")
    assert path in (tmp_path / "scores.csv").read_bytes()


def test_a_model_among_the_photographs_is_refused(model: str, album: Path, capsys: pytest.CaptureFixture):
    for arguments in ((model, album), ("--model", model, album, model)):
        code, _, err = run(capsys, *arguments)
        assert code == 2 and "is a model, not photographs; give it as --model" in err
