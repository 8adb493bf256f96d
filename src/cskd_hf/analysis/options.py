"""The options of `cskd-hf analyze`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse


def add_analyze_options(analyze: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    analyze.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="checkpoints of this package or any image encoders, Hub names or folders; a config.json has random weights",
    )
    analyze.add_argument(
        "--images", nargs="+", required=True, metavar="PLACE", help="folders, saved datasets or Parquet files"
    )
    analyze.add_argument("--reference", help="encoder to compare features with: Hub name, folder or module:function")
    analyze.add_argument("--names", nargs="+", metavar="NAME", help="of the checkpoints, in their order")
    analyze.add_argument(
        "--max-images", type=int, default=500, metavar="N", help="evenly spaced over all (default: %(default)s)"
    )
    analyze.add_argument(
        "--output", default="runs/analysis", help="folder for page, plots and figures (default: %(default)s)"
    )
    analyze.add_argument("--seed", type=int, default=0, help="of random weights (default: %(default)s)")
    analyze.add_argument("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    analyze.add_argument("--quiet", action="store_true", help="no progress bars")
