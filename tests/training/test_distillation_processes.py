"""A student on two processes: the loss curve of one, and a killed run against an unbroken one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import EXAMPLES, command, figures_of, finish, log_of, start_and_wait_for_step

from cskd_hf.cli import main

TOLERANCE = 1e-5  # see test_processes


def arguments(encoder: str, teacher: str, ratings: str, photographs: str, folder: Path, *options: str) -> list[str]:
    return [
        "--encoder", encoder, "--teacher", teacher, "--ratings", ratings, "--images", photographs, "--output-dir", str(folder),
        "--unrated-per-rated", "1", "--max-steps", "8", "--warmup-steps", "2", "--eval-every", "4", "--log-every", "1",
        "--image-size", "32", "--crop-scale", "0.5", "1", "--cpu", "--quiet", *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, encoder, ratings) -> str:
    folder = str(tmp_path_factory.mktemp("processes") / "teacher")
    fast = ["--max-steps", "3", "--cpu", "--quiet", "--batch-size", "8", "--image-size", "32"]
    assert main(["teacher", "--encoder", encoder, "--ratings", ratings, "--output-dir", folder, *fast]) == 0
    return folder


def test_two_processes_walk_the_loss_curve_of_one(vit_encoder, teacher, ratings, photographs, tmp_path):
    # All that is computed image by image; what compares images of a batch compares those of a process.
    options = [
        "--distill-schedule",
        "ramp-up",
        "--student-view",
        "strong",
        "--feature-weight",
        "1",
        "--ema-teacher",
        "0.9",
    ]

    def line(name: str, batch_size: str) -> list[str]:
        folder = tmp_path / name
        return arguments(vit_encoder, teacher, ratings, photographs, folder, "--batch-size", batch_size, *options)

    assert main(["student", *line("one", "8")]) == 0
    finish(command(EXAMPLES / "train_student.py", line("two", "4"), 2))
    for name in ("loss", "rated", "distill", "feature", "eval_plcc"):
        one, two = ([entry[name] for entry in log_of(tmp_path / run) if name in entry] for run in ("one", "two"))
        assert len(one) >= 3 and two == pytest.approx(one, abs=TOLERANCE)


def test_two_processes_are_killed_in_the_second_round_and_resume_exactly(
    encoder, teacher, ratings, photographs, tmp_path
):
    # With batch norms, whose running statistics differ between processes within a step.
    options = ["--ema-teacher", "0.9", "--mixup", "1", "--uncertainty-weighting", "exp", "--ranking-weight", "1"]
    options += ["--rounds", "2", "--save-every", "2", "--max-steps", "16", "--batch-size", "4", "--keep", "last"]

    def line(name: str) -> list[str]:
        given = arguments(encoder, teacher, ratings, photographs, tmp_path / name, *options)
        return command(EXAMPLES / "train_student.py", given, 2)

    finish(line("unbroken"))
    running = start_and_wait_for_step(line("killed"), tmp_path / "killed" / "round-2", 5)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    finish([*line("killed"), "--resume"])
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    assert figures_of(killed) == figures_of(unbroken)
    assert (killed / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
