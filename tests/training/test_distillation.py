"""Every option of the student, run as its users run it: what it trains on, exact resume, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cskd_hf.cli import main
from cskd_hf.training.arguments import StudentSettings
from cskd_hf.training.loop import TrainingLoop
from cskd_hf.training.student import distil

FAST = {"cpu": True, "quiet": True, "batch_size": 8, "image_size": 32, "unrated_per_rated": 1.0}
OPTIONS = {
    "schedules": {"distill_schedule": "ramp-up", "rated_schedule": "cosine"},
    "uncertainty": {"uncertainty_weighting": "exp"},
    "strong": {"student_view": "strong"},
    "mixup": {"mixup": 0.5},
    "ensemble": {"teachers": 2, "uncertainty_weighting": "inverse", "teacher_flip": True},
    "ema": {"teachers": 0, "ema_teacher": 0.9},
    "ema-and-teacher": {"ema_teacher": 0.9, "teacher_flip": True},
    "ranking": {"ranking_weight": 1.0},
    "ranking-without-a-teacher": {"teachers": 0, "images": [], "ranking_weight": 1.0, "ranking_loss": "margin"},
    "feature": {"feature_weight": 1.0, "feature_loss": "cosine"},
    "align": {"align_weight": 1.0, "align": True},
    "stored": {"store": True, "teachers": 2, "uncertainty_weighting": "exp", "student_view": "strong", "teacher_flip": True},
    "stored-align": {"store": True, "align_weight": 1.0, "align": True},
    "all": {"teachers": 2, "ema_teacher": 0.9, "mixup": 1.0, "student_view": "strong", "ranking_weight": 1.0,
            "uncertainty_weighting": "exp", "distill_schedule": "ramp-down", "feature_weight": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def aligned(tmp_path_factory, encoder, clip, photographs) -> str:
    folder = str(tmp_path_factory.mktemp("distillation") / "aligned")
    arguments = ["--images", photographs, "--output-dir", folder, "--loss", "cosine", "--holdout", "6"]
    more = [
        "--max-steps",
        "5",
        "--crop-scale",
        "1",
        "1",
        "--cpu",
        "--quiet",
        "--batch-size",
        "8",
        "--image-size",
        "32",
    ]
    assert main(["align", "--encoder", encoder, "--reference", clip, *arguments, *more]) == 0
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, aligned, vit_encoder, ratings) -> list[str]:
    """Two teachers of different encoders and image sizes."""
    folder = tmp_path_factory.mktemp("teachers")
    for name, start, size in (("cnn", aligned, "40"), ("vit", vit_encoder, "32")):
        assert main(
            ["teacher", "--encoder", start, "--ratings", ratings, "--output-dir", str(folder / name), "--max-steps", "3",
             "--cpu", "--quiet", "--batch-size", "8", "--image-size", size]
        ) == 0  # fmt: skip
    return [str(folder / "cnn"), str(folder / "vit")]


@pytest.fixture
def make(aligned, teachers, ratings, photographs, clip, tmp_path):
    """Settings of a student by name of its folder and changes."""

    def settings(name: str, **changes) -> StudentSettings:
        given = {"images": [photographs], "max_steps": 6, "log_every": 1, "eval_every": 3, "crop_scale": [0.5, 1.0]}
        given |= {"teacher": teachers[: changes.pop("teachers", 1)], "encoder": aligned, "ratings": ratings}
        if changes.pop("align", False):
            given["align_reference"] = clip
        if changes.pop("store", False):
            given["pseudo_labels"] = str(tmp_path / "labels")
        return StudentSettings(**FAST | given | {"output_dir": str(tmp_path / name)} | changes)

    return settings


def log(folder: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


class Stopped(Exception):
    pass


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the next run as a kill would, just after this step's checkpoint."""
    save = TrainingLoop._save

    def save_and_stop(self: TrainingLoop, folder: Path) -> None:
        save(self, folder)
        if self.progress.step == step:
            raise Stopped

    monkeypatch.setattr(TrainingLoop, "_save", save_and_stop)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_stopped_and_resumed_run_is_the_unbroken_one(make, monkeypatch, options):
    settings = {"save_every": 2, "keep": "last"} | options
    whole = distil(make("whole", **settings)).output_dir
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(4, patch)
        distil(make("broken", **settings))
    torch.manual_seed(99)  # a new process has another random state
    resumed = distil(make("broken", resume=True, **settings)).output_dir
    assert log(resumed)[-1] == pytest.approx(log(whole)[-1], rel=0, abs=0)
    ours, theirs = (load_file(f"{folder}/model.safetensors") for folder in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    start = load_file(f"{make('x').encoder}/model.safetensors")
    assert any(not torch.equal(start[name], theirs[name]) for name in start)
