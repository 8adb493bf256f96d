"""`cskd-hf personalize`: what its actions say on the console."""

from __future__ import annotations

import argparse
import csv
import sys

from ..files import replaced_file
from .scorers import apply_vectors, fit_rater, images_to_ask, make_vectors


def personalize_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf personalize vectors | ask | fit | apply`; returns the exit code 0."""
    quiet = getattr(namespace, "quiet", True) or not sys.stderr.isatty()
    if namespace.action == "vectors":
        paths = make_vectors(
            namespace.base, namespace.votes, namespace.output, images=namespace.images, parts=namespace.parts,
            min_ratings=namespace.min_ratings, scale=namespace.scale, dtype="float16" if namespace.half else "float32",
            steps=namespace.steps, learning_rate=namespace.learning_rate, seed=namespace.seed, quiet=quiet,
        )  # fmt: skip
        size = max(path.stat().st_size for path in paths.values()) / 2**20
        print(f"{namespace.output}: {len(paths)} task vectors of at most {size:.2f} MiB")
    elif namespace.action == "fit":
        vector, figures = fit_rater(
            namespace.base, namespace.ratings, bank=namespace.bank, images=namespace.images, rater=namespace.rater,
            scale=namespace.scale, quiet=quiet,
        )  # fmt: skip
        vector.save(namespace.output)
        print(f"{namespace.output}: from {vector.facts['ratings']} ratings")
        if figures:
            print(
                "each rating left out in turn: SRCC {srcc:.3f} (general scorer {general_srcc:.3f}), MAE {mae:.3f} "
                "({general_mae:.3f}); of so few ratings these are rough".format(**figures)
            )
    elif namespace.action == "ask":
        chosen = images_to_ask(namespace.base, namespace.bank, namespace.images, namespace.count, quiet)
        with replaced_file(namespace.output) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["image", "rating"], *([path, ""] for path in chosen)])
        print(
            f"{namespace.output}: {len(chosen)} images to rate; write each rating behind its image, then `personalize fit`"
        )
    else:
        apply_vectors(namespace.base, namespace.vectors, namespace.output, namespace.scale)
        print(f"{namespace.output}: saved; score with `cskd-hf score --model {namespace.output} IMAGES`")
    return 0
