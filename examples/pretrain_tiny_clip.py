"""Pretrains the tiny CLIP that ships with the package, from random weights, on synthetic photographs and captions.

    python examples/pretrain_tiny_clip.py --images 100000 --minutes 40 --output my_tiny_clip

The folder then holds an ordinary `CLIPModel` checkpoint (float16), its image processor, the word vocabulary, and
`training.json` with what was measured on photographs of another seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import CLIPModel

from cskd_hf.data.synthetic import SyntheticBatch, SyntheticPhotographs
from cskd_hf.data.synthetic.tiny_clip import (
    WordTokenizer,
    build_tiny_clip,
    embed_images,
    embed_tokens,
    pretrain,
    recall_at,
)
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.training.probe import ridge_probe

LABEL_COUNTS = (100, 300, 1000)
PROBE_TEST, PROBE_POOL = 2000, 3000  # unseen photographs: to test every probe on, to draw its labelled ones from
PROBE_DRAWS = 5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="photographs to learn from (12 kB of memory each)")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="budget of the training, generation not counted (default 40)")
    budget.add_argument("--steps", type=int, help="budget in steps instead: the same weights on every run")
    parser.add_argument("--seed", type=int, default=1000, help="seed of photographs, weights and order")
    parser.add_argument("--test-seed", type=int, default=2000, help="seed of the unseen photographs")
    parser.add_argument("--batch-size", type=int, default=192, help="pairs a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="top of the cosine")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path, required=True, help="folder of the new checkpoint; replaced as a whole")
    arguments = parser.parse_args()
    if arguments.steps is None and arguments.minutes is None:
        arguments.minutes = 40.0
    return arguments


def measure(
    model: CLIPModel, tokenizer: WordTokenizer, test: SyntheticBatch, mean: Tensor, std: Tensor
) -> dict[str, object]:
    """Recall among the first 1,000 unseen pairs; ridge probes, mean of five draws of the labelled photographs."""
    features = embed_images(model, test.images, mean, std)
    with torch.no_grad():
        captions = embed_tokens(model, tokenizer(test.captions[:1000]))
    recall = recall_at(features[:1000], captions)
    probes = {}
    for count in LABEL_COUNTS:
        found = []
        for draw in range(PROBE_DRAWS):
            order = torch.randperm(PROBE_POOL, generator=torch.Generator().manual_seed(draw))
            labelled = PROBE_TEST + order[:count]
            weight, bias = fit_probe(features[labelled], test.means[labelled])
            prediction = features[:PROBE_TEST].double() @ weight + bias
            found.append(srcc(prediction.tolist(), test.means[:PROBE_TEST].tolist()))
        probes[str(count)] = round(sum(found) / len(found), 4)
    return {
        "image_to_text_recall_of_1000": {str(k): round(value, 4) for k, value in recall.items()},
        "ridge_probe_srcc_by_labels": probes,
    }


def fit_probe(features: Tensor, means: Tensor, folds: int = 5) -> tuple[Tensor, Tensor]:
    """Ridge probe, with the penalty that predicts best in cross-validation over the labelled photographs."""
    fold = torch.arange(len(features)) % folds

    def error(l2: float) -> float:
        total = 0.0
        for held_out in range(folds):
            weight, bias = ridge_probe(features[fold != held_out], means[fold != held_out], l2)
            rest = features[fold == held_out].double() @ weight + bias - means[fold == held_out]
            total += rest.square().sum().item()
        return total

    return ridge_probe(features, means, min((10.0**power for power in range(-1, 5)), key=error))


def save(folder: Path, model: CLIPModel, tokenizer: WordTokenizer, mean: Tensor, std: Tensor, record: dict) -> None:
    """Writes everything beside `folder`, then puts it in place, so that no half-written checkpoint is ever seen."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.half().save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": 64, "width": 64},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(value, 4) for value in mean.tolist()],
        "image_std": [round(value, 4) for value in std.tolist()],
    }
    for name, content in (("preprocessor_config.json", processor), ("training.json", record)):
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (fresh / "model.safetensors").chmod(0o644)  # written for the owner alone, but meant to be packaged
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    started = time.monotonic()
    train = SyntheticPhotographs(arguments.seed).generate(arguments.images)
    generation = time.monotonic() - started
    print(f"{arguments.images} photographs in {generation:.0f} s", flush=True)

    tokenizer = WordTokenizer.from_captions(train.captions)
    sample = train.images[:5000].float() / 255
    mean, std = (value.round(decimals=4) for value in (sample.mean((0, 1, 2)), sample.std((0, 1, 2))))
    model = build_tiny_clip(len(tokenizer.vocabulary))
    started = time.monotonic()
    run = pretrain(
        model,
        train.images,
        tokenizer(train.captions),
        mean,
        std,
        minutes=arguments.minutes,
        steps=arguments.steps,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        report=lambda line: print(line, flush=True),
    )
    training = time.monotonic() - started
    model.half().float()  # measured as it will be shipped, after rounding to float16
    test = SyntheticPhotographs(arguments.test_seed).generate(PROBE_TEST + PROBE_POOL)
    record = {
        **{name: value for name, value in vars(arguments).items() if name != "output"},
        "training_minutes": round(training / 60, 2),
        "steps": run["steps"],
        "passes": round(run["passes"], 2),
        "final_loss": round(run["loss"], 4),
        "generation_seconds": round(generation, 1),
        "vision_parameters": sum(p.numel() for p in model.vision_model.parameters()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "words": len(tokenizer.vocabulary),
        **measure(model, tokenizer, test, mean, std),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    save(arguments.output, model, tokenizer, mean, std, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
