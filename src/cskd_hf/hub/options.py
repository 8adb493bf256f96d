"""The options of `cskd-hf push`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse

from .card_options import add_facts_options


def add_push(push: argparse.ArgumentParser) -> None:
    """Give the command its arguments."""
    push.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a trained teacher or student")
    push.add_argument("repo_id", metavar="ORG/NAME", help="repository on the Hub; made where it does not exist")
    push.add_argument("--private", action="store_true", help="make the repository private")
    push.add_argument("--revision", metavar="R", help="branch to commit to; made where it does not exist")
    push.add_argument(
        "--dry-run", metavar="DIR", help="write the folder that would be pushed, checked, and upload nothing"
    )
    push.add_argument("--overwrite", action="store_true", help="replace the folder of a dry run if it exists")
    push.add_argument(
        "--native",
        action="store_true",
        help="push the stock transformers classifier of the encoder, which needs no code of this package",
    )
    add_facts_options(push)
