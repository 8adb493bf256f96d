"""One photograph, one score: the largest difference between all ways to score it.

    python benchmarks/scoring_parity.py --model runs/demo/student --data FOLDER

Photographs of mixed sizes are drawn by seed from the folders below FOLDER. Each way is compared with the model on what
`load_image` and the image processor make of the file, one image at a time. Differences are shares of the scale.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, pipeline

import cskd_hf  # noqa: F401
from cskd_hf.data.sources import list_images
from cskd_hf.evaluation.hardware import device_name
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.evaluation.predict import load_scorer
from cskd_hf.export.int8 import export_int8, summary
from cskd_hf.export.native import ExportError, export_native
from cskd_hf.export.onnx_graphs import EXPORT_FILE, export_onnx, session_of
from cskd_hf.export.torch_program import TorchProgram, export_torch
from cskd_hf.files import public_name, write_json
from cskd_hf.models.image_loading_cskd import load_image
from cskd_hf.scoring.engine import load_engine
from cskd_hf.scoring.scan import scan
from cskd_hf.scoring.tensors import TensorScorer

RESULT = Path(__file__).with_name("results") / "scoring_parity.json"
EXACT = 1e-3
Way = Callable[[], np.ndarray]


def draw(data: Path, count: int, seed: int = 0) -> list[str]:
    """Files of photographs, as many of each folder that holds any, in shuffled order."""
    folders: dict[str, list[str]] = {}
    for name in list_images(data):
        folders.setdefault(str(Path(name).parent), []).append(name)
    rng = np.random.default_rng(seed)
    drawn = [
        (place, folder, name)
        for folder, names in sorted(folders.items())
        for place, name in enumerate(rng.permutation(names))
    ]
    drawn.sort(key=lambda entry: entry[:2])
    chosen = [str(data / name) for _, _, name in drawn[:count]]
    return [chosen[number] for number in rng.permutation(len(chosen))]


def reference(model: str, files: list[str]) -> np.ndarray:
    """`load_image`, image processor and model, one image at a time."""
    scorer, _ = load_scorer(model)
    processor = AutoImageProcessor.from_pretrained(model)
    scores = []
    with torch.no_grad():
        for file in files:
            pixels = processor(images=load_image(file), return_tensors="pt")["pixel_values"]
            scores.append(scorer.eval()(pixel_values=pixels).score.item())
    return np.asarray(scores)


def ways(model: str, files: list[str], folder: Path, calibration: Path) -> dict[str, tuple[Way, float | None]]:
    """Every way to score the files, in their order, and the difference that is allowed: a share of the scale, or None."""
    order = np.random.default_rng(1).permutation(len(files))
    found: dict[str, tuple[Way, float | None]] = {}
    rate = pipeline("image-aesthetics", model=model)
    for size in (1, 3, 32):
        found[f"pipeline, batch {size}"] = (lambda size=size: by_pipeline(rate, files, size)), EXACT
    found["pipeline, batch 3, other order"] = (
        (lambda: reordered(lambda f: by_pipeline(rate, f, 3), files, order)),
        EXACT,
    )
    add_engines(found, "folder scorer", model, files, order, EXACT)
    found["TensorScorer (no rounding of pixels)"] = (lambda: by_tensors(model, files)), None
    made = {
        "ONNX": lambda: export_onnx(model, folder / "onnx"),
        "int8": lambda: export_int8(model, folder / "int8", calibration_images=calibration, quiet=True),
        "native export": lambda: export_native(model, folder / "native"),
        "torch.export": lambda: export_torch(model, folder / "torch"),
    }
    for name, make in made.items():
        try:
            place = make()
        except ExportError as error:
            print(f"{name}: not for this checkpoint: {error}")
            continue
        if name in ("ONNX", "int8"):
            allowed = EXACT if name == "ONNX" else None
            add_engines(found, f"{name} model", str(place), files, order, allowed)
            found[f"{name} pipeline (resize in the graph)"] = (
                partial(by_graph, place / "pipeline.onnx", files),
                allowed,
            )
        elif name == "native export":
            found["native export, stock pipeline"] = (lambda place=place: by_stock(place, files)), EXACT
        else:
            found["torch.export, batch 32"] = (lambda place=place: by_program(place, model, files)), EXACT
    return found


def add_engines(
    found: dict, name: str, model: str, files: list[str], order: np.ndarray, allowed: float | None
) -> None:
    """An engine with batches of 1, 3 and 32, with 1 and 4 workers, and in another order."""
    engine = load_engine(model)
    for size, workers in ((1, 1), (3, 1), (32, 1), (32, 4)):
        found[f"{name}, batch {size}, workers {workers}"] = partial(by_engine, engine, files, size, workers), allowed
    shuffled = partial(reordered, lambda some: by_engine(engine, some, 3, 4), files, order)
    found[f"{name}, batch 3, workers 4, other order"] = shuffled, allowed


def reordered(way: Callable[[list[str]], np.ndarray], files: list[str], order: np.ndarray) -> np.ndarray:
    """Scores in the order of the files, of a way that gets them in another."""
    scores = np.empty(len(files))
    scores[order] = way([files[number] for number in order])
    return scores


def by_pipeline(rate: Any, files: list[str], batch_size: int) -> np.ndarray:
    return np.asarray([result["score"] for result in rate(files, batch_size=batch_size)])


def by_engine(engine: Any, files: list[str], batch_size: int, workers: int) -> np.ndarray:
    return np.asarray([row["score"] for row in scan(engine, files, batch_size=batch_size, workers=workers)])


def by_tensors(model: str, files: list[str]) -> np.ndarray:
    score = TensorScorer.from_pretrained(model)
    pictures = (torch.from_numpy(np.array(load_image(file))).permute(2, 0, 1)[None].float() / 255 for file in files)
    with torch.no_grad():
        return np.asarray([score(picture).item() for picture in pictures])


def by_graph(graph: Path, files: list[str]) -> np.ndarray:
    session = session_of(graph)
    pictures = (np.asarray(load_image(file)).transpose(2, 0, 1)[None] for file in files)
    return np.asarray([session.run(["score"], {"image": picture})[0][0] for picture in pictures])


def by_stock(folder: Path, files: list[str]) -> np.ndarray:
    classify = pipeline("image-classification", model=str(folder))
    labels = classify.model.config.num_labels
    rows = (classify(load_image(file), top_k=labels) for file in files)
    return np.asarray([sum(float(row["label"]) * row["score"] for row in answer) for answer in rows])


def by_program(folder: Path, model: str, files: list[str]) -> np.ndarray:
    program, engine, scores = TorchProgram(folder), load_engine(model), []
    for first in range(0, len(files), 32):
        pixels = np.stack([engine.prepare(file) for file in files[first : first + 32]])
        scores += program(torch.from_numpy(pixels))["score"].tolist()
    return np.asarray(scores)


def measure(model: str, data: Path, count: int, calibration: Path) -> dict[str, Any]:
    """The table, as it is written."""
    files = draw(data, count)
    exact = reference(model, files)
    low, high = load_engine(model).scale
    rows, rounding = [], None
    with tempfile.TemporaryDirectory() as folder:
        for name, (way, allowed) in ways(model, files, Path(folder), calibration).items():
            scores = way()
            gaps = np.abs(scores - exact) / (high - low)
            row = {"way": name, "largest": float(gaps.max()), "mean": float(gaps.mean()), "allowed": allowed}
            rows.append(row | ({"srcc": float(srcc(scores, exact))} if allowed is None else {}))
        report = Path(folder, "int8", EXPORT_FILE)
        if report.is_file():
            rounding = json.loads(report.read_text(encoding="utf-8"))["quantisation"]
    sizes = [load_image(file).size for file in files]
    return {
        "model": public_name(model),
        "encoder": type(load_scorer(model)[0].backbone).__name__,
        "images": len(files),
        "sizes": {"different": len(set(sizes)), "smallest": min(sizes), "largest": max(sizes)},
        "scores": {"lowest": float(exact.min()), "highest": float(exact.max()), "scale": [low, high]},
        "device": device_name(torch.device("cpu")),
        "ways": rows,
        "int8": rounding,
        "passed": all(row["allowed"] is None or row["largest"] <= row["allowed"] for row in rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint: folder or Hub name")
    parser.add_argument("--data", required=True, type=Path, help="folder of photographs, at any depth")
    parser.add_argument("--calibration-images", type=Path, help="for int8 (default: --data)")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    result = measure(options.model, options.data, options.images, options.calibration_images or options.data)
    width = max(len(row["way"]) for row in result["ways"])
    print(
        f"{result['images']} photographs of {result['sizes']['different']} sizes; differences as shares of the scale"
    )
    print(f"{'':{width}}  largest     mean        allowed")
    for row in result["ways"]:
        allowed = "-" if row["allowed"] is None else f"{row['allowed']:g}"
        ranks = f"  SRCC {row['srcc']:.4f}" if "srcc" in row else ""
        print(f"{row['way']:{width}}  {row['largest']:.2e}    {row['mean']:.2e}    {allowed}{ranks}")
    if result["int8"]:
        print("int8:", *summary(result["int8"]), sep="\n  ")
    write_json(options.output, result)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
