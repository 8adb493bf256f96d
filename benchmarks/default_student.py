"""What the packaged student is worth: against its teacher, the same network without CSKD, and the reference's ridge probe.

    python benchmarks/default_student.py --data DATA --work runs/default_student

Trains what WORK lacks by the functions of examples/build_default_student.py, which made the student; all rows learn from
the same labels: every OASIS photograph but the 200 of the test split. Intervals of a single model are over those 200.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from build_default_student import Build  # noqa: E402
from build_default_student import parse as parse_build  # noqa: E402
from transformers import AutoImageProcessor  # noqa: E402

from cskd_hf import default_student_path  # noqa: E402
from cskd_hf.data.ratings import load_ratings, score_values_of, select_split  # noqa: E402
from cskd_hf.data.views import Preprocessing  # noqa: E402
from cskd_hf.evaluation.comparison import paired_table, summary_table, write_results  # noqa: E402
from cskd_hf.evaluation.complexity import count_macs, count_parameters, on_meta  # noqa: E402
from cskd_hf.evaluation.evaluate import EvaluationSettings, evaluate  # noqa: E402
from cskd_hf.evaluation.predict import RatedImages, load_scorer, pooled_features  # noqa: E402
from cskd_hf.evaluation.sanity import reaction_rows, reactions  # noqa: E402
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics  # noqa: E402
from cskd_hf.scoring.engine import load_engine  # noqa: E402
from cskd_hf.training.probe import start_head_from_probe  # noqa: E402

NAMES = {
    "shipped": "CSKD student (the recipe of the shipped one)",
    "labels_only": "aligned student, labels only",
    "scratch": "student from scratch, labels only",
    "teacher": "teacher (reference encoder at 256 px, from its probe)",
    "probe": "ridge probe on frozen reference features, 224 px",
}
METRICS = ("srcc", "plcc", "emd1")
CAVEATS = [
    "The reference is an ImageNet MobileNetV1 of width 0.25, not a CLIP: no CLIP weights were at hand.",
    "One alignment is shared by all seeds; a seed draws the order of the data, the crops and new weights.",
    "Options come from benchmarks/semi_supervised.py; the rate was chosen on the validation split, the weight of degraded "
    "copies by agreement with the teacher and by sanity checks on unrated photographs and on OASIS photographs without "
    "their ratings, some of them of the test split.",
    "The sanity checks here are on photographs that both phases trained on.",
    "Milliseconds are of a forward pass of one prepared image; reading and resizing come on top.",
]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder with oasis_beauty, unlabeled and models")
    parser.add_argument("--work", required=True, type=Path, help="folder of the runs, kept and used again")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "default_student.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="few steps: shows that it works, proves nothing")
    return parser.parse_args()


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    args, started = parse(), time.perf_counter()
    flags = ["--quick"] if args.quick else []
    build = Build(parse_build(["--data", str(args.data), "--work", str(args.work), *flags]))
    ratings = load_ratings(build.all_ratings)
    test = select_split(ratings, "test")
    rows = []
    for seed in args.seeds:
        for name in NAMES:
            row = {"name": name, "labels": len(ratings) - len(test), "seed": seed, **figures(build, name, seed, test)}
            print(f"seed {seed}, {NAMES[name]}: SRCC {row['srcc']:.3f}", flush=True)
            rows.append(row)
    packaged = measured(str(default_student_path()), test)
    cost = {"student": costs(str(default_student_path())), "teacher": costs(build.teacher("final", args.seeds[0]))}
    sanity = reaction_rows(react(str(default_student_path()), build))
    print(summary_table(rows, NAMES, METRICS))
    print(paired_table(rows, [("shipped", name) for name in NAMES if name != "shipped"], NAMES))
    print(f"packaged weights: SRCC {packaged['srcc']:.3f} {packaged['intervals']['srcc']}")
    for name, cell in cost.items():
        print(name, cell)
    for one in sanity:
        print(f"{one['change']:50} {one['mean']:+.3f} +- {one['std']:.3f}, p {one['p']:.1e}, {one['passed']}")
    write_results(
        args.output, rows, command=shlex.join(["python", "benchmarks/default_student.py", *public_flags()]),
        seconds=time.perf_counter() - started, names=NAMES, packaged=packaged, costs=cost, sanity=sanity,
        stage_seconds=build.seconds, caveats=CAVEATS,
    )  # fmt: skip


def figures(build: Build, name: str, seed: int, test: Any) -> dict[str, Any]:
    """Metrics on the test split, with intervals over its photographs."""
    if name == "probe":
        return measured(*probe(build))
    return measured(getattr(build, "student" if name == "shipped" else name)("final", seed), test)


def probe(build: Build) -> tuple[CSKDForImageAesthetics, Any, Preprocessing]:
    """The ridge probe as a model with a head in closed form, on the labels of all other rows; and the test images."""
    ratings = load_ratings(build.all_ratings)
    train, values = select_split(ratings, "train", "validation"), list(score_values_of(ratings))
    model = CSKDForImageAesthetics.from_encoder(build.reference, score_values=values)
    preprocessing = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(build.reference))
    rows, features = pooled_features(model, RatedImages(train, preprocessing))
    means, distributions = (torch.tensor(train[column][:])[rows] for column in ("mean", "distribution"))
    start_head_from_probe(model.classifier, features, means, values, distributions, l2=300.0)
    return model, select_split(ratings, "test"), preprocessing


def measured(
    model: str | CSKDForImageAesthetics, test: Any, preprocessing: Preprocessing | None = None
) -> dict[str, Any]:
    """Each metric, and the ends of its 95 % bootstrap interval over the photographs."""
    result = evaluate(model, test, preprocessing=preprocessing, settings=EvaluationSettings(by=()), quiet=True)
    found = result["metrics"]
    return {name: found[name]["value"] for name in METRICS} | {
        "intervals": {name: [found[name]["low"], found[name]["high"]] for name in METRICS}
    }


def costs(folder: str) -> dict[str, Any]:
    """Parameters, multiply-adds, size on disk, and milliseconds an image on one and two cores, taken turn by turn."""
    model, preprocessing = load_scorer(folder)
    pixel_values = torch.rand(1, 3, *preprocessing.size)
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(40):
        for cores, taken in times.items():
            with threads(cores), torch.no_grad():
                model(pixel_values)
                started = time.perf_counter()
                model(pixel_values)
                taken.append(1000 * (time.perf_counter() - started))
    return {
        "side": preprocessing.size[0],
        "parameters": count_parameters(model),
        "macs": count_macs(on_meta(model.config), preprocessing.size),
        "weights_bytes": (Path(folder) / "model.safetensors").stat().st_size,
        **{f"ms_{cores}_cores": round(statistics.median(taken), 2) for cores, taken in times.items()},
    }


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def react(folder: str, build: Build) -> list[Any]:
    """The sanity checks on 200 unlabelled photographs, evenly from all sources."""
    files = [path for place in build.images for path in sorted(Path(place).rglob("*.jpg"))]
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(200, len(files))).astype(int)]
    engine = load_engine(folder)

    def score(pictures: list[Image.Image]) -> list[float]:
        return [engine.score(engine.prepare(picture)[None])[0]["score"] for picture in pictures]

    return reactions(score, [Image.open(path).convert("RGB") for path in chosen], engine.scale)


def public_flags() -> list[str]:
    """The command's options, without the folders of this machine."""
    return [Path(argument).name if Path(argument).is_absolute() else argument for argument in sys.argv[1:]]


if __name__ == "__main__":
    main()
