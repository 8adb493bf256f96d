"""Evaluation of predictions: figures, groups, what is left out, comparison and files."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from cskd_hf.data.ratings import RatingsError, build_ratings
from cskd_hf.evaluation.calibration_curve import calibration_curve
from cskd_hf.evaluation.evaluate import (
    EvaluationSettings,
    ScoredImages,
    evaluate_scores,
    evaluation_table,
    write_evaluation,
)
from cskd_hf.evaluation.metrics import (
    METRIC_NAMES,
    SCORE_METRICS,
    binary_accuracy,
    bootstrap_intervals,
    emd,
    iaa_module_path,
    paired_bootstrap,
)

VALUES = (1.0, 2.0, 3.0, 4.0, 5.0)
QUICK = EvaluationSettings(n_resamples=100)
NO_INTERVALS = EvaluationSettings(n_resamples=0)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), (number % 256, 90, 120)).save(buffer, "PNG")
    return buffer.getvalue()


def rated(n: int = 60, distributions: bool = True, attributes=None, **columns):
    rng = np.random.default_rng(0)
    votes = rng.dirichlet(np.ones(5), n)
    votes[5] = votes[7]  # a tie
    data = {"image": [{"path": f"{i}.png", "bytes": picture(i)} for i in range(n)]}
    data |= {"distribution": votes} if distributions else {"mean": votes @ VALUES}
    return build_ratings(data | columns, VALUES, name="made up", attributes=attributes)


def scored(ratings, noise: float = 0.3, values=VALUES, seed: int = 1, **more) -> ScoredImages:
    rng = np.random.default_rng(seed)
    true, n = np.asarray(ratings["mean"][:]), len(ratings)
    near = np.exp(-((np.linspace(1, 5, len(values)) - true[:, None]) ** 2))
    predicted = (1 - noise) * near / near.sum(1, keepdims=True) + noise * rng.dirichlet(np.ones(len(values)), n)
    return ScoredImages(ratings, predicted @ np.array(values), values, predicted, **more)


def brute_force_emd(pred: np.ndarray, true: np.ndarray, r: int) -> float:
    distances = []
    for p, t in zip(pred, true):
        gaps = [abs(sum(p[: k + 1]) - sum(t[: k + 1])) ** r for k in range(len(p))]
        distances.append((sum(gaps) / len(p)) ** (1 / r))
    return sum(distances) / len(distances)


def test_agrees_with_scipy_and_with_a_brute_force_distance():
    ratings = rated()
    given = scored(ratings)
    metrics = evaluate_scores(given, settings=NO_INTERVALS)["metrics"]
    truth, rated_votes = np.asarray(ratings["mean"][:]), np.asarray(ratings["distribution"][:])
    assert list(metrics) == list(METRIC_NAMES)
    for name, function in {"srcc": stats.spearmanr, "plcc": stats.pearsonr, "krcc": stats.kendalltau}.items():
        assert metrics[name]["value"] == pytest.approx(function(given.scores, truth).statistic, abs=1e-12)
    for r in (1, 2):
        expected = brute_force_emd(given.distributions, rated_votes, r)
        assert metrics[f"emd{r}"]["value"] == pytest.approx(expected, abs=1e-12)
    assert metrics["accuracy"]["value"] == np.mean((given.scores > 3) == (truth > 3))


def test_agrees_with_the_evaluate_module(tmp_path, monkeypatch):
    module = pytest.importorskip("evaluate")
    monkeypatch.setattr(module.config, "HF_EVALUATE_OFFLINE", True)
    ratings = rated()
    given = scored(ratings)
    found = module.load(iaa_module_path(), "distributions", cache_dir=str(tmp_path)).compute(
        predictions=given.distributions,
        references=ratings["distribution"][:],
        score_values=list(VALUES),
        threshold=3.0,
    )
    metrics = evaluate_scores(given, settings=NO_INTERVALS)["metrics"]
    # The mean that a rated set keeps is of the votes before they were stored as float32.
    assert {name: figure["value"] for name, figure in metrics.items()} == pytest.approx(found, abs=1e-6)


def test_intervals_and_comparison_are_those_of_the_plain_functions():
    ratings = rated()
    a, b = scored(ratings), scored(ratings, noise=0.6, seed=2)
    result = evaluate_scores(a, against=b, settings=QUICK)
    truth, votes = np.asarray(ratings["mean"][:]), np.asarray(ratings["distribution"][:])
    of_scores = {**SCORE_METRICS, "accuracy": partial(binary_accuracy, threshold=3.0)}
    of_votes = {f"emd{r}": partial(emd, r=r) for r in (1, 2)}
    expected = bootstrap_intervals(a.scores, truth, of_scores, n_resamples=100)
    expected |= bootstrap_intervals(a.distributions, votes, of_votes, n_resamples=100)
    pairs = paired_bootstrap(a.scores, b.scores, truth, of_scores, n_resamples=100)
    pairs |= paired_bootstrap(a.distributions, b.distributions, votes, of_votes, n_resamples=100)
    assert list(result["comparison"]) == list(METRIC_NAMES)
    for name, figure in result["metrics"].items():
        assert (figure["low"], figure["high"]) == pytest.approx(expected[name], abs=1e-12)
        compared = {key: result["comparison"][name][key] for key in pairs[name]}
        assert compared == pytest.approx(pairs[name], abs=1e-12)
    assert result["comparison"]["srcc"]["difference"] > 0 > result["comparison"]["emd1"]["difference"]


def test_a_model_against_itself():
    given = scored(rated())
    comparison = evaluate_scores(given, against=given, settings=QUICK)["comparison"]
    assert all((c["difference"], c["low"], c["high"], c["p_value"]) == (0, 0, 0, 1) for c in comparison.values())
    with pytest.raises(ValueError, match="score the same images"):
        evaluate_scores(given, against=scored(rated(50)), settings=QUICK)


def test_groups():
    themes = [None if i < 12 else ("sea" if i % 2 else "rare" if i < 20 else "town") for i in range(60)]
    ratings = rated(theme=themes, split=["test"] * 40 + ["validation"] * 20, year=[2020, 2021] * 30)
    given = scored(ratings)
    result = evaluate_scores(given, settings=NO_INTERVALS)
    assert list(result["groups"]) == ["split", "theme"]
    theme = {group["name"]: group for group in result["groups"]["theme"]}
    assert list(theme) == ["rare", "sea", "town", "(none)"]
    assert theme["rare"] == {"name": "rare", "images": 4, "note": "too small for figures: fewer than 10 images."}
    rows = [i for i, name in enumerate(themes) if name == "sea"]
    expected = stats.spearmanr(given.scores[rows], np.asarray(ratings["mean"][:])[rows]).statistic
    assert theme["sea"]["images"] == len(rows)
    assert theme["sea"]["metrics"]["srcc"]["value"] == pytest.approx(expected, abs=1e-12)
    assert "too small for figures" in evaluation_table(result)
    by_year = evaluate_scores(given, settings=replace(NO_INTERVALS, by=["year"]))["groups"]["year"]
    assert [(group["name"], group["images"]) for group in by_year] == [("2020", 30), ("2021", 30)]
    for column, message in {"themes": "'theme'.*allowed: ", "mean": "float64; allowed: text"}.items():
        with pytest.raises(RatingsError, match=message):
            evaluate_scores(given, settings=replace(QUICK, by=[column]))


def test_a_column_of_names_is_left_out_by_default_and_refused_when_asked_for():
    ratings = rated(70, theme=[f"theme {i}" for i in range(70)])
    result = evaluate_scores(scored(ratings), settings=NO_INTERVALS)
    assert result["groups"] == {} and "70 different values" in result["not_grouped"]["theme"]
    with pytest.raises(RatingsError, match="by='theme': it has 70 different values; allowed: at most 60"):
        evaluate_scores(scored(ratings), settings=replace(QUICK, by=["theme"]))


def test_another_scale():
    ratings = rated()
    given = scored(ratings, values=(0.0, 25.0, 50.0, 75.0, 100.0))
    result = evaluate_scores(given, settings=NO_INTERVALS)
    assert list(result["metrics"]) == ["srcc", "plcc", "krcc"]
    assert set(result["left_out"]) == {"accuracy", "emd1", "emd2", "mae", "rmse"} and result["calibration"] is None
    table = evaluation_table(result)
    assert "rates from 0 to 100, the ratings are from 1 to 5; --rescale" in table and table.count("--rescale") == 1
    mapped = evaluate_scores(given, settings=replace(NO_INTERVALS, rescale=True))
    same = evaluate_scores(replace(given, scores=1 + given.scores / 25, score_values=VALUES), settings=NO_INTERVALS)
    assert mapped["left_out"] == {} and mapped["settings"]["rescaled"]
    for name, figure in same["metrics"].items():
        assert mapped["metrics"][name] == pytest.approx(figure, abs=1e-12)
    assert not evaluate_scores(scored(ratings), settings=replace(NO_INTERVALS, rescale=True))["settings"]["rescaled"]


def test_other_bins_means_only_and_scores_only():
    ratings = rated()
    half_steps = tuple(np.arange(1, 5.5, 0.5))
    for given, reason in (
        (scored(ratings, values=half_steps), "the model has the bins 1, 1.5, 2, .* needs the same bins"),
        (scored(rated(distributions=False)), "60 of 60 images have a mean rating only"),
        (replace(scored(ratings), distributions=None), "predicted scores only"),
    ):
        result = evaluate_scores(given, settings=NO_INTERVALS)
        assert list(result["metrics"]) == [name for name in METRIC_NAMES if not name.startswith("emd")]
        assert set(result["left_out"]) == {"emd1", "emd2"} and re.search(reason, result["left_out"]["emd1"])
    rival = evaluate_scores(scored(ratings), against=scored(ratings, values=half_steps), settings=QUICK)
    assert "emd1" in rival["metrics"] and "emd1" not in rival["comparison"] and "srcc" in rival["comparison"]
    assert "emd1, emd2 not compared: the model has the bins" in evaluation_table(rival)


def test_attributes():
    rng = np.random.default_rng(3)
    colour = rng.uniform(1, 5, 60)
    missing = colour.astype(object)
    missing[:20] = None
    ratings = rated(
        color=list(missing), light=list(rng.uniform(0, 1, 60)), depth=[None] * 55 + [0.1, 0.2, 0.3, 0.4, 0.5],
        attributes={"color": (1.0, 5.0), "light": (0.0, 1.0), "depth": (0.0, 1.0)},
    )  # fmt: skip
    predicted = {"color": colour + rng.normal(0, 0.5, 60), "depth": rng.uniform(0, 1, 60), "motion": np.zeros(60)}
    scales = {"color": (1.0, 5.0), "depth": (0.0, 1.0), "motion": (0.0, 1.0)}
    result = evaluate_scores(scored(ratings, attributes=predicted, attribute_scales=scales), settings=QUICK)
    found = result["attributes"]
    expected = stats.spearmanr(predicted["color"][20:], colour[20:]).statistic
    assert found["color"]["images"] == 40
    assert found["color"]["metrics"]["srcc"]["value"] == pytest.approx(expected, abs=1e-12)
    assert found["color"]["metrics"]["mae"]["value"] == pytest.approx(np.abs(predicted["color"] - colour)[20:].mean())
    assert found["depth"]["note"] == "too few ratings for figures: fewer than 10."
    assert "does not predict" in found["light"]["note"] and "no such attribute" in found["motion"]["note"]
    other = scored(ratings, attributes=predicted, attribute_scales=scales | {"color": (0.0, 10.0)})
    assert "mae" not in evaluate_scores(other, settings=NO_INTERVALS)["attributes"]["color"]["metrics"]
    assert re.search(r"color +40 ", evaluation_table(result))


def test_calibration_by_hand():
    scores = np.repeat([2.0, 4.0], 10)
    means = np.concatenate([np.tile([1.0, 2.0], 5), np.full(10, 4.5)])
    curve = calibration_curve(scores, means, bins=2)
    assert [entry["images"] for entry in curve["bins"]] == [10, 10]
    assert [entry["predicted"] for entry in curve["bins"]] == [2, 4]
    assert [entry["rated"] for entry in curve["bins"]] == [1.5, 4.5]
    assert curve["bins"][0]["standard_error"] == pytest.approx(math.sqrt(2.5 / 9) / math.sqrt(10))
    assert curve["expected_calibration_error"] == pytest.approx(0.5) and curve["bias"] == pytest.approx(0)
    assert curve["spread"] == pytest.approx(1 / means.std())
    few = calibration_curve([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert [entry["images"] for entry in few["bins"]] == [3] and few["spread"] is None
    assert sum(entry["images"] for entry in calibration_curve(np.arange(97.0), np.arange(97.0))["bins"]) == 97
    assert len(calibration_curve(np.full(50, 2.0), np.arange(50.0))["bins"]) == 1


def strict(path) -> dict:
    def refuse(name: str):
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_files(tmp_path):
    ratings = rated(key=[f"<{i}>&.png" for i in range(60)], theme=["sea", "<town>"] * 30)
    given = scored(ratings, unreadable={"lost.png": "truncated"})
    result = evaluate_scores(given, against=scored(ratings, noise=0.6, seed=2), settings=QUICK)
    folder = tmp_path / "new" / "evaluation"
    write_evaluation(folder, result, ratings)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.json", "scores.csv"]
    written = strict(folder / "results.json")
    assert written["metrics"] == result["metrics"] and "images" not in written
    assert written["data"]["unreadable"] == {"lost.png": "truncated"} and written["settings"]["seed"] == 0
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["key", "split", "prediction", "truth", "error", "prediction_against"]
    assert [row["key"] for row in rows] == ratings["key"][:]
    assert [float(row["prediction"]) for row in rows] == given.scores.tolist()
    errors = [float(row["error"]) for row in rows]
    assert errors == pytest.approx([float(row["prediction"]) - float(row["truth"]) for row in rows])
    page = (folder / "report.html").read_text(encoding="utf-8")
    worst = np.argsort(errors)
    expected = [*worst[::-1][:6], *worst[:6]]
    assert [int(i) for i in re.findall(r'alt="&lt;(\d+)&gt;&amp;.png"', page)] == [int(i) for i in expected]
    assert "<town>" not in page and page.count('<svg class="votes"') == 12
    addresses = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert addresses and all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "Calibration" in page and "By theme" in page and "lost.png" in page and "minus" in page


def test_undefined_figures_are_null_and_shown_as_such(tmp_path):
    ratings = rated(theme=["sea", "town"] * 30)
    constant = replace(scored(ratings), scores=np.full(60, 3.0), distributions=np.full((60, 5), 0.2))
    result = evaluate_scores(constant, settings=QUICK)
    write_evaluation(tmp_path, result, ratings)
    written = strict(tmp_path / "results.json")
    assert written["metrics"]["srcc"] == {"value": None, "low": None, "high": None}
    assert written["metrics"]["mae"]["value"] > 0 and "n/a" in evaluation_table(result)


def test_pictures_are_found_by_place_where_scales_differ_and_without_votes(tmp_path):
    ratings = rated(20, distributions=False)
    given = scored(ratings, values=(0.0, 100.0))
    given.scores[3], given.scores[4] = 1000, -1000
    write_evaluation(tmp_path, evaluate_scores(given, settings=NO_INTERVALS), ratings)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Wrong by the place" in page and '<line class="rated"' in page and "Calibration" not in page
    with open(tmp_path / "scores.csv", newline="") as file:
        assert "error" not in next(csv.reader(file))


def test_unusable():
    ratings = rated()
    with pytest.raises(RatingsError, match="1 rated image.*at least 2"):
        evaluate_scores(scored(ratings.select([0])))
    with pytest.raises(ValueError, match="`scores` holds 3 images and `ratings` 60"):
        ScoredImages(ratings, np.zeros(3), VALUES)
    with pytest.raises(ValueError, match="n_resamples=20 is too few"):
        EvaluationSettings(n_resamples=20)
