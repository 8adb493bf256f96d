"""How fast folders of photographs are scored, files on disk and decoding included, and how much memory that takes.

    python benchmarks/scoring_speed.py --data DATA --work FOLDER
    python benchmarks/scoring_speed.py --quick           # a few generated pictures: that it runs

Sets: `large`, 300 JPEG photographs of 12 megapixels; `small`, 2,000 of 0.3; `huge`, 100 files of 50, for memory. They are
made of the photographs below DATA by enlarging, with grain and fine detail added so that the files are as large as a
camera's, quality 92, once, in FOLDER. Each way of scoring runs in a process of its own; the ways take turns, round by
round, and a figure is the median over rounds. CLIPs of real shape and random weights run on a subset, since only their
speed counts. Differences of scores are to the plain loop, as a share of the student's scale.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cskd_hf import CSKDForImageAesthetics, default_student_path
from cskd_hf.data.sources import list_images
from cskd_hf.data.synthetic import SyntheticPhotographs
from cskd_hf.evaluation.comparison import write_results
from cskd_hf.models.image_loading_cskd import load_image

SETS = {"large": (300, (4000, 3000)), "small": (2000, (640, 480)), "huge": (100, (8660, 5773))}
QUICK_SETS = {"large": (4, (1600, 1200)), "small": (20, (320, 240)), "huge": (3, (2000, 1500))}
HUGE_FILES = 5  # different ones; the others are further names of these
PARTS_IMAGES = 48
CLIP_IMAGES = {"ViT-B/32": 60, "ViT-L/14": 12}
BATCH = 16
FLAT = 1e-3  # spread of the student's scores, as a share of the scale, below which they are all the same
GOALS = {"loop": 4.0, "clip": 10.0, "decoding": 1.3, "huge_mb": 1500.0, "reduced": 0.02, "exact": 1e-5}
CAVEATS = [
    "The 12- and 50-megapixel photographs are enlarged ones with added detail: decoding costs what it costs for a camera's "
    "files of this size, but what is in them is smooth for their size.",
    "All files are in the system's cache from the second pass on: no disk is measured.",
    "CLIPs run one picture a forward, as published scripts do; a batch would help them a little on a CPU.",
    "Equal scores may differ by 1e-5 of the scale: a forward of several pictures rounds otherwise than one of a single picture.",
    "'decoding' is the image door alone with as many threads as the scorer reads with.",
]


def make_set(folder: Path, sources: list[Any], count: int, size: tuple[int, int]) -> list[str]:
    """JPEG files of one size, made once.

    Args:
        folder: that they are in.
        sources: what `load_image` takes.
        count: files; of more than there are sources, each is used with another grain.
        size: width and height.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    width, height = size
    grain = rng.normal(0, 1, (height, width)).astype(np.float32)
    fine = np.asarray(Image.fromarray(grain[::2, ::2]).resize(size, Image.Resampling.BILINEAR))
    different = min(count, HUGE_FILES) if width * height > 20e6 else count
    for number in range(count):
        path = folder / f"{number:04d}.jpg"
        if path.is_file():
            continue
        if number >= different:
            os.link(folder / f"{number % different:04d}.jpg", path)
            continue
        image = load_image(sources[number % len(sources)]).resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(image, dtype=np.float32)
        shift = int(rng.integers(0, width))
        noise = 3.0 * np.roll(grain, shift, axis=1) + 4.0 * np.roll(fine, -shift, axis=1)
        Image.fromarray((pixels + noise[..., None]).clip(0, 255).astype(np.uint8)).save(path, quality=92)
    return [str(path) for path in sorted(folder.glob("*.jpg"))[:count]]


def exported(student: str, work: Path, small: list[str]) -> dict[str, str]:
    """Places of the student as torch checkpoint and, where onnxruntime and the exporters are there, as graphs."""
    places = {"torch": student}
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"no ONNX rows: {', '.join(missing)} not installed", flush=True)
        return places
    from cskd_hf.export.onnx_graphs import export_onnx

    places["onnx"] = str(export_onnx(student, work / "onnx", overwrite=True))
    if importlib.util.find_spec("cskd_hf.export.int8") is None:
        print("no int8 rows: this version exports none", flush=True)
        return places
    from cskd_hf.export.int8 import export_int8

    images = Path(small[0]).parent
    places["int8"] = str(export_int8(student, work / "int8", calibration_images=images, overwrite=True, quiet=True))
    return places


