"""Do prompt attributes of a light student follow the factors that its pictures were made with?

    python benchmarks/prompt_attributes.py                  # needs no data; about 15 minutes on two cores
    python benchmarks/prompt_attributes.py --work FOLDER    # keeps the runs; finished ones are used again

The pictures are procedural, so the true value of each factor (blur, exposure, ...) is known. Each row is one model, each
column one attribute: the SRCC of the attribute's probability with its factor, over test pictures that nothing was trained
on. Every model gets its bank from the same text tower, that of the tiny CLIP.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import ResNetConfig

from cskd_hf.data.ratings import select_split
from cskd_hf.data.synthetic import SyntheticPhotographs, tiny_clip_path, to_dataset
from cskd_hf.data.views import Preprocessing
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings, StudentSettings, TeacherSettings
from cskd_hf.training.student import distil
from cskd_hf.training.teacher import teach

STUDENT = {"embedding_size": 12, "hidden_sizes": [12, 16, 32, 64]}  # as in cskd_hf.demo
TEACHER = {"embedding_size": 24, "hidden_sizes": [24, 36, 72, 144]}
SIDE = 64


@dataclass(frozen=True)
class Scale:
    """Numbers of images and of optimiser steps; the defaults are the demo's."""

    unlabelled: int = 6000
    rated: int = 1000
    validation: int = 200
    test: int = 1000
    labels: int = 300
    student_align_steps: int = 800
    teacher_align_steps: int = 600
    teacher_steps: int = 100
    student_steps: int = 200


QUICK = Scale(
    unlabelled=400, rated=100, validation=40, test=200, labels=60,
    student_align_steps=20, teacher_align_steps=10, teacher_steps=4, student_steps=8,
)  # fmt: skip

ALIGN_WEIGHTS = (0.03, 0.3)


class Runs:
    """The trainings that are measured, each in a folder of its own; a finished one is used again.

    Args:
        work: folder for all of them.
        scale: how large they are.
    """

    def __init__(self, work: Path, scale: Scale) -> None:
        self.work, self.scale = work, scale
        self.common = {"quiet": True, "cpu": True, "cache_images": True, "channels_last": True, "save_every": 0}

    def path(self, name: str) -> str:
        return str(self.work / name)

    def data(self) -> None:
        """Unrated, rated and test pictures, each of another seed or range of the generator."""
        scale = self.scale
        if not Path(self.path("unlabelled")).is_dir():
            unrated = to_dataset(SyntheticPhotographs(1).generate(scale.unlabelled), split="train", rated=False)
            unrated.save_to_disk(self.path("unlabelled"))
        if not Path(self.path("ratings")).is_dir():
            photographs, first, parts = SyntheticPhotographs(2), 0, []
            for split, count in (("train", scale.rated), ("validation", scale.validation), ("test", scale.test)):
                parts.append(to_dataset(photographs.generate(count, start=first), split=split))
                first += count
            datasets.concatenate_datasets(parts).save_to_disk(self.path("ratings"))
        self.test = select_split(datasets.load_from_disk(self.path("ratings")), "test")
        for name, widths in (("student", STUDENT), ("teacher", TEACHER)):
            config = ResNetConfig(depths=[1, 1, 1, 1], layer_type="basic", image_size=SIDE, **widths)
            config.save_pretrained(self.path(f"new_{name}"))
            Preprocessing((SIDE, SIDE)).to_image_processor().save_pretrained(self.path(f"new_{name}"))

    def _once(self, name: str, train: Any, settings: Any) -> str:
        if not (self.work / name / "results.json").is_file():
            started = time.perf_counter()
            shutil.rmtree(self.path(name), ignore_errors=True)
            train(settings)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        return self.path(name)

    def aligned(self, kind: str, seed: int) -> str:
        """Phase 1 of a student or of the teacher's encoder."""
        steps = self.scale.student_align_steps if kind == "student" else self.scale.teacher_align_steps
        name = f"aligned_{kind}-{seed}"
        return self._once(name, align, AlignSettings(
            encoder=self.path(f"new_{kind}"), reference=[str(tiny_clip_path())], images=[self.path("unlabelled")],
            output_dir=self.path(name), features=self.path("features"), loss=["cosine", "whitened_smooth_l1"],
            crop_scale=[1.0, 1.0], n_views=2, holdout=min(200, self.scale.unlabelled // 10), max_steps=steps,
            learning_rate=3e-3, eval_every=0, seed=seed, **self.common,
        ))  # fmt: skip

    def teacher(self, seed: int) -> str:
        """Phase 2 of the teacher; its encoder is aligned once for all seeds, as in the demo."""
        name = f"teacher-{seed}"
        return self._once(name, teach, TeacherSettings(
            encoder=self.aligned("teacher", 0), output_dir=self.path(name), max_steps=self.scale.teacher_steps,
            **self._rated(seed),
        ))  # fmt: skip

    def student(self, name: str, seed: int, **options: Any) -> str:
        """Phase 2 of a student."""
        name = f"{name}-{seed}"
        return self._once(name, distil, StudentSettings(
            output_dir=self.path(name), max_steps=self.scale.student_steps, eval_every=0, keep="last",
            **options, **self._rated(seed),
        ))  # fmt: skip

    def distilled(self, seed: int, align_weight: float = 0.0) -> str:
        """Phase 2 of the aligned student from the teacher; with `align_weight` phase 1's loss is kept up."""
        kept = {"align_weight": align_weight, "align_reference": str(tiny_clip_path())} if align_weight else {}
        return self.student(
            f"distilled-{align_weight:g}" if align_weight else "distilled", seed, encoder=self.aligned("student", seed),
            teacher=[self.teacher(seed)], images=[self.path("unlabelled")], leaks="off", **kept,
        )  # fmt: skip

    def scratch(self, seed: int) -> str:
        """A student of the same architecture that was never aligned, trained on the labels."""
        return self.student("scratch", seed, encoder=self.path("new_student"), head_init="random", learning_rate=2e-3)

    def _rated(self, seed: int) -> dict[str, Any]:
        return {"ratings": self.path("ratings"), "labels": self.scale.labels, "seed": seed, **self.common}
