"""The `cskd-hf evaluate` command."""

from __future__ import annotations

import argparse
from pathlib import Path

from accelerate import Accelerator

from ..data.ratings import select_split
from ..data.ratings.locations import open_ratings, public_place
from .evaluate import EvaluationSettings, evaluate, evaluation_table, write_evaluation
from .evaluation_output import REPORT


def evaluate_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf evaluate`: print the table, and write the files where a folder is given.

    Args:
        namespace: as commands.py parses it.

    Returns:
        exit code: 0.

    Raises:
        RatingsError, ValueError: the model, the ratings or an option do not fit; says what is allowed.
    """
    for option, lowest in (("batch_size", 1), ("num_workers", 0)):
        if (value := getattr(namespace, option)) < lowest:
            raise ValueError(f"--{option.replace('_', '-')} {value} must be at least {lowest}.")
    if namespace.against and not namespace.bootstrap:
        raise ValueError("--against compares by resampling; leave out --bootstrap 0.")
    settings = EvaluationSettings(
        by=namespace.by,
        threshold=namespace.threshold,
        rescale=namespace.rescale,
        n_resamples=namespace.bootstrap,
        seed=namespace.seed,
    )
    ratings = open_ratings(namespace.ratings, image_dir=namespace.image_dir, score_values=namespace.score_values)
    ratings = select_split(ratings, *namespace.split)
    accelerator = Accelerator(cpu=namespace.cpu)
    result = evaluate(
        namespace.model,
        ratings,
        against=namespace.against,
        settings=settings,
        batch_size=namespace.batch_size,
        num_workers=namespace.num_workers,
        accelerator=accelerator,
        quiet=namespace.quiet,
    )
    if result:
        result["data"]["location"] = public_place(namespace.ratings)
        result["command"] = namespace.command_line
        print(evaluation_table(result))
        if namespace.output:
            write_evaluation(namespace.output, result, ratings)
            print(f"\nreport: {Path(namespace.output) / REPORT}")
    accelerator.end_training()
    return 0
