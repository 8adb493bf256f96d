"""Phase 1's losses side by side, by what the aligned encoder is good for afterwards.

    python benchmarks/alignment_losses.py                      # embedded data alone
    python benchmarks/alignment_losses.py --data DATA          # and real photographs, see real_photos.py
    python benchmarks/alignment_losses.py --data DATA --only photographs --work FOLDER   # a part; goes on where it was

A run is one loss and one seed: the seed gives the new encoder, the order of alignment and the labels. Each aligned encoder
is measured twice: fine-tuned on the labels alone, and by a ridge probe on its frozen features. The CHOICE columns are the
SRCC on the rated training and validation images that the run did not learn from; the default is the loss with the highest
mean of them over measures, numbers of labels and parts. The TEST columns are on the test split, which chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from leaky_mobilenet import save_as_transformers_model
from transformers import ResNetConfig

from cskd_hf.data.ratings import load_ratings, rated_subset, select_split
from cskd_hf.data.synthetic import SyntheticPhotographs, tiny_clip_path, to_dataset
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.comparison import paired_table, summary_table, write_results
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings, StudentSettings
from cskd_hf.training.scoreboard import Scoreboard
from cskd_hf.training.student import distil

LOSSES: dict[str, dict[str, Any]] = {
    "cosine": {"loss": ["cosine"]},
    "mse": {"loss": ["mse"]},
    "whitened_smooth_l1": {"loss": ["whitened_smooth_l1"]},
    "phi_s": {"loss": ["phi_s"]},
    "phi_s_smooth_l1": {"loss": ["phi_s_smooth_l1"]},
    "cosine + whitened_smooth_l1": {"loss": ["cosine", "whitened_smooth_l1"]},
    "cosine + phi_s": {"loss": ["cosine", "phi_s"]},
    "cosine + token_cosine": {"loss": ["cosine", "token_cosine"], "token_grid": 4},
}
METRICS = ("choice_finetuned", "choice_probe", "test_finetuned", "test_probe")
CAVEATS = [
    "Short alignments of small students: the order of the losses may change with more steps or a larger encoder.",
    "All losses share one learning rate, schedule and number of steps; none was tuned.",
    "Photographs: the reference is an ImageNet MobileNetV1 of width 0.25, not a CLIP. Its features are mostly above zero, "
    "unlike a CLIP's: their mean is large against their spread, which a cosine and a raw squared error feel.",
    "Embedded data: procedural images and simulated raters.",
    "Three seeds: a difference below about twice its spread over sqrt(3) says nothing.",
    "With all 339 labels of the photographs the choice columns are on the 57 validation images alone.",
]
UNLABELLED = (
    "lnsim",
    "imagenet_sample",
    "savoias",
)  # 4,132 of the photographs: a sample that a short run sees several times


@dataclass(frozen=True)
class Scale:
    """How long the runs of a part are."""

    labels: tuple[int, ...]
    align_steps: int
    batch_size: int
    student_steps: int
    n_views: int
    crop_scale: tuple[float, float]
    learning_rate: float = 3e-3


SCALES = {
    "embedded": Scale((100, 300), align_steps=500, batch_size=64, student_steps=100, n_views=2, crop_scale=(1.0, 1.0)),
    "photographs": Scale((100, 339), align_steps=600, batch_size=32, student_steps=100, n_views=2, crop_scale=(0.3, 1.0)),
}  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with oasis_beauty, unlabeled and models")
    parser.add_argument("--only", choices=tuple(SCALES), help="one part; the results of the other, if there, are kept")
    parser.add_argument("--losses", nargs="+", choices=tuple(LOSSES), default=list(LOSSES), help="rows of the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--align-steps", type=int, help="in place of the part's own")
    parser.add_argument("--student-steps", type=int, help="in place of the part's own")
    parser.add_argument(
        "--work", type=Path, help="folder of the runs: finished ones are used again (default: temporary)"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "alignment_losses.json")
    args = parser.parse_args()
    if args.only == "photographs" and not args.data:
        parser.error("the photographs need --data")
    return args


def main() -> None:
    args = parse()
    parts = [args.only] if args.only else ["embedded", *(["photographs"] if args.data else [])]
    default = next(name for name, entry in LOSSES.items() if entry["loss"] == AlignSettings().loss)
    with tempfile.TemporaryDirectory() as temporary:
        measured = {part: PARTS[part](args, args.work or Path(temporary)) for part in parts}
        rows = [row for part in measured.values() for row in part.rows()]
    scales = {name: asdict(part.scale) for name, part in measured.items()}
    if args.only and args.output.is_file():  # the other part, measured before
        before = json.loads(args.output.read_text())
        rows += [row for row in before["rows"] if row["part"] != args.only]
        scales = {name: scale for name, scale in before["scales"].items() if name != args.only} | scales
    rows.sort(key=lambda row: row["part"])
    runs = {(row["part"], row["name"], row["seed"]): row["run_seconds"] for row in rows}
    command = shlex.join(["python", *(os.path.basename(a) if os.path.isabs(a) else a for a in sys.argv)])
    write_results(
        args.output, rows, seconds=sum(runs.values()), command=command, default=default, scales=scales,
        threads=torch.get_num_threads(), caveats=CAVEATS,
    )  # fmt: skip
    for part in dict.fromkeys(row["part"] for row in rows):
        _print_part(part, [row for row in rows if row["part"] == part], default)
    print(
        f"means over measures and numbers of labels, and their differences to the default by seed\n{_means(rows, default)}\n"
    )
    print("\n".join(f"* {caveat}" for caveat in CAVEATS))
    print(f"\nwritten to {args.output}")


def _print_part(part: str, rows: list[dict[str, Any]], default: str) -> None:
    names = {name: name for name in LOSSES if any(row["name"] == name for row in rows)}
    print(f"\n{part}: SRCC\n{summary_table(rows, names, METRICS)}\n")
    pairs = [(name, default) for name in names if name != default]
    for metric in METRICS if default in names and pairs else ():
        print(f"{metric}, paired by seed:\n{paired_table(rows, pairs, names, metric)}\n")


def _means(rows: list[dict[str, Any]], default: str) -> str:
    """For each loss the mean CHOICE and TEST, of each part and of all, beside the default's of the same seed."""
    parts = list(dict.fromkeys(row["part"] for row in rows))
    lines = []
    for subset in ("choice", "test"):
        for name in LOSSES:
            if not any(row["name"] == name for row in rows):
                continue
            cells = []
            for chosen in [[part] for part in parts] + ([parts] if len(parts) > 1 else []):
                own, base = (_by_seed(rows, subset, each, chosen) for each in (name, default))
                differences = [own[seed] - base[seed] for seed in own if seed in base]
                spread = (
                    f" ({np.mean(differences):+.3f} +- {np.std(differences, ddof=1):.3f})"
                    if len(differences) > 1
                    else ""
                )
                cells.append(f"{' and '.join(chosen)} {np.mean(list(own.values())):.3f}{spread}")
            lines.append(f"{subset:6} {name:28} {'; '.join(cells)}")
    return "\n".join(lines)


