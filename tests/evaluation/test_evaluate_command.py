"""`cskd-hf evaluate` on images and checkpoints, in one process and in several."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from command_processes import finish_command
from cskd_hf import CSKDForImageAesthetics
from cskd_hf.cli import main
from cskd_hf.data.ratings import build_ratings, load_ratings, select_split
from cskd_hf.data.ratings.locations import open_ratings
from cskd_hf.data.ratings.schema import attributes_of, score_values_of
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.evaluate import EvaluationSettings, evaluate
from cskd_hf.evaluation.metrics import iaa_module_path
from cskd_hf.evaluation.predict import RatedImages, load_scorer, predict, rated_metrics
from rated_layouts import write_para


def save_scorer(encoder: str, folder: Path, seed: int = 0, **config) -> str:
    torch.manual_seed(seed)
    model = CSKDForImageAesthetics.from_encoder(encoder, **{"score_values": [1, 2, 3, 4, 5], **config})
    model.classifier.weight.data *= 50
    model.save_pretrained(folder)
    Preprocessing(size=(32, 32)).to_image_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(encoder, tmp_path_factory) -> str:
    return save_scorer(encoder, tmp_path_factory.mktemp("scorers") / "first")


@pytest.fixture(scope="module")
def damaged(ratings, tmp_path_factory) -> str:
    """The rated images, of which two of the 12 for validation cannot be read."""
    folder = tmp_path_factory.mktemp("damaged") / "rated"
    shutil.copytree(Path(ratings).parent, folder)
    (folder / "04.png").write_bytes(b"no picture")
    (folder / "20.png").write_bytes(b"")
    return str(folder / "ratings.csv")


def run(model: str, ratings: str, folder: Path, *options: str) -> dict:
    arguments = [
        "evaluate",
        model,
        ratings,
        "--output",
        str(folder),
        "--cpu",
        "--quiet",
        "--bootstrap",
        "100",
        *options,
    ]
    assert main([*arguments, *([] if "--split" in options else ["--split", "validation"])]) == 0
    return json.loads((folder / "results.json").read_text())


def values(result: dict) -> dict[str, float]:
    return {name: figure["value"] for name, figure in result["metrics"].items()}


def test_figures_of_the_command(model, ratings, tmp_path, monkeypatch, capsys):
    result = run(model, ratings, tmp_path / "out")
    scorer, preprocessing = load_scorer(model)
    images = RatedImages(select_split(load_ratings(ratings), "validation"), preprocessing, batch_size=64)
    assert values(result) == pytest.approx(rated_metrics(images, *predict(scorer, images)), abs=1e-12)
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.std([float(row["prediction"]) for row in rows]) > 0.01
    module = pytest.importorskip("evaluate")
    monkeypatch.setattr(module.config, "HF_EVALUATE_OFFLINE", True)
    found = module.load(iaa_module_path(), cache_dir=str(tmp_path / "cache")).compute(
        predictions=[float(row["prediction"]) for row in rows],
        references=[float(row["truth"]) for row in rows],
        threshold=3.0,
    )
    assert {name: values(result)[name] for name in found} == pytest.approx(found, abs=1e-12)
    assert result["model"]["name"] == "first" and len(result["model"]["weights"]) == 16
    assert result["data"]["location"] == "ratings.csv" and result["data"]["splits"] == {"validation": 12}
    assert result["command"].startswith("cskd-hf evaluate ") and result["settings"]["n_resamples"] == 100
    printed = capsys.readouterr().out
    assert f"{result['metrics']['krcc']['value']:.4f}" in printed and "report.html" in printed


def test_unreadable_images_are_left_out_counted_and_named(model, damaged, tmp_path, capsys):
    result = run(model, damaged, tmp_path)
    assert result["data"]["images"] == 10 and sorted(result["data"]["unreadable"]) == ["04.png", "20.png"]
    assert "2 unreadable image(s) left out:" in capsys.readouterr().out
    keys = [line.split(",")[0] for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]]
    assert len(keys) == 10 and not {"04.png", "20.png"} & set(keys)


def test_two_processes_give_the_figures_of_one_on_a_ragged_last_batch(model, encoder, damaged, tmp_path):
    other = save_scorer(encoder, tmp_path / "second", seed=5)
    options = ("--batch-size", "4", "--against", other)
    one = run(model, damaged, tmp_path / "one", *options)
    finish_command(
        ["evaluate", model, damaged, "--split", "validation", "--output", str(tmp_path / "two"), "--cpu", "--quiet",
         "--bootstrap", "100", *options], processes=2,
    )  # fmt: skip
    two = json.loads((tmp_path / "two" / "results.json").read_text())
    assert two["settings"]["processes"] == 2 and two["data"] == one["data"]
    scores = [
        np.array([row[2:] for row in csv.reader((tmp_path / name / "scores.csv").read_text().splitlines()[1:])], float)
        for name in ("one", "two")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and scores[0].shape == (10, 4)
    for name, figure in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(figure, abs=1e-5)
        assert two["comparison"][name] == pytest.approx(one["comparison"][name], abs=1e-5)


def test_threads_and_batch_size_change_nothing(model, damaged, tmp_path):
    one = run(model, damaged, tmp_path / "one")
    other = run(model, damaged, tmp_path / "other", "--num-workers", "3", "--batch-size", "3")
    assert values(other) == pytest.approx(values(one), abs=1e-5) and other["data"] == one["data"]


def test_splits_groups_and_another_scale(encoder, ratings, tmp_path, capsys):
    model = save_scorer(encoder, tmp_path / "model", score_values=[0, 10])
    result = run(model, ratings, tmp_path / "all", "--split", "all")
    assert {group["name"]: group["images"] for group in result["groups"]["split"]} == {"train": 36, "validation": 12}
    assert set(result["metrics"]) == {"srcc", "plcc", "krcc"} and "--rescale maps" in capsys.readouterr().out
    mapped = run(model, ratings, tmp_path / "mapped", "--rescale", "--threshold", "2.5")
    assert {"mae", "rmse", "accuracy"} <= set(mapped["metrics"]) and mapped["settings"]["threshold"] == 2.5
    assert "the same bins" in mapped["left_out"]["emd1"]
    both = run(model, ratings, tmp_path / "both", "--split", "train", "validation")
    assert both["data"] == result["data"]


def test_attributes_of_model_and_data(encoder, ratings, tmp_path):
    model = save_scorer(encoder, tmp_path / "model", attributes={"light": [0, 1], "color": [1, 5]})
    rated = load_ratings(ratings)
    columns = {name: rated[name][:] for name in ("image", "distribution", "key", "split")}
    light = np.random.default_rng(0).uniform(0, 1, len(rated))
    rated = build_ratings(columns | {"light": list(light)}, (1, 2, 3, 4, 5), name="made", attributes={"light": (0, 1)})
    result = evaluate(model, rated, settings=EvaluationSettings(n_resamples=100), quiet=True)
    scorer, preprocessing = load_scorer(model)
    pixels = torch.cat([pixels for _, pixels in RatedImages(rated, preprocessing).batches()])
    with torch.no_grad():
        own = scorer.eval()(pixel_values=pixels).attributes[:, list(scorer.config.attributes).index("light")]
    expected = np.abs(own.double().numpy() - light).mean()
    assert result["attributes"]["light"]["metrics"]["mae"]["value"] == pytest.approx(expected, abs=1e-6)
    assert "no such attribute" in result["attributes"]["color"]["note"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "tset"], "no split 'tset'"),
        (["--split", "train", "tset"], "no split 'tset'.*or all"),
        (["--by", "colour"], "no such column"),
        (["--bootstrap", "7"], "at least 100, or 0"),
        (["--bootstrap", "0", "--against", "x"], "leave out --bootstrap 0"),
        (["--batch-size", "0"], "at least 1"),
        (["--against", "no-such-folder"], "no folder 'no-such-folder'"),
    ],
)
def test_what_does_not_fit_is_refused(model, ratings, options, message, capsys):
    assert main(["evaluate", model, ratings, "--cpu", "--quiet", "--split", "validation", *options]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_nothing_readable_is_refused(model, damaged, tmp_path, capsys):
    lines = Path(damaged).read_text().splitlines()
    kept = [line for line in lines if line.startswith(("image", "04", "20"))]
    (tmp_path / "ratings.csv").write_text("\n".join(kept))
    arguments = ["evaluate", model, str(tmp_path / "ratings.csv"), "--image-dir", str(Path(damaged).parent)]
    assert main([*arguments, "--split", "validation", "--cpu", "--quiet"]) == 2
    assert "none of the 2 rated images can be read" in capsys.readouterr().err


def test_a_data_set_of_the_field_with_its_attributes_and_contents(encoder, tmp_path):
    folder = write_para(tmp_path / "PARA", train=4, test=24)
    test = open_ratings(f"para:{folder}", split="test")
    scales = attributes_of(test)
    model = save_scorer(encoder, tmp_path / "model", score_values=score_values_of(test), attributes=scales)
    result = run(model, f"para:{folder}", tmp_path / "out", "--split", "test")
    assert result["data"]["location"] == "para:PARA" and result["data"]["images"] == 24
    assert set(result["attributes"]) == set(scales) and scales
    assert all({"srcc", "mae"} <= set(entry["metrics"]) for entry in result["attributes"].values())
    assert sum(group["images"] for group in result["groups"]["category"]) == 24
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "By category" in page and "Attributes" in page and all(name in page for name in scales)
