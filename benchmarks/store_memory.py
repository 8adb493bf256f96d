"""Peak memory of alignment from a small and from a large store of reference features.

    python benchmarks/store_memory.py [--quick]

Random features of 2,000 and of 200,000 images x 4 views x 512 (820 MB), each trained from in a process of its own by the
ordinary command's code: the same student, batches and number of steps. A third run keeps in
memory every part of a file that it has once read, to show what giving it back is worth. Linux only: memory is what /proc says.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import datasets
import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from torch import nn
from transformers import ResNetConfig
from transformers.utils import logging as transformers_logging

from cskd_hf.data import teacher_features
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.comparison import write_results
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings, FeatureSettings
from cskd_hf.training.reference import ReferenceEncoder
from cskd_hf.training.stored_features import store_features

SIDE, VIEWS, DIM, HOLDOUT = 16, 4, 512, 64


class RandomFeatures(nn.Module):
    """Numbers that have nothing to do with the picture: memory does not depend on what they are."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(pixel_values), DIM)


def reference() -> ReferenceEncoder:
    return ReferenceEncoder(RandomFeatures(), Preprocessing(size=(SIDE, SIDE)), name="random")


def make_images(folder: Path, count: int) -> None:
    """A saved dataset of `count` pictures of one colour each."""

    def rows():
        for number in range(count):
            buffer = io.BytesIO()
            colour = (number % 251, number // 251 % 251, number % 17)
            PILImage.new("RGB", (SIDE, SIDE), colour).save(buffer, "PNG", compress_level=1)
            yield {"image": {"bytes": buffer.getvalue(), "path": None}, "key": f"{number:06d}.png"}

    features = Features({"image": Image(), "key": Value("string")})
    Dataset.from_generator(rows, features=features, cache_dir=str(folder.with_name("cache"))).save_to_disk(str(folder))


class NoPictures(torch.utils.data.Dataset):
    """Black views in place of the images' own, so that the store is there in seconds."""

    def __init__(self, *_) -> None:
        self.views = [np.zeros((1, 1, 3), np.uint8)] * VIEWS

    def __getitem__(self, draw: tuple[int, int]) -> tuple:
        return *draw, self.views


def make_store(work: Path, count: int) -> float:
    """Images and store; returns the seconds that the store took."""
    make_images(work / f"images-{count}", count)
    started = time.perf_counter()
    with mock.patch("cskd_hf.data.feature_building._Views", NoPictures):
        store_features(FeatureSettings(features=str(work / f"features-{count}"), **common(work, count)), [reference()])
    return time.perf_counter() - started


def common(work: Path, count: int) -> dict:
    return {
        "reference": ["random"], "images": [str(work / f"images-{count}")], "n_views": VIEWS, "crop_scale": [1.0, 1.0],
        "holdout": HOLDOUT, "cpu": True, "quiet": True,
    }  # fmt: skip


def measured_run(work: Path, count: int, steps: int, batch_size: int, keep_mapped: bool) -> None:
    """The child: align, and print the memory that it took as JSON."""
    if keep_mapped:
        teacher_features._READS_KEPT = sys.maxsize
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, layer_type="basic")
    config.image_size = SIDE
    config.save_pretrained(work / "student")
    highest: dict[str, int] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            for name, value in memory().items():
                highest[name] = max(value, highest.get(name, 0))

    thread = threading.Thread(target=watch)
    thread.start()
    output = work / f"run-{count}-{keep_mapped}"
    settings = AlignSettings(
        encoder=str(work / "student"), output_dir=str(output), features=str(work / f"features-{count}"), max_steps=steps,
        loss=["cosine"],
        batch_size=batch_size, image_size=SIDE, eval_every=0, save_every=0, log_every=steps, **common(work, count),
    )  # fmt: skip
    result = align(settings, [reference()])
    stop.set()
    thread.join()
    print(
        json.dumps(
            highest
            | memory()
            | {"RssAnon": highest["RssAnon"], "RssFile": highest["RssFile"], "seconds": result.seconds}
        )
    )


def memory() -> dict[str, int]:
    """Bytes: peak of resident memory, and resident anonymous and file memory now."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {
        line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[0] in ("VmHWM:", "RssAnon:", "RssFile:")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "store_memory.json")
    parser.add_argument("--quick", action="store_true", help="20,000 images in place of 200,000, fewer steps")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if args.child:
        work, *numbers = args.child
        return measured_run(Path(work), *map(int, numbers[:3]), keep_mapped=numbers[3] == "kept")
    started = time.perf_counter()
    small, large, steps, batch_size = (2000, 20_000, 40, 256) if args.quick else (2000, 200_000, 200, 512)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        building = {count: make_store(work, count) for count in (small, large)}
        print(f"stores built in {building[small]:.0f} s and {building[large]:.0f} s", flush=True)
        for count, memory_of_files in ((small, "given back"), (large, "given back"), (large, "kept")):
            command = [
                sys.executable,
                __file__,
                "--child",
                str(work),
                str(count),
                str(steps),
                str(batch_size),
                memory_of_files,
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            size = sum(path.stat().st_size for path in (work / f"features-{count}").rglob("*.safetensors"))
            rows.append({"images": count, "memory": memory_of_files, "store_bytes": size, **figures})
    print(
        f"\n{'images':>8} {'store MB':>9} {'memory':>10} {'peak MB':>8} {'anonymous MB':>13} {'of files MB':>12} {'grows by MB':>12}"
    )
    for row in rows:
        row["grows_by"] = row["VmHWM"] - rows[0]["VmHWM"]
        mb = {name: row[name] / 1e6 for name in ("store_bytes", "VmHWM", "RssAnon", "RssFile", "grows_by")}
        print(
            f"{row['images']:8d} {mb['store_bytes']:9.0f} {row['memory']:>10} {mb['VmHWM']:8.0f} {mb['RssAnon']:13.0f} "
            f"{mb['RssFile']:12.0f} {mb['grows_by']:12.0f}"
        )
    seconds = time.perf_counter() - started
    write_results(
        args.output, rows, seconds=seconds, command=shlex.join(["python", *sys.argv]), steps=steps, batch_size=batch_size,
        views=VIEWS, dim=DIM, building_seconds=building, quick=args.quick,
        note="Bytes. VmHWM is the peak of resident memory of the process; RssAnon and RssFile are the highest of samples "
        "every 50 ms. 'grows_by' is over the first row.",
    )  # fmt: skip
    print(f"\nGoal: the second row grows by less than 200 MB. {seconds:.0f} s; written to {args.output}")


if __name__ == "__main__":
    main()
