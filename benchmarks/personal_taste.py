"""Personal scorers from 20 ratings, on simulated raters whose tastes are known.

    python benchmarks/personal_taste.py

Raters weigh the five parts of the synthetic rating function (technique, composition, content, harmony, interaction) and
like lights, lands and subjects in ways of their own; their votes are rounded and scattered. A general scorer is fitted to
the mean votes of the bank's raters. Each new rater gives 20 ratings; everybody is measured on other photographs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor

from cskd_hf.data.synthetic import SyntheticPhotographs, tiny_clip_path
from cskd_hf.data.synthetic.factors import LANDS, SUBJECTS, TIMES
from cskd_hf.data.synthetic.rating import GAIN, OFFSET, PARTS, rating_parts
from cskd_hf.data.views import Preprocessing
from cskd_hf.evaluation.comparison import paired_table, summary_table, write_results
from cskd_hf.evaluation.metrics import srcc
from cskd_hf.models.modeling_cskd import CSKDForImageAesthetics
from cskd_hf.personal.taste import (
    RatedFeatures,
    bank_noise,
    choose_head_penalty,
    choose_images,
    fit_head,
    fit_scales,
    head_effects,
    head_scores,
)
from cskd_hf.personal.vectors import TaskVector
from cskd_hf.training.penalty import choose_penalty
from cskd_hf.training.probe import ridge_probe, set_head

NAMES = {
    "general": "general scorer",
    "offset": "general scorer + the rater's mean offset",
    "probe": "ridge probe on the 20 ratings alone",
    "residual": "ridge on what the general scorer leaves",
    "personal": "weighted sum of the bank's task vectors",
    "chosen": "the same, where the bank chose which to rate",
    "oracle": "the rater's own taste without scatter (bound)",
}
PAIRS = [
    ("personal", "general"),
    ("chosen", "general"),
    ("chosen", "personal"),
    ("personal", "residual"),
    ("residual", "general"),
]
CAVEATS = [
    "Raters and photographs are simulated; the spread of tastes is set here (--taste, --liking), and how much a personal "
    "scorer gains depends on it. At --taste 0.35 --liking 0 raters differ as those of the package's own population.",
    "SRCC is of a rater's own scattered, rounded votes, which no scorer can foretell whole: the oracle knows the taste, and "
    "its SRCC is the bound.",
    "An offset moves all scores alike and changes no rank; it is here to show that.",
    "The bank's raters come from the same population as the new ones. Of other people its vectors may tell less.",
    "Where the bank chose, all new raters of a seed rate the same photographs: those whose ratings tell most, by what the "
    "bank's vectors do to them (`choose_images`). No rating of a new rater is used for it.",
    "The ridge penalties of the baselines are chosen on the rater's 20 ratings (probe) or on all ratings of the bank "
    "(residual); the scales of the bank's vectors have none to choose.",
]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "personal_taste.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ratings", type=int, default=20, help="of a new rater")
    parser.add_argument("--raters", type=int, default=20, help="new raters of each seed")
    parser.add_argument("--bank", type=int, default=60, help="raters of the bank")
    parser.add_argument("--bank-ratings", type=int, default=300, help="of each rater of the bank")
    parser.add_argument("--photographs", type=int, default=3000, help="to rate")
    parser.add_argument("--held-out", type=int, default=1000, help="photographs to measure on")
    parser.add_argument(
        "--taste", type=float, nargs="+", default=[0.35, 0.6, 1.0], help="spread of the parts' log weights"
    )
    parser.add_argument(
        "--liking", type=float, nargs="+", default=[0.0, 0.4, 0.8], help="spread of likings of lights, lands, subjects"
    )
    parser.add_argument("--data-seed", type=int, default=70, help="of the photographs")
    return parser.parse_args()


class Raters:
    """Simulated people: what they think of a photograph, and what they say."""

    def __init__(self, count: int, taste: float, liking: float, seed: int) -> None:
        self.rng = np.random.default_rng((seed, 17))
        self.weights = np.exp(taste * self.rng.normal(size=(count, len(PARTS))))
        self.likings = {
            name: liking * self.rng.normal(size=(count, len(values)))
            for name, values in (("time", TIMES), ("land", LANDS), ("subject", SUBJECTS))
        }
        self.bias = 0.45 * self.rng.normal(size=count)
        self.scatter = self.rng.uniform(0.6, 1.6, size=count)

    def expected(self, factors: dict[str, torch.Tensor]) -> np.ndarray:
        """(raters, photographs) ratings on 1..10 without scatter."""
        latent = self.weights @ rating_parts(factors).numpy().T
        for name, likings in self.likings.items():
            latent += likings[:, factors[name].numpy()]
        return 1 + 9 / (1 + np.exp(-(GAIN * latent + OFFSET + self.bias[:, None])))

    def votes(self, expected: np.ndarray) -> np.ndarray:
        """Scattered and rounded to 1..10."""
        noise = self.scatter[:, None] * self.rng.normal(size=expected.shape)
        return (expected + noise).round().clip(1, 10)


def encode(args: argparse.Namespace) -> tuple[CSKDForImageAesthetics, torch.Tensor, dict[str, torch.Tensor]]:
    """The tiny CLIP, and features and factors of all photographs."""
    batch = SyntheticPhotographs(args.data_seed).generate(args.photographs + args.held_out)
    folder = str(tiny_clip_path())
    model = CSKDForImageAesthetics.from_encoder(folder, score_values=list(range(1, 11))).eval()
    preprocessing = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(folder))
    with torch.no_grad():
        crops = batch.images.permute(0, 3, 1, 2)
        features = torch.cat([model.encode(preprocessing(chunk))[0] for chunk in crops.split(128)])
    return model, features, batch.factors


def fit_general(model: CSKDForImageAesthetics, features: torch.Tensor, votes: np.ndarray) -> None:
    """Put the general scorer's head into the model: a ridge probe of the bank's mean votes."""
    means = torch.from_numpy(votes.mean(0))
    shares = torch.from_numpy(np.stack([(votes == value).mean(0) for value in range(1, 11)], axis=1))
    parts = np.arange(len(means)) % 5
    l2 = choose_penalty(features, means, parts).l2
    set_head(model.classifier, *ridge_probe(features, means, l2), means, list(range(1, 11)), shares)
    model.config.provenance = None


def run(
    args: argparse.Namespace, encoded: tuple, taste: float, liking: float, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One seed: rows for each method (means over raters), and how many raters each method is better for."""
    model, features, factors = encoded
    people = Raters(args.bank + args.raters, taste, liking, seed)
    expected = people.expected(factors)
    votes = people.votes(expected)
    count = args.photographs
    rng = np.random.default_rng((seed, 23))
    fit_general(model, features[:count], votes[: args.bank, :count])

    def rated(person: int, n: int) -> RatedFeatures:
        rows = rng.permutation(args.photographs)[:n]
        return RatedFeatures(features[rows], torch.from_numpy(votes[person, rows]))

    bank_raters = [rated(person, args.bank_ratings) for person in range(args.bank)]
    penalty = choose_head_penalty(model, bank_raters, seed)
    bank = [fit_head(model, rater, penalty) for rater in bank_raters]
    noise = bank_noise(bank)
    new = features[count:]
    general = head_scores(model.classifier, model.config.score_values, new)[0].numpy()
    asked = choose_images(head_effects(model, features[:count], bank), args.ratings, noise)
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for person in range(args.bank, args.bank + args.raters):
        rater, true = rated(person, args.ratings), votes[person, count:]
        parts = np.arange(args.ratings) % 10
        own = ridge_probe(rater.features, rater.ratings, choose_penalty(rater.features, rater.ratings, parts).l2)
        fit = fit_scales(model, rater, bank, head_effects(model, rater.features, bank), noise=noise)
        told = RatedFeatures(features[asked], torch.from_numpy(votes[person, asked]))
        better = fit_scales(model, told, bank, head_effects(model, told.features, bank), noise=noise)
        scores = {
            "general": general,
            "offset": general + float((rater.ratings - head_scores(model.classifier, model.config.score_values, rater.features)[0]).mean()),
            "probe": (new.double() @ own[0] + own[1]).numpy(),
            "residual": personal_scores(model, new, fit_head(model, rater, penalty)),
            "personal": personal_scores(model, new, fit.vector),
            "chosen": personal_scores(model, new, better.vector),
            "oracle": expected[person, count:],
        }  # fmt: skip
        for name, values in scores.items():
            found[name].append(srcc(values, true))
    rows = [
        {"name": name, "labels": args.ratings, "seed": seed, "srcc": float(np.mean(values)), "by_rater": values}
        for name, values in found.items()
    ]
    general_srcc = np.array(found["general"])
    wins = {name: int((np.array(values) > general_srcc).sum()) for name, values in found.items()}
    return rows, {"seed": seed, "raters": args.raters, "better_than_general": wins, "penalty": penalty, "noise": noise}


