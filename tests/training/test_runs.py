"""The three commands, run as their users run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

from cskd_hf.cli import main
from cskd_hf.models.modeling_cskd import CSKDForFeatureAlignment
from cskd_hf.training.loop import learning_rate_factor

EXAMPLES = Path(__file__).parents[2] / "examples"
FAST = ["--cpu", "--quiet", "--batch-size", "8", "--image-size", "32"]


def run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory, encoder, clip, photographs) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "aligned"
    run(
        "align", "--encoder", encoder, "--reference", clip, "--images", photographs, "--output-dir", str(folder),
        "--loss", "cosine", "whitened_smooth_l1", "--holdout", "6", "--max-steps", "30", "--log-every", "1",
        "--eval-every", "10", "--crop-scale", "1", "1", "--features", str(folder.with_name("features")), *FAST,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def teacher(aligned, ratings) -> Path:
    folder = aligned.with_name("teacher")
    run(
        "teacher",
        "--encoder",
        str(aligned),
        "--ratings",
        ratings,
        "--output-dir",
        str(folder),
        "--max-steps",
        "10",
        *FAST,
    )
    return folder


def test_alignment_lowers_the_loss_and_saves_a_model(aligned):
    log = lines(aligned)
    held_out = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert held_out[-1] < 0.8 * held_out[0]
    step = next(line for line in log if "loss" in line)
    assert step["loss"] == pytest.approx(step["cosine"] + step["whitened_smooth_l1"])
    assert step["images_per_second"] > 0
    model = CSKDForFeatureAlignment.from_pretrained(aligned)
    assert model.config.reference_encoders == [{"name": "tiny-clip", "dim": 12}]
    assert AutoImageProcessor.from_pretrained(aligned).size["height"] == 32
    assert model.config.provenance["command"] == "align"
    assert not any("/" in str(value) for value in model.config.provenance["images"])  # no path of the maker's


def test_reference_is_not_in_the_checkpoint(aligned):
    state = load_file(aligned / "checkpoint" / "model.safetensors")
    assert {name.split(".")[1] for name in state} == {"backbone", "projectors"}


def test_stored_and_live_references_train_alike(aligned, tmp_path, encoder, clip, photographs):
    run(
        "align", "--encoder", encoder, "--reference", clip, "--images", photographs, "--output-dir", str(tmp_path / "live"),
        "--loss", "cosine", "whitened_smooth_l1", "--holdout", "6", "--max-steps", "30", "--log-every", "1",
        "--eval-every", "10", "--crop-scale", "1", "1", *FAST,
    )  # fmt: skip
    stored, live = ([line["loss"] for line in lines(f) if "loss" in line] for f in (aligned, tmp_path / "live"))
    assert stored[0] == pytest.approx(live[0], abs=2e-3)  # the store is float16


def test_teacher_is_never_below_its_probe_on_validation(teacher):
    evaluations = [line for line in lines(teacher) if "eval_srcc" in line]
    assert evaluations[0]["step"] == 0  # the probe
    result = json.loads((teacher / "results.json").read_text())
    assert result["metrics"]["srcc"] >= evaluations[0]["eval_srcc"]
    assert evaluations[0]["eval_srcc"] > 0.3


@pytest.mark.parametrize("extra", [[], ["--feature-weight", "1", "--pseudo-labels", "PL"]], ids=["live", "stored"])
def test_student_learns_from_teacher_and_ratings(teacher, aligned, ratings, photographs, tmp_path, extra):
    extra = [str(tmp_path / "labels") if value == "PL" else value for value in extra]
    run(
        "student", "--encoder", str(aligned), "--teacher", str(teacher), "--ratings", ratings, "--images", photographs,
        "--output-dir", str(tmp_path / "student"), "--max-steps", "12", "--log-every", "1", "--distill-schedule", "constant",
        *FAST, *extra,
    )  # fmt: skip
    step = next(line for line in lines(tmp_path / "student") if "loss" in line)
    parts = step["rated"] + step["distill"] + step.get("feature", 0)
    assert step["loss"] == pytest.approx(parts)
    assert ("feature" in step) == bool(extra)
    assert AutoModel.from_pretrained(tmp_path / "student").config.score_values == [1, 2, 3, 4, 5]


def test_mean_only_ratings_train_through_the_scalar_loss(aligned, ratings, tmp_path):
    table = Path(ratings).read_text().splitlines()
    rows = ["image,split,mean"]
    for line in table[1:]:
        image, split, *votes = line.split(",")
        votes = np.array(votes, float)
        rows.append(f"{image},{split},{(votes * np.arange(1, 6)).sum() / votes.sum()}")
    (tmp_path / "means.csv").write_text("\n".join(rows))
    run(
        "teacher", "--encoder", str(aligned), "--ratings", str(tmp_path / "means.csv"), "--image-dir", str(Path(ratings).parent),
        "--score-values", "1", "2", "3", "4", "5", "--output-dir", str(tmp_path / "t"), "--max-steps", "5", *FAST,
    )  # fmt: skip
    result = json.loads((tmp_path / "t" / "results.json").read_text())
    assert "srcc" in result["metrics"] and "emd1" not in result["metrics"]


def test_killed_and_resumed_run_ends_with_the_same_weights(aligned, teacher, ratings, photographs, tmp_path):
    def command(name: str) -> list[str]:
        return [
            sys.executable, str(EXAMPLES / "train_student.py"), "--encoder", str(aligned), "--teacher", str(teacher),
            "--ratings", ratings, "--images", photographs, "--output-dir", str(tmp_path / name), "--max-steps", "60",
            "--save-every", "7", "--eval-every", "9", "--log-every", "1", "--crop-scale", "0.5", "1", *FAST,
        ]  # fmt: skip

    subprocess.run(command("unbroken"), check=True, capture_output=True, timeout=120)
    killed = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log = tmp_path / "killed" / "log.jsonl"
    step = 0
    while step < 25:  # 36 rated images at 2 a batch: past an epoch's end and a checkpoint, within the next of both
        with pytest.raises(subprocess.TimeoutExpired):  # otherwise it ended by itself
            killed.wait(timeout=0.02)
        whole = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
        step = max((json.loads(line)["step"] for line in whole), default=0)
    killed.kill()
    killed.wait()
    assert step < 60 and not (tmp_path / "killed" / "model.safetensors").exists()
    subprocess.run([*command("killed"), "--resume"], check=True, capture_output=True, timeout=120)
    unbroken, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "killed"))
    assert unbroken == resumed
    for file in ("log.jsonl", "results.json"):
        one, two = ((tmp_path / name / file).read_text() for name in ("unbroken", "killed"))
        assert _without_time(one) == _without_time(two)


def _without_time(text: str) -> list[str]:
    kept = []
    for line in text.splitlines():
        if line.startswith("{") and line.endswith("}"):
            line = json.dumps(
                {k: v for k, v in json.loads(line).items() if k not in ("images_per_second", "data_wait")}
            )
        if not any(name in line for name in ("seconds", "output_dir", "peak_memory_mib")):
            kept.append(line)
    return kept


def test_accumulated_batches_take_the_step_of_one_large_batch(vit_encoder, clip, photographs, tmp_path):
    def final(name: str, batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
        run(
            "align", "--encoder", vit_encoder, "--reference", clip, "--images", photographs, "--holdout", "4",
            "--output-dir", str(tmp_path / name), "--batch-size", str(batch_size), "--gradient-accumulation-steps",
            str(accumulation), "--max-steps", "4", "--image-size", "32", "--cpu", "--quiet", "--keep", "last",
        )  # fmt: skip
        return load_file(tmp_path / name / "model.safetensors")

    one, two = final("one", 8, 1), final("two", 4, 2)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_second_run_in_a_folder_is_refused(teacher, aligned, ratings, capsys):
    arguments = ["teacher", "--encoder", str(aligned), "--ratings", ratings, "--output-dir", str(teacher), *FAST]
    assert main([*arguments, "--max-steps", "10"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*arguments, "--max-steps", "11", "--resume"]) == 2
    assert "max_steps: 10 before, 11 now" in capsys.readouterr().err


def test_bad_ratings_are_refused_before_training(aligned, ratings, tmp_path, capsys):
    table = Path(ratings).read_text().replace("00.png", "99.png", 1)
    (tmp_path / "bad.csv").write_text(table)
    arguments = ["--image-dir", str(Path(ratings).parent), "--output-dir", str(tmp_path / "out"), *FAST]
    assert main(["teacher", "--encoder", str(aligned), "--ratings", str(tmp_path / "bad.csv"), *arguments]) == 2
    assert "99.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unreadable_images_are_named_and_counted(encoder, clip, photographs, tmp_path, capsys, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted(Path(photographs).iterdir()):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "07b.png").write_bytes(b"not an image")
    arguments = [
        "align",
        "--encoder",
        encoder,
        "--reference",
        clip,
        "--images",
        str(folder),
        "--holdout",
        "4",
        "--max-steps",
        "16",
        *FAST,
    ]
    run(*arguments, "--output-dir", str(tmp_path / "a"))
    assert json.loads((tmp_path / "a" / "results.json").read_text())["bad_images"] == 1
    assert "07b.png" in (tmp_path / "a" / "bad_images.jsonl").read_text()
    assert "07b.png" in caplog.text
    for number in range(10, 20):
        (folder / f"{number}.png").write_bytes(b"")
    assert main([*arguments, "--output-dir", str(tmp_path / "b")]) == 2
    assert "more than max_bad_images=0.05" in capsys.readouterr().err


def test_foreign_and_missing_models_are_refused_without_a_traceback(
    aligned, teacher, vit_encoder, ratings, tmp_path, capsys
):
    arguments = ["student", "--ratings", ratings, "--output-dir", str(tmp_path / "s"), *FAST]
    assert main([*arguments, "--encoder", str(aligned), "--teacher", vit_encoder]) == 2
    assert "model_type 'vit', not 'cskd'" in capsys.readouterr().err
    assert main([*arguments, "--encoder", "nowhere/nothing"]) == 2
    assert "encoder 'nowhere/nothing' is neither" in capsys.readouterr().err
    assert (
        main([*arguments, "--encoder", str(aligned), "--teacher", str(teacher), "--ratings", str(tmp_path / "no.csv")])
        == 2
    )
    assert "no.csv" in capsys.readouterr().err


def test_phase_1_checkpoint_is_no_teacher(aligned, ratings, tmp_path, capsys):
    arguments = ["student", "--encoder", str(aligned), "--teacher", str(aligned), "--ratings", ratings, *FAST]
    assert main([*arguments, "--output-dir", str(tmp_path / "s")]) == 2
    assert "is a phase-1 checkpoint (CSKDForFeatureAlignment) without a trained head" in capsys.readouterr().err


def test_splits_and_labels_that_are_not_there(aligned, ratings, tmp_path, capsys):
    arguments = [
        "teacher",
        "--encoder",
        str(aligned),
        "--ratings",
        ratings,
        "--output-dir",
        str(tmp_path / "t"),
        *FAST,
    ]
    assert main([*arguments, "--labels", "99"]) == 2
    assert "labels=99, but the split 'train'" in capsys.readouterr().err
    assert main([*arguments, "--validation-split", "val"]) == 2
    assert "has no split 'val'; its splits: train, validation" in capsys.readouterr().err
    assert main([*arguments, "--validation-split", "", "--max-steps", "2"]) == 0
    assert json.loads((tmp_path / "t" / "results.json").read_text())["metrics"] == {}


def test_loss_that_is_not_finite_stops_before_anything_is_written_over(
    aligned, ratings, tmp_path, monkeypatch, capsys
):
    from cskd_hf.training.rated_task import RatingTask

    forward, calls = RatingTask.forward, []

    def spoilt(self, batch):
        parts = forward(self, batch)
        calls.append(None)
        return {"loss": parts["loss"] * float("nan")} if len(calls) > 5 else parts

    monkeypatch.setattr(RatingTask, "forward", spoilt)
    arguments = ["--max-steps", "20", "--save-every", "4", "--eval-every", "0", "--log-every", "10", *FAST]
    folder = tmp_path / "t"
    assert (
        main(["teacher", "--encoder", str(aligned), "--ratings", ratings, "--output-dir", str(folder), *arguments])
        == 2
    )
    assert "the loss is nan at step 8" in capsys.readouterr().err
    state = load_file(folder / "checkpoint" / "model.safetensors")
    assert json.loads((folder / "checkpoint" / "progress.json").read_text())["step"] == 4
    assert all(torch.isfinite(value).all() for value in state.values() if value.is_floating_point())


def test_finished_run_is_not_trained_again(teacher, aligned, ratings):
    before = (teacher / "model.safetensors").stat().st_mtime_ns
    run(
        "teacher", "--encoder", str(aligned), "--ratings", ratings, "--output-dir", f"{teacher}/", "--max-steps", "10",
        "--resume", *FAST,
    )  # fmt: skip
    assert (teacher / "model.safetensors").stat().st_mtime_ns == before


def test_references_of_one_name_are_told_apart(encoder, clip, photographs, tmp_path):
    other = tmp_path / "other" / "tiny-clip"
    shutil.copytree(clip, other)
    run(
        "align", "--encoder", encoder, "--reference", clip, str(other), "--images", photographs, "--holdout", "4",
        "--output-dir", str(tmp_path / "a"), "--max-steps", "2", *FAST,
    )  # fmt: skip
    names = [
        entry["name"] for entry in CSKDForFeatureAlignment.from_pretrained(tmp_path / "a").config.reference_encoders
    ]
    assert names == ["tiny-clip", "tiny-clip-2"]


def test_resume_with_another_encoder_is_refused_with_both_names(encoder, vit_encoder, ratings, tmp_path, capsys):
    place = tmp_path / "encoder"
    shutil.copytree(encoder, place)
    arguments = [
        "teacher",
        "--encoder",
        str(place),
        "--ratings",
        ratings,
        "--output-dir",
        str(tmp_path / "t"),
        "--max-steps",
        "2",
        *FAST,
    ]
    run(*arguments)
    (tmp_path / "t" / "results.json").unlink()  # as if it had been killed
    shutil.rmtree(place)
    shutil.copytree(vit_encoder, place)
    assert main([*arguments, "--resume"]) == 2
    message = capsys.readouterr().err
    assert "ResNetModel" in message and "ViTModel" in message


def test_mixed_precision_and_channels_last(encoder, ratings, tmp_path):
    # A process of its own: Accelerate keeps one precision a process.
    script = [sys.executable, str(EXAMPLES / "train_teacher.py"), "--encoder", encoder, "--ratings", ratings]
    options = ["--max-steps", "3", "--mixed-precision", "bf16", "--channels-last", "--log-every", "1", *FAST]
    subprocess.run([*script, "--output-dir", str(tmp_path / "t"), *options], check=True, timeout=120)
    assert all(0 < line["loss"] < 1 for line in lines(tmp_path / "t") if "loss" in line)
    assert all(value.dtype != torch.bfloat16 for value in load_file(tmp_path / "t" / "model.safetensors").values())


def test_tensorboard_tracker_and_early_stop(aligned, ratings, tmp_path):
    pytest.importorskip("tensorboard")
    run(
        "teacher", "--encoder", str(aligned), "--ratings", ratings, "--output-dir", str(tmp_path / "t"), "--trackers", "tensorboard",
        "--max-steps", "50", "--eval-every", "1", "--patience", "3", "--learning-rate", "1e-12", "--head-learning-rate", "1e-12", *FAST,
    )  # fmt: skip
    assert list((tmp_path / "t").rglob("events.out.tfevents.*"))
    result = json.loads((tmp_path / "t" / "results.json").read_text())
    assert result["step"] < 50


def test_schedule_warms_up_and_ends_low():
    from cskd_hf.training.arguments import LoopSettings

    settings = LoopSettings(max_steps=100, warmup_steps=10, min_lr_ratio=0.1)
    factors = [learning_rate_factor(step, settings) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)
