"""Do prompt attributes of a light student follow the factors that its pictures were made with?

    python benchmarks/prompt_attributes.py                  # needs no data
    python benchmarks/prompt_attributes.py --work FOLDER    # keeps the runs; finished ones are used again

The pictures are procedural, so the true value of each factor (blur, exposure, ...) is known. A row is one model, a column
one attribute: the SRCC of the attribute with its factor over test pictures that nothing was trained on. Every model gets
its bank from the same text tower, that of the tiny CLIP, by the pairs in src/cskd_hf/prompts/synthetic.yaml; their
templates were chosen by CLIP's own figures on pictures of another seed. CLIP's row is what a student can hope to reach.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor, ResNetConfig

from cskd_hf import CSKDConfig, CSKDForFeatureAlignment, CSKDForImageAesthetics, build_prompt_bank
from cskd_hf.data.ratings import select_split
from cskd_hf.data.synthetic import CASTS, SyntheticPhotographs, tiny_clip_path, to_dataset
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.comparison import summary_table, write_results
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.evaluation.predict import RatedImages
from cskd_hf.models.prompts_cskd import prompt_probabilities
from cskd_hf.prompts.pairs import read_prompts
from cskd_hf.prompts.text_encoder import TextEncoder, embed_prompts
from cskd_hf.training.align import align
from cskd_hf.training.arguments import AlignSettings, StudentSettings, TeacherSettings
from cskd_hf.training.reference import ReferenceEncoder
from cskd_hf.training.student import distil
from cskd_hf.training.teacher import teach

STUDENT = {"embedding_size": 12, "hidden_sizes": [12, 16, 32, 64]}  # as in cskd_hf.demo
TEACHER = {"embedding_size": 24, "hidden_sizes": [24, 36, 72, 144]}
SIDE = 64


@dataclass(frozen=True)
class Scale:
    """Numbers of images and of optimiser steps; the defaults are the demo's."""

    unlabelled: int = 6000
    rated: int = 1000
    validation: int = 200
    test: int = 1000
    labels: int = 300
    student_align_steps: int = 800
    teacher_align_steps: int = 600
    teacher_steps: int = 100
    student_steps: int = 200


QUICK = Scale(
    unlabelled=400, rated=100, validation=40, test=200, labels=60,
    student_align_steps=20, teacher_align_steps=10, teacher_steps=4, student_steps=8,
)  # fmt: skip

ALIGN_WEIGHTS = (0.3,)
FACTORS = ("sharpness", "brightness", "contrast", "colourfulness", "cleanness", "warmth")
NAMES = {
    "clip": "the tiny CLIP itself",
    "aligned": "aligned student (phase 1)",
    "distilled": "distilled student (phase 2)",
    "distilled-fitted": "  its projector fitted anew",
    **{f"distilled-{weight:g}": f"  phase 2 with align_weight {weight:g}" for weight in ALIGN_WEIGHTS},
    "scratch-fitted": "student never aligned, projector fitted",
    "random": "random weights (control)",
}
CAVEATS = [
    "Procedural pictures of 64 x 64 pixels and a CLIP that was trained on their captions: what a full CLIP says of "
    "photographs is not measured here.",
    "The captions name a factor only where it is remarkable, and much of blur and noise is too small to be seen: no model can "
    "reach an SRCC of 1. The AUC is of the remarkable ends against each other.",
    "The control's projector and encoder are random, so its figures show what chance gives with one seed each.",
    "The seconds of the whole leave out runs that --work held finished; the machine may have had other work.",
    "Seeds draw the student's first weights, the order of the images and the labels; the teacher's encoder is aligned once.",
]


