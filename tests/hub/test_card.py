"""The model card says what the runs recorded, all of it and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image
from transformers import pipeline

from conftest import write_rated_images
from cskd_hf import default_student_path
from cskd_hf.cli import main
from cskd_hf.evaluation.predict import load_scorer, weights_fingerprint
from cskd_hf.hub.card import hub_evaluations, model_card, write_card
from cskd_hf.hub.facts import CheckpointFacts, missing_facts, read_facts
from cskd_hf.hub.folder import _own_config
from cskd_hf.training.reference import ReferenceEncoder

ROOT = Path(__file__).parents[2]
FAST = ["--cpu", "--quiet", "--batch-size", "8", "--image-size", "32", "--save-every", "0", "--warmup-steps", "1"]
LICENSES = {"ratings": "CC0-1.0", "photographs": "own photographs"}


def run(*arguments: str) -> None:
    assert main(list(map(str, arguments))) == 0


def judge(model: Path, ratings: Path, output: Path, split: str = "test") -> None:
    run("evaluate", model, ratings, "--split", split, "--output", output, "--bootstrap", "100", "--cpu", "--quiet")


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Path:
    """30 further images: nobody has trained on these."""
    return Path(write_rated_images(tmp_path_factory.mktemp("judged"), ["test"] * 30, seed=7, name="judged.csv"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, encoder, clip, photographs, ratings, judged) -> Path:
    """A whole CSKD, of few steps: aligned, teacher, student, and an evaluation in the student's folder."""
    folder = tmp_path_factory.mktemp("maker") / "secret"
    folder.mkdir()
    places = {"ratings": folder / "ratings.csv", "photographs": folder / "photographs"}
    shutil.copytree(Path(ratings).parent, folder, dirs_exist_ok=True)
    shutil.copytree(photographs, places["photographs"])
    run(
        "align", "--encoder", encoder, "--reference", clip, "--images", places["photographs"], "--output-dir",
        folder / "aligned", "--loss", "cosine", "--holdout", "6", "--max-steps", "3", *FAST,
    )  # fmt: skip
    rated = ["--encoder", folder / "aligned", "--ratings", places["ratings"], "--max-steps", "3", *FAST]
    run("teacher", *rated, "--output-dir", folder / "teacher")
    unrated = ["--images", places["photographs"], "--teacher", folder / "teacher"]
    run("student", *rated, *unrated, "--output-dir", folder / "student")
    judge(folder / "student", judged, folder / "student" / "evaluation")
    return folder


@pytest.fixture(scope="module")
def facts(runs) -> CheckpointFacts:
    return read_facts(runs / "student", license="apache-2.0", data_licenses=LICENSES)


@pytest.fixture(scope="module")
def card(facts, tmp_path_factory) -> ModelCard:
    folder = tmp_path_factory.mktemp("repository")
    write_card(facts, "org/tiny-student", folder)
    return ModelCard.load(folder / "README.md")


def results_of(runs: Path) -> dict:
    return json.loads((runs / "student" / "evaluation" / "results.json").read_text())


