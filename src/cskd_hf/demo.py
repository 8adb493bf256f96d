"""`cskd-hf demo`: the whole of CSKD on embedded data, from raw images to a scoring student, on a CPU."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import ResNetConfig, pipeline

from .data.ratings import rated_subset, select_split
from .data.synthetic import SyntheticPhotographs, tiny_clip_path, to_dataset
from .data.views import Preprocessing
from .evaluation.comparison import paired_table, summary_table, write_results
from .evaluation.evaluate import evaluate, write_evaluation
from .evaluation.report import save_overview_png, write_report
from .models.image_loading_cskd import load_image
from .training.align import align
from .training.arguments import AlignSettings, StudentSettings, TeacherSettings
from .training.scoreboard import Scoreboard
from .training.settings import SettingsError
from .training.student import distil
from .training.teacher import teach

NAMES = {
    "scratch": "student from scratch, labels only",
    "clip_finetuned": "CLIP encoder fine-tuned directly",
    "clip_probe": "ridge probe on frozen CLIP features",
    "aligned": "aligned student, labels only",
    "cskd": "full CSKD student",
    "teacher": "the teacher (aligned, fine-tuned)",
}
PAIRS = [("aligned", "scratch"), ("cskd", "aligned"), ("cskd", "scratch")]
CAVEATS = [
    "The images are procedural and their raters simulated. The rating function weighs light and content more than fine "
    "geometry, which suits what a tiny CLIP encodes, so the size of aligned - scratch is helped by construction; the order "
    "of the rows is what is tested.",
    "The ridge probe on frozen CLIP features is nearly free. It needs the CLIP encoder at scoring time; the student does not.",
    "Students of all rows train for the same number of phase-2 steps and keep their last weights; alignment comes on top "
    "for the aligned rows. Encoders are aligned once and shared by all seeds: a seed draws other labels, another data "
    "order and other new weights.",
    "The weights of the teacher and of the fine-tuned CLIP are chosen on validation images, which are rated images beyond "
    "the stated number of labels.",
    "It shows one number of labels. Distillation pays only where the teacher is above the student; with more labels its "
    "gain is expected to shrink.",
    "No figure of the paper is reproduced here: its data sets and a full CLIP are not part of this demo.",
]


@dataclass(frozen=True)
class DemoScale:
    """How large a demo is: numbers of images, seeds and optimiser steps."""

    unlabelled: int = 6000
    rated: int = 1000
    validation: int = 200
    test: int = 1000
    labels: int = 300
    seeds: tuple[int, ...] = (0, 1, 2)
    student_align_steps: int = 800
    teacher_align_steps: int = 600
    teacher_steps: int = 100
    student_steps: int = 200


QUICK = DemoScale(
    unlabelled=1200, rated=400, validation=100, test=300, labels=100, seeds=(0,),
    student_align_steps=80, teacher_align_steps=60, teacher_steps=20, student_steps=40,
)  # fmt: skip

_STUDENT = {"embedding_size": 12, "hidden_sizes": [12, 16, 32, 64]}
_TEACHER = {"embedding_size": 24, "hidden_sizes": [24, 36, 72, 144]}
_SIDE = 64
_MARK = ".intermediate"
_WORK = "cskd-demo-"  # the intermediate runs, in a folder of this prefix, go when the demo ends


def demo_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf demo`; returns the exit code 0."""
    return run_demo(namespace.output, seeds=namespace.seeds, labels=namespace.labels, quick=namespace.quick)


def run_demo(output: str, *, seeds: list[int] | None = None, labels: int | None = None, quick: bool = False) -> int:
    """Generate, align, teach, distil, compare, score; print one table and write the report.

    Args:
        output: folder for `student/`, `report.html`, `overview.png` and `results.json`.
        seeds: of the compared runs; each seed has its own labels.
        labels: rated images to learn from.
        quick: one seed and short training.

    Returns:
        exit code 0.

    Raises:
        SettingsError: more labels than there are rated images, or a folder that is not a demo's.
    """
    scale = QUICK if quick else DemoScale()
    scale = DemoScale(**{**vars(scale), "seeds": tuple(seeds or scale.seeds), "labels": labels or scale.labels})
    if not 2 <= scale.labels <= scale.rated:
        raise SettingsError(f"labels={scale.labels} must be between 2 and {scale.rated}, the demo's rated images.")
    folder = Path(output)
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with _quiet_log(), tempfile.TemporaryDirectory(prefix=_WORK, dir=folder) as work:
        (Path(work) / _MARK).touch()
        demo = _Demo(Path(work), scale)
        demo.make_data()
        demo.align_encoders()
        for seed in scale.seeds:
            demo.run_seed(seed)
        return _finish(demo, folder, started)


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """The demo's own lines say enough."""
    log = logging.getLogger(__package__)
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder with somebody's files; what a killed demo left there is removed."""
    if not folder.is_dir():
        return
    abandoned = {path for path in folder.glob(f"{_WORK}*") if (path / _MARK).is_file()}
    if set(folder.iterdir()) - abandoned and not (folder / "results.json").is_file():
        raise SettingsError(f"'{folder}' exists and holds no demo; give --output another folder.")
    for path in abandoned:
        shutil.rmtree(path)


