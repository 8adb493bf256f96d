"""What a step of phase 1 costs with a live reference, from stored features, and for the student alone; and what it brings.

    python benchmarks/alignment_speed.py [--quick]

Speed: a reference of the shape of CLIP ViT-B/16 (random weights) and a MobileNetV2 student, both at 224 pixels, through
the ordinary training code, loader included. The three kinds of run take turns in one process:
  live     the reference runs on every crop
  stored   its features are read from the store
  alone    no reference: the same crops, forward, backward and optimiser step against one constant target
Result: students aligned with the embedded tiny CLIP, live and from a store, judged by a ridge probe on their frozen
features (SRCC on held-out rated images of the embedded data).
"""

from __future__ import annotations

import argparse
import platform
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, MobileNetV2Config, ResNetConfig
from transformers.utils import logging as transformers_logging

from cskd_hf.data.ratings import rated_subset, select_split
from cskd_hf.data.synthetic import SyntheticPhotographs, tiny_clip_path, to_dataset
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.comparison import paired_difference, paired_table, summarise, summary_table, write_results
from cskd_hf.models.image_loading_cskd import load_image
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings, FeatureSettings
from cskd_hf.training.loop import TrainingLoop
from cskd_hf.training.reference import ReferenceEncoder
from cskd_hf.training.scoreboard import Scoreboard
from cskd_hf.training.stored_features import store_features

NAMES = {
    "live": "aligned with the live reference, a new view on every pass",
    "stored": "aligned from the store",
    "new": "not aligned (random weights)",
}
DIM, WARM_UP = 512, 2  # steps of each run that are not counted


class ConstantTarget(ReferenceEncoder):
    """Stands where a reference would, and costs nothing."""

    def __init__(self) -> None:
        self.target = torch.linspace(-1, 1, DIM)
        super().__init__(nn.Identity(), Preprocessing(size=(224, 224)), name="constant")

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return self.target.expand(len(crops), -1)


class ClockedLoop(TrainingLoop):
    """Notes when each step ends."""

    ends: list[float] = []

    def _after_step(self) -> None:
        ClockedLoop.ends.append(time.perf_counter())
        super()._after_step()


def vit_reference() -> ReferenceEncoder:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=224,
        patch_size=16, projection_dim=DIM,
    )  # fmt: skip
    return ReferenceEncoder(CLIPVisionModelWithProjection(config), Preprocessing(size=(224, 224)), name="vit-b-16")