class Runs:
    """The trainings that are measured, each in a folder of its own; a finished one is used again.

    Args:
        work: folder for all of them.
        scale: how large they are.
    """

    def __init__(self, work: Path, scale: Scale) -> None:
        self.work, self.scale = work, scale
        self.common = {"quiet": True, "cpu": True, "cache_images": True, "channels_last": True, "save_every": 0}

    def path(self, name: str) -> str:
        return str(self.work / name)

    def data(self) -> None:
        """Unrated, rated and test pictures, each of another seed or range of the generator."""
        scale = self.scale
        if not Path(self.path("unlabelled")).is_dir():
            unrated = to_dataset(SyntheticPhotographs(1).generate(scale.unlabelled), split="train", rated=False)
            unrated.save_to_disk(self.path("unlabelled"))
        if not Path(self.path("ratings")).is_dir():
            photographs, first, parts = SyntheticPhotographs(2), 0, []
            for split, count in (("train", scale.rated), ("validation", scale.validation), ("test", scale.test)):
                parts.append(to_dataset(photographs.generate(count, start=first), split=split))
                first += count
            datasets.concatenate_datasets(parts).save_to_disk(self.path("ratings"))
        self.test = select_split(datasets.load_from_disk(self.path("ratings")), "test")
        for name, widths in (("student", STUDENT), ("teacher", TEACHER)):
            config = ResNetConfig(depths=[1, 1, 1, 1], layer_type="basic", image_size=SIDE, **widths)
            config.save_pretrained(self.path(f"new_{name}"))
            Preprocessing((SIDE, SIDE)).to_image_processor().save_pretrained(self.path(f"new_{name}"))

    def _once(self, name: str, train: Any, settings: Any) -> str:
        if not (self.work / name / "results.json").is_file():
            started = time.perf_counter()
            shutil.rmtree(self.path(name), ignore_errors=True)
            train(settings)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        return self.path(name)

    def aligned(self, kind: str, seed: int) -> str:
        """Phase 1 of a student or of the teacher's encoder."""
        steps = self.scale.student_align_steps if kind == "student" else self.scale.teacher_align_steps
        name = f"aligned_{kind}-{seed}"
        return self._once(name, align, AlignSettings(
            encoder=self.path(f"new_{kind}"), reference=[str(tiny_clip_path())], images=[self.path("unlabelled")],
            output_dir=self.path(name), features=self.path("features"), loss=["cosine", "whitened_smooth_l1"],
            crop_scale=[1.0, 1.0], n_views=2, holdout=min(200, self.scale.unlabelled // 10), max_steps=steps,
            learning_rate=3e-3, eval_every=0, seed=seed, **self.common,
        ))  # fmt: skip

    def teacher(self, seed: int) -> str:
        """Phase 2 of the teacher; its encoder is aligned once for all seeds, as in the demo."""
        name = f"teacher-{seed}"
        return self._once(name, teach, TeacherSettings(
            encoder=self.aligned("teacher", 0), output_dir=self.path(name), max_steps=self.scale.teacher_steps,
            **self._rated(seed),
        ))  # fmt: skip

    def student(self, name: str, seed: int, **options: Any) -> str:
        """Phase 2 of a student."""
        name = f"{name}-{seed}"
        return self._once(name, distil, StudentSettings(
            output_dir=self.path(name), max_steps=self.scale.student_steps, eval_every=0, keep="last",
            **options, **self._rated(seed),
        ))  # fmt: skip

    def distilled(self, seed: int, align_weight: float = 0.0) -> str:
        """Phase 2 of the aligned student from the teacher; with `align_weight` phase 1's loss is kept up."""
        kept = {"align_weight": align_weight, "align_reference": str(tiny_clip_path())} if align_weight else {}
        return self.student(
            f"distilled-{align_weight:g}" if align_weight else "distilled", seed, encoder=self.aligned("student", seed),
            teacher=[self.teacher(seed)], images=[self.path("unlabelled")], leaks="off", **kept,
        )  # fmt: skip

    def scratch(self, seed: int) -> str:
        """A student of the same architecture that was never aligned, trained on the labels."""
        return self.student("scratch", seed, encoder=self.path("new_student"), head_init="random", learning_rate=2e-3)

    def _rated(self, seed: int) -> dict[str, Any]:
        return {"ratings": self.path("ratings"), "labels": self.scale.labels, "seed": seed, **self.common}


def true_factors(factors: dict[str, Tensor]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The value of each attribute's factor, and which pictures are at its ends: 1 first, 0 second, -1 neither.

    The ends are those that captions name, see data/synthetic/captions.py.
    """
    value = {name: factor.double().numpy() for name, factor in factors.items()}
    strength, cast = value["cast_strength"], value["cast"]
    signed = strength * ((cast == CASTS.index("warm")) - 1.0 * (cast == CASTS.index("cool")))
    visible = np.where(value["saturation"] > 0, signed, 0.0)  # a black-and-white picture shows no cast
    ends = {
        "sharpness": (-value["blur"], value["blur"] < 0.25, value["blur"] > 0.5),
        "brightness": (value["exposure"], value["exposure"] > 0.5, value["exposure"] < -0.5),
        "contrast": (value["contrast"], value["contrast"] > 1.22, value["contrast"] < 0.82),
        "colourfulness": (value["saturation"], value["saturation"] > 1.3, value["saturation"] < 0.7),
        "cleanness": (-value["noise"], value["noise"] < 0.012, value["noise"] > 0.02),
        "warmth": (visible, visible > 0.25, visible < -0.25),
    }
    return {
        name: (known, np.where(first, 1, np.where(second, 0, -1))) for name, (known, first, second) in ends.items()
    }


def area_under_curve(values: np.ndarray, ends: np.ndarray) -> float:
    """Chance that a picture of the first end has a higher value than one of the second."""
    first, second = values[ends == 1], values[ends == 0]
    order = first[:, None] - second[None]
    return float((order > 0).mean() + (order == 0).mean() / 2)


class Measures:
    """Compares attributes with factors, and embeddings with CLIP's, on the test pictures.

    Args:
        runs: with their data.
    """

    def __init__(self, runs: Runs) -> None:
        self.test, scale = runs.test, runs.scale
        batch = SyntheticPhotographs(2).generate(scale.test, start=scale.rated + scale.validation)
        assert [f"synthetic-2-{batch.start + row:06d}" for row in range(len(batch))] == self.test["key"][:]
        self.factors = true_factors(batch.factors)
        clip = ReferenceEncoder.from_pretrained(str(tiny_clip_path()))
        self.clip = torch.cat([clip(part) for part in batch.images.permute(0, 3, 1, 2).split(64)])
        self.rows: list[dict[str, Any]] = []
        self.labels = scale.labels

    def add(self, name: str, seed: int, values: Tensor, embeds: Tensor, scores: Tensor | None = None) -> None:
        """A row of a model.

        Args:
            values: attributes by prompts `(pictures, attributes)`, in the order of `FACTORS`.
            embeds: `(pictures, dim)`, in CLIP's space.
            scores: `(pictures,)` of a model that scores.
        """
        row: dict[str, Any] = {"name": name, "labels": self.labels, "seed": seed}
        for number, attribute in enumerate(FACTORS):
            known, ends = self.factors[attribute]
            found = values[:, number].double().numpy()
            row[attribute] = srcc(found, known)
            row[f"{attribute}_auc"] = area_under_curve(found, ends)
        row["mean"] = float(np.mean([row[attribute] for attribute in FACTORS]))
        row["cosine"] = F.cosine_similarity(embeds, self.clip).mean().item()
        row["score"] = None if scores is None else srcc(scores.numpy(), np.asarray(self.test["mean"][:]))
        self.rows.append(row)
        print(f"{NAMES[name].strip()}, seed {seed}: {row['mean']:.3f}", flush=True)

    def add_clip(self, seed: int) -> None:
        """CLIP's image tower against its own text tower."""
        encoder = TextEncoder.from_pretrained(str(tiny_clip_path()))
        prompts = embed_prompts(encoder, read_prompts("synthetic"))
        self.add("clip", seed, prompt_probabilities(self.clip, prompts, encoder.logit_scale), self.clip)

    @torch.no_grad()
    def add_checkpoint(self, name: str, seed: int, folder: str, phase: int = 2) -> None:
        """A checkpoint with a bank."""
        model = (CSKDForFeatureAlignment if phase == 1 else CSKDForImageAesthetics).from_pretrained(folder).eval()
        preprocessing = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(folder))
        outputs = [model(pixels) for _, pixels in RatedImages(self.test, preprocessing).batches()]
        scores = None if phase == 1 else torch.cat([output.score for output in outputs])
        self.add(
            name, seed, torch.cat([output.prompt_attributes for output in outputs]),
            torch.cat([output.aligned_embeds for output in outputs]), scores,
        )  # fmt: skip


def with_bank(folder: str, copy: Path, **options: Any) -> str:
    """A copy of a checkpoint with a bank."""
    copy.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copyfile(Path(folder) / file, copy / file)
    build_prompt_bank(copy, str(tiny_clip_path()), "synthetic", **options)
    return str(copy)


def with_projector(folder: str, copy: Path) -> str:
    """A copy of a checkpoint that was never aligned, with a new projector."""
    model = CSKDForImageAesthetics.from_pretrained(folder)
    config = model.config.to_diff_dict() | {"reference_encoders": [{"name": "tiny_clip", "dim": 128}]}
    wider = CSKDForImageAesthetics(CSKDConfig(**config))
    wider.load_state_dict(model.state_dict(), strict=False)
    wider.save_pretrained(copy)
    shutil.copyfile(Path(folder) / "preprocessor_config.json", copy / "preprocessor_config.json")
    return str(copy)


def random_student(runs: Runs, seed: int, folder: Path) -> str:
    """A student of random weights with a random projector."""
    torch.manual_seed(seed)
    backbone = ResNetConfig.from_pretrained(runs.path("new_student"))
    config = CSKDConfig(backbone_config=backbone, reference_encoders=[{"name": "tiny_clip", "dim": 128}])
    CSKDForFeatureAlignment(config).save_pretrained(folder)
    shutil.copyfile(Path(runs.path("new_student")) / "preprocessor_config.json", folder / "preprocessor_config.json")
    return str(folder)


def measure(runs: Runs, seeds: list[int], banks: Path) -> list[dict[str, Any]]:
    """All rows."""
    runs.data()
    measures = Measures(runs)
    unrated = {"fit_images": [runs.path("unlabelled")]}
    for seed in seeds:
        place = banks / str(seed)
        measures.add_clip(seed)
        measures.add_checkpoint("aligned", seed, with_bank(runs.aligned("student", seed), place / "aligned"), phase=1)
        distilled = runs.distilled(seed)
        measures.add_checkpoint("distilled", seed, with_bank(distilled, place / "distilled"))
        measures.add_checkpoint("distilled-fitted", seed, with_bank(distilled, place / "fitted", **unrated))
        for weight in ALIGN_WEIGHTS:
            kept = with_bank(runs.distilled(seed, weight), place / f"distilled-{weight:g}")
            measures.add_checkpoint(f"distilled-{weight:g}", seed, kept)
        scratch = with_bank(with_projector(runs.scratch(seed), place / "wider"), place / "scratch", **unrated)
        measures.add_checkpoint("scratch-fitted", seed, scratch)
        random = with_bank(random_student(runs, seed, place / "new"), place / "random")
        measures.add_checkpoint("random", seed, random, phase=1)
    return measures.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed and short training: shows that it works")
    parser.add_argument(
        "--work", type=Path, help="folder of the runs: finished ones are used again (default: temporary)"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "prompt_attributes.json")
    args = parser.parse_args()
    scale, seeds = (QUICK, args.seeds[:1]) if args.quick else (Scale(), args.seeds)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(Runs(args.work or Path(temporary), scale), seeds, Path(temporary) / "banks")
    command = shlex.join(["python", *(Path(part).name if Path(part).is_absolute() else part for part in sys.argv)])
    write_results(
        args.output, rows, seconds=time.perf_counter() - started, command=command, scale=asdict(scale),
        threads=torch.get_num_threads(), caveats=CAVEATS,
    )  # fmt: skip
    print(
        f"\nSRCC of each attribute with its factor; cosine with CLIP's embedding\n{_table(rows, (*FACTORS, 'mean', 'cosine'))}"
    )
    print(f"\nAUC of the two ends of each factor\n{_table(rows, tuple(f'{name}_auc' for name in FACTORS))}")
    scoring = [row for row in rows if row["score"] is not None]
    print(f"\nSRCC of the score with the ratings\n{_table(scoring, ('score',))}\n")
    print("\n".join(f"* {caveat}" for caveat in CAVEATS))
    print(f"\nwritten to {args.output}")


def _table(rows: list[dict[str, Any]], metrics: tuple[str, ...]) -> str:
    return summary_table(rows, {name: NAMES[name] for name in NAMES if any(r["name"] == name for r in rows)}, metrics)


if __name__ == "__main__":
    main()
