"""CSKD on real photographs with human ratings: every row of the method at an equal student budget.

    python benchmarks/real_photos.py --data DATA

DATA holds oasis_beauty/ (rated photographs), unlabeled/ (unrated ones) and models/mobilenetv1_025_imagenet/ (a real
ImageNet encoder, which stands in for CLIP). Settings were chosen on the training and validation splits, except where
CAVEATS says otherwise; the test split is only measured.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from leaky_mobilenet import save_as_transformers_model
from transformers import ResNetConfig

from cskd_hf.data.ratings import load_ratings, rated_subset, select_split
from cskd_hf.evaluation.comparison import paired_table, summary_table, write_results
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings, StudentSettings, TeacherSettings
from cskd_hf.training.scoreboard import Scoreboard
from cskd_hf.training.student import distil
from cskd_hf.training.teacher import teach

NAMES = {
    "scratch": "student from scratch, labels only",
    "clip_finetuned": "reference encoder fine-tuned directly",
    "clip_probe": "ridge probe on frozen reference features",
    "aligned": "aligned student, labels only",
    "cskd": "full CSKD student",
    "teacher": "the teacher (reference encoder, from its probe)",
}
PAIRS = [("aligned", "scratch"), ("cskd", "aligned"), ("cskd", "scratch")]
CAVEATS = [
    "The reference is an ImageNet MobileNetV1 of width 0.25, not a CLIP: no CLIP weights were at hand.",
    "The teacher's encoder is the reference itself, whose alignment is exact; it is 224 px, the student 112 px.",
    "One alignment is shared by all seeds; a seed draws other labels, another data order and other new weights.",
    "With all 339 labels the seeds share the labels.",
    "Phase 2's low learning rate and frozen batch-norm statistics come from a short study that had looked at two test "
    "runs; it was the best on unused training images before, not on the 57 validation images.",
    "All student rows have the same number of phase-2 steps; alignment comes on top for the aligned ones.",
    "57 validation images choose the teacher's weights; students keep their last.",
    "Scratch trains at its own, higher rate with live batch norms and a random head: with the aligned rows' settings it "
    "would hardly move.",
]
UNLABELLED = ("lnsim", "clothing", "bsds500", "imagenet_sample", "savoias", "preference")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder with oasis_beauty, unlabeled and models")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "real_photos.json")
    parser.add_argument(
        "--work", type=Path, help="folder for intermediate runs, kept and used again (default: a temporary one)"
    )
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 339])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--align-steps", type=int, default=3000)
    parser.add_argument("--student-steps", type=int, default=200)
    parser.add_argument("--teacher-steps", type=int, default=60)
    return parser.parse_args()


def main() -> None:
    args = parse()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Benchmark(args, args.work or Path(temporary))
        bench.align_student()
        for labels in args.labels:
            for seed in args.seeds:
                bench.run(labels, seed)
    seconds = round(time.perf_counter() - started, 1)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_results(
        args.output,
        bench.board.rows,
        seconds=seconds,
        command=shlex.join(["python", *sys.argv]),
        settings={name: str(value) for name, value in vars(args).items() if name not in ("data", "output", "work")},
        threads=torch.get_num_threads(),
        caveats=CAVEATS,
    )
    print(f"\n{summary_table(bench.board.rows, NAMES)}\n\n{paired_table(bench.board.rows, PAIRS, NAMES)}\n")
    print("\n".join(f"* {caveat}" for caveat in CAVEATS))
    print(f"\n{seconds:.0f} s; written to {args.output}")


class Benchmark:
    """The runs of the benchmark, in a folder of their own."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.ratings_file = args.data / "oasis_beauty" / "ratings.csv"
        self.ratings = load_ratings(self.ratings_file)
        self.board = Scoreboard(select_split(self.ratings, "test"))
        self.unlabelled = [str(args.data / "unlabeled" / name) for name in UNLABELLED]
        self.common: dict[str, Any] = {
            "quiet": not sys.stderr.isatty(), "cache_images": True, "channels_last": True, "save_every": 0, "overwrite": True
        }  # fmt: skip
        work.mkdir(parents=True, exist_ok=True)
        save_as_transformers_model(
            args.data / "models" / "mobilenetv1_025_imagenet" / "mobilenetv1_025.pth", work / "mobilenetv1_025"
        )
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic",
            downsample_in_first_stage=True, image_size=112,
        ).save_pretrained(work / "new_student")  # fmt: skip

    def path(self, name: str) -> str:
        return str(self.work / name)

    def align_student(self) -> None:
        # What an earlier run left in --work is used when, and only when, it had these settings.
        common = self.common | {"overwrite": False, "resume": True}
        settings = AlignSettings(
            encoder=self.path("new_student"), reference=[self.path("mobilenetv1_025")], images=self.unlabelled,
            output_dir=self.path("aligned"), features=self.path("features"), n_views=8, crop_scale=[0.3, 1.0],
            loss=["cosine", "whitened_smooth_l1"], learning_rate=3e-3, warmup_steps=150, max_steps=self.args.align_steps,
            eval_every=500, keep="last", **common,
        )  # fmt: skip
        result = align(settings)
        print(f"aligned: {result.metrics}, {result.seconds:.0f} s", flush=True)

    def run(self, labels: int, seed: int) -> None:
        """All rows of one number of labels and one seed."""
        train = rated_subset(select_split(self.ratings, "train"), labels, seed)
        rated = {
            "ratings": str(self.ratings_file), "labels": labels, "seed": seed, "rated_crop_scale": [0.5, 1.0], **self.common
        }  # fmt: skip
        tuned = {**rated, "max_steps": self.args.teacher_steps, "batch_size": 32, "eval_every": 20, "warmup_steps": 10}
        student = {**rated, "max_steps": self.args.student_steps, "eval_every": 0, "keep": "last", "warmup_steps": 20}
        gentle = {"learning_rate": 3e-4, "head_learning_rate": 3e-4, "freeze_norm": True}
        reference, aligned, teacher = (
            self.path("mobilenetv1_025"),
            self.path("aligned"),
            self.path(f"teacher-{labels}-{seed}"),
        )
        self._report(self.board.add_probe("clip_probe", labels, seed, reference, train, l2=300.0))
        runs: dict[str, Any] = {
            "teacher": lambda out: teach(TeacherSettings(
                encoder=reference, output_dir=out, learning_rate=3e-5, head_learning_rate=1e-4, freeze_norm=True, **tuned)),
            "clip_finetuned": lambda out: teach(TeacherSettings(
                encoder=reference, output_dir=out, head_init="random", learning_rate=3e-4, head_learning_rate=1e-2, **tuned)),
            "scratch": lambda out: distil(StudentSettings(
                encoder=self.path("new_student"), output_dir=out, head_init="random", learning_rate=2e-3, **student)),
            "aligned": lambda out: distil(StudentSettings(encoder=aligned, output_dir=out, **gentle, **student)),
            "cskd": lambda out: distil(StudentSettings(
                encoder=aligned, teacher=teacher, images=self.unlabelled, crop_scale=[0.3, 1.0], output_dir=out,
                distill_weight=3.0, distill_schedule="constant", **gentle, **student)),
        }  # fmt: skip
        for name, run in runs.items():
            out = self.path(f"{name}-{labels}-{seed}")
            started = time.perf_counter()
            run(out)
            seconds = round(time.perf_counter() - started, 1)
            self._report(self.board.add_checkpoint(name, labels, seed, out, training_seconds=seconds))

    def _report(self, row: dict[str, Any]) -> None:
        print(
            f"{row['labels']:4d} labels, seed {row['seed']}, {NAMES[row['name']]}: SRCC {row['srcc']:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
