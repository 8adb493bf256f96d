"""The options of `cskd-hf evaluate`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse


def add_evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    evaluate.add_argument("model", help="checkpoint: Hub name or folder")
    evaluate.add_argument(
        "ratings",
        help="rated images: CSV, TSV, JSONL, Parquet or a saved dataset, NAME:DIR of a known data set such as ava:DIR, or "
        "hub:ORG/NAME",
    )
    evaluate.add_argument("--split", nargs="+", default=["test"], help="splits, or `all` (default: %(default)s)")
    evaluate.add_argument("--image-dir", metavar="DIR", help="folder that the ratings' image paths start from")
    evaluate.add_argument(
        "--score-values", type=float, nargs="+", metavar="X", help="value of each bin, for ratings without histograms"
    )
    evaluate.add_argument("--against", metavar="MODEL", help="another checkpoint, compared on the same images")
    evaluate.add_argument(
        "--by", nargs="+", metavar="COLUMN", help="group by these columns (default: split, theme and category)"
    )
    evaluate.add_argument(
        "--threshold", type=float, metavar="X", help="cut of the accuracy (default: the middle of the ratings' scale)"
    )
    evaluate.add_argument(
        "--rescale", action="store_true", help="map the ends of a model's scale to those of the ratings' scale"
    )
    evaluate.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0 for no intervals (default: %(default)s)"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of the resamples (default: %(default)s)")
    evaluate.add_argument(
        "--output", metavar="DIR", help="write results.json, scores.csv and report.html to this folder"
    )
    evaluate.add_argument("--batch-size", type=int, default=64, help="images a forward (default: %(default)s)")
    evaluate.add_argument(
        "--num-workers", type=int, default=0, metavar="N", help="threads that decode images (default: %(default)s)"
    )
    evaluate.add_argument("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    evaluate.add_argument("--quiet", action="store_true", help="no progress bars")
