"""The options of `cskd-hf personalize`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse


def add_actions(personalize: argparse.ArgumentParser) -> None:
    """Give the command its actions: vectors, ask, fit and apply."""
    actions = personalize.add_subparsers(
        dest="action", required=True, metavar="ACTION", parser_class=type(personalize)
    )
    vectors = actions.add_parser("vectors", help="a task vector for each rater of a file of votes", allow_abbrev=False)
    ask = actions.add_parser("ask", help="which images a new rater should rate", allow_abbrev=False)
    fit = actions.add_parser("fit", help="a new rater's vector from about 20 ratings", allow_abbrev=False)
    apply = actions.add_parser("apply", help="add vectors to the general scorer and save it", allow_abbrev=False)
    for action in (vectors, ask, fit, apply):
        action.add_argument("base", help="general scorer: Hub name or folder")
    vectors.add_argument("votes", help="CSV, TSV, JSONL or Parquet file with image, rater and rating, one row a vote")
    fit.add_argument("ratings", help="file with image and rating; with --rater, one row a vote")
    apply.add_argument("vectors", nargs="+", help="files of task vectors")
    for action in (vectors, fit):
        action.add_argument("--images", metavar="DIR", help="folder that the image paths start from")
        action.add_argument(
            "--scale",
            type=float,
            nargs=2,
            default=[],
            metavar=("LOW", "HIGH"),
            help="of the ratings, if not the base's",
        )
        action.add_argument("--quiet", action="store_true", help="no progress bars")
    vectors.add_argument("--output", default="vectors", help="folder for one file a rater (default: %(default)s)")
    vectors.add_argument(
        "--parts",
        choices=("head", "last", "all"),
        default="head",
        help="what a vector changes: the head in closed form, the last block too, or all layers (default: %(default)s)",
    )
    vectors.add_argument("--min-ratings", type=int, default=20, metavar="N", help="of a rater (default: %(default)s)")
    vectors.add_argument("--half", action="store_true", help="store float16: half the size")
    vectors.add_argument("--steps", type=int, default=30, help="of the gradient (default: %(default)s)")
    vectors.add_argument("--learning-rate", type=float, default=3e-5, help="of the gradient (default: %(default)s)")
    vectors.add_argument("--seed", type=int, default=0, help="of batches (default: %(default)s)")
    fit.add_argument("--bank", metavar="DIR", help="folder of other raters' vectors, whose weighted sum is fitted")
    fit.add_argument("--rater", metavar="NAME", help="whose ratings to take")
    fit.add_argument("--output", default="personal.safetensors", help="file to write (default: %(default)s)")
    apply.add_argument(
        "--scale", type=float, nargs="+", default=[], help="factor of each vector; negative takes it away"
    )
    apply.add_argument("--output", required=True, help="folder for the model")
    ask.add_argument("--bank", metavar="DIR", required=True, help="folder of other raters' vectors, of --parts head")
    ask.add_argument("--images", metavar="DIR", required=True, help="folder of images to choose from")
    ask.add_argument("--count", type=int, default=20, metavar="N", help="images to choose (default: %(default)s)")
    ask.add_argument("--output", default="to_rate.csv", help="file to write the ratings into (default: %(default)s)")
    ask.add_argument("--quiet", action="store_true", help="no progress bars")
