"""Runs on several rated sets with attributes: killed and resumed, in two processes, of a teacher and of a student."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from processes import EXAMPLES, command, figures_of, finish, log_of, start_and_wait_for_step
from rated_sets import of_means, with_attributes
from safetensors.torch import load_file
from transformers import pipeline

from cskd_hf.cli import main
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics

FAST = ["--image-size", "32", "--cpu", "--quiet", "--log-every", "1", "--warmup-steps", "2"]


@pytest.fixture(scope="module")
def sets(ratings, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("sets")
    return ["--ratings", with_attributes(ratings, folder), of_means(ratings, folder), "--score-values", "0", "5", "10"]


def test_killed_run_on_two_sets_with_attributes_resumes_exactly(vit_encoder, sets, tmp_path):
    def line(name: str) -> list[str]:
        options = [
            "--encoder", vit_encoder, *sets, "--output-dir", str(tmp_path / name), "--batch-size", "7", "--max-steps", "60",
            "--save-every", "7", "--eval-every", "9", "--layer-decay", "0.7", "--freeze", "1", "--ema-decay", "0.9",
            "--rated-crop-scale", "0.5", "1", *FAST,
        ]  # fmt: skip
        return command(EXAMPLES / "train_teacher.py", options)

    finish(line("unbroken"))
    running = start_and_wait_for_step(line("killed"), tmp_path / "killed", 25)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    checkpoint = load_file(tmp_path / "killed" / "checkpoint" / "model.safetensors")
    assert "further_heads.0.weight" in checkpoint and "model.attribute_head.weight" in checkpoint
    finish([*line("killed"), "--resume"])
    unbroken, resumed = (tmp_path / name for name in ("unbroken", "killed"))
    assert figures_of(resumed) == figures_of(unbroken)
    assert (resumed / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    exported = load_file(unbroken / "model.safetensors")
    assert not any("further" in name for name in exported) and exported["attribute_head.weight"].shape[0] == 2

    steps = [entry for entry in log_of(unbroken) if "loss" in entry]
    weights = CSKDForImageAesthetics.from_pretrained(unbroken).config.provenance["ratings_weights"]
    for entry in steps:
        assert entry["rated"] == pytest.approx(weights[0] * entry["rated_1"] + weights[1] * entry["rated_2"], rel=1e-4)
        assert entry["loss"] == pytest.approx(entry["rated"] + 0.5 * entry["attributes"], rel=1e-4)
    evaluations = [entry for entry in log_of(unbroken) if "eval_srcc" in entry]
    assert all({"eval_srcc_color", "eval_srcc_light"} <= set(entry) for entry in evaluations)


def test_two_processes_walk_the_loss_curve_of_one(vit_encoder, sets, tmp_path):
    """Per process a batch of one image of the first set, whose attributes are mostly unknown in one of the processes."""

    def arguments(name: str, batch_size: int) -> list[str]:
        return [
            "--encoder", vit_encoder, *sets, "--ratings-weights", "1", "1", "--output-dir", str(tmp_path / name),
            "--batch-size", str(batch_size), "--max-steps", "12", "--eval-every", "6", *FAST,
        ]  # fmt: skip

    assert main(["teacher", *arguments("one", 4)]) == 0
    finish(command(EXAMPLES / "train_teacher.py", arguments("two", 2), 2))
    names = ["loss", "rated_1", "rated_2", "attributes", "eval_plcc", "eval_srcc_light"]
    for name in names:
        one, two = ([entry[name] for entry in log_of(tmp_path / run) if name in entry] for run in ("one", "two"))
        assert len(one) in (3, 12) and two == pytest.approx(one, abs=1e-5), name


def test_teacher_and_student_predict_attributes_by_name(encoder, sets, photographs, ratings, tmp_path):
    teacher = ["--encoder", encoder, *sets, "--batch-size", "8", *FAST]
    assert (
        main(["teacher", *teacher, "--output-dir", str(tmp_path / "t"), "--max-steps", "8", "--eval-every", "4"]) == 0
    )
    assert main([
        "student", *teacher, "--teacher", str(tmp_path / "t"), "--images", photographs, "--unrated-per-rated", "1",
        "--output-dir", str(tmp_path / "s"), "--max-steps", "6", "--ranking-weight", "0.5", "--soft-bins", "0.6", "--distill-schedule", "constant",
    ]) == 0  # fmt: skip
    for entry in log_of(tmp_path / "s"):
        if "loss" in entry:
            parts = entry["rated"] + 0.5 * entry["attributes"] + entry["distill"]
            assert entry["loss"] == pytest.approx(parts + 0.5 * (entry["ranking"] + entry["soft_ranking"]), rel=1e-4)
    provenance = CSKDForImageAesthetics.from_pretrained(tmp_path / "s").config.provenance
    assert provenance["synthetic_histograms"]["width"] == [0.6] and provenance["further_rated_images"] == [16]
    result = pipeline("image-aesthetics", model=str(tmp_path / "s"))(str(Path(ratings).parent / "01.png"))
    assert result["scale"] == [1, 5] and -1 < result["attributes"]["light"] < 1 < result["attributes"]["color"] < 5


@pytest.mark.parametrize("freeze", ["encoder", "2", "0.5"])
def test_frozen_part_stays_bit_for_bit(encoder, ratings, tmp_path, freeze):
    recipe = {"encoder": encoder, "ratings": ratings, "output_dir": str(tmp_path / "t"), "freeze": float(freeze) if "." in freeze else int(freeze) if freeze.isdigit() else freeze}  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    options = ["--batch-size", "8", "--max-steps", "3", "--keep", "last", "--ema-decay", "0.5", *FAST]
    assert main(["teacher", "--recipe", str(tmp_path / "r.yaml"), *options]) == 0
    before = CSKDForImageAesthetics.from_encoder(encoder).backbone.state_dict()
    after = CSKDForImageAesthetics.from_pretrained(tmp_path / "t").backbone.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    stages = {name.split("stages.")[1][0] for name in before if "stages." in name and name not in same}
    assert stages == (set() if freeze == "encoder" else {"2", "3"})
    assert freeze != "encoder" or same == set(before)