def table_after(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading."""
    rows = []
    for line in text[text.index(heading) :].splitlines()[1:]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


METRIC_OF = {
    "SRCC": "srcc", "PLCC": "plcc", "KRCC": "krcc", "accuracy": "accuracy", "EMD (r = 1)": "emd1", "EMD (r = 2)": "emd2",
    "MAE": "mae", "RMSE": "rmse",
}  # fmt: skip


def test_every_number_of_the_table_is_that_of_results_json(card, runs):
    metrics = results_of(runs)["metrics"]
    rows = table_after(card.text, "### judged")
    assert [METRIC_OF[row[0]] for row in rows] == list(metrics) and len(rows) == 8
    for name, value, interval, *_ in rows:
        figure = metrics[METRIC_OF[name]]
        assert value == f"{figure['value']:.3f}"
        assert interval == f"{figure['low']:.3f} to {figure['high']:.3f}"
        assert figure["low"] < figure["high"]
    assert "on 30 images" in card.text and results_of(runs)["data"]["digest"] in card.text
    assert f"right side of {results_of(runs)['settings']['threshold']:g}" in card.text


def test_every_number_of_the_model_index_is_that_of_results_json(card, runs):
    metrics = results_of(runs)["metrics"]
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", str(card), re.DOTALL)[1])
    name, found = model_index_to_eval_results(front["model-index"])
    assert name == "tiny-student" and found == card.data.eval_results
    assert {METRIC_OF[entry.metric_name]: entry.metric_value for entry in found} == {
        name: figure["value"] for name, figure in metrics.items()
    }
    for entry in found:
        figure = metrics[METRIC_OF[entry.metric_name]]
        assert entry.metric_args == {"low": figure["low"], "high": figure["high"], "confidence": 0.95}
        assert (entry.dataset_name, entry.dataset_split, entry.task_type) == ("judged", "test", "image-classification")
        assert entry.dataset_args["images"] == 30


def test_results_json_of_the_repository_holds_the_unrounded_figures(facts, runs, tmp_path):
    write_card(facts, "org/tiny-student", tmp_path)
    published = json.loads((tmp_path / "results.json").read_text())
    assert published["evaluations"][0]["metrics"] == results_of(runs)["metrics"]
    training = json.loads((runs / "student" / "results.json").read_text())
    assert published["training"]["validation"] == training["metrics"]
    assert published["training"]["seconds"] == training["seconds"]


def test_validation_figures_are_those_of_the_run_and_called_no_test(card, runs):
    training = json.loads((runs / "student" / "results.json").read_text())["metrics"]
    line = card.text[card.text.index("On the validation images") :].split("\n\n")[0]
    assert "no test" in line
    shown = re.findall(r"([A-Za-z]+(?: \(r = \d\))?) (-?\d\.\d{3})", line.splitlines()[1])
    assert {METRIC_OF[name]: value for name, value in shown} == {
        name: f"{value:.3f}" for name, value in training.items()
    }


def test_metadata(card):
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "image-classification",
    )
    assert "image-aesthetics" in data.tags and {"spearmanr", "pearsonr"} <= set(data.metrics)
    assert data.get("base_model") is None and data.get("datasets") is None  # nothing of it is on the Hub
    assert len(data["widget"]) == 2


def test_widget_shows_what_the_pipeline_says(facts, runs, tmp_path):
    write_card(facts, "org/tiny-student", tmp_path)
    rate = pipeline("image-aesthetics", model=str(runs / "student"))
    for example in model_card(facts, "org/tiny-student").data["widget"]:
        said = rate(str(tmp_path / example["src"]))
        assert {entry["label"]: entry["score"] for entry in example["output"]} == pytest.approx(
            said["distribution"], abs=1e-4
        )
        assert f"({said['score']:.2f})" in example["example_title"]


def test_data_counts_and_licences(facts):
    rows = [(row["name"], row["use"], row["images"], row["license"]) for row in facts.data]
    assert rows == [
        ("photographs", "phase 1: alignment, unrated", 34, "own photographs"),
        ("ratings", "phase 2: teacher, rated", 36, "CC0-1.0"),
        ("ratings", "phase 2: teacher, rated, to choose the weights by", 12, "CC0-1.0"),
        ("ratings", "phase 2: student, rated", 36, "CC0-1.0"),
        ("ratings", "phase 2: student, rated, to choose the weights by", 12, "CC0-1.0"),
        ("photographs", "phase 2: student, unrated", 40, "own photographs"),
    ]


def test_card_tells_data_recipe_settings_scale_and_hashes(card, runs, clip, facts):
    text = card.text
    for row in facts.data:
        assert f"| {row['name']} | {row['use']} | {row['images']} | {row['license']} |" in text
    teacher, _ = load_scorer(str(runs / "teacher"))
    student, _ = load_scorer(str(runs / "student"))
    for module in (teacher, student, ReferenceEncoder.from_pretrained(clip).encoder):
        assert weights_fingerprint(module) in text
    assert f"{sum(p.numel() for p in student.parameters()):,}" in text
    for words in (
        "1 to 5, 5 bins", "not calibrated", "32 x 32", "the frozen `tiny-clip`", "losses: cosine", "3 steps of 8 images",
        "learning_rate: 0.003", "the teacher `teacher`", "Whose taste", "2307.15640", "torch", "apache-2.0",
        'model="org/tiny-student", trust_remote_code=True',
    ):  # fmt: skip
        assert words in text, words
    assert "images a second" in text.split("## Speed")[1].split("##")[0]


def test_no_place_of_the_maker_is_in_anything_that_is_published(facts, card, runs, tmp_path):
    write_card(facts, "org/tiny-student", tmp_path / "repository")
    facts.save(tmp_path / "facts.json")
    config = (runs / "student" / "config.json").read_text()
    written = [path for path in (tmp_path / "repository").rglob("*") if path.suffix in (".md", ".json", ".yaml")]
    assert len(written) == 2
    for text in (config, (tmp_path / "facts.json").read_text(), *(path.read_text() for path in written)):
        assert "secret" not in text and str(runs.parent) not in text
        assert not re.search(r'["\' `](?:/|[A-Z]:\\)[\w.-]+[/\\]', text)


def test_absolute_paths_that_a_run_did_record_are_cut(runs, tmp_path):
    student = shutil.copytree(runs / "student", tmp_path / "student")
    config = json.loads((student / "config.json").read_text())
    config["history"][-1]["unrated"][0] |= {
        "name": "/home/somebody/gone/photos",
        "location": "laion:/home/somebody/h.pth",
    }
    config["history"][-1]["settings"]["note"] = "C:\\Users\\somebody\\x"
    (student / "config.json").write_text(json.dumps(config))
    facts = read_facts(student, license="mit", data_licenses={"photos": "own"})
    facts.save(tmp_path / "facts.json")
    published = json.dumps(_own_config(student))
    assert "somebody" not in str(model_card(facts, "org/x")) + (tmp_path / "facts.json").read_text() + published


def test_facts_survive_their_file(facts, tmp_path):
    facts.save(tmp_path / "facts.json")
    again = CheckpointFacts.load(tmp_path / "facts.json")
    assert str(model_card(again, "org/x")) == str(model_card(facts, "org/x"))


def test_what_is_missing_is_named(runs, facts):
    assert missing_facts(facts) == []
    reasons = missing_facts(read_facts(runs / "student"))
    assert [reason.split(";")[0] for reason in reasons] == [
        "the licence of the model is not known",
        "the licence of the images 'photographs' is not known",
        "the licence of the images 'ratings' is not known",
    ]
    assert "--data-license 'ratings=LICENCE'" in reasons[2]
    (reason,) = missing_facts(read_facts(runs / "teacher", license="mit", data_licenses=LICENSES))
    assert "no metrics" in reason and "cskd-hf evaluate" in reason
    with pytest.raises(ValueError, match="'rating': no such set was trained on .did you mean 'ratings'"):
        read_facts(runs / "student", data_licenses={"rating": "CC0"})


def test_a_model_that_says_nothing_of_its_data_is_refused(runs, tmp_path):
    student = shutil.copytree(runs / "student", tmp_path / "student")
    config = json.loads((student / "config.json").read_text())
    history, config["history"] = config["history"], None
    (student / "config.json").write_text(json.dumps(config))
    old = read_facts(student, license="mit")  # of a version without a history: the provenance names the data
    assert {(row["name"], row["images"]) for row in old.data} == {("ratings.csv", 36), ("photographs", None)}
    assert "| ratings.csv | phase 2: student, rated | 36 | not stated |" in str(model_card(old, "org/x"))
    config["provenance"] = None
    (student / "config.json").write_text(json.dumps(config))
    assert "nothing says which images" in " ".join(missing_facts(read_facts(student, license="mit")))
    assert history


def test_a_personal_scorer_names_whose_ratings_are_in_it(runs, tmp_path):
    student = shutil.copytree(runs / "student", tmp_path / "student")
    config = json.loads((student / "config.json").read_text())
    config["provenance"]["task_vectors"] = {"base": "0" * 16, "added": [{"vector": "carl", "scale": 0.5}]}
    (student / "config.json").write_text(json.dumps(config))
    facts = read_facts(student, license="mit", data_licenses=LICENSES)
    assert facts.data[-1]["name"] == "ratings by carl" and facts.data[-1]["use"] == "personal taste, rated"
    assert "the licence of the images 'ratings by carl' is not known" in missing_facts(facts)[0]
    assert "`carl` (times 0.5)" in str(model_card(facts, "org/x"))


def test_an_evaluation_of_other_weights_is_none(runs, tmp_path, judged):
    teacher = shutil.copytree(runs / "teacher", tmp_path / "teacher")
    shutil.copytree(runs / "student" / "evaluation", teacher / "evaluation")
    facts = read_facts(teacher, license="mit", data_licenses=LICENSES)
    assert facts.evaluations == [] and "evaluation/results.json measured other weights" in facts.warnings[0]
    assert "measured other weights" in missing_facts(facts)[0]
    with pytest.raises(ValueError, match="measured other weights .* evaluate it anew"):
        read_facts(teacher, evaluations=[runs / "student" / "evaluation"])
    with pytest.raises(ValueError, match="is not what `cskd-hf evaluate --output` writes"):
        read_facts(teacher, evaluations=[runs / "student" / "results.json"])
    with pytest.raises(ValueError, match="there is no evaluation"):
        read_facts(teacher, evaluations=[tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("split", "words"), [("train", "trained on images of this split"), ("validation", "weights were chosen by images")]
)
def test_figures_on_images_of_the_training_are_no_test(runs, tmp_path, split, words):
    student = shutil.copytree(runs / "student", tmp_path / "student", ignore=shutil.ignore_patterns("evaluation"))
    judge(student, runs / "ratings.csv", tmp_path / "evaluation", split=split)
    facts = read_facts(student, evaluations=[tmp_path / "evaluation"], license="mit", data_licenses=LICENSES)
    assert words in facts.evaluations[0]["seen"]
    assert "no metrics on images that it was not trained on" in missing_facts(facts)[0]
    assert "**Not a test: " in str(model_card(facts, "org/x"))


def test_given_and_found_evaluations_are_listed_once(runs):
    given = [runs / "student" / "evaluation", runs / "student" / "evaluation" / "results.json"]
    facts = read_facts(runs / "student", evaluations=given)
    assert len(facts.evaluations) == 1


def test_own_examples_lose_what_a_camera_noted(runs, tmp_path):
    picture = Image.new("RGB", (900, 600), "teal")
    exif = Image.Exif()
    exif[0x010F] = "Secret Camera"
    picture.save(tmp_path / "IMG_1234.jpg", exif=exif)
    facts = read_facts(runs / "student", examples=[tmp_path / "IMG_1234.jpg"])
    write_card(facts, "org/x", tmp_path / "repository")
    data = (tmp_path / "repository" / "widget" / "1.jpg").read_bytes()
    assert b"Secret" not in data and Image.open(tmp_path / "repository" / "widget" / "1.jpg").size == (512, 341)
    assert "IMG_1234" not in str(model_card(facts, "org/x"))


def test_evaluations_on_hub_data_sets(facts, tmp_path):
    entry = json.loads(json.dumps(facts.evaluations[0]))
    entry["data"]["location"] = "hub:someone/rated-photos@main"
    on_hub = CheckpointFacts(**{**vars(facts), "evaluations": [entry]})
    write_card(on_hub, "org/x", tmp_path)
    (name,) = hub_evaluations(on_hub)
    written = yaml.safe_load((tmp_path / ".eval_results" / name).read_text())
    assert {item["dataset"]["task_id"]: item["value"] for item in written} == {
        metric: figure["value"] for metric, figure in entry["metrics"].items()
    }
    assert {item["dataset"]["id"] for item in written} == {"someone/rated-photos"}
    assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].dataset_type == "someone/rated-photos"
    assert hub_evaluations(facts) == {}


def test_base_model_and_datasets_of_the_hub(facts):
    history = json.loads(json.dumps(facts.history))
    history[0] |= {"encoder": "microsoft/resnet-18", "new_weights": False}
    data = [*facts.data, {**facts.data[0], "location": "stream:someone/photos:train"}]
    metadata = model_card(CheckpointFacts(**{**vars(facts), "history": history, "data": data}), "org/x").data
    assert metadata.base_model == "microsoft/resnet-18" and metadata["base_model_relation"] == "finetune"
    assert metadata.datasets == ["someone/photos"]
    history[0]["new_weights"] = True
    assert model_card(CheckpointFacts(**{**vars(facts), "history": history}), "org/x").data.get("base_model") is None


def test_licence_that_the_hub_has_no_name_of(facts):
    own = CheckpointFacts(**{**vars(facts), "license": "Research use only"})
    data = model_card(own, "org/x").data
    assert (data.license, data.license_name) == ("other", "research-use-only")


def test_card_of_a_fine_tune(tmp_path, encoder, ratings):
    run(
        "finetune", ratings, "--model", encoder, "--output", tmp_path / "mine", "--image-size", "32", "--mode", "probe",
        "--folds", "2", "--cpu", "--quiet",
    )  # fmt: skip
    facts = read_facts(tmp_path / "mine", license="mit", data_licenses={"ratings": "CC0"})
    assert missing_facts(facts) == [] and facts.name == "model"
    recorded = json.loads((tmp_path / "mine" / "results.json").read_text())
    figures = recorded["estimate"]["candidates"]["finetuned"]
    card = model_card(facts, "org/mine")
    assert {METRIC_OF[entry.metric_name]: entry.metric_value for entry in card.data.eval_results} == {
        name: figure["value"] for name, figure in figures.items()
    }
    for name, value, interval, *_ in table_after(card.text, "2-fold cross-validation"):
        figure = figures[METRIC_OF[name]]
        assert (value, interval) == (f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}")
    assert [(row["name"], row["use"], row["images"]) for row in facts.data] == [("ratings", "fine-tuning, rated", 48)]
    assert "A head on frozen features learned the ratings of 48 rated images" in card.text
    assert recorded["caveats"][0].split(".")[0] in card.text


def test_card_of_a_fine_tune_of_layers_names_the_ratings_themselves(tmp_path, encoder, ratings):
    run(
        "finetune", ratings, "--model", encoder, "--output", tmp_path / "mine", "--image-size", "32", "--mode", "full",
        "--folds", "1", "--max-steps", "2", "--cpu", "--quiet",
    )  # fmt: skip
    facts = read_facts(tmp_path / "mine")
    assert {row["name"] for row in facts.data} == {"ratings"} and facts.data[0]["location"] == "ratings.csv"
    assert "finetuned-ratings" not in str(model_card(facts, "org/mine"))
    assert facts.history[-1]["command"] == "finetune" and facts.history[-1]["mode"] == "full"


def test_refuses_what_is_no_scorer(tmp_path, runs):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        read_facts(tmp_path)
    with pytest.raises(ValueError, match="phase-1 checkpoint"):
        read_facts(runs / "aligned")


def test_command(runs, tmp_path, capsys):
    place = tmp_path / "CARD.md"
    arguments = ["card", str(runs / "student"), "--repo", "org/tiny-student", "--output", str(place)]
    assert main(arguments) == 1
    assert "the licence of the model is not known" in capsys.readouterr().err and place.is_file()
    licenses = ["--license", "mit", "--data-license", "photographs=own photographs", "ratings=CC0"]
    (tmp_path / "about.md").write_text("It fails on **portraits**.\n")
    licenses += ["--about", str(tmp_path / "about.md")]
    assert main([*arguments, *licenses, "--facts", str(tmp_path / "facts.json")]) == 0
    assert "## What its makers add\n\nIt fails on **portraits**.\n\n## Training data" in place.read_text()
    again = tmp_path / "AGAIN.md"
    assert main(["card", str(tmp_path / "facts.json"), "--repo", "org/tiny-student", "--output", str(again)]) == 0
    assert again.read_text() == place.read_text() and ModelCard.load(again).data.license == "mit"
    capsys.readouterr()
    assert main(["card", str(runs / "student"), "--data-license", "photographs"]) == 2
    assert "give NAME=LICENCE" in capsys.readouterr().err
    assert main(["card", str(runs / "student" / "results.json")]) == 2
    assert "is not what `cskd-hf card --facts` writes" in capsys.readouterr().err


def test_model_card_of_this_repository_is_fresh():
    facts = CheckpointFacts.load(ROOT / "benchmarks" / "results" / "default_student_card.json")
    made = str(model_card(facts, "src/cskd_hf/assets/default_student"))
    assert (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8") == made, (
        "MODEL_CARD.md is stale; make it anew: cskd-hf card benchmarks/results/default_student_card.json "
        "--repo src/cskd_hf/assets/default_student --output MODEL_CARD.md"
    )
    assert (default_student_path() / "README.md").read_text(encoding="utf-8") == made
    card = ModelCard.load(ROOT / "MODEL_CARD.md")
    metrics = facts.evaluations[0]["metrics"]
    assert [entry.metric_value for entry in card.data.eval_results] == [figure["value"] for figure in metrics.values()]
    assert missing_facts(facts) == []


def test_percentiles_without_a_map_are_named(facts):
    known = replace(
        facts, model=facts.model | {"calibration": {"reference": "photos", "images": 1234, "quantiles": [0, 1]}}
    )
    assert "| Calibration | percentiles of 1,234 images of photos |" in str(model_card(known, "org/tiny-student"))


def test_attributes_by_prompts_are_named(facts):
    bank = {"reference": "tiny-clip", "attributes": [{"name": "sharpness"}, {"name": "natural light"}]}
    known = replace(facts, model=facts.model | {"prompt_bank": bank})
    row = "| Attributes by prompts | sharpness, natural light: "
    assert row in str(model_card(known, "org/tiny-student"))
    assert row not in str(model_card(known, "org/tiny-student", native=True))  # a stock classifier has none
    assert "Attributes by prompts" not in str(model_card(facts, "org/tiny-student"))
