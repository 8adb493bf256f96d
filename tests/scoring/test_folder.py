"""Scoring of files and folders from Python."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

from cskd_hf import CSKDForFeatureAlignment, CSKDForImageAesthetics
from cskd_hf.scoring.folder import ScoringError, score_images
from tiny_scorers import save_scorer


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
    results = score_images(model, files, batch_size=2, quiet=True, workers=0)
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
