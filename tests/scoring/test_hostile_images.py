"""Every file that people have or send ends as a score or a named error, through the pipeline and through the command."""

from __future__ import annotations

import csv
import json
import math
import os
import unicodedata
from pathlib import Path

import pytest
from transformers import CLIPImageProcessor, pipeline

from cskd_hf import ImageAestheticsPipeline, load_image
from cskd_hf.cli import main
from cskd_hf.scoring.folder import score_images
from hostile_images import UPRIGHT_EQUAL, make_hostile_images
from tiny_scorers import save_scorer

LEAST_KINDS = 60


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "all"


@pytest.fixture(scope="module")
def kinds(hostile: Path) -> dict[str, bool]:
    return make_hostile_images(hostile)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_scorer(tmp_path_factory.mktemp("scorer"))


@pytest.fixture(scope="module")
def rate(checkpoint: str) -> ImageAestheticsPipeline:
    return pipeline("image-aesthetics", model=checkpoint)


def is_score(result: dict) -> bool:
    low, high = result["scale"]
    return "error" not in result and math.isfinite(result["score"]) and low <= result["score"] <= high


def is_named_error(result: dict) -> bool:
    """One line that says something, and no score beside it."""
    text = result["error"]
    plain = not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
    return "score" not in result and len(text) > 10 and plain


def test_there_are_many_kinds(kinds: dict[str, bool]):
    assert len(kinds) >= LEAST_KINDS
    assert sum(kinds.values()) >= LEAST_KINDS / 2 <= sum(not scored for scored in kinds.values())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("keeps_ratio", [False, True])
def test_score_many(rate: ImageAestheticsPipeline, hostile: Path, kinds: dict[str, bool], keeps_ratio: bool):
    if keeps_ratio:  # of a picture of 1 x 10000 it would make one of 32 x 320000
        processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        rate = pipeline("image-aesthetics", model=rate.model, image_processor=processor)
    results = rate.score_many(hostile / name for name in kinds)
    assert len(results) == len(kinds)
    for (name, scored), result in zip(kinds.items(), results):
        assert is_score(result) if scored else is_named_error(result), (name, result)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_stream(rate: ImageAestheticsPipeline, hostile: Path, kinds: dict[str, bool]):
    results = list(rate((hostile / name for name in kinds), batch_size=16, on_error="return"))
    assert ["score" in result for result in results] == list(kinds.values())
    for name, result in zip(kinds, results):
        if "error" in result:
            assert (
                is_named_error(result)
                and result["source"].endswith(f"{name[-12:]}'")
                and result["source"].isprintable()
            )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_of_every_file(rate: ImageAestheticsPipeline, hostile: Path, kinds: dict[str, bool]):
    """A download or a column of a dataset holds no path to look at: the same files score as bytes."""
    files = [name for name in kinds if os.path.isfile(hostile / name)]
    data = [(hostile / name).read_bytes() for name in files]
    for name, result in zip(files, rate.score_many(data)):
        assert ("score" in result) == kinds[name], (name, result)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("extension", ["csv", "jsonl"])
def test_command(checkpoint: str, hostile: Path, kinds: dict[str, bool], extension: str, tmp_path: Path, capsys):
    output = tmp_path / f"scores.{extension}"
    code = main(
        ["score", "--model", checkpoint, str(hostile), "--output", str(output), "--quiet", "--batch-size", "20"]
    )
    listed = {name: scored for name, scored in kinds.items() if not os.path.isdir(hostile / name)}
    if extension == "csv":
        with open(output, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = {row["path"]: row for row in csv.DictReader(file)}
        found = {path: not row["error"] for path, row in rows.items()}
        assert all(bool(row["score"]) != bool(row["error"]) for row in rows.values())
    else:
        rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
        found = {row["path"]: "error" not in row for row in rows}
        assert len(rows) == len(found)
        for row in rows:
            assert is_named_error(row) if "error" in row else is_score(row), row
    assert {os.path.relpath(path, hostile): scored for path, scored in found.items()} == listed
    assert code == 3  # some could not be scored
    said = capsys.readouterr()
    assert f"of {sum(listed.values())} images" in said.out
    assert said.err.count("not scored: ") >= 20


def test_command_where_nothing_can_be_scored(checkpoint: str, hostile: Path, kinds: dict[str, bool], capsys):
    """Named one by one, also what a walk through a folder would leave out."""
    bad = ["pipe.jpg", "socket.jpg", "device.jpg", "empty.jpg", "bomb.png", "text.jpg"]
    assert not any(kinds[name] for name in bad)
    assert main(["score", "--model", checkpoint, *(str(hostile / name) for name in bad), "--quiet"]) == 1
    said = capsys.readouterr().err
    assert all(f"{name}: " in said for name in bad)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_truncated_files_on_request(checkpoint: str, hostile: Path, kinds: dict[str, bool]):
    files = [
        str(hostile / name)
        for name in ("cut.jpg", "cut.png", "cut.gif", "cut.bmp", "cut.tiff", "cut.webp", "empty.jpg")
    ]
    rate = pipeline("image-aesthetics", model=checkpoint, allow_truncated=True, on_error="return")
    assert ["score" in result for result in rate(files)] == [True] * 5 + [False] * 2
    refused = score_images(checkpoint, files, quiet=True)
    assert not any("score" in result for result in refused)


# One scene, stored in every orientation, has one score


def test_upright_equal(rate: ImageAestheticsPipeline, hostile: Path, kinds: dict[str, bool]):
    assert all(kinds[name] for name in UPRIGHT_EQUAL)
    scores = [result["score"] for result in rate.score_many(hostile / name for name in UPRIGHT_EQUAL)]
    low, high = rate(hostile / UPRIGHT_EQUAL[0])["scale"]
    assert max(scores) - min(scores) < 0.05 * (high - low)
    turned = rate(load_image(hostile / UPRIGHT_EQUAL[1]).rotate(180))["score"]
    assert abs(turned - scores[1]) > 0.05 * (high - low)  # a wrong turn would show


@pytest.mark.parametrize("scene", ["Landscape", "Portrait"])
def test_upright_equal_photographs(rate: ImageAestheticsPipeline, data_folder: Path, scene: str):
    files = sorted((data_folder / "edge_images" / "exif_orientation").glob(f"{scene}_*.jpg"))
    results = rate.score_many(files)
    scores = [result["score"] for result in results]
    low, high = results[0]["scale"]
    assert len(scores) == 9 and max(scores) - min(scores) < 0.05 * (high - low)
