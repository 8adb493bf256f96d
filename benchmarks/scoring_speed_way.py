"""One way of scoring files, timed in a process of its own, so that its memory is its own; run by scoring_speed.py.

    python benchmarks/scoring_speed_way.py TASK.json

TASK.json holds `kind` and its options, `files`, `student` and `result`, the file to write: `seconds`, `images`, `peak_mb`
and, of the student, `scores`. Loading, and one pass over two files, are not timed. The kind `parts` writes where the time
of one picture goes instead.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

Score = Callable[[Sequence[str]], list[float]]

CLIPS = {
    "ViT-B/32": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32, "projection_dim": 512},
    "ViT-L/14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14, "projection_dim": 768},
}  # fmt: skip


def plain_loop(task: dict[str, Any]) -> Score:
    """What a user writes without this package's tools: open, process, run, one picture after the other."""
    from transformers import AutoImageProcessor

    from cskd_hf import CSKDForImageAesthetics

    model = CSKDForImageAesthetics.from_pretrained(task["student"]).eval()
    processor = AutoImageProcessor.from_pretrained(task["student"])

    @torch.no_grad()
    def score(files: Sequence[str]) -> list[float]:
        found = []
        for file in files:
            pixels = processor(images=Image.open(file).convert("RGB"), return_tensors="pt")
            found.append(model(**pixels).score.item())
        return found

    return score


def clip_loop(task: dict[str, Any]) -> Score:
    """The same with a CLIP of real shape and random weights, and a LAION head on its embedding."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from cskd_hf.training.laion_heads import LaionHead

    torch.manual_seed(0)
    shape = CLIPS[task["clip"]]
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=224, **shape)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    head = LaionHead(torch.randn(shape["projection_dim"]), torch.tensor(5.0))

    @torch.no_grad()
    def score(files: Sequence[str]) -> list[float]:
        found = []
        for file in files:
            pixels = processor(images=Image.open(file).convert("RGB"), return_tensors="pt")
            found.append(head(model(**pixels).image_embeds).item())
        return found

    return score


def pipeline_call(task: dict[str, Any]) -> Score:
    """`pipeline("image-aesthetics")` over a list of paths."""
    from cskd_hf.scoring.engine import load_pipeline

    rate = load_pipeline(task["student"], "cpu")
    options = {"batch_size": task["batch_size"], "num_workers": task["workers"]}
    if task["reduced"]:
        options["reduced_decoding"] = True
    return lambda files: [result["score"] for result in rate(list(files), **options)]


def folder_scorer(task: dict[str, Any]) -> Score:
    """What `cskd-hf score` runs on, by torch or by an exported graph."""
    from cskd_hf.scoring.engine import load_engine
    from cskd_hf.scoring.scan import scan

    engine = load_engine(task["model"], reduced_decoding=task["reduced"], device=task.get("device"))
    options = {"batch_size": task["batch_size"], "workers": task["workers"]}
    return lambda files: [result["score"] for result in scan(engine, files, **options)]


def decoding(task: dict[str, Any]) -> Score:
    """The image door alone, with as many threads as workers."""
    from transformers import AutoImageProcessor

    from cskd_hf.models.image_loading_cskd import load_image
    from cskd_hf.scoring.preparation import resize_side

    side = resize_side(AutoImageProcessor.from_pretrained(task["student"])) if task["reduced"] else None

    def read(file: str) -> float:
        return float(load_image(file, target_size=side).width)

    def score(files: Sequence[str]) -> list[float]:
        with ThreadPoolExecutor(task["workers"]) as pool:
            return list(pool.map(read, files))

    return score


def command(task: dict[str, Any]) -> Score:
    """`cskd-hf score` itself: loading the model, listing, and writing the CSV are in its time."""
    import csv

    from cskd_hf.cli import main

    def score(files: Sequence[str]) -> list[float]:
        output = Path(task["result"]).with_suffix(".csv")
        for old in (output, output.with_name(f"{output.name}.ledger")):
            old.unlink(missing_ok=True)
        options = ["--workers", str(task["workers"]), "--batch-size", str(task["batch_size"]), "--quiet"]
        options += ["--reduced-decoding"] if task["reduced"] else []
        code = main(["score", "--model", task["model"], *files, "--output", str(output), *options])
        if code:
            raise RuntimeError(f"cskd-hf score ended with {code}")
        with open(output, newline="", encoding="utf-8") as rows:
            by_path = {row["path"]: float(row["score"]) for row in csv.DictReader(rows)}
        return [by_path[file] for file in files]

    return score


def parts(task: dict[str, Any]) -> dict[str, float]:
    """Median milliseconds of what is done with one picture, step by step in one thread; `processor` is what the plain loop
    does in place of `prepare`, and `forward` is of a batch, a picture."""
    from cskd_hf.models.image_loading_cskd import load_image
    from cskd_hf.scoring.engine import load_engine

    torch.set_num_threads(1)
    engine = load_engine(task["student"], reduced_decoding=task["reduced"], device="cpu")
    preparation = engine.preparation
    spent: dict[str, list[float]] = {"decode": [], "prepare": [], "processor": [], "forward": []}

    def timed(name: str, call: Callable[..., Any], *arguments: Any, share: int = 1, **options: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments, **options)
        spent[name].append(1000 * (time.perf_counter() - started) / share)
        return result

    batch: list[Any] = []
    for file in task["files"]:
        image = timed("decode", load_image, file, target_size=preparation.target_size)
        batch.append(timed("prepare", preparation.prepared, image))
        timed("processor", preparation.processor, images=image, return_tensors="pt")
        if len(batch) == task["batch_size"]:
            timed("forward", engine.score, np.stack(batch), share=len(batch))
            batch.clear()
    return {name: statistics.median(values) for name, values in spent.items() if values}


KINDS = {
    "loop": plain_loop,
    "clip": clip_loop,
    "pipeline": pipeline_call,
    "folder": folder_scorer,
    "decoding": decoding,
    "command": command,
}
SCORES = ("loop", "pipeline", "folder", "command")  # of the student


def peak_mb() -> float:
    """Most memory that this process has held; unlike ru_maxrss it does not begin with the parent's.

    Raises:
        OSError: the system has no /proc.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(task["threads"])
    files = task["files"]
    if task["kind"] == "parts":
        Path(task["result"]).write_text(json.dumps(parts(task)))
        return
    score = KINDS[task["kind"]](task)
    if task["kind"] != "command":
        score(files[:2])
    started = time.perf_counter()
    found = score(files)
    seconds = time.perf_counter() - started
    result = {"seconds": seconds, "images": len(files), "peak_mb": peak_mb()}
    if task["kind"] in SCORES:
        result["scores"] = found
    Path(task["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
