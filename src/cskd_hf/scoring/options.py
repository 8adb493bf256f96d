"""The options of `cskd-hf score`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse


def add_score_options(score: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    score.add_argument("model", help="checkpoint: Hub name or folder")
    score.add_argument("images", nargs="+", help="image files or folders")
    score.add_argument("--output", metavar="FILE", help="also write the scores to this .csv or .jsonl file")
    score.add_argument("--batch-size", type=int, default=16, help="images a forward (default: %(default)s)")
    score.add_argument("--top", type=int, default=0, metavar="N", help="show only the best N")
    score.add_argument("--quiet", action="store_true", help="no progress bar")
