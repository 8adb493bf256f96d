r"""What alignment does to a small ViT: attention and features before and after, on embedded images.

    python examples/analyze_alignment.py                       # three seeds, some twenty minutes on one core
    python examples/analyze_alignment.py --seeds 0 --steps 100 # a look

It trains, for each seed, (1) the ViT of hub_configs/students/vit_tiny-64 aligned with the tiny CLIP from random weights,
(2) that encoder fine-tuned on 300 rated images, (3) the ViT trained on those ratings alone, (4) the tiny CLIP's own encoder
fine-tuned on them; and analyses them beside the random ViT and the tiny CLIP. The page is of the first seed; the figures of
every seed are in analysis.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import datasets
import numpy as np

from cskd_hf.analysis.compare import Analysis, analyse_all
from cskd_hf.analysis.notes import MEASURES, table
from cskd_hf.analysis.report import write_analysis
from cskd_hf.data.synthetic import SyntheticPhotographs, tiny_clip_path, to_dataset
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings, StudentSettings, TeacherSettings
from cskd_hf.training.student import distil
from cskd_hf.training.teacher import teach

VIT = str(Path(__file__).parents[1] / "hub_configs" / "students" / "vit_tiny-64")
CLIP = str(tiny_clip_path())
PAIRS = [
    ("random ViT", "aligned"), ("random ViT", "labels only"), ("labels only", "aligned + labels"),
    ("aligned", "aligned + labels"), ("CLIP", "CLIP + labels"),
]  # fmt: skip
COMMON = {"cpu": True, "quiet": True, "cache_images": True, "save_every": 0, "overwrite": True}


def make_data(folder: Path, unlabelled: int) -> None:
    """Images to align on, rated images to learn from, and others to analyse."""
    made = SyntheticPhotographs(1).generate(unlabelled)
    to_dataset(made, split="train", rated=False).save_to_disk(folder / "unlabelled")
    photographs = SyntheticPhotographs(2)
    parts = [
        to_dataset(photographs.generate(count, start=start), split=split)
        for split, start, count in (("train", 0, 300), ("validation", 300, 200))
    ]
    datasets.concatenate_datasets(parts).save_to_disk(folder / "ratings")
    to_dataset(photographs.generate(500, start=500), split="test").save_to_disk(folder / "images")


def train(folder: Path, seed: int, steps: int) -> dict[str, str]:
    """The checkpoints of a seed by name."""
    out = {name: str(folder / f"{name}-{seed}") for name in ("aligned", "tuned", "labels", "clip")}
    rated = {"ratings": str(folder / "ratings"), "seed": seed, "eval_every": 0, "keep": "last", **COMMON}
    align(AlignSettings(
        encoder=VIT, reference=[CLIP], images=[str(folder / "unlabelled")], features=str(folder / "features"),
        output_dir=out["aligned"], loss=["cosine", "whitened_smooth_l1"], crop_scale=[1.0, 1.0],
        max_steps=steps, warmup_steps=50, learning_rate=1e-3, eval_every=0, seed=seed, **COMMON,
    ))  # fmt: skip
    teach(TeacherSettings(encoder=out["aligned"], output_dir=out["tuned"], max_steps=100, **rated))
    distil(StudentSettings(
        encoder=VIT, output_dir=out["labels"], head_init="random", learning_rate=1e-3, max_steps=200, **rated
    ))  # fmt: skip
    teach(TeacherSettings(encoder=CLIP, output_dir=out["clip"], max_steps=100, head_init="random", **rated))
    return {
        "random ViT": VIT, "aligned": out["aligned"], "aligned + labels": out["tuned"], "labels only": out["labels"],
        "CLIP": CLIP, "CLIP + labels": out["clip"],
    }  # fmt: skip


def over_seeds(runs: dict[int, list[Analysis]]) -> list[list[str]]:
    """Rows of a table: mean and sample standard deviation over seeds of every figure of each checkpoint."""
    columns = list(zip(*runs.values()))
    rows = [["", *(column[0].name for column in columns)]]
    for measure in MEASURES:
        row = [measure.label]
        for column in columns:
            values = [entry.figures()[measure.key] for entry in column]
            row.append(f"{measure.show(np.mean(values))} \u00b1 {measure.show(np.std(values, ddof=1))}")
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/analyze_alignment"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800, help="of alignment")
    parser.add_argument("--unlabelled", type=int, default=6000, help="images to align on")
    options = parser.parse_args()
    started, runs = time.perf_counter(), {}
    make_data(options.output, options.unlabelled)
    for seed in options.seeds:
        checkpoints = train(options.output, seed, options.steps)
        runs[seed], reference = analyse_all(
            checkpoints, [str(options.output / "images")], reference=CLIP, max_images=500, seed=seed
        )
        print(f"\nseed {seed}, {time.perf_counter() - started:.0f} s\n{table(runs[seed], reference)}", flush=True)
    heading = f"Mean and standard deviation over seeds {', '.join(map(str, runs))}"
    notes = write_analysis(
        options.output / "analysis", runs[options.seeds[0]], reference=reference, reference_name="tiny CLIP", pairs=PAIRS,
        tables=[(heading, over_seeds(runs))] if len(runs) > 1 else [],
        notes=[
            "Images and ratings are procedural, the encoders tiny; no figure of the paper is reproduced here. A random "
            "ViT attends evenly, so that any training lowers its entropy.",
        ],
        title="A small ViT before and after alignment",
        facts={
            "command": f"python examples/analyze_alignment.py --seeds {' '.join(map(str, options.seeds))}",
            "alignment": f"{options.steps} steps of 64 on {options.unlabelled} unlabelled images",
        },
        seeds={str(seed): {entry.name: entry.figures() for entry in run} for seed, run in runs.items()},
    )  # fmt: skip
    print("\n" + "\n".join(f"* {note}" for note in notes))


if __name__ == "__main__":
    main()
