"""The recipe of each data set's protocol, run as it is on a small set in the published layout: teacher, student, test."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

import rated_layouts
import rated_layouts_more
from cskd_hf.cli import main
from cskd_hf.data.ratings import attributes_of, score_values_of
from cskd_hf.data.ratings.locations import open_ratings
from cskd_hf.training.arguments import StudentSettings, TeacherSettings
from cskd_hf.training.recipes import read_recipe

RECIPES = Path(__file__).parents[2] / "hub_configs" / "recipes"
SETS = ["ava", "aadb", "para", "flickr-aes", "tad66k", "eva", "koniq10k", "spaq", "baid"]
WRITERS = rated_layouts.WRITERS | rated_layouts_more.WRITERS
CARVED = ("ava", "para", "flickr-aes", "tad66k", "spaq")  # few of their training images validate
QUICK = "--max-steps 2 --batch-size 8 --num-workers 0 --eval-every 0 --save-every 0 --cpu --quiet".split()


def test_every_data_set_has_both_recipes():
    assert {path.name for path in RECIPES.glob("*.yaml") if path.stem.rpartition("-")[0] in SETS} == {
        f"{name}-{role}.yaml" for name in SETS for role in ("teacher", "student")
    }


@pytest.mark.parametrize("name", SETS)
def test_recipe_from_its_labels_to_its_test_split(name, tmp_path, monkeypatch, encoder, photographs):
    monkeypatch.chdir(tmp_path)
    (location,) = read_recipe(RECIPES / f"{name}-teacher.yaml", TeacherSettings)["ratings"]
    assert read_recipe(RECIPES / f"{name}-student.yaml", StudentSettings)["ratings"] == [location]
    home = Path(location.partition(":")[2].partition("?")[0])  # the recipe looks for the data here
    WRITERS[name](home, **({"train": 64} if name in CARVED else {}))
    ratings = open_ratings(location)
    counts = Counter(ratings["split"])
    teacher, student = (str(tmp_path / "runs" / f"{name}-{role}") for role in ("teacher", "student"))
    run("teacher", name, teacher, encoder)
    run("student", name, student, encoder, "--images", photographs)
    reporting = ["--against", teacher, "--output", "evaluation", "--bootstrap", "100", "--cpu", "--quiet"]
    assert main(["evaluate", student, location, *reporting]) == 0
    results = json.loads(Path("evaluation/results.json").read_text())
    assert results["data"]["splits"] == {"test": counts["test"]}
    for role in ("model", "against"):
        facts = results[role]
        assert facts["provenance"]["rated_images"] == counts["train"]
        assert tuple(facts["score_values"]) == score_values_of(ratings)
        assert facts["attributes"].keys() == attributes_of(ratings).keys()
    low, *_, high = score_values_of(ratings)
    assert results["metrics"]["mae"]["value"] < 0.3 * (high - low)
    assert math.isfinite(results["metrics"]["srcc"]["value"])
    has_histograms = ratings["distribution"][0] is not None
    assert ("emd2" in results["metrics"]) == has_histograms


def run(command: str, name: str, output: str, encoder: str, *further: str) -> None:
    recipe = ["--recipe", str(RECIPES / f"{name}-{command}.yaml"), "--encoder", encoder, "--output-dir", output]
    assert main([command, *recipe, *QUICK, *further]) == 0
