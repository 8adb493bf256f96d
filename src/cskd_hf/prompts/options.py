"""The options of `cskd-hf prompts`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse


def add_prompts_options(prompts: argparse.ArgumentParser) -> None:
    """Give `cskd-hf prompts` its options."""
    prompts.add_argument(
        "checkpoint", help="folder of a student, a teacher or phase 1; its config.json and weights are changed"
    )
    prompts.add_argument(
        "--text-encoder",
        metavar="CLIP",
        help="the CLIP, SigLIP or the like that phase 1 aligned the encoder with: Hub name or folder, with its tokenizer",
    )
    prompts.add_argument(
        "--prompts",
        default="photographs",
        metavar="FILE",
        help="pairs of prompts in a YAML or JSON file, or `photographs` or `synthetic` of this package (default: "
        "%(default)s)",
    )
    prompts.add_argument(
        "--reference", default="", metavar="NAME", help="which of the checkpoint's reference encoders it is"
    )
    prompts.add_argument("--logit-scale", type=float, help="of cosines (default: the text encoder's own)")
    prompts.add_argument(
        "--fit-images",
        nargs="+",
        default=[],
        metavar="PLACE",
        help="unrated images: also fit the projector anew, where phase 2 has moved the encoder out of the text encoder's "
        "space; scores stay as they are",
    )
    prompts.add_argument(
        "--max-images", type=int, default=2000, metavar="N", help="of these, evenly spaced (default: %(default)s)"
    )
    prompts.add_argument("--remove", action="store_true", help="take the prompts out of the checkpoint again")
