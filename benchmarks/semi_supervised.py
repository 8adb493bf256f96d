"""What pays in semi-supervised distillation: every option of `cskd-hf student` on real photographs with human ratings.

    python benchmarks/semi_supervised.py --data DATA --work WORK

DATA holds oasis_beauty/ (rated photographs), unlabeled/ (unrated ones) and models/mobilenetv1_025_imagenet/ (a real
ImageNet encoder, which stands in for CLIP). Options are chosen on `selection` images, never on the test split: the 57
validation photographs and the training photographs whose ratings a run does not use. What was measured is kept in WORK,
one file a run, so a stopped benchmark goes on, and several processes can share the work (`--seeds 0 1`, `--seeds 2 3 4`);
the last call with all seeds writes the table.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import shlex
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from leaky_mobilenet import save_as_transformers_model
from transformers import AutoImageProcessor, ResNetConfig

from cskd_hf.data.mixture import open_images
from cskd_hf.data.ratings import load_ratings, rated_subset, score_values_of, select_split
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.comparison import paired_table, summary_table, write_results
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.evaluation.predict import RatedImages, load_scorer, pooled_features, predict, rated_metrics
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings, StudentSettings, TeacherSettings
from cskd_hf.training.probe import start_head_from_probe
from cskd_hf.training.student import distil
from cskd_hf.training.teacher import teach

UNLABELLED = ("lnsim", "clothing", "bsds500", "imagenet_sample", "savoias", "preference")
SIDES = {"ref": 224, "ref-256": 256}  # the reference encoder, at the size that it was trained for and at the teacher's
STUDENT_SIDE = 128

NAMES = {
    "scratch": "student from scratch, labels only",
    "aligned": "aligned student, labels only",
    "probe": "ridge probe on frozen reference features, 224 px",
    "teacher": "the teacher (reference encoder at 256 px, from its probe)",
    "teacher_ensemble": "two teachers (224 and 256 px), mean distribution",
    "plain": "CSKD, the paper's plain sum",
}

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "weight_3": ("distillation weighs 3", {"distill_weight": 3.0}),
    "ratio_1": ("1 unrated image for each rated one", {"unrated_per_rated": 1.0}),
    "ratio_7": ("7 unrated images for each rated one", {"unrated_per_rated": 7.0}),
    "ramp_up": ("distillation ramps up", {"distill_schedule": "ramp-up"}),
    "uncertainty": ("weighed by the teacher's variance", {"uncertainty_weighting": "exp"}),
    "strong": ("strong views for the student", {"student_view": "strong"}),
    "ranking": ("ranking loss on pairs", {"ranking_weight": 0.1}),
    "feature": ("feature distillation beside the score", {
        "feature_weight": 1.0, "feature_loss": "cosine", "feature_start": "projector"}),
    "ensemble": ("two teachers", {"ensemble": True}),
    "live": ("new views in every step, teacher live", {"pseudo_labels": ""}),
    "ema_teacher": ("the student's moving average teaches too, teacher live", {"pseudo_labels": "", "ema_teacher": 0.97}),
    "rounds_2": ("two rounds: the student teaches a second one", {"rounds": 2}),
}  # fmt: skip
"""Each changes the plain sum in one thing."""

CHOSEN: dict[str, Any] = OPTIONS["ramp_up"][1] | OPTIONS["feature"][1]
"""The options whose mean difference to the plain sum on `selection` images is above its standard error, over all numbers of
labels and seeds; all at once they are the row `chosen`."""

NAMES |= {name: f"CSKD + {text}" for name, (text, _) in OPTIONS.items()}
NAMES["chosen"] = "CSKD, all that selection chose"

CAVEATS = [
    "The reference is an ImageNet MobileNetV1 of width 0.25, not a CLIP: no CLIP weights were at hand.",
    "One alignment is shared by all runs; a seed draws other labels, another data order and other new weights.",
    "With all 339 labels the seeds share the labels, and selection has only the 57 validation images.",
    "Unused training images share themes with the labels; the 57 validation and 200 test images do not.",
    "All student rows have the same number of phase-2 steps (two rounds: that number twice); alignment comes on top for "
    "all but scratch, which trains at its own, higher rate with live batch norms and a random head.",
    "The students' rate was chosen on selection images of one seed that is not among these: 1e-3 was better than 3e-4 for "
    "the aligned student, and equal for the plain sum.",
    "Teacher and students keep their last weights: no weights are chosen on any image.",
    "Except where a row says 'teacher live', the teacher's outputs of two views of an image are stored once. Phase 2 sees "
    "every fourth unlabelled image: about as many as its steps can draw.",
]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder with oasis_beauty, unlabeled and models")
    parser.add_argument("--work", required=True, type=Path, help="folder for intermediate runs, kept and used again")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "semi_supervised.json")
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 100, 200, 339])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--rows", nargs="+", choices=list(NAMES), default=list(NAMES), metavar="ROW", help="only these"
    )
    parser.add_argument("--align-steps", type=int, default=8000)
    parser.add_argument("--student-steps", type=int, default=100)
    parser.add_argument("--teacher-steps", type=int, default=60)
    return parser.parse_args()


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    args = parse()
    bench = Benchmark(args)
    bench.prepare()
    for seed in args.seeds:
        for labels in args.labels:
            for name in args.rows:
                if name != "chosen" or CHOSEN:
                    row = bench.row(name, labels, seed)
                    print(
                        f"{labels:4d} labels, seed {seed}, {NAMES[name]}: selection {row['selection_srcc']:.3f}",
                        flush=True,
                    )
    bench.write()


@dataclass
class Benchmark:
    """The runs of the benchmark, each in a folder of its own below `args.work`."""

    args: argparse.Namespace

    def path(self, *names: str) -> Path:
        return self.args.work.joinpath(*names)

    @cached_property
    def ratings_file(self) -> str:
        return str(self.args.data / "oasis_beauty" / "ratings.csv")

    @cached_property
    def ratings(self) -> datasets.Dataset:
        return load_ratings(self.ratings_file)

    @cached_property
    def common(self) -> dict[str, Any]:
        return {
            "quiet": True,
            "channels_last": True,
            "save_every": 0,
            "eval_every": 0,
            "keep": "last",
            "overwrite": True,
        }

    def prepare(self) -> None:
        """The encoders, and the unrated images as they are read by the students: everything that all runs share."""
        self.args.work.mkdir(parents=True, exist_ok=True)
        weights = self.args.data / "models" / "mobilenetv1_025_imagenet" / "mobilenetv1_025.pth"
        for name, side in SIDES.items():
            save_as_transformers_model(weights, self.path(name))
            processor = Preprocessing((side, side), interpolation="bilinear").to_image_processor()
            processor.save_pretrained(self.path(name))
        ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 96, 256], depths=[1, 1, 1, 1], layer_type="basic",
            image_size=96,
        ).save_pretrained(self.path("new_student"))  # fmt: skip
        # From coarse to fine, then with a warm restart (arXiv 1608.03983): held-out loss fell in each of the three.
        self.align(str(self.path("new_student")), "aligned-96", 0, 3e-3)  # 0: its own 96 pixels
        self.align(str(self.path("aligned-96")), "aligned-128", STUDENT_SIDE, 1.5e-3)
        self.align(str(self.path("aligned-128")), "aligned", 0, 1.5e-3)
        self.decode_unrated()

    def align(self, encoder: str, name: str, side: int, learning_rate: float) -> None:
        result = align(AlignSettings(
            encoder=encoder, image_size=side, reference=[str(self.path("ref"))], images=self.unlabelled,
            evaluation_images=[f"{self.ratings_file}#validation,test"], output_dir=str(self.path(name)),
            features=str(self.path("features")), n_views=16, crop_scale=[0.3, 1.0], learning_rate=learning_rate,
            warmup_steps=150, max_steps=self.args.align_steps, eval_every=1000, keep="last", channels_last=True,
            cache_images=True, quiet=True, resume=True, save_every=500,
        ))  # fmt: skip
        print(f"{name}: {result.metrics}", flush=True)

    @cached_property
    def unlabelled(self) -> list[str]:
        return [str(self.args.data / "unlabeled" / name) for name in UNLABELLED]

    def decode_unrated(self) -> None:
        """Every fourth unlabelled image as an uncompressed bitmap, so that a hundred runs do not decode JPEGs again."""
        folder = self.path("unrated")
        if folder.exists():
            return
        images, cells = open_images(self.unlabelled, 256, cache=False), []
        for index in range(0, len(images), 4):
            buffer = io.BytesIO()
            images.load(index).save(buffer, "BMP")
            cells.append({"path": f"{index}.bmp", "bytes": buffer.getvalue()})
        part = folder.with_name("unrated.part")
        features = datasets.Features({"image": datasets.Image(decode=False)})
        datasets.Dataset.from_dict({"image": cells}, features=features).save_to_disk(part)
        part.rename(folder)

    def row(self, name: str, labels: int, seed: int) -> dict[str, Any]:
        """The measured figures of a run, from WORK where they are, else by running it."""
        file = self.path("rows", f"{name}-{labels}-{seed}.json")
        if not file.exists():
            started = time.perf_counter()
            scorer = self.probe(labels, seed) if name == "probe" else self.run(name, labels, seed)
            row = {"name": name, "labels": labels, "seed": seed, **self.measure(scorer, labels, seed)}
            row["seconds"] = round(time.perf_counter() - started, 1)
            file.parent.mkdir(exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(row))
            partial.rename(file)
        return json.loads(file.read_text())

    def probe(self, labels: int, seed: int) -> tuple[CSKDForImageAesthetics, Preprocessing]:
        """The ridge probe as a model with a head in closed form."""
        train = rated_subset(select_split(self.ratings, "train"), labels, seed)
        values = list(score_values_of(self.ratings))
        model = CSKDForImageAesthetics.from_encoder(str(self.path("ref")), score_values=values)
        preprocessing = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(self.path("ref")))
        rows, features = pooled_features(model, RatedImages(train, preprocessing))
        means, distributions = (torch.tensor(train[column][:])[rows] for column in ("mean", "distribution"))
        start_head_from_probe(model.classifier, features, means, values, distributions, l2=300.0)
        return model, preprocessing

    def teacher(self, reference: str, labels: int, seed: int) -> str:
        """Folder of the reference encoder, fine-tuned on the labels from its ridge probe; trained if it is not there."""
        out = self.path("runs", f"teacher-{reference}-{labels}-{seed}")
        if not (out / "results.json").exists():
            teach(TeacherSettings(
                encoder=str(self.path(reference)), learning_rate=3e-5, head_learning_rate=1e-4, freeze_norm=True,
                batch_size=32, max_steps=self.args.teacher_steps, warmup_steps=10, **self.rated(labels, seed, out),
            ))  # fmt: skip
        return str(out)

    def rated(self, labels: int, seed: int, out: Path) -> dict[str, Any]:
        return {
            "ratings": [self.ratings_file], "validation_split": "", "labels": labels, "seed": seed,
            "rated_crop_scale": [0.5, 1.0], "output_dir": str(out), **self.common,
        }  # fmt: skip

    def run(self, name: str, labels: int, seed: int) -> list[str]:
        """Train what the row is; returns the folders of what scores, together."""
        if name == "teacher":
            return [self.teacher("ref-256", labels, seed)]
        if name == "teacher_ensemble":
            return [self.teacher(reference, labels, seed) for reference in SIDES]
        out = self.path("runs", f"{name}-{labels}-{seed}")
        settings = self.rated(labels, seed, out) | {
            "max_steps": self.args.student_steps, "warmup_steps": 20, "encoder": str(self.path("aligned")),
            "learning_rate": 1e-3, "head_learning_rate": 3e-4, "freeze_norm": True,
        }  # fmt: skip
        if name == "scratch":
            new = {"learning_rate": 2e-3, "head_learning_rate": 1e-2, "freeze_norm": False, "head_init": "random"}
            settings |= new | {"encoder": str(self.path("new_student"))}
        elif name != "aligned":
            settings |= self.distillation(name, labels, seed)
        distil(StudentSettings(**settings))
        return [str(out)]

    def distillation(self, name: str, labels: int, seed: int) -> dict[str, Any]:
        """Settings of a row with a teacher: the paper's plain sum, and what the row changes in it."""
        changes = dict({"plain": {}, "chosen": CHOSEN}[name] if name not in OPTIONS else OPTIONS[name][1])
        references = list(SIDES) if changes.pop("ensemble", False) else ["ref-256"]
        settings = {
            "teacher": [self.teacher(reference, labels, seed) for reference in references],
            "images": [str(self.path("unrated"))], "crop_scale": [0.3, 1.0],
            "leaks": "off",  # the images are those of the alignment, where copies of evaluation images were left out
            "distill_weight": 1.0, "distill_schedule": "constant", "unrated_per_rated": 3.0, "n_views": 2,
            "pseudo_labels": str(self.path("pseudo", f"{'+'.join(references)}-{labels}-{seed}")),
        }  # fmt: skip
        if changes.get("rounds", 1) > 1:
            # The first round is the row `plain`; with its student in the place of the teacher, this is the second.
            changes = {"pseudo_labels": ""}
            settings["teacher"] = self.run_folder("plain", labels, seed)
        return settings | changes

    def run_folder(self, name: str, labels: int, seed: int) -> list[str]:
        self.row(name, labels, seed)
        return [str(self.path("runs", f"{name}-{labels}-{seed}"))]

    def measure(
        self, scorer: list[str] | tuple[CSKDForImageAesthetics, Preprocessing], labels: int, seed: int
    ) -> dict:
        """Metrics on the test split, and SRCC on `selection`; several folders score by their mean distribution."""
        models = [scorer] if isinstance(scorer, tuple) else [load_scorer(folder) for folder in scorer]
        distributions = np.mean([self.predictions(*model) for model in models], axis=0)
        scores = distributions @ np.asarray(score_values_of(self.ratings))
        splits, keys = np.asarray(self.ratings["split"][:]), np.asarray(self.ratings["key"][:])
        means = np.asarray(self.ratings["mean"][:])
        used = rated_subset(select_split(self.ratings, "train"), labels, seed)["key"][:]
        chosen_by, test = (splits != "test") & ~np.isin(keys, used), np.flatnonzero(splits == "test")
        images = next(iter(self.images.values()))
        metrics = rated_metrics(images, test.tolist(), scores[test], distributions[test])
        metrics["emd"] = metrics.pop("emd1")
        return metrics | {
            "selection_srcc": srcc(scores[chosen_by], means[chosen_by]),
            "selection_images": int(chosen_by.sum()),
            "validation_srcc": srcc(scores[splits == "validation"], means[splits == "validation"]),
        }

    @cached_property
    def images(self) -> dict[Preprocessing, RatedImages]:
        """All rated images as each kind of model sees them, decoded once."""
        return {}

    def predictions(self, model: CSKDForImageAesthetics, preprocessing: Preprocessing) -> np.ndarray:
        images = self.images.setdefault(preprocessing, RatedImages(self.ratings, preprocessing, cache=True))
        rows, _, distributions = predict(model, images)
        if len(rows) < len(self.ratings):
            raise ValueError(f"{images.unreadable} cannot be read; the benchmark needs all rated photographs.")
        return distributions

    def write(self) -> None:
        """The table of all rows that there are, and the JSON, by the same command."""
        files = sorted(self.path("rows").glob("*.json"))
        rows = [json.loads(file.read_text()) for file in files]
        rows = [row for row in rows if row["name"] in NAMES]
        write_results(
            self.args.output,
            rows,
            command=shlex.join(["python", *sys.argv]),
            seconds=round(sum(row["seconds"] for row in rows), 1),
            settings={k: str(v) for k, v in vars(self.args).items() if k not in ("data", "output", "work", "rows")},
            options={name: settings for name, (_, settings) in OPTIONS.items()},
            chosen=CHOSEN,
            threads=torch.get_num_threads(),
            caveats=CAVEATS,
        )
        students = [name for name in [*OPTIONS, "chosen"] if any(row["name"] == name for row in rows)]
        print(f"\n{summary_table(rows, NAMES)}\n\nOn selection images:")
        print(paired_table(rows, [(name, "plain") for name in students], NAMES, metric="selection_srcc"))
        print("\nOn the test split:")
        pairs = [("aligned", "scratch"), ("plain", "aligned"), *[(name, "plain") for name in students]]
        pairs += [("chosen", "aligned"), ("chosen", "teacher")] if "chosen" in students else []
        print(paired_table(rows, [*pairs, ("teacher", "probe"), ("teacher_ensemble", "probe")], NAMES))
        print("\n".join(f"* {caveat}" for caveat in CAVEATS))


if __name__ == "__main__":
    main()
