"""What a checkpoint remembers of its trainings."""

from __future__ import annotations

import json

from cskd_hf.cli import main
from cskd_hf.models.configuration_cskd import CSKDConfig
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.training.arguments import TeacherSettings
from cskd_hf.training.build import build_model
from cskd_hf.training.history import add_training, hyper_parameters, replace_rated

FAST = ["--cpu", "--quiet", "--batch-size", "8", "--image-size", "32", "--max-steps", "2", "--save-every", "1"]


def test_a_run_adds_itself_to_the_history_of_its_encoder(tmp_path, encoder, clip, photographs, ratings):
    first, second = tmp_path / "aligned", tmp_path / "teacher"
    assert main(["align", "--encoder", encoder, "--reference", clip, "--images", photographs, "--output-dir", str(first), "--holdout", "4", *FAST]) == 0  # fmt: skip
    assert main(["teacher", "--encoder", str(first), "--ratings", ratings, "--output-dir", str(second), *FAST]) == 0
    history = CSKDForImageAesthetics.from_pretrained(second).config.history
    assert [entry["command"] for entry in history] == ["align", "teacher"]
    assert [(entry["encoder"], entry["new_weights"]) for entry in history] == [("encoder0", False), ("aligned", False)]
    assert history[0]["unrated"] == [{"name": "photographs0", "location": "photographs0", "images": 36}]
    assert history[1]["rated"][0] | {"score_values": None} == {
        "name": "ratings", "location": "ratings.csv", "images": 36, "validation_images": 12, "score_values": None,
    }  # fmt: skip
    recorded = json.loads((second / "results.json").read_text())
    assert history[1]["steps"] == 2 and history[1]["seconds"] == recorded["seconds"]
    assert history[1]["validation"] == recorded["metrics"]


def test_new_weights_have_no_history(tmp_path, encoder):
    model = CSKDForImageAesthetics.from_encoder(encoder, score_values=[1, 2, 3])
    add_training(model.config, "teacher", TeacherSettings(encoder=encoder))
    model.config.provenance = {"command": "teacher"}
    model.config.save_pretrained(tmp_path)
    settings = TeacherSettings(encoder=str(tmp_path))
    made = build_model(CSKDForImageAesthetics, settings, score_values=[1, 2, 3])
    assert made.config.history is None and made.config.provenance is None
    model.save_pretrained(tmp_path)
    kept = build_model(CSKDForImageAesthetics, settings, score_values=[1, 2, 3])
    assert [entry["command"] for entry in kept.config.history] == ["teacher"]


def test_settings_without_places():
    settings = TeacherSettings(encoder="/a/b", ratings=["/c/d.csv"], image_dir=["/e"], label_ids="/f", output_dir="/g")
    kept = hyper_parameters(settings)
    assert "/" not in json.dumps(kept) and kept["learning_rate"] == 3e-4 and kept["train_split"] == "train"
    assert kept["head_init"] == "probe" and "num_workers" not in kept


def test_a_copy_of_a_set_gets_the_name_of_the_set_also_in_the_history_of_teachers():
    config = CSKDConfig(score_values=[1, 2])
    rated = {"name": "copy", "location": "copy.jsonl", "images": 5}
    inner = [{"command": "teacher", "rated": [dict(rated)]}]
    config.history = [{"command": "student", "rated": [dict(rated)], "teachers": [{"name": "t", "history": inner}]}]
    replaced = replace_rated(config.history, "copy", {"name": "mine", "location": "mine.csv", "license": "CC0"})
    true = {"name": "mine", "location": "mine.csv", "license": "CC0", "images": 5}
    assert replaced[0]["rated"] == [true] and replaced[0]["teachers"][0]["history"][0]["rated"] == [true]
    assert config.history[0]["rated"] == [rated]
