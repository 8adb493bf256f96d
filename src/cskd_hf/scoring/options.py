"""The options of `cskd-hf score` and `cskd-hf calibrate`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse


def add_score_options(score: argparse.ArgumentParser) -> None:
    """Give `cskd-hf score` its options."""
    score.add_argument("model", help="checkpoint: Hub name or folder")
    score.add_argument("images", nargs="+", help="image files or folders")
    score.add_argument("--output", metavar="FILE", help="also write the scores to this .csv or .jsonl file")
    score.add_argument("--batch-size", type=int, default=16, help="images a forward (default: %(default)s)")
    score.add_argument("--top", type=int, default=0, metavar="N", help="show only the best N")
    score.add_argument("--quiet", action="store_true", help="no progress bar")


def add_calibrate_options(calibrate: argparse.ArgumentParser) -> None:
    """Give `cskd-hf calibrate` its options."""
    calibrate.add_argument("checkpoint", help="folder of a trained teacher or student; its config.json is changed")
    calibrate.add_argument("images", nargs="*", help="image files or folders of the reference set")
    calibrate.add_argument(
        "--ratings",
        metavar="PLACE",
        help="rated images, a file or NAME:DIR: also fit the rating that each score answers to; the reference set, "
        "where no images are given",
    )
    calibrate.add_argument(
        "--split", nargs="+", default=["all"], help="of the rated images, or `all` (default: %(default)s)"
    )
    calibrate.add_argument("--image-dir", metavar="DIR", help="folder that the ratings' image paths start from")
    calibrate.add_argument("--name", help="of the reference set, for the model card (default: its folder's name)")
    calibrate.add_argument("--quiet", action="store_true", help="no progress bar")
