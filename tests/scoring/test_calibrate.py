from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import percentileofscore
from transformers import ResNetConfig, pipeline

from cskd_hf import CSKDConfig, CSKDForImageAesthetics
from cskd_hf.cli import main
from cskd_hf.data.views import Preprocessing
from cskd_hf.models.calibration_cskd import calibrated_score, checked_calibration, percentile
from cskd_hf.scoring.calibrate import isotonic_map, map_errors, quantiles_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    CSKDForImageAesthetics(CSKDConfig(backbone_config=backbone, score_values=range(1, 6))).save_pretrained(folder)
    Preprocessing((32, 32)).to_image_processor().save_pretrained(folder)
    return folder


def test_percentile_is_the_share_that_scores_lower():
    scores = np.random.default_rng(0).normal(5, 1, 1001)
    quantiles = quantiles_of(scores)
    for score in (2.5, 4.0, 5.0, 6.7):
        assert percentile(score, quantiles) == pytest.approx(percentileofscore(scores, score), abs=1.0)
    assert percentile(-10, quantiles) == 0 and percentile(99, quantiles) == 100
    assert percentile(3.0, [1.0, 3.0, 3.0, 3.0, 5.0]) == 50


def test_map_is_the_best_rising_function():
    rng = np.random.default_rng(1)
    scores = rng.uniform(1, 5, 200)
    ratings = 2 + 0.5 * scores + rng.normal(0, 0.2, 200)
    fitted = isotonic_map(scores, ratings)
    mapped = np.asarray([calibrated_score(score, **fitted) for score in np.sort(scores)])
    assert (np.diff(mapped) >= 0).all() and np.abs(mapped - 2 - 0.5 * np.sort(scores)).mean() < 0.1
    assert calibrated_score(-3, **fitted) == fitted["ratings"][0]
    before, after = map_errors(scores, ratings)
    assert before == pytest.approx(np.abs(scores - ratings).mean()) and after < 0.25 < before


def test_map_of_equal_scores_is_their_mean_rating():
    fitted = isotonic_map(np.asarray([1.0, 1.0, 2.0, 3.0]), np.asarray([1.0, 3.0, 5.0, 4.0]))
    assert fitted == {"scores": [1.0, 2.0, 3.0], "ratings": [2.0, 4.5, 4.5]}


@pytest.mark.parametrize(
    ("calibration", "named"),
    [
        ({"quantiles": [3.0, 2.0]}, "quantiles"),
        ({"quantiles": [1.0, float("nan")]}, "quantiles"),
        ({"quantile": [1.0, 2.0]}, "quantile"),
        (
            {"quantiles": [1.0, 2.0], "map": {"scores": [1.0, 2.0], "ratings": [1.0, 2.0, 3.0]}},
            "2 scores and 3 ratings",
        ),
        ([1.0, 2.0], "mapping"),
    ],
)
def test_config_refuses_what_is_no_calibration(calibration, named):
    with pytest.raises(ValueError, match=named):
        checked_calibration(calibration)
    with pytest.raises(ValueError, match=named):
        CSKDConfig(backbone_config=ResNetConfig(), calibration=calibration)


def test_command_and_its_results(checkpoint, photographs, ratings, tmp_path, capsys):
    folder = tmp_path / "student"
    shutil.copytree(checkpoint, folder)
    weights = (folder / "model.safetensors").read_bytes()
    assert main(["calibrate", str(folder), photographs, "--ratings", ratings, "--name", "holidays", "--quiet"]) == 0
    assert "calibrated on 40 images of holidays" in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert {**config, "calibration": None} == json.loads((checkpoint / "config.json").read_text()) | {
        "calibration": None
    }
    assert (folder / "model.safetensors").read_bytes() == weights
    assert config["calibration"]["images"] == 40 and len(config["calibration"]["quantiles"]) == 101

    files = sorted(str(path) for path in Path(photographs).iterdir())
    results = pipeline("image-aesthetics", model=str(folder))(files)
    by_score = sorted(results, key=lambda result: result["score"])
    assert [result["percentile"] for result in by_score] == pytest.approx(np.linspace(0, 100, 40).tolist(), abs=2.6)
    low, high = min(config["calibration"]["map"]["ratings"]), max(config["calibration"]["map"]["ratings"])
    assert all(low <= result["calibrated_score"] <= high for result in results)

    table = tmp_path / "scores.csv"
    assert main(["score", "--model", str(folder), photographs, "--output", str(table), "--quiet"]) == 0
    assert "better than" in capsys.readouterr().out
    assert table.read_text().splitlines()[0].split(",")[-3:] == ["percentile", "calibrated_score", "error"]


def test_without_a_calibration_nothing_is_claimed(checkpoint, photographs, capsys):
    result = pipeline("image-aesthetics", model=str(checkpoint))(str(next(Path(photographs).iterdir())))
    assert "percentile" not in result and "calibrated_score" not in result
    assert main(["score", "--model", str(checkpoint), photographs, "--quiet"]) == 0
    assert "better than" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no reference set"),
        (["--ratings", "none.csv"], "none.csv"),
        (["nowhere"], "nowhere"),
        (["nowhere", "--split", "test"], "--split and --image-dir are of --ratings"),
    ],
)
def test_command_refuses(checkpoint, arguments, said, capsys):
    before = (checkpoint / "config.json").read_bytes()
    assert main(["calibrate", str(checkpoint), *arguments]) == 2
    assert said in capsys.readouterr().err and (checkpoint / "config.json").read_bytes() == before
