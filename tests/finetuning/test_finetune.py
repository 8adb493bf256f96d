from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, pipeline

from conftest import draw_photograph
from cskd_hf.cli import main
from cskd_hf.data.ratings import RatingsError
from cskd_hf.evaluation.predict import load_scorer
from cskd_hf.finetuning.estimate import verdict
from cskd_hf.finetuning.run import finetune
from cskd_hf.finetuning.settings import FULL_FROM, PARTIAL_FROM, FinetuneSettings
from cskd_hf.models.image_loading_cskd import load_image
from cskd_hf.training.settings import SettingsError


def write_means(folder: Path, count: int, rate=lambda brightness, rng: 1 + 4 * brightness) -> Path:
    """Photographs of random brightness, rated with a mean each."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    with open(folder / "mine.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "score"])
        for number in range(count):
            brightness = rng.uniform(0.15, 0.85)
            draw_photograph(rng, brightness).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", f"{rate(brightness, rng):.3f}"])
    return folder / "mine.csv"


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, encoder):
    """40 mean-only ratings, fine-tuned by the command."""
    folder = tmp_path_factory.mktemp("tuned")
    file = write_means(folder / "data", 40)
    output = folder / "out"
    code = main(
        ["finetune", str(file), "--model", encoder, "--scale", "1", "5", "--output", str(output), "--cpu", "--quiet"]
    )
    assert code == 0
    return file, output, json.loads((output / "results.json").read_text())


def test_the_model_loads_everywhere(tuned):
    file, output, results = tuned
    model, preprocessing = load_scorer(str(output / "model"))
    image = file.parent / "0.png"
    pixels = preprocessing.to_image_processor()(images=load_image(image), return_tensors="pt")["pixel_values"]
    score = model.eval()(pixels).score.item()
    assert pipeline("image-aesthetics", model=str(output / "model"))(str(image))["score"] == pytest.approx(
        score, abs=1e-5
    )
    other = AutoModelForImageClassification.from_pretrained(output / "model")
    assert other.config.score_values == [1, 2, 3, 4, 5]
    assert model.config.provenance["rated_images"] == 40 and str(file.parent) not in json.dumps(
        model.config.provenance
    )
    assert results["mode"] == "probe" and results["shipped"]["images"] == 40


def test_the_estimate_is_of_unseen_images(tuned, encoder):
    """Every image is predicted once, by a model of the other folds, and the figures are those of the predictions."""
    from scipy.stats import spearmanr

    file, output, results = tuned
    rows = read_csv(output / "scores.csv")
    assert [row["key"] for row in rows] == [f"{number}.png" for number in range(40)]
    assert len({row["fold"] for row in rows}) == results["estimate"]["folds"] == 10
    means, scores = ([float(row[name]) for row in rows] for name in ("mean", "finetuned"))
    figure = results["estimate"]["candidates"]["finetuned"]["srcc"]
    assert figure["value"] == pytest.approx(spearmanr(scores, means).statistic, abs=1e-4)
    assert figure["low"] < figure["value"] < figure["high"]
    # Brightness is learnt; predicting the mean is worse.
    assert figure["value"] > 0.6
    assert results["estimate"]["differences"]["mean"]["mae"]["high"] < 0
    for row in rows:  # the baseline is the mean of the other folds alone
        others = [mean for mean, other in zip(means, rows) if other["fold"] != row["fold"]]
        assert float(row["training_mean"]) == pytest.approx(np.mean(others), abs=1e-4)


def test_ratings_without_sense_are_found_out(tmp_path, vit_encoder):
    """More features than images: any ratings can be learnt by heart, none of random ones can be foretold."""
    file = write_means(tmp_path / "data", 40, rate=lambda brightness, rng: rng.uniform(1, 5))
    result = finetune(
        FinetuneSettings(
            ratings=str(file), model=vit_encoder, scale=[1, 5], output=str(tmp_path / "out"), cpu=True, quiet=True
        )
    )
    figure = result.estimate.figures["finetuned"]["srcc"]
    assert figure["low"] < 0.1 and abs(figure["value"]) < 0.45


def test_reports(tuned):
    _, output, results = tuned
    page = (output / "report.html").read_text()
    assert "10-fold cross-validation" in page and "trained on all 40 ratings" in page and "(saved)" in page
    assert (output / "held_out" / "results.json").is_file()
    assert results["scale"].startswith("1 to 5") and results["seconds"] > 0
    assert not list(output.glob(".work*"))


def test_a_scorer_is_measured_as_it_was(tuned, tmp_path):
    """On ratings of another scale; its own direction is a start that few ratings cannot lose."""
    _, output, _ = tuned
    file = write_means(tmp_path / "data", 20, rate=lambda brightness, rng: 100 * brightness)
    result = finetune(
        FinetuneSettings(
            ratings=str(file), model=str(output / "model"), scale=[0, 100], output=str(tmp_path / "out"), cpu=True,
            quiet=True,
        )
    )  # fmt: skip
    base = result.estimate.figures["base"]
    assert base["srcc"]["value"] > 0.8 and base["mae"]["value"] < 25
    assert result.estimate.figures["finetuned"]["srcc"]["value"] > 0.7
    model, preprocessing = load_scorer(str(output / "model"))
    first = preprocessing.to_image_processor()(images=load_image(file.parent / "0.png"), return_tensors="pt")
    score = model.eval()(first["pixel_values"]).score.item()
    assert result.encoded.base_scores[0] == pytest.approx((score - 1) * 25, abs=1e-3)


@pytest.mark.parametrize(
    ("count", "rate", "message"),
    [
        (9, lambda brightness, rng: 1 + 4 * brightness, "9 rated images; at least 10"),
        (12, lambda brightness, rng: 3, "all 12 ratings are 3"),
    ],
)
def test_refusals(tmp_path, encoder, count, rate, message, capsys):
    file = write_means(tmp_path / "data", count, rate)
    arguments = ["finetune", str(file), "--model", encoder, "--scale", "1", "5", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_copies_do_not_make_up_for_pictures(tmp_path, encoder):
    file = write_means(tmp_path / "data", 12)
    for number in range(3, 12):
        shutil.copy(file.parent / f"{number % 3}.png", file.parent / f"{number}.png")
    settings = FinetuneSettings(
        ratings=str(file), model=encoder, scale=[1, 5], output=str(tmp_path / "out"), cpu=True, quiet=True
    )
    with pytest.raises(RatingsError, match="12 rated images of 3 different pictures"):
        finetune(settings)


def test_unreadable_images_are_left_out_and_named(tmp_path, encoder):
    file = write_means(tmp_path / "data", 14)
    (file.parent / "5.png").write_bytes(b"no image")
    result = finetune(
        FinetuneSettings(
            ratings=str(file), model=encoder, scale=[1, 5], output=str(tmp_path / "out"), cpu=True, quiet=True
        )
    )
    assert len(result.encoded.ratings) == 13 and list(result.encoded.unreadable) == ["5.png"]
    assert "5.png" in json.loads((tmp_path / "out" / "results.json").read_text())["unreadable"]


def test_output_folders(tuned, tmp_path, encoder):
    file, output, _ = tuned
    with pytest.raises(SettingsError, match="--overwrite"):
        finetune(FinetuneSettings(ratings=str(file), model=encoder, scale=[1, 5], output=str(output)))
    (tmp_path / "letter.txt").touch()
    with pytest.raises(SettingsError, match="holds no fine-tune"):
        finetune(FinetuneSettings(ratings=str(file), model=encoder, scale=[1, 5], output=str(tmp_path)))


def test_a_model_that_is_not_there(tuned, tmp_path):
    file, _, _ = tuned
    with pytest.raises(SettingsError, match="give --model FOLDER"):
        finetune(FinetuneSettings(ratings=str(file), scale=[1, 5], output=str(tmp_path / "out")))


def test_modes_by_size(tuned):
    from cskd_hf.finetuning.fits import mode_for

    settings = FinetuneSettings(ratings="x")
    sizes = [10, PARTIAL_FROM - 1, PARTIAL_FROM, FULL_FROM - 1, FULL_FROM]
    assert [mode_for(settings, size) for size in sizes] == ["probe", "probe", "partial", "partial", "full"]
    assert mode_for(FinetuneSettings(ratings="x", mode="full"), 10) == "full"


@pytest.mark.parametrize("mode", ["partial", "full"])
def test_layers_are_trained(tmp_path, ratings, encoder, mode):
    """With histograms; the probe on the same features stands beside it."""
    result = finetune(
        FinetuneSettings(
            ratings=ratings, model=encoder, output=str(tmp_path / "out"), mode=mode, folds=2, max_steps=6, cpu=True,
            learning_rate=1e-2, quiet=True,
        )
    )  # fmt: skip
    figures = result.estimate.figures
    assert {"finetuned", "probe", "mean"} == set(figures) and "emd1" in figures["finetuned"]
    assert result.final["chosen_on"] < 48 / 2 and 0 <= result.final["steps"] <= 6
    start, trained = (load_scorer_weights(path) for path in (encoder, tmp_path / "out" / "model"))
    changed = {name for name in start if not torch.equal(start[name], trained[name])}
    if result.final["steps"]:
        first = [name for name in start if "embedder" in name and name.endswith("weight")]
        assert bool(changed & set(first)) == (mode == "full")
        assert changed


def load_scorer_weights(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    weights = load_file(Path(folder) / "model.safetensors")
    return {
        name.removeprefix("backbone."): value
        for name, value in weights.items()
        if value.is_floating_point() and "running" not in name and "classifier" not in name
    }


def test_unrated_images(tmp_path, encoder, photographs):
    """Two models on the same folds, one of them saved, and no held-out image in training."""
    file = write_means(tmp_path / "data", 20)
    unrated = tmp_path / "unrated"
    shutil.copytree(photographs, unrated)
    for number in range(20):  # all rated images are among the unrated ones
        shutil.copy(file.parent / f"{number}.png", unrated / f"copy{number}.png")
    output = tmp_path / "out"
    result = finetune(
        FinetuneSettings(
            ratings=str(file), model=encoder, scale=[1, 5], output=str(output), unlabeled=[str(unrated)], folds=2,
            student_steps=4, batch_size=8, cpu=True, quiet=True,
        )
    )  # fmt: skip
    assert [facts["held_out_among_unrated"] for facts in result.held.facts["semi"]] == [
        len(fold.held_out) for fold in result.plan.folds
    ]
    results = json.loads((output / "results.json").read_text())
    assert results["estimate"]["unrated_images"]["helped"] in ("yes", "no", "unclear")
    assert results["shipped"]["candidate"] in ("semi", "finetuned")
    assert "The unrated images" in (output / "report.html").read_text()
    assert {"semi", "finetuned"} <= set(read_csv(output / "scores.csv")[0])
    load_scorer(str(output / "model"))


def test_verdicts():
    def figure(low, high):
        return {"srcc": {"difference": (low + high) / 2, "low": low, "high": high}}

    assert verdict(figure(0.01, 0.2))[0] == "yes"
    assert verdict(figure(-0.2, -0.01))[0] == "no"
    word, text = verdict(figure(-0.1, 0.2))
    assert word == "unclear" and "did not improve" in text


def test_real_photographs(tmp_path, data_folder):
    """40 mean-only ratings of OASIS on a tiny CLIP."""
    from cskd_hf.data.synthetic import tiny_clip_path

    rows = [row for row in read_csv(data_folder / "oasis_beauty" / "ratings.csv") if row["split"] == "train"][:40]
    file = tmp_path / "mine.csv"
    file.write_text("image,mean\n" + "".join(f"{row['image']},{row['mean']}\n" for row in rows))
    result = finetune(
        FinetuneSettings(
            ratings=str(file), images=str(data_folder / "oasis_beauty"), model=str(tiny_clip_path()), scale=[1, 7],
            output=str(tmp_path / "out"), cpu=True, quiet=True,
        )
    )  # fmt: skip
    assert len(result.held.rows) == 40