def _by_seed(rows: list[dict[str, Any]], subset: str, name: str, parts: list[str]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["name"] == name and row["part"] in parts:
            found.setdefault(row["seed"], []).extend(row[f"{subset}_{kind}"] for kind in ("finetuned", "probe"))
    return {seed: float(np.mean(values)) for seed, values in found.items()}


class Part:
    """One kind of data: its runs, each in a folder of its own and with a file that says that it is done."""

    name: str
    encoder: str
    reference: str
    unlabelled: list[str]
    ratings_path: str
    ratings: datasets.Dataset
    label_settings: dict[str, Any] = {}

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        given = {"align_steps": args.align_steps, "student_steps": args.student_steps}
        self.scale = Scale(**{**asdict(SCALES[self.name]), **{key: value for key, value in given.items() if value}})
        self.args, self.work = args, work / self.name
        self.work.mkdir(parents=True, exist_ok=True)
        recorded = self.work / "scale.json"
        if recorded.is_file() and json.loads(recorded.read_text()) != json.loads(json.dumps(asdict(self.scale))):
            raise SystemExit(
                f"'{self.work}' holds runs of another scale: {recorded.read_text()}; give another --work."
            )
        recorded.write_text(json.dumps(asdict(self.scale)))
        self.common: dict[str, Any] = {
            "quiet": not sys.stderr.isatty(), "cache_images": True, "channels_last": True, "save_every": 0, "cpu": True,
        }  # fmt: skip
        self.prepare()
        self.board = Scoreboard(self.ratings)

    def prepare(self) -> None:
        """Write encoder, reference and images where they are not there yet, and set the attributes of the class."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """Of all runs, made or read."""
        return [
            row
            for seed in self.args.seeds  # all losses of a seed first: a table of one seed is there early
            for name in self.args.losses
            for row in self._rows_of(name, seed)
        ]

    def _rows_of(self, name: str, seed: int) -> list[dict[str, Any]]:
        run = f"{name.replace(' + ', '+')}-{seed}"
        done = self.work / f"{run}.json"
        if not done.is_file():
            started = time.perf_counter()
            aligned = self._align(name, seed, str(self.work / run))
            rows = [self._measure(name, labels, seed, str(self.work / run)) | aligned for labels in self.scale.labels]
            seconds = round(time.perf_counter() - started, 1)
            rows = [row | {"run_seconds": seconds} for row in rows]
            partial = done.with_suffix(".partial")
            partial.write_text(json.dumps(rows))
            partial.replace(done)
            print(f"{self.name}, {run}: {seconds:.0f} s", flush=True)
        return [{"run_seconds": 0} | row for row in json.loads(done.read_text())]

    def _align(self, name: str, seed: int, folder: str) -> dict[str, float]:
        grid = LOSSES[name].get("token_grid", 0)
        settings = AlignSettings(
            encoder=self.encoder, reference=[self.reference], images=self.unlabelled, output_dir=folder, seed=seed,
            features=str(self.work / f"features-{grid}"), n_views=self.scale.n_views,
            crop_scale=list(self.scale.crop_scale), batch_size=self.scale.batch_size, max_steps=self.scale.align_steps,
            learning_rate=self.scale.learning_rate, eval_every=0, keep="last", holdout=200, resume=True,
            **LOSSES[name], **self.common,
        )  # fmt: skip
        result = align(settings)
        return {"mean_cosine": result.metrics["mean_cosine"], "align_seconds": result.seconds}

    def _measure(self, name: str, labels: int, seed: int, aligned: str) -> dict[str, Any]:
        """One row: fine-tuned and probed, on what it did not learn from."""
        out = f"{aligned}-{labels}"
        settings = StudentSettings(
            encoder=aligned, output_dir=out, ratings=self.ratings_path, labels=labels, seed=seed,
            max_steps=self.scale.student_steps, batch_size=32, eval_every=0, keep="last", overwrite=True,
            **self.label_settings, **self.common,
        )  # fmt: skip
        distil(settings)
        train = rated_subset(select_split(self.ratings, "train"), labels, seed)
        row: dict[str, Any] = {"part": self.name, "name": name, "labels": labels, "seed": seed}
        keys, splits = np.asarray(self.ratings["key"][:]), np.asarray(self.ratings["split"][:])
        truth = np.asarray(self.ratings["mean"][:])
        used = np.isin(keys, train["key"][:])
        subsets = {"choice": ~used & (splits != "test"), "test": splits == "test"}
        self.board.add_checkpoint("finetuned", labels, seed, out)
        self.board.add_probe("probe", labels, seed, aligned, train, l2=300.0)
        for kind in ("finetuned", "probe"):
            scores = self.board.scores[kind, labels, seed]
            for subset, rows in subsets.items():
                row[f"{subset}_{kind}"] = srcc(scores[rows], truth[rows])
        row["choice_images"], row["test_images"] = (int(rows.sum()) for rows in subsets.values())
        return row


class Embedded(Part):
    """Synthetic photographs, the tiny CLIP and a 64 px CNN: what `cskd-hf demo` runs on."""

    name = "embedded"

    def prepare(self) -> None:
        self.encoder, self.reference = str(self.work / "new_student"), str(tiny_clip_path())
        self.unlabelled, self.ratings_path = [str(self.work / "unlabelled")], str(self.work / "ratings")
        if not (self.work / "ratings" / "dataset_info.json").is_file():
            unrated = to_dataset(SyntheticPhotographs(1).generate(6000), split="train", rated=False)
            unrated.save_to_disk(self.unlabelled[0])
            config = ResNetConfig(
                depths=[1, 1, 1, 1],
                layer_type="basic",
                image_size=64,
                embedding_size=12,
                hidden_sizes=[12, 16, 32, 64],
            )
            config.save_pretrained(self.encoder)
            Preprocessing((64, 64)).to_image_processor().save_pretrained(self.encoder)
            photographs, first, parts = SyntheticPhotographs(2), 0, []
            for split, count in (("train", 1000), ("validation", 200), ("test", 1000)):
                parts.append(to_dataset(photographs.generate(count, start=first), split=split))
                first += count
            datasets.concatenate_datasets(parts).save_to_disk(self.ratings_path)
        self.ratings = load_ratings(self.ratings_path)


class Photographs(Part):
    """Real photographs with human ratings, a real ImageNet encoder as reference and a 112 px ResNet."""

    name = "photographs"
    # As in real_photos.py.
    label_settings = {
        "rated_crop_scale": [0.5, 1.0], "learning_rate": 3e-4, "head_learning_rate": 3e-4, "freeze_norm": True
    }  # fmt: skip

    def prepare(self) -> None:
        data: Path = self.args.data
        self.encoder, self.reference = str(self.work / "new_student"), str(self.work / "mobilenetv1_025")
        self.unlabelled = [str(data / "unlabeled" / name) for name in UNLABELLED]
        self.ratings_path = str(data / "oasis_beauty" / "ratings.csv")
        weights = data / "models" / "mobilenetv1_025_imagenet" / "mobilenetv1_025.pth"
        save_as_transformers_model(weights, Path(self.reference))
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic",
            downsample_in_first_stage=True, image_size=112,
        ).save_pretrained(self.encoder)  # fmt: skip
        self.ratings = load_ratings(self.ratings_path)


PARTS: dict[str, type[Part]] = {"embedded": Embedded, "photographs": Photographs}


if __name__ == "__main__":
    main()