def measure_speed(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of the three kinds, round by round."""
    save_photographs(work / "photographs", args.photographs)
    config = MobileNetV2Config(image_size=224)
    config.save_pretrained(work / "mobilenet_v2")
    common: dict[str, Any] = {
        "images": [str(work / "photographs")], "holdout": 1, "n_views": 2, "crop_scale": [0.3, 1.0], "quiet": True,
        "cpu": True, "loss": ["cosine"], "channels_last": True,
    }  # fmt: skip
    references = {"live": vit_reference(), "alone": ConstantTarget()}
    references["stored"] = references["live"]
    started = time.perf_counter()
    store_features(
        FeatureSettings(reference=["vit-b-16"], features=str(work / "features"), **common), [references["live"]]
    )
    building = time.perf_counter() - started
    print(f"store: {args.photographs} images x 2 views in {building:.0f} s", flush=True)
    rounds: dict[str, list[list[float]]] = {name: [] for name in ("live", "stored", "alone")}
    for number in range(args.rounds):
        for name, times in rounds.items():
            settings = AlignSettings(
                encoder=str(work / "mobilenet_v2"), reference=[name], output_dir=str(work / f"{name}-{number}"),
                features=str(work / "features") if name == "stored" else "live", max_steps=WARM_UP + args.steps,
                batch_size=args.batch_size, eval_every=0, save_every=0, keep="last", **common,
            )  # fmt: skip
            ClockedLoop.ends = []
            with mock.patch("cskd_hf.training.align.TrainingLoop", ClockedLoop):
                align(settings, [references[name]])
            times.append(np.diff(ClockedLoop.ends)[WARM_UP - 1 :].tolist())
            print(f"round {number + 1}, {name}: {statistics.median(times[-1]):.3f} s a step", flush=True)
    medians = {name: [statistics.median(times) for times in rounds[name]] for name in rounds}
    ratios = {
        f"{one}/{other}": [a / b for a, b in zip(medians[one], medians[other])]
        for one, other in (("stored", "alone"), ("live", "stored"))
    }
    return {
        "batch_size": args.batch_size,
        "building_seconds": building,
        "building_views": 2 * (args.photographs - 1),
        "step_seconds": rounds,
        "median_step_seconds": {name: statistics.median(sum(times, [])) for name, times in rounds.items()},
        "ratios_by_round": ratios,
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
    }


def save_photographs(folder: Path, count: int) -> None:
    """JPEG files of an ordinary size for a data set: 512 x 384."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, row in enumerate(to_dataset(SyntheticPhotographs(3).generate(count), split="train", rated=False)):
        large = np.asarray(load_image(row["image"]).resize((512, 384), Image.Resampling.BICUBIC)).astype(float)
        noisy = (large + rng.normal(0, 8, large.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.jpg", quality=90)


def measure_result(work: Path, args: argparse.Namespace) -> Scoreboard:
    """SRCC of ridge probes on students that were aligned live and from a store, for each seed."""
    to_dataset(SyntheticPhotographs(1).generate(args.unlabelled), split="train", rated=False).save_to_disk(
        str(work / "unlabelled")
    )
    photographs = SyntheticPhotographs(2)
    train = to_dataset(photographs.generate(args.rated), split="train")
    board = Scoreboard(
        select_split(to_dataset(photographs.generate(args.rated, start=args.rated), split="test"), "test")
    )
    config = ResNetConfig(
        embedding_size=12, hidden_sizes=[12, 16, 32, 64], depths=[1] * 4, layer_type="basic", image_size=64
    )
    config.save_pretrained(work / "student")
    Preprocessing((64, 64)).to_image_processor().save_pretrained(work / "student")
    labels = args.rated // 2
    for seed in args.seeds:
        rated = rated_subset(train, labels, seed)
        for name, steps in (("live", args.align_steps), ("stored", args.align_steps), ("new", 1)):
            output = work / f"result-{name}-{seed}"
            settings = AlignSettings(
                encoder=str(work / "student"), reference=[str(tiny_clip_path())], images=[str(work / "unlabelled")],
                output_dir=str(output), features=str(work / "tiny-features") if name == "stored" else "live",
                n_views=4 if name == "stored" else 0, crop_scale=[0.5, 1.0], loss=["cosine"], max_steps=steps, seed=seed,
                learning_rate=3e-3 if steps > 1 else 1e-9, holdout=64, eval_every=0, save_every=0, keep="last",
                cache_images=True, channels_last=True, quiet=True, cpu=True,
            )  # fmt: skip
            result = align(settings)
            row = board.add_probe(name, labels, seed, str(output), rated, l2=300.0, align_seconds=result.seconds)
            print(f"seed {seed}, {name}: SRCC {row['srcc']:.3f}, aligned in {result.seconds:.0f} s", flush=True)
    return board


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "alignment_speed.json")
    parser.add_argument(
        "--quick", action="store_true", help="few and small steps: shows that it works, proves nothing"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="counted steps of each run")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--photographs", type=int, default=49)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--align-steps", type=int, default=250)
    parser.add_argument("--unlabelled", type=int, default=3000)
    parser.add_argument("--rated", type=int, default=600)
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.steps, args.batch_size, args.photographs, args.seeds = 1, 2, 4, 9, [0]
        args.align_steps, args.unlabelled, args.rated = 20, 300, 100
    return args


def main() -> None:
    args = parse()
    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        speed = measure_speed(Path(work), args)
        board = measure_result(Path(work), args)
    seconds = time.perf_counter() - started
    difference = paired_difference(board.rows, "stored", "live", args.rated // 2)
    spread = {entry.name: entry.std("srcc") for entry in summarise(board.rows, NAMES)}
    write_results(
        args.output, board.rows, seconds=seconds, command=shlex.join(["python", *sys.argv]), speed=speed, quick=args.quick,
        srcc_stored_minus_live={"mean": difference.mean, "std": difference.std, "by_seed": difference.differences},
        srcc_spread_over_seeds=spread, threads=torch.get_num_threads(), machine=platform.processor() or platform.machine(),
    )  # fmt: skip
    print(f"\n{'reference':10} {'s a step':>9} {'images/s':>9}")
    for name, value in speed["median_step_seconds"].items():
        print(f"{name:10} {value:9.3f} {args.batch_size / value:9.1f}")
    for (name, value), goal in zip(speed["ratios"].items(), ("at most 1.10", "at least 4")):
        low, high = min(speed["ratios_by_round"][name]), max(speed["ratios_by_round"][name])
        print(f"{name} {value:.2f} (rounds: {low:.2f} to {high:.2f}; goal: {goal})")
    print(f"\n{summary_table(board.rows, NAMES)}\n{paired_table(board.rows, [('stored', 'live')], NAMES)}")
    print(f"\n{seconds:.0f} s; written to {args.output}")


if __name__ == "__main__":
    main()
