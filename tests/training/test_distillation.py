"""Every option of the student, run as its users run it: what it trains on, exact resume, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cskd_hf.cli import main
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.training.arguments import StudentSettings
from cskd_hf.training.distillation_task import DistillationTask
from cskd_hf.training.loop import TrainingLoop
from cskd_hf.training.recipes import read_recipe
from cskd_hf.training.settings import SettingsError
from cskd_hf.training.student import distil
from cskd_hf.training.teachers import FrozenTeacher

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
    "degraded": {"degraded_weight": 1.0},
    "degraded-without-a-teacher": {"teachers": 0, "images": [], "degraded_weight": 1.0},
    "feature": {"feature_weight": 1.0, "feature_loss": "cosine"},
    "align": {"align_weight": 1.0, "align": True},
    "stored": {"store": True, "teachers": 2, "uncertainty_weighting": "exp", "student_view": "strong", "teacher_flip": True},
    "stored-align": {"store": True, "align_weight": 1.0, "align": True},
    "all": {"teachers": 2, "ema_teacher": 0.9, "mixup": 1.0, "student_view": "strong", "ranking_weight": 1.0,
            "uncertainty_weighting": "exp", "distill_schedule": "ramp-down", "feature_weight": 1.0, "degraded_weight": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def aligned(tmp_path_factory, encoder, clip, photographs) -> str:
    folder = str(tmp_path_factory.mktemp("distillation") / "aligned")
    assert main(
        ["align", "--encoder", encoder, "--reference", clip, "--images", photographs, "--output-dir", folder,
         "--loss", "cosine", "--holdout", "6", "--max-steps", "40", "--warmup-steps", "0", "--crop-scale", "1", "1",
         "--features", "live", "--cpu", "--quiet", "--batch-size", "8", "--image-size", "32"]
    ) == 0  # fmt: skip
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


def test_a_resumed_run_counts_the_time_before(make, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(4, patch)
        distil(make("broken", save_every=2))
    progress = Path(make("broken").output_dir) / "checkpoint" / "progress.json"
    known = json.loads(progress.read_text())
    assert 0 < known["seconds"] < 500
    progress.write_text(json.dumps(known | {"seconds": 1000}))
    assert 1000 < distil(make("broken", save_every=2, resume=True)).seconds < 1500


def first_losses(folder: str) -> dict[str, float]:
    return next(line for line in log(folder) if "loss" in line)


def test_the_loss_is_the_weighted_sum_of_its_parts(make):
    weights = {"rated": 2.0, "distill": 0.5, "ranking": 0.3, "feature": 0.7, "align": 1.5}
    given = {f"{name}_weight": weight for name, weight in weights.items()}
    folder = distil(make("run", align=True, distill_schedule="constant", **given)).output_dir
    weights["soft_ranking"] = weights["ranking"]
    for line in log(folder):
        if "loss" in line:
            assert line["loss"] == pytest.approx(sum(weight * line[name] for name, weight in weights.items()))
            assert all(line[name] > 0 for name in weights)


def test_schedules_weigh_what_is_taught_and_what_is_rated(make):
    given = {"distill_schedule": "ramp-up", "rated_schedule": "cosine", "schedule_share": 1.0, "ranking_weight": 1.0}
    folder = distil(make("run", **given)).output_dir
    seen = [line for line in log(folder) if "loss" in line]
    assert [line["step"] for line in seen] == [1, 2, 3, 4, 5, 6]
    for done, line in enumerate(seen):
        up, down = math.exp(-5 * (1 - done / 6) ** 2), 0.5 * (1 + math.cos(math.pi * done / 6))
        parts = up * (line["distill"] + line["soft_ranking"]) + down * (line["rated"] + line["ranking"])
        assert line["loss"] == pytest.approx(parts)


def test_defaults_are_the_plain_sum_with_a_ramp_up(make):
    ramped = first_losses(distil(make("ramped")).output_dir)
    assert ramped["loss"] == pytest.approx(ramped["rated"] + math.exp(-5) * ramped["distill"])
    line = first_losses(distil(make("plain", distill_schedule="constant")).output_dir)
    assert line["loss"] == pytest.approx(line["rated"] + line["distill"])
    assert set(line) == {"step", "learning_rate", "images_per_second", "data_wait", "loss", "rated", "distill"}


class Crops:
    """What teacher and student are shown in the first step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.teacher, self.student = [], []
        forward, pixel_values = FrozenTeacher.forward, DistillationTask.pixel_values

        def see(teacher, crops):
            self.teacher.append(crops)
            return forward(teacher, crops)

        def see_too(task, crops):
            self.student.append(crops)
            return pixel_values(task, crops)

        monkeypatch.setattr(FrozenTeacher, "forward", see)
        monkeypatch.setattr(DistillationTask, "pixel_values", see_too)

    def shown(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the unrated images: to the teacher, to the student; and of the rated ones to the student."""
        rated, unrated = self.teacher[-2:]
        student = self.student[-1]
        assert torch.equal(student[: len(rated)], rated)
        return unrated, student[len(rated) :], rated


@pytest.mark.parametrize(
    ("options", "alike"),
    [({}, True), ({"mixup": 1.0}, True), ({"student_view": "strong"}, False)],
    ids=["same", "mixup", "strong"],
)
def test_what_teacher_and_student_see(make, monkeypatch, options, alike):
    crops = Crops(monkeypatch)
    distil(make("run", max_steps=1, **options))
    teacher, student, _ = crops.shown()
    assert torch.equal(teacher, student) == alike
    plain = Crops(monkeypatch)
    distil(make("plain", max_steps=1))
    assert torch.equal(plain.shown()[0], teacher) == (not options.get("mixup"))


def test_uncertain_teachers_count_less(make, monkeypatch):
    monkeypatch.setattr("cskd_hf.training.distillation_task.uncertainty_weights", lambda variance, form: variance * 0)
    assert first_losses(distil(make("run", uncertainty_weighting="exp")).output_dir)["distill"] == 0


def test_stored_outputs_of_an_ensemble_train_as_live_ones(make):
    given = {
        "teachers": 2,
        "teacher_flip": True,
        "uncertainty_weighting": "inverse",
        "crop_scale": [1.0, 1.0],
        "max_steps": 1,
    }
    given |= {"image_size": 40}  # stored at the teachers' size, live at the largest: the same here
    given |= {"flip": False, "feature_weight": 1.0}
    live, stored = (first_losses(distil(make(str(store), store=store, **given)).output_dir) for store in (False, True))
    for name in ("rated", "distill", "feature"):
        assert stored[name] == pytest.approx(live[name], rel=0.02, abs=1e-4)  # the store is float16


def test_a_laion_head_in_an_ensemble(make, teachers, clip, tmp_path):
    head = {"weight": torch.randn(1, 12), "bias": torch.tensor([5.0])}
    torch.save(head, tmp_path / "head.pth")
    laion = {"teacher_clip": clip, "laion_scale": [1.0, 10.0]}
    folder = distil(make("run", teacher=[teachers[0], f"laion:{tmp_path / 'head.pth'}"], **laion)).output_dir
    config = json.loads(Path(folder, "config.json").read_text())
    assert config["provenance"]["teacher"] == ["cnn", "laion:head.pth"]


def test_the_moving_average_alone_teaches(make):
    folder = distil(make("run", teachers=0, ema_teacher=0.9, save_every=0)).output_dir
    distilled = [line["distill"] for line in log(folder) if "distill" in line]
    # The first student is its own average, seen in evaluation mode; later ones move away from theirs.
    assert distilled[0] < 0.02 and distilled[-1] > 0


def test_feature_layer_starts_from_the_phase_1_projector(make, clip, teachers, tmp_path, caplog):
    torch.save({"weight": torch.randn(1, 12), "bias": torch.tensor([5.0])}, tmp_path / "head.pth")
    given = {"teacher": [f"laion:{tmp_path / 'head.pth'}"], "teacher_clip": clip, "laion_scale": [1.0, 10.0]}
    given |= {"feature_weight": 1.0, "feature_loss": "cosine", "max_steps": 1, "crop_scale": [1.0, 1.0]}
    new = first_losses(distil(make("new", **given)).output_dir)["feature"]
    with caplog.at_level("INFO"):
        started = first_losses(distil(make("started", feature_start="projector", **given)).output_dir)["feature"]
    assert started < 0.5 * new
    assert "copy of the phase-1 projector to 'tiny-clip'" in caplog.text
    with pytest.raises(
        SettingsError, match=r"as many features as the teacher's 16; the encoder has projectors to \[12\]"
    ):
        distil(make("other", feature_start="projector", feature_weight=1.0))


def test_alignment_is_kept_up(make):
    def last(name: str, weight: float) -> float:
        given = {"rated_weight": 0.0, "distill_weight": 0.001, "learning_rate": 1e-2, "max_steps": 20, "keep": "last"}
        given["distill_schedule"] = "constant"
        folder = distil(make(name, align=True, align_weight=weight, **given)).output_dir
        return [line["align"] for line in log(folder) if "align" in line][-1]

    assert last("strong", 10.0) < 0.5 * last("weak", 1e-6)


def test_alignment_with_another_reference_is_refused(make, clip, tmp_path):
    shutil.copytree(clip, tmp_path / "other-clip")
    with pytest.raises(SettingsError, match=r"but the encoder was aligned with \[\('tiny-clip', 12\)\]"):
        distil(make("run", align_weight=1.0, align_reference=str(tmp_path / "other-clip")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": 1.0, "store": True}, "mixup shows the teacher pictures that are new"),
        ({"ema_teacher": 0.9, "store": True}, "ema_teacher changes in every step"),
        ({"mixup": 1.0, "images": []}, "mixup is for unrated images"),
        ({"student_view": "strong", "images": []}, "student_view is for unrated images"),
        ({"teachers": 0, "images": [], "store": True}, "pseudo_labels is set, but there is no teacher"),
        (
            {"teachers": 0, "images": [], "uncertainty_weighting": "exp"},
            "uncertainty_weighting is set, but there is no",
        ),
        ({"teachers": 0, "images": [], "rounds": 2}, "rounds is set, but there is no teacher"),
        ({"teachers": 0}, "images are given but no teacher"),
        ({"ema_teacher": 1.0}, "ema_teacher=1 would never move"),
        ({"ema_teacher": -0.1}, "ema_teacher=-0.1 must be between 0 and 1"),
        ({"mixup": -1.0}, "mixup=-1.0 must be at least 0"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"schedule_share": 0.0}, "schedule_share=0.0 must be above 0"),
        ({"distill_schedule": "linear"}, "distill_schedule='linear' is not known; allowed: constant, ramp-up"),
        ({"align_weight": 1.0}, "go together; give both or none"),
        ({"align": True}, "go together; give both or none"),
        ({"feature_start": "projector"}, "a layer that feature_weight=0 leaves out"),
        ({"rated_weight": 0.0, "distill_weight": 0.0}, "are all 0: nothing would be trained"),
        ({"teacher": ["laion:head.pth"]}, "go together; give both, or another --teacher alone"),
    ],
)
def test_what_does_not_go_together_is_refused(make, options, message):
    with pytest.raises(SettingsError) as caught:
        make("run", **options).check()
    assert message in str(caught.value)


def test_a_single_teacher_may_be_text(make, teachers, tmp_path):
    settings = make("run", teacher=teachers[0])
    settings.check()
    assert settings.teacher == [teachers[0]]
    (tmp_path / "recipe.yaml").write_text(f"teacher: {teachers[0]}")
    assert read_recipe(tmp_path / "recipe.yaml", StudentSettings) == {"teacher": [teachers[0]]}


def test_a_teacher_on_other_bins_is_named(make, teachers, aligned, tmp_path):
    model = CSKDForImageAesthetics.from_encoder(aligned, score_values=[1, 2, 3])
    model.save_pretrained(tmp_path / "other")
    shutil.copy(f"{aligned}/preprocessor_config.json", tmp_path / "other")
    with pytest.raises(SettingsError, match=r"other' rates on \[1.*3.*\], but the ratings are on \[1.*5.*\]"):
        distil(make("run", teacher=[teachers[0], str(tmp_path / "other")]))


def test_degraded_copies_count_without_a_teacher_and_in_the_smallest_batch(make):
    settings = make("degraded", teachers=0, images=[], degraded_weight=1.0, degraded_margin=1.0,
                    distill_schedule="constant", batch_size=2)  # fmt: skip
    distil(settings)
    lines = [json.loads(line) for line in (Path(settings.output_dir) / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "learning_rate" in line]
    assert len(steps) == 6 and all(line["degraded"] > 0 for line in steps)
    assert all(line["loss"] == pytest.approx(line["rated"] + line["degraded"], rel=1e-4) for line in steps)