class _Demo:
    """The steps of a demo, in a folder of their own."""

    def __init__(self, work: Path, scale: DemoScale) -> None:
        self.work, self.scale = work, scale
        self.started = time.perf_counter()
        self.common = {
            "cpu": not torch.cuda.is_available(),
            "quiet": not sys.stderr.isatty(),
            "cache_images": True,
            "channels_last": True,
            "save_every": 0,
            "log_every": 20,
        }

    def path(self, name: str) -> str:
        return str(self.work / name)

    def say(self, text: str) -> None:
        _say(f"[{time.perf_counter() - self.started:4.0f} s] {text}")

    def make_data(self) -> None:
        scale = self.scale
        self.say(f"making {scale.unlabelled + scale.rated + scale.validation + scale.test} synthetic photographs")
        to_dataset(SyntheticPhotographs(1).generate(scale.unlabelled), split="train", rated=False).save_to_disk(
            self.path("unlabelled")
        )
        photographs, first, parts = SyntheticPhotographs(2), 0, []
        for split, count in (("train", scale.rated), ("validation", scale.validation), ("test", scale.test)):
            parts.append(to_dataset(photographs.generate(count, start=first), split=split))
            first += count
        self.ratings = datasets.concatenate_datasets(parts)
        self.ratings.save_to_disk(self.path("ratings"))
        self.board = Scoreboard(select_split(self.ratings, "test"))
        for name, widths in (("student", _STUDENT), ("teacher", _TEACHER)):
            config = ResNetConfig(depths=[1, 1, 1, 1], layer_type="basic", image_size=_SIDE, **widths)
            config.save_pretrained(self.path(f"new_{name}"))
            Preprocessing((_SIDE, _SIDE)).to_image_processor().save_pretrained(self.path(f"new_{name}"))

    def align_encoders(self) -> None:
        steps = {"student": self.scale.student_align_steps, "teacher": self.scale.teacher_align_steps}
        for name, max_steps in steps.items():
            self.say(f"phase 1: aligning the {name}'s encoder with the tiny CLIP")
            settings = AlignSettings(
                encoder=self.path(f"new_{name}"), reference=[str(tiny_clip_path())], images=[self.path("unlabelled")],
                output_dir=self.path(f"aligned_{name}"), features=self.path("features"), loss=["cosine", "whitened_smooth_l1"],
                crop_scale=[1.0, 1.0], n_views=2, holdout=min(200, self.scale.unlabelled // 10), max_steps=max_steps,
                learning_rate=3e-3, eval_every=0, **self.common,
            )  # fmt: skip
            align(settings)

    def run_seed(self, seed: int) -> None:
        scale = self.scale
        rated = {"ratings": self.path("ratings"), "labels": scale.labels, "seed": seed, **self.common}
        student = {**rated, "max_steps": scale.student_steps, "eval_every": 0, "keep": "last"}
        self.say(f"phase 2, seed {seed}")
        train = rated_subset(select_split(self.ratings, "train"), scale.labels, seed)
        self._say_row(self.board.add_probe("clip_probe", scale.labels, seed, str(tiny_clip_path()), train, l2=300.0))
        runs: dict[str, Any] = {
            "teacher": lambda out: teach(TeacherSettings(encoder=self.path("aligned_teacher"), output_dir=out, max_steps=scale.teacher_steps, **rated)),
            "scratch": lambda out: distil(StudentSettings(encoder=self.path("new_student"), output_dir=out, head_init="random", learning_rate=2e-3, **student)),
            "aligned": lambda out: distil(StudentSettings(encoder=self.path("aligned_student"), output_dir=out, **student)),
            "cskd": lambda out: distil(StudentSettings(
                encoder=self.path("aligned_student"), teacher=self.path(f"teacher-{seed}"), images=[self.path("unlabelled")],
                leaks="off",  # no photograph of the generator is in two of its sets
                distill_weight=3.0, distill_schedule="constant",  # tuned on this data; the defaults were chosen on photographs
                output_dir=out, **student)),
            "clip_finetuned": lambda out: teach(TeacherSettings(
                encoder=str(tiny_clip_path()), output_dir=out, max_steps=scale.teacher_steps, head_init="random", **rated)),
        }  # fmt: skip
        for name, run in runs.items():
            out = self.path(f"{name}-{seed}")
            run(out)
            self._say_row(self.board.add_checkpoint(name, scale.labels, seed, out))

    def _say_row(self, row: dict[str, Any]) -> None:
        self.say(f"  {NAMES[row['name']]}: SRCC {row['srcc']:.3f}")


def _finish(demo: _Demo, folder: Path, started: float) -> int:
    scale, seed = demo.scale, demo.scale.seeds[0]
    student = folder / "student"
    shutil.rmtree(student, ignore_errors=True)
    student.mkdir()
    for file in ("config.json", "model.safetensors", "preprocessor_config.json", "results.json", "log.jsonl"):
        shutil.copyfile(Path(demo.path(f"cskd-{seed}")) / file, student / file)
    _evaluate(student, demo.board.test)
    order = np.argsort(demo.board.scores["cskd", demo.scale.labels, seed])
    truth = np.asarray(demo.board.test["mean"][:])
    examples = [_example(demo, int(row), seed, truth) for row in [*order[::-1][:6], *order[:6]]]
    _say(f"\nscored by the student just saved, with pipeline('image-aesthetics', model='{student}'):")
    rate = pipeline("image-aesthetics", model=str(student))
    for example, result in zip(examples[::4], rate([example["image"] for example in examples[::4]])):
        _say(
            f"  {example['key']}: {result['score']:.2f} +- {result['score_std']:.2f}, raters said {example['true']:.2f}"
        )

    seconds = time.perf_counter() - started
    write_results(folder / "results.json", demo.board.rows, seconds=seconds, command="cskd-hf demo", scale=vars(scale))
    table, pairs = summary_table(demo.board.rows, NAMES), paired_table(demo.board.rows, PAIRS, NAMES)
    scatter = (truth, demo.board.scores["cskd", demo.scale.labels, seed], (1.0, 10.0))
    save_overview_png(folder / "overview.png", demo.board.rows, NAMES, scatter, examples)
    write_report(
        folder / "report.html",
        title="CSKD on embedded data",
        summary=f"{scale.labels} rated and {scale.unlabelled} unrated images; metrics on {scale.test} unseen images.",
        rows=demo.board.rows,
        names=NAMES,
        pairs=PAIRS,
        caveats=CAVEATS,
        curves={
            f"{label} (seed {seed})" if "-" in name else label: _log(demo.path(name))
            for name, label in (
                ("aligned_student", "phase 1, student"), ("aligned_teacher", "phase 1, teacher"),
                (f"cskd-{seed}", "phase 2, CSKD student"), (f"aligned-{seed}", "phase 2, labels only"),
            )
        },
        scatter=scatter,
        examples=examples,
        facts={"seeds": ", ".join(map(str, scale.seeds)), "wall time": f"{seconds:.0f} s", "threads": str(torch.get_num_threads())},
    )  # fmt: skip
    _say(f"\n{table}\n\n{pairs}\n")
    _say("\n".join(f"* {caveat}" for caveat in CAVEATS))
    _say(
        f"\n{seconds:.0f} s. Report: {folder / 'report.html'}; student: {student}; figures: {folder / 'results.json'}"
    )
    return 0


def _evaluate(student: Path, test: datasets.Dataset) -> None:
    """Measure the saved student with intervals, which its model card tells."""
    result = evaluate(str(student), test, quiet=True)
    result["data"]["location"] = "cskd_hf.data.synthetic"
    write_evaluation(student / "evaluation", result, test)


def _example(demo: _Demo, row: int, seed: int, truth: np.ndarray) -> dict[str, Any]:
    cell = demo.board.test[row]
    return {
        "image": load_image(cell["image"]),
        "key": cell["key"],
        "predicted": float(demo.board.scores["cskd", demo.scale.labels, seed][row]),
        "true": float(truth[row]),
    }


def _log(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]


def _say(text: str) -> None:
    print(text, flush=True)
