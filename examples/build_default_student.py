"""Make the student that the package ships, by the package's own two phases, from raw images to a folder with its card.

    python examples/build_default_student.py --data DATA --seeds 1   # the shipped one: CPU hours, goes on where it stopped
    python examples/build_default_student.py --data DATA --quick     # the same path in minutes: shows that it works

DATA holds oasis_beauty/ (rated photographs), unlabeled/ (unrated ones) and models/mobilenetv1_025_imagenet/ (a real
ImageNet encoder, which stands in for CLIP). With a real CLIP and AVA, on a GPU:

    python examples/build_default_student.py --reference openai/clip-vit-base-patch32 --images photos/ --ratings ava:AVA

The student is in WORK/default_student; `build.json` beside its weights says how it was made.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, ResNetConfig

from cskd_hf.cli import main as cskd_hf
from cskd_hf.data.ratings import select_split
from cskd_hf.data.ratings.locations import open_ratings
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.comparison import software_versions
from cskd_hf.files import replaced_file, replaced_folder, write_json
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
ASSETS = ROOT / "src" / "cskd_hf" / "assets" / "default_student"
ABOUT = ROOT / "examples" / "default_student_about.md"
UNLABELLED = ("lnsim", "clothing", "bsds500", "imagenet_sample", "savoias", "preference")
SIDE, TEACHER_SIDE = 160, 256
LICENSES = {
    "oasis_beauty": "other (open access for research)", "clothing": "cc0-1.0",
    **dict.fromkeys(("lnsim", "bsds500", "imagenet_sample", "savoias", "preference"), "other (research)"),
}  # fmt: skip


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with oasis_beauty, unlabeled and models")
    parser.add_argument("--reference", help="in place of --data: CLIP or another image encoder, Hub name or folder")
    parser.add_argument("--images", nargs="+", default=[], help="unrated images: folders of image files")
    parser.add_argument(
        "--ratings", help="rated images with the splits train and test: a file, or ava:DIR and its like"
    )
    parser.add_argument("--encoder", help="student's encoder, Hub name or folder (default: a new ResNet of 1.2 M)")
    parser.add_argument("--work", type=Path, default=Path("runs/default_student"), help="folder of all runs")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="phase 2 is run with each; the first is shipped"
    )
    parser.add_argument("--quick", action="store_true", help="few steps: shows that it works, proves nothing")
    parser.add_argument("--install", action="store_true", help="also put the student into the package's assets")
    args = parser.parse_args(arguments)
    if not args.data and not (args.reference and args.images and args.ratings):
        parser.error("give --data, or --reference, --images and --ratings")
    if args.quick and args.install:
        parser.error("a quick student is none to install")
    if missing := [place for place in args.images if not os.path.isdir(place)]:
        parser.error(f"--images {missing[0]}: there is no such folder")
    if args.ratings:  # what is wrong with them should be said before hours of training
        try:
            rated = open_ratings(args.ratings)
            for split in ("train", "test"):
                select_split(rated, split)
        except (ValueError, OSError) as error:
            parser.error(f"--ratings {args.ratings}: {error}")
    return args


class Build:
    """The runs, each in a folder of its own below `args.work`, made where they are missing.

    Labels of DATA are those of `fit`: "final" are all but the test split, "train" leaves the validation split out as well,
    so that settings can be chosen on it. Other ratings keep their own splits.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.seconds: dict[str, float] = {}
        args.work.mkdir(parents=True, exist_ok=True)

    def path(self, *names: str) -> Path:
        return self.args.work.joinpath(*names)

    def stage(self, command: str, name: str, settings: dict[str, Any]) -> str:
        """Run a training command, each in a process of its own, unless its results are there; returns its folder.

        Raises:
            SystemExit: there are results of other settings.
        """
        folder, recipe = self.path(name), self.path(f"{name}.yaml")
        settings = settings | {"output_dir": str(folder), "quiet": True}
        if (folder / "results.json").exists():
            if recipe.exists() and yaml.safe_load(recipe.read_text(encoding="utf-8")) != settings:
                raise SystemExit(
                    f"'{folder}' was made with other settings, see {recipe}; remove it or give another --work."
                )
        else:
            recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
            own = ["--import", "leaky_mobilenet"] if self.args.data else []
            subprocess.run(
                [sys.executable, "-m", "cskd_hf.cli", *own, command, "--recipe", str(recipe)],
                check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])},
            )  # fmt: skip
        self.seconds[name] = json.loads((folder / "results.json").read_text(encoding="utf-8"))["seconds"]
        return str(folder)

    @cached_property
    def reference(self) -> str:
        return self.args.reference or self._reference_of_data(TEACHER_SIDE - 32)

    @cached_property
    def teacher_encoder(self) -> str:
        """The reference itself, which sees more of a photograph than the student does."""
        return self.args.reference or self._reference_of_data(TEACHER_SIDE)

    def _reference_of_data(self, side: int) -> str:
        sys.path.insert(0, str(BENCHMARKS))
        from leaky_mobilenet import save_as_transformers_model  # also registers the architecture

        folder = self.path("reference" if side == TEACHER_SIDE - 32 else f"reference-{side}")
        if not (folder / "preprocessor_config.json").exists():
            weights = self.args.data / "models" / "mobilenetv1_025_imagenet" / "mobilenetv1_025.pth"
            save_as_transformers_model(weights, folder)
            Preprocessing((side, side), interpolation="bilinear").to_image_processor().save_pretrained(folder)
        return str(folder)

    @cached_property
    def new_student(self) -> str:
        """1.2 million parameters. Dense convolutions: several times as fast to train on a CPU as depthwise ones."""
        folder = self.path("new_student")
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 96, 240], depths=[1, 2, 2, 1], layer_type="basic", image_size=SIDE
        ).save_pretrained(folder)
        return str(folder)

    @property
    def images(self) -> list[str]:
        names = UNLABELLED[2:3] if self.args.quick else UNLABELLED
        return self.args.images or [str(self.args.data / "unlabeled" / name) for name in names]

    @property
    def all_ratings(self) -> str:
        return self.args.ratings or str(self.args.data / "oasis_beauty" / "ratings.csv")

    @property
    def side(self) -> int:
        """Of the student's images; 0 is the encoder's own."""
        return 0 if self.args.encoder else SIDE

    def aligned(self) -> str:
        """Phase 1: fresh crops and mixtures of two pictures in every step; the reference is cheap enough to run live."""
        return self.stage("align", "aligned", {
            "encoder": self.args.encoder or self.new_student, "image_size": self.side, "reference": [self.reference],
            "images": self.images, "evaluation_images": [self.all_ratings], "features": "live",
            "crop_scale": [0.3, 1.0], "mixup": 0.4, "learning_rate": 3e-3, "warmup_steps": 300, "max_steps": 12_000,
            "batch_size": 64, "eval_every": 1000, "save_every": 500, "keep": "last", "resume": True,
            "mixed_precision": "bf16", "channels_last": True, "cache_images": True, "num_workers": 1,
        } | ({"max_steps": 10, "warmup_steps": 2, "holdout": 16} if self.args.quick else {}))  # fmt: skip

    def rated(self, fit: str, seed: int) -> dict[str, Any]:
        """Settings of the labels and what all runs on them share."""
        ratings, image_dir = self.all_ratings, ""
        if self.args.data:
            ratings, image_dir = self.labels(fit), str(Path(ratings).parent)
        return {
            "ratings": [ratings], "image_dir": image_dir, "validation_split": "", "seed": seed,
            "rated_crop_scale": [0.5, 1.0], "channels_last": True, "save_every": 0, "eval_every": 0, "keep": "last",
            "overwrite": True,
        }  # fmt: skip

    def labels(self, fit: str) -> str:
        """OASIS under its own name; for the final fit its validation split is among the training images."""
        path = self.path("oasis_beauty.csv" if fit == "final" else f"oasis_beauty_{fit}.csv")
        if path.is_file():
            return str(path)
        with open(self.all_ratings, newline="", encoding="utf-8") as source:
            rows = list(csv.DictReader(source))
        for row in rows:
            row["split"] = "train" if (fit, row["split"]) == ("final", "validation") else row["split"]
        with replaced_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as target:
            table = csv.DictWriter(target, rows[0])
            table.writeheader()
            table.writerows(rows)
        return str(path)

    def teacher(self, fit: str, seed: int) -> str:
        """Phase 2, first half: the reference fine-tuned from its ridge probe, as in benchmarks/semi_supervised.py."""
        return self.stage("teacher", f"teacher-{fit}-{seed}", self.rated(fit, seed) | {
            "encoder": self.teacher_encoder, "learning_rate": 3e-5, "head_learning_rate": 1e-4, "freeze_norm": True,
            "batch_size": 32, "max_steps": 60, "warmup_steps": 10,
        } | ({"max_steps": 3, "warmup_steps": 1} if self.args.quick else {}))  # fmt: skip

    def student(self, fit: str, seed: int, name: str = "student", **changes: Any) -> str:
        """Phase 2, second half: the aligned student on ratings, and on the live teacher's of fresh unrated pictures.

        Ramp-up and feature distillation are what benchmarks/semi_supervised.py chose; degraded copies are for the sanity
        tests, which the teacher fails (noise and overexposure raise its score).
        """
        settings = {
            "encoder": self.aligned(), "teacher": [self.teacher(fit, seed)], "images": self.images,
            "leaks": "off" if self.args.data else "drop",  # there are none in DATA, as the alignment has seen
            "crop_scale": [0.3, 1.0], "mixup": 0.4, "unrated_per_rated": 3.0, "distill_weight": 1.0,
            "distill_schedule": "ramp-up", "feature_weight": 1.0, "feature_loss": "cosine",
            # Another teacher's pooled feature need not be what the encoder was aligned with, as of CLIP.
            "feature_start": "projector" if self.args.data else "new", "degraded_weight": 0.3, "degraded_margin": 0.07,
            "max_steps": 200,
            "warmup_steps": 20, "learning_rate": 3e-4, "head_learning_rate": 3e-4, "freeze_norm": True,
            "mixed_precision": "bf16", "num_workers": 1,
        }  # fmt: skip
        settings |= self.rated(fit, seed) | changes
        if self.args.quick:
            settings |= {"max_steps": 3, "warmup_steps": 1}
        return self.stage("student", f"{name}-{fit}-{seed}", settings)

    def labels_only(self, fit: str, seed: int) -> str:
        """The aligned student without a teacher."""
        return self.student(fit, seed, "labels_only", **WITHOUT_TEACHER)

    def scratch(self, fit: str, seed: int) -> str:
        """The same network from random weights on the labels only."""
        own = {"learning_rate": 2e-3, "head_learning_rate": 1e-2, "freeze_norm": False, "head_init": "random"}
        encoder = {"encoder": self.new_student, "image_size": SIDE}
        return self.student(fit, seed, "scratch", **WITHOUT_TEACHER, **own, **encoder)

    def package(self, student: str) -> Path:
        """The student as it is shipped: half precision on disk, calibrated, measured, with its card and `build.json`."""
        output = self.path("default_student")
        with replaced_folder(output) as partial:
            folder = partial / output.name  # the card tells its name
            folder.mkdir()
            compress(Path(student), folder)
            run("calibrate", folder, *self.images, "--name", "unlabelled photographs", "--quiet")
            evaluation = self.path("evaluation")
            rated = self.rated("final", self.args.seeds[0])
            images = ["--image-dir", rated["image_dir"]] if rated["image_dir"] else []
            run("evaluate", folder, *rated["ratings"], *images, "--split", "test", "--output", evaluation, "--quiet")
            own = ["--evaluation", evaluation, "--facts", self.path("card.json"), "--output", folder / "README.md"]
            if self.args.data:
                used = {"oasis_beauty", *(Path(place).name for place in self.images)}
                licenses = [f"{name}={license}" for name, license in LICENSES.items() if name in used]
                own += ["--repo", ASSETS.relative_to(ROOT), "--license", "apache-2.0", "--about", ABOUT]
                own += ["--data-license", *licenses]
            run("card", folder, *own)
            write_json(folder / "build.json", self.facts(folder))
            for file in folder.iterdir():
                file.rename(partial / file.name)
            folder.rmdir()
        return output

    def facts(self, folder: Path) -> dict[str, Any]:
        """How the student was made. The hash is of the weights' file as it is shipped."""
        weights = (folder / "model.safetensors").read_bytes()
        return {
            "command": shlex.join(["python", "examples/build_default_student.py", *_public(sys.argv[1:])]),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "weights_bytes": len(weights),
            "ratings_sha256": _sha256(Path(self.all_ratings)) if self.args.data else None,
            "reference_sha256": _sha256(Path(self.reference) / "model.safetensors") if self.args.data else None,
            "seed": self.args.seeds[0],
            "seconds": self.seconds,
            "versions": software_versions(),
            "test": json.loads((self.path("evaluation") / "results.json").read_text(encoding="utf-8"))["metrics"],
            "logs": {name: self.log(name) for name in self.seconds},
            "history": json.loads((folder / "config.json").read_text(encoding="utf-8"))["history"],
        }

    def log(self, name: str) -> list[dict[str, Any]]:
        """Of a run's log, the evaluations and some fifty steps."""
        lines = [json.loads(line) for line in (self.path(name) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        every = max(1, len(lines) // 50)
        return [line for number, line in enumerate(lines) if "learning_rate" not in line or number % every == 0]


WITHOUT_TEACHER: dict[str, Any] = {
    "teacher": [], "images": [], "leaks": "drop", "mixup": 0.0, "feature_weight": 0.0, "feature_start": "new",
    "degraded_weight": 0.0,
    "distill_schedule": "constant", "crop_scale": [1.0, 1.0], "batch_size": 32,
}  # fmt: skip


def compress(student: Path, folder: Path) -> None:
    """Write a student with matrices in float16, which `from_pretrained` gives back as float32."""
    model = CSKDForImageAesthetics.from_pretrained(student, dtype=torch.float32)
    model.save_pretrained(folder)
    AutoImageProcessor.from_pretrained(student).save_pretrained(folder)
    file = folder / "model.safetensors"
    # Norms stay as they are: they are small, and their variances can be beyond the range of half precision.
    tensors = {name: value.half() if value.ndim > 1 else value for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def run(*arguments: object) -> None:
    """One of the package's commands; of a card it is enough to print what it lacks, such as licences."""
    code = cskd_hf([str(argument) for argument in arguments])
    if code and (arguments[0], code) != ("card", 1):
        raise SystemExit(f"cskd-hf {arguments[0]} ended with exit code {code}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _public(arguments: list[str]) -> list[str]:
    """Without the folders of this machine."""
    return [os.path.basename(argument.rstrip("/")) if os.path.isabs(argument) else argument for argument in arguments]


def main() -> None:
    args = parse()
    build = Build(args)
    students = [build.student("final", seed) for seed in args.seeds]
    folder = build.package(students[0])
    if args.install:
        with replaced_folder(ASSETS) as partial:
            for file in folder.iterdir():
                (partial / file.name).write_bytes(file.read_bytes())
        shutil.copyfile(folder / "README.md", ROOT / "MODEL_CARD.md")
        shutil.copyfile(build.path("card.json"), BENCHMARKS / "results" / "default_student_card.json")
    print(f"{folder}: the student; its card is README.md, how it was made is build.json")


if __name__ == "__main__":
    main()
