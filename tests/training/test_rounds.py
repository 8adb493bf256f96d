"""Several rounds of distillation: who teaches whom, what is kept, and what a resumed run goes on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cskd_hf.cli import main
from cskd_hf.training.arguments import StudentSettings
from cskd_hf.training.loop import TrainingLoop
from cskd_hf.training.rounds import settings_of_round
from cskd_hf.training.settings import SettingsError
from cskd_hf.training.student import distil


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, vit_encoder, ratings) -> str:
    folder = str(tmp_path_factory.mktemp("rounds") / "teacher")
    fast = ["--max-steps", "3", "--cpu", "--quiet", "--batch-size", "8", "--image-size", "32"]
    assert main(["teacher", "--encoder", vit_encoder, "--ratings", ratings, "--output-dir", folder, *fast]) == 0
    return folder


@pytest.fixture
def make(encoder, teacher, ratings, photographs, tmp_path):
    def settings(name: str = "run", **changes) -> StudentSettings:
        given = {"encoder": encoder, "teacher": [teacher], "ratings": ratings, "images": [photographs], "rounds": 3}
        given |= {"cpu": True, "quiet": True, "batch_size": 8, "image_size": 32, "max_steps": 4, "save_every": 2}
        given |= {"log_every": 1, "keep": "last", "unrated_per_rated": 1.0}
        return StudentSettings(**given | {"output_dir": str(tmp_path / name)} | changes)

    return settings


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def same(ours: dict, theirs: dict) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_settings_of_rounds(make, teacher, encoder):
    settings = make(pseudo_labels="labels")
    first, second, third = (settings_of_round(settings, number) for number in (1, 2, 3))
    assert [Path(s.output_dir).name for s in (first, second, third)] == ["round-1", "round-2", "round-3"]
    assert [s.teacher for s in (first, second, third)] == [[teacher], [first.output_dir], [second.output_dir]]
    assert {s.encoder for s in (first, second, third)} == {encoder}
    assert len({s.pseudo_labels for s in (first, second, third)}) == 3  # each has another teacher
    assert {s.rounds for s in (first, second, third)} == {1}
    assert {s.seed for s in (first, second, third)} == {settings.seed}  # the same rated images
    onward = settings_of_round(make(round_start="student", round_teacher="both"), 2)
    assert onward.encoder == first.output_dir and onward.teacher == [first.output_dir, teacher]
    laion = {"teacher": ["laion:head.pth"], "teacher_clip": "clip"}
    assert settings_of_round(make(**laion), 2).teacher_clip == ""
    assert settings_of_round(make(round_teacher="both", **laion), 2).teacher_clip == "clip"


def test_each_student_is_taught_by_the_last_one(make, tmp_path):
    output = tmp_path / "run"
    result = distil(make())
    assert result.output_dir == str(output) and result.step == 4
    rounds = [weights(output / f"round-{number}") for number in (1, 2, 3)]
    assert same(weights(output), rounds[2]) and not same(rounds[0], rounds[1]) and not same(rounds[1], rounds[2])
    # Round 2 by hand.
    by_hand = make("by-hand", rounds=1, teacher=[str(output / "round-1")])
    assert same(weights(distil(by_hand).output_dir), rounds[1])
    provenance = json.loads((output / "config.json").read_text())["provenance"]
    assert [(entry["round"], entry["teacher"]) for entry in provenance["rounds"]] == [
        (1, ["teacher"]), (2, ["round-1"]), (3, ["round-2"])
    ]  # fmt: skip
    figures = json.loads((output / "round-1" / "results.json").read_text())["metrics"]
    assert provenance["rounds"][0]["srcc"] == figures["srcc"]
    assert json.loads((output / "results.json").read_text())["metrics"] == result.metrics
    assert main(["student", "--recipe", str(output / "settings.yaml"), "--resume"]) == 0  # done: nothing to train


@pytest.mark.parametrize("stop", [(1, 2), (2, 2), (2, 4), (3, 2)], ids=str)
def test_a_run_that_stops_in_any_round_is_resumed(make, tmp_path, monkeypatch, stop):
    options = {"ema_teacher": 0.5, "mixup": 1.0}
    whole = weights(distil(make("whole", **options)).output_dir)
    save = TrainingLoop._save

    def save_and_stop(self, folder):
        save(self, folder)
        if (folder.parent.name, self.progress.step) == (f"round-{stop[0]}", stop[1]):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingLoop, "_save", save_and_stop)
        distil(make("broken", **options))
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    trained = []
    step = TrainingLoop._step
    monkeypatch.setattr(TrainingLoop, "_step", lambda self, batches: (trained.append(1), step(self, batches)))
    assert same(weights(distil(make("broken", resume=True, **options)).output_dir), whole)
    assert len(trained) == 3 * 4 - (stop[0] - 1) * 4 - stop[1]


def test_a_folder_with_rounds_is_not_mixed_with_another_run(make, tmp_path):
    distil(make(rounds=2))
    with pytest.raises(SettingsError, match="already holds a run"):
        distil(make(rounds=2))
    with pytest.raises(SettingsError, match="rounds: 2 before, 3 now"):
        distil(make(resume=True))
    (tmp_path / "run" / "round-7").mkdir()
    distil(make(rounds=2, overwrite=True, seed=5))
    assert sorted(path.name for path in (tmp_path / "run").glob("round-*")) == ["round-1", "round-2"]
    assert "seed: 5" in (tmp_path / "run" / "settings.yaml").read_text()