def ways_of(kind_of_set: str, places: dict[str, str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The ways that a set is scored in: name and options of scoring_speed_way.py."""
    reduced = (False, True)
    if kind_of_set == "huge":
        return [{"kind": "folder", "engine": "torch", "model": places["torch"], "reduced": r, "workers": args.cores} for r in reduced] + [
            {"kind": "loop", "subset": HUGE_FILES}
        ]  # fmt: skip
    ways: list[dict[str, Any]] = [{"kind": "loop"}]
    ways += [{"kind": "clip", "clip": name, "subset": args.clip_images or n} for name, n in CLIP_IMAGES.items()]
    ways += [{"kind": "decoding", "reduced": r, "workers": w} for r in reduced for w in args.workers]
    ways += [{"kind": "pipeline", "reduced": r, "workers": 0} for r in reduced]
    ways += [
        {"kind": "folder", "engine": engine, "model": model, "reduced": r, "workers": w}
        for engine, model in places.items()
        for r in reduced
        for w in args.workers
    ]
    if torch.cuda.is_available():
        ways += [
            {"kind": "folder", "engine": "torch, GPU", "model": places["torch"], "reduced": r, "workers": w, "device": "cuda"}
            for r in reduced
            for w in args.workers
        ]  # fmt: skip
    ways += [{"kind": "command", "model": places["torch"], "reduced": r, "workers": args.cores} for r in reduced]
    return ways


def name_of(way: dict[str, Any]) -> str:
    """What a way is called in the table."""
    if way["kind"] in ("loop", "clip"):
        return {"loop": "plain loop", "clip": f"CLIP {way.get('clip')}, LAION head"}[way["kind"]]
    parts = {
        "decoding": "decoding alone",
        "pipeline": f"pipeline, batch {BATCH}",
        "folder": f"folder scorer, {way.get('engine')}",
        "command": "cskd-hf score, whole command",
    }
    decoded = "reduced" if way["reduced"] else "whole"
    return f"{parts[way['kind']]}, {decoded}" + (f", {way['workers']} workers" if way["workers"] else "")


def run_way(
    way: dict[str, Any], files: list[str], student: str, work: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Score the files, or the way's subset of them, in a process of its own."""
    files = files[: way["subset"]] if "subset" in way else files  # of the huge ones only the first are different
    task = {
        "files": files, "student": student, "threads": args.threads, "batch_size": BATCH, "reduced": False, "workers": 0,
        "device": "cpu", "result": str(work / "result.json"), **way,
    }  # fmt: skip
    if way.get("engine") in ("onnx", "int8"):
        task["device"] = None
    started = time.perf_counter()
    result = run_task(task, name_of(way), work)
    if way["kind"] == "command":
        result["seconds"] = time.perf_counter() - started  # Python's start and all
    return result | {"files": files}


def run_task(task: dict[str, Any], name: str, work: Path) -> dict[str, Any]:
    """What scoring_speed_way.py writes for a task."""
    (work / "task.json").write_text(json.dumps(task))
    script = Path(__file__).with_name("scoring_speed_way.py")
    done = subprocess.run([sys.executable, str(script), str(work / "task.json")], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads((work / "result.json").read_text())


def parts_of(name: str, files: list[str], student: str, work: Path) -> list[dict[str, Any]]:
    """Where the time of one picture goes: rows of milliseconds, decoded whole and reduced."""
    rows = []
    for reduced in (False, True):
        task = {
            "kind": "parts", "files": files[:PARTS_IMAGES], "student": student, "batch_size": BATCH, "reduced": reduced,
            "threads": 1, "result": str(work / "result.json"),
        }  # fmt: skip
        rows.append({"set": name, "reduced": reduced, "milliseconds": run_task(task, "parts", work)})
    return rows


def measure(name: str, files: list[str], places: dict[str, str], work: Path, args: argparse.Namespace) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of a set: one a way."""
    student = places["torch"]
    ways = ways_of(name, places, args)
    rounds: list[list[dict[str, Any]]] = [[] for _ in ways]
    for number in range(1 if name == "huge" else args.rounds):
        for way, results in zip(ways, rounds):
            results.append(run_way(way, files, student, work, args))
            speed = results[-1]["images"] / results[-1]["seconds"]
            print(f"{name}, round {number + 1}: {name_of(way)}: {speed:.1f} images/s", flush=True)
    loop = next(results[0] for way, results in zip(ways, rounds) if way["kind"] == "loop")
    known = dict(zip(loop["files"], loop["scores"]))
    values = CSKDForImageAesthetics.from_pretrained(student).config.score_values
    if np.ptp(loop["scores"]) < FLAT * (values[-1] - values[0]):
        raise SystemExit(f"'{student}' gives all pictures of '{name}' one score, so differences would say nothing.")
    rows = []
    for way, results in zip(ways, rounds):
        gaps = [
            abs(score - known[file]) / (values[-1] - values[0])
            for file, score in zip(results[0]["files"], results[0].get("scores", []))
            if file in known
        ]
        rows.append({
            "set": name, "name": name_of(way), **{key: way[key] for key in ("kind", "engine", "clip", "reduced", "workers") if key in way},
            "images": results[0]["images"], "seconds": [result["seconds"] for result in results],
            "images_per_second": statistics.median(result["images"] / result["seconds"] for result in results),
            "peak_mb": max(result["peak_mb"] for result in results), "largest_difference": max(gaps, default=None),
        })  # fmt: skip
    return rows


def ratio(row: dict[str, Any], other: dict[str, Any]) -> float:
    """How many times the speed of `other`: the median over rounds, each round against its own."""
    own = [row["images"] / seconds for seconds in row["seconds"]]
    theirs = [other["images"] / seconds for seconds in other["seconds"]]
    return statistics.median(a / b for a, b in zip(own, theirs))


def goals_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each goal with what was reached: by the best folder row of each, with the decoding that the goal is about."""

    def of(name: str, **wanted: Any) -> list[dict[str, Any]]:
        return [row for row in rows if row["set"] == name and all(row.get(key) == value for key, value in wanted.items())]  # fmt: skip

    goals: list[dict[str, Any]] = []

    def note(goal: str, value: float, needed: float, at_least: bool, by: str) -> None:
        met = value >= needed if at_least else value <= needed
        goals.append({"goal": goal, "reached": value, "needed": needed, "at_least": at_least, "met": met, "by": by})

    for reduced in (False, True):
        decoded, exact = "reduced decoding" if reduced else "whole decoding", GOALS["reduced" if reduced else "exact"]
        folder = [row for row in of("large", kind="folder", reduced=reduced) if row["engine"] == "torch"]
        if folder and (loops := of("large", kind="loop")):
            best = max(folder, key=lambda row: ratio(row, loops[0]))
            note(f"large: times the plain loop, {decoded}", ratio(best, loops[0]), GOALS["loop"], True, best["name"])
            worst = max(folder, key=lambda row: row["largest_difference"])
            note(f"large: largest difference, {decoded}", worst["largest_difference"], exact, False, worst["name"])
        alone = {row["workers"]: row for row in of("large", kind="decoding", reduced=reduced)}
        pairs = [(1 / ratio(row, alone[row["workers"]]), row) for row in folder if row["workers"] in alone]
        if pairs:
            value, row = min(pairs, key=lambda pair: pair[0])
            note(f"large: time against decoding alone, {decoded}", value, GOALS["decoding"], False, row["name"])
        for row in of("huge", kind="folder", reduced=reduced):
            note(f"huge: peak memory in MB, {decoded}", row["peak_mb"], GOALS["huge_mb"], False, row["name"])
    folder, clips = of("small", kind="folder", reduced=False), of("small", clip="ViT-B/32")
    if folder and clips:
        best = max(folder, key=lambda row: ratio(row, clips[0]))
        note("small: times CLIP ViT-B/32, whole decoding", ratio(best, clips[0]), GOALS["clip"], True, best["name"])
    return goals


def table(rows: list[dict[str, Any]]) -> str:
    """All rows of a set, side by side."""
    loop = next(row for row in rows if row["kind"] == "loop")
    lines = [f"{'way':58} {'images/s':>9} {'x loop':>7} {'peak MB':>8} {'largest difference':>19} {'images':>7}"]
    for row in rows:
        gap = "" if row["largest_difference"] is None else f"{row['largest_difference']:.2g}"
        lines.append(
            f"{row['name']:58} {row['images_per_second']:9.1f} {ratio(row, loop):7.2f} {row['peak_mb']:8.0f} {gap:>19} "
            f"{row['images']:7}"
        )
    return "\n".join(lines)


def sources_of(args: argparse.Namespace) -> list[Any]:
    """Photographs to make the sets of; generated ones without DATA."""
    if args.data is None:
        return [Image.fromarray(image.numpy()) for image in SyntheticPhotographs(0).generate(16).images]
    found = [
        args.data / folder / name
        for folder in ("oasis_beauty", "unlabeled/lnsim", "unlabeled/imagenet_sample")
        if (args.data / folder).is_dir()
        for name in list_images(args.data / folder)
    ]
    if not found:
        raise SystemExit(f"no photographs in '{args.data}': it needs oasis_beauty/ or unlabeled/.")
    order = np.random.default_rng(0).permutation(len(found))
    return [found[number] for number in order]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="folder with oasis_beauty or unlabeled (default: generated pictures)"
    )
    parser.add_argument(
        "--student", default=str(default_student_path()), help="checkpoint (default: the packaged one)"
    )
    parser.add_argument("--work", type=Path, help="folder of the files, kept and used again (default: temporary)")
    parser.add_argument("--only", nargs="+", choices=tuple(SETS), default=list(SETS), help="these sets")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, help="of a forward (default: one a core)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few small files, one round: that it runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scoring_speed.json")
    args = parser.parse_args()
    args.cores = len(os.sched_getaffinity(0))
    args.threads = args.threads or args.cores
    args.rounds, args.workers = (1, args.workers[:2]) if args.quick else (args.rounds, args.workers)
    args.clip_images = 2 if args.quick else 0
    return args


def main() -> None:
    args, started = parse(), time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        sources, sets = sources_of(args), QUICK_SETS if args.quick else SETS
        kind = "quick-" if args.quick else ""
        files = {name: make_set(work / f"{kind}{name}", sources, *sets[name]) for name in sets if name in args.only or name == "small"}  # fmt: skip
        places = exported(args.student, work, files["small"])
        rows = [row for name in args.only for row in measure(name, files[name], places, work, args)]
        parts = [row for name in args.only for row in parts_of(name, files[name], places["torch"], work)]
    megabytes = {name: math.fsum(os.path.getsize(p) for p in paths) / len(paths) / 1e6 for name, paths in files.items() if args.work}  # fmt: skip
    goals = goals_of(rows)
    command = shlex.join(["python", *(Path(part).name if Path(part).is_absolute() else part for part in sys.argv)])
    write_results(
        args.output, rows, seconds=time.perf_counter() - started, command=command, goals=goals, caveats=CAVEATS, parts=parts,
        megabytes_a_file=megabytes, cores=args.cores, threads=args.threads,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )  # fmt: skip
    for name in args.only:
        count, size = sets[name]
        print(
            f"\n{name}: {count} files of {size[0]} x {size[1]} pixels\n{table([r for r in rows if r['set'] == name])}"
        )
    print("\nmilliseconds of one picture in one thread, by step (`processor`: the plain loop's `prepare`)")
    for row in parts:
        steps = ", ".join(f"{step} {milliseconds:.1f}" for step, milliseconds in row["milliseconds"].items())
        print(f"{row['set']}, {'reduced' if row['reduced'] else 'whole'}: {steps}")
    print()
    for goal in goals:
        sign = ">=" if goal["at_least"] else "<="
        print(f"{'met' if goal['met'] else 'NOT MET':8} {goal['goal']}: {goal['reached']:.4g} ({sign} {goal['needed']:g}; {goal['by']})")  # fmt: skip
    print("\n" + "\n".join(f"* {caveat}" for caveat in CAVEATS))
    print(f"\nwritten to {args.output}")


if __name__ == "__main__":
    main()