def personal_scores(model: CSKDForImageAesthetics, features: torch.Tensor, vector: TaskVector) -> np.ndarray:
    """Scores with the head that the vector makes."""
    head = torch.nn.Linear(model.classifier.in_features, model.classifier.out_features)
    with torch.no_grad():
        head.weight.copy_(model.classifier.weight + vector.tensors["classifier.weight"])
        head.bias.copy_(model.classifier.bias + vector.tensors["classifier.bias"])
    return head_scores(head, model.config.score_values, features)[0].numpy()


def main() -> None:
    args = parse()
    started = time.perf_counter()
    encoded = encode(args)
    settings = []
    for taste, liking in zip(args.taste, args.liking, strict=True):
        rows, counts = [], []
        for seed in args.seeds:
            found, wins = run(args, encoded, taste, liking, seed)
            rows += found
            counts.append(wins)
        print(
            f"\ntaste {taste}, liking {liking}; mean SRCC over {args.raters} new raters, {args.ratings} ratings each:"
        )
        print(f"{summary_table(rows, NAMES, ('srcc',))}\n\n{paired_table(rows, PAIRS, NAMES)}")
        for name in ("probe", "residual", "personal", "chosen"):
            share = [entry["better_than_general"][name] for entry in counts]
            print(f"{NAMES[name]}: better than the general scorer for {share} of {args.raters} raters, by seed")
        settings.append({"taste": taste, "liking": liking, "rows": rows, "seeds": counts})
    seconds = time.perf_counter() - started
    write_results(
        args.output,
        [{"taste": entry["taste"], "liking": entry["liking"], **row} for entry in settings for row in entry["rows"]],
        seconds=seconds,
        command=shlex.join(["python", *sys.argv]),
        settings={name: value for name, value in vars(args).items() if name != "output"},
        counts=[{key: entry[key] for key in ("taste", "liking", "seeds")} for entry in settings],
        names=NAMES,
        caveats=CAVEATS,
        threads=torch.get_num_threads(),
    )
    print("\n" + "\n".join(f"* {caveat}" for caveat in CAVEATS))
    print(f"\n{seconds:.0f} s; written to {args.output}")


if __name__ == "__main__":
    main()
