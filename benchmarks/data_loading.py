"""How long training waits for its images: the same pictures as a folder, Parquet, tar shards and streams.

    python benchmarks/data_loading.py

Phase 1 with a MobileNetV2 student on JPEGs of 1024 x 768 pixels, with and without a worker process that decodes them.
The share of time is the one that training itself logs as `data_wait`: from one line of log.jsonl to the next, how much
of the wall time was spent in asking for a batch. The runs of a repetition follow one another, so that a change in the
machine's load meets them all.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shlex
import statistics
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from PIL import Image

from cskd_hf.data.loading import ImageStream, build_loader
from cskd_hf.data.mixture import open_images
from cskd_hf.data.order import ImageOrder
from cskd_hf.data.synthetic import tiny_clip_path
from cskd_hf.data.views import ViewSettings
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings

STUDENT = Path(__file__).parents[1] / "hub_configs" / "students" / "mobilenet_v2-224"
SHARDS = 4
WARM_UP = 2  # first lines of the log that are left out: they hold the start of the workers


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "data_loading.json")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=128, help="side in pixels that the student sees")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1, help="of the training process; the rest is the worker's")
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    args = parse()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        places = write_images(Path(temporary), args.images)
        rows = measure_training(args, places, Path(temporary))
        reading = measure_reading(args, places)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "seconds": round(time.perf_counter() - started, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "load_average_at_the_start": round(load, 2),
        "settings": {name: value for name, value in vars(args).items() if name != "output"},
        "threads": torch.get_num_threads(),
        "training": rows,
        "reading": reading,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print_tables(result)
    print(f"\n{result['seconds']:.0f} s; load average at the start {load:.2f}; written to {args.output}")


def write_images(folder: Path, count: int) -> dict[str, str]:
    """The same JPEGs at every kind of place: soft forms with fine grain, about as large as photographs are."""
    rng = np.random.default_rng(0)
    for name in ("folder", "parquet", "tar"):
        (folder / name).mkdir()
    encoded = []
    for number in range(count):
        forms = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((1024, 768), 3)
        grain = rng.normal(0, 6, (768, 1024, 1))
        buffer = io.BytesIO()
        Image.fromarray((np.asarray(forms) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        encoded.append((f"{number:05d}.jpg", buffer.getvalue()))
        (folder / "folder" / encoded[-1][0]).write_bytes(encoded[-1][1])
    for shard in range(SHARDS):
        part = encoded[shard::SHARDS]
        columns = {"image": [{"bytes": data, "path": name} for name, data in part]}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features({"image": datasets.Image()}))
        table.to_parquet(folder / "parquet" / f"{shard}.parquet", batch_size=100)
        with tarfile.open(folder / "tar" / f"{shard}.tar", "w") as archive:
            for name, data in part:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    places = {name: str(folder / name) for name in ("folder", "parquet", "tar")}
    return places | {f"stream of {name}": f"stream:{places[name]}" for name in ("parquet", "tar")}


def measure_training(args: argparse.Namespace, places: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """Median share of time spent waiting, and median step, over the repetitions."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for repetition in range(args.repetitions):
        for name, place in places.items():
            for workers in args.workers:
                settings = AlignSettings(
                    encoder=str(STUDENT), loss=["cosine"], reference=[str(tiny_clip_path())], images=[place], image_size=args.image_size,
                    output_dir=str(folder / "run"), batch_size=args.batch_size, max_steps=args.steps, log_every=5,
                    num_workers=workers, seed=repetition, holdout=8, eval_every=0, save_every=0, cpu=True, quiet=True,
                    keep="last", overwrite=True, shuffle_buffer=64,
                )  # fmt: skip
                align(settings)
                lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
                lines = [line for line in lines if "data_wait" in line][WARM_UP:]
                wait = statistics.mean(line["data_wait"] for line in lines)
                step = args.batch_size / statistics.median(line["images_per_second"] for line in lines)
                found[name, workers].append((wait, step))
                print(f"{name}, {workers} workers: {wait:.1%} of {1000 * step:.0f} ms a step", flush=True)
    return [
        {
            "images": name,
            "workers": workers,
            "data_wait": round(statistics.median(wait for wait, _ in runs), 4),
            "data_wait_all": [round(wait, 4) for wait, _ in runs],
            "step_ms": round(1000 * statistics.median(step for _, step in runs), 1),
        }
        for (name, workers), runs in found.items()
    ]


def measure_reading(args: argparse.Namespace, places: dict[str, str]) -> list[dict[str, Any]]:
    """Without training: time to open a place, and views a second of one worker process."""
    rows = []
    for name, place in places.items():
        started = time.perf_counter()
        images = open_images([place], 2 * args.image_size, cache=False)
        opened = time.perf_counter() - started
        views = ViewSettings(size=args.image_size, scale=(0.3, 1.0))
        stream = ImageStream(images, ImageOrder(images.sizes), args.batch_size, views, shuffle_buffer=64)
        batches = iter(build_loader({"images": stream}, 0, 10_000, num_workers=1))
        for _ in range(5):  # what was made ready while the workers started
            next(batches)
        started, count = time.perf_counter(), max(args.images // args.batch_size, 5)
        for _ in range(count):
            next(batches)
        speed = count * args.batch_size / (time.perf_counter() - started)
        del batches
        rows.append({"images": name, "open_seconds": round(opened, 3), "views_per_second": round(speed, 1)})
    return rows


def print_tables(result: dict[str, Any]) -> None:
    print("\n| images | workers | waiting for data | all repetitions | a step |\n|---|---|---|---|---|")
    for row in result["training"]:
        each = ", ".join(f"{wait:.1%}" for wait in row["data_wait_all"])
        print(f"| {row['images']} | {row['workers']} | {row['data_wait']:.1%} | {each} | {row['step_ms']:.0f} ms |")
    print("\n| images | opened in | views a second, one worker, no training |\n|---|---|---|")
    for row in result["reading"]:
        print(f"| {row['images']} | {row['open_seconds']:.2f} s | {row['views_per_second']:.0f} |")


if __name__ == "__main__":
    main()
