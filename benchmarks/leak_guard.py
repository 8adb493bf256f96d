"""The leak guard on real photographs: which copies it finds, what it takes for copies, and how fast it is.

CSKD_HF_DATA=<folder with unlabeled/ and oasis_beauty/> python benchmarks/leak_guard.py

Copies are made of all rated and of 900 unlabelled photographs; each is looked for among all photographs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from tqdm import tqdm

from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.fingerprints import (
    MAX_DISTANCE,
    Fingerprints,
    distance,
    earlier_copies,
    nearest,
    perceptual_hash,
    take_fingerprints,
)
from cskd_hf.data.leak_guard import MAX_KEY_DISTANCE
from cskd_hf.data.sources import FolderSource, NamedSource
from cskd_hf.models.image_loading_cskd import load_image

RESULTS = Path(__file__).parent / "results" / "leak_guard.json"
UNLABELLED_COPIED = 900
LIMITS = (36, 42, MAX_DISTANCE, 54, 60, 72, MAX_KEY_DISTANCE)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return load_image(buffer.getvalue(), target_size=64)


def resize(image: Image.Image, factor: float) -> Image.Image:
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    return image.resize(size, Image.Resampling.BICUBIC)


def flip(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def cut(image: Image.Image, share: float) -> Image.Image:
    left, top = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((left, top, image.width - left, image.height - top))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized x 0.25": lambda image: resize(image, 0.25),
    "resized x 0.5": lambda image: resize(image, 0.5),
    "resized x 2": lambda image: resize(image, 2),
    "JPEG quality 60": lambda image: jpeg(image, 60),
    "JPEG quality 30": lambda image: jpeg(image, 30),
    "JPEG quality 10": lambda image: jpeg(image, 10),
    "flipped": flip,
    "flipped, x 0.5, quality 60": lambda image: jpeg(resize(flip(image), 0.5), 60),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "brightness x 1.2": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "2 % of each side cut off": lambda image: cut(image, 0.02),
    "5 % of each side cut off": lambda image: cut(image, 0.05),
    "10 % of each side cut off": lambda image: cut(image, 0.1),
}


def measure_copies(images: ImageCollection, hashes: np.ndarray, rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Recall and distance of each kind of copy; a copy is found if its own original, or a duplicate of it, is."""
    made: dict[str, list[np.ndarray | None]] = {kind: [] for kind in COPIES}
    for row in tqdm(rows, desc="copies", unit="image"):
        image = images.load(int(row))
        for kind, change in COPIES.items():
            made[kind].append(perceptual_hash(change(image)))
    table = {}
    for kind, copies in made.items():
        there = np.array([copy is not None for copy in copies])
        copies = np.stack([np.zeros(4, np.uint64) if copy is None else copy for copy in copies])
        away = distance(copies, hashes[rows])
        found, _ = nearest(copies, hashes)
        right = there & (found >= 0) & (distance(hashes[found], hashes[rows]) <= MAX_DISTANCE)
        table[kind] = {
            "recall": float(right.mean()),
            "median_distance": float(np.median(away[there])),
            "max_distance": int(away[there].max()),
            "without_hash": int((~there).sum()),
        }
    return table


def measure_different(keys: list[str], hashes: np.ndarray) -> dict[str, Any]:
    """How near different photographs come: all pairs, and those below the limit by name, to be looked at."""
    counts, pairs = dict.fromkeys(LIMITS, 0), []
    total, nearest_above = 0, 255
    for row in tqdm(range(1, len(hashes)), desc="all pairs", unit="image"):
        away = distance(hashes[row], hashes[:row])
        total += row
        for limit in LIMITS:
            counts[limit] += int((away <= limit).sum())
        pairs += [[keys[row], keys[other], int(away[other])] for other in np.flatnonzero(away <= MAX_DISTANCE)]
        nearest_above = min(nearest_above, int(away[away > MAX_DISTANCE].min(initial=255)))
    return {
        "pairs": total,
        "pairs_within": {str(limit): count for limit, count in counts.items()},
        "nearest_above_the_limit": nearest_above,
        "found": pairs,
    }


def measure_speed(hashes: np.ndarray, unlabelled: int, evaluation: int, seed: int) -> dict[str, Any]:
    """Comparison of many images: low frequencies of real photographs, the rest at random, so that none are copies."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> np.ndarray:
        made = rng.integers(0, 2**64, (n, 4), dtype=np.uint64)
        made[:, 0] = hashes[rng.integers(0, len(hashes), n), 0]
        return made

    queries, references, few = draw(unlabelled), draw(evaluation), draw(unlabelled // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    leaks = _timed(lambda: nearest(queries, references))
    duplicates = _timed(lambda: earlier_copies(few))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "leaks": {"unlabelled": unlabelled, "evaluation": evaluation, **leaks},
        "duplicates": {"images": len(few), **duplicates},
        "memory_grown_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
    }


def _timed(run: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds of all threads tell the cost where other programs are at work too."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("CSKD_HF_DATA"), required="CSKD_HF_DATA" not in os.environ)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unlabelled", type=int, default=200_000, help="hashes in the measure of speed")
    parser.add_argument("--evaluation", type=int, default=10_000, help="hashes that they are compared with")
    parser.add_argument("--output", default=str(RESULTS))
    given = parser.parse_args()

    places = {"rated": "oasis_beauty/images", "unlabelled": "unlabeled"}
    sources = [NamedSource(FolderSource(Path(given.data) / folder), name) for name, folder in places.items()]
    images = ImageCollection(sources)
    taken: list[Fingerprints] = []
    timing = _timed(lambda: taken.append(take_fingerprints(images, quiet=False)))
    prints = taken[0]
    hashes = prints.hashes
    unlabelled = len(sources[0]) + np.random.default_rng(given.seed).choice(
        len(sources[1]), UNLABELLED_COPIED, replace=False
    )
    result = {
        "seed": given.seed,
        "images": {source.place: len(source) for source in sources},
        "unreadable": len(prints.unreadable),
        "without_hash": prints.plain(),
        "limit": MAX_DISTANCE,
        "fingerprints": timing,
        "copies_of": len(sources[0]) + UNLABELLED_COPIED,
        "copies": measure_copies(images, hashes, np.concatenate([np.arange(len(sources[0])), np.sort(unlabelled)])),
        "different": measure_different(prints.keys, hashes),
        "speed": measure_speed(hashes, given.unlabelled, given.evaluation, given.seed),
    }
    print(f"{'copy':<28}{'recall':>8}{'median':>8}{'max':>6}")
    for kind, row in result["copies"].items():
        print(f"{kind:<28}{row['recall']:>8.4f}{row['median_distance']:>8.0f}{row['max_distance']:>6}")
    print({name: result[name] for name in ("images", "without_hash", "fingerprints")})
    print(json.dumps(result["different"]), json.dumps(result["speed"]), sep="\n")
    Path(given.output).parent.mkdir(parents=True, exist_ok=True)
    Path(given.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
