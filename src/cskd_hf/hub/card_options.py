"""The options of `cskd-hf card` and `cskd-hf data push`, and those that every command about a card shares. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def add_card_options(card: argparse.ArgumentParser) -> None:
    """Give `cskd-hf card` its options."""
    card.add_argument("checkpoint", help="folder of a run or of a fine-tune, or a file that --facts wrote")
    card.add_argument(
        "--repo", metavar="ORG/NAME", help="what the card calls the model (default: the checkpoint as it is given)"
    )
    card.add_argument("--output", metavar="FILE", help="write the card to this file (default: print it)")
    card.add_argument("--facts", metavar="FILE", help="also write the facts of the card to this .json file")
    add_facts_options(card)


def add_facts_options(command: argparse.ArgumentParser) -> None:
    """What a run cannot know: `--license`, `--data-license`, `--evaluation`, `--example`, `--about`."""
    command.add_argument("--license", default="", metavar="ID", help="licence of the model, e.g. apache-2.0")
    command.add_argument(
        "--data-license",
        nargs="+",
        default=[],
        metavar="NAME=LICENCE",
        help="licence of a set of images that it was trained on, for sets that do not say theirs",
    )
    command.add_argument(
        "--evaluation",
        nargs="+",
        default=[],
        metavar="DIR",
        help="further folders that `cskd-hf evaluate --output` wrote; those in the checkpoint's folder are found",
    )
    command.add_argument(
        "--example",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="pictures to publish with the model's answers; you must have the right to (default: two procedural ones)",
    )
    command.add_argument(
        "--about",
        metavar="FILE",
        help="Markdown with what the card should say beside the records, e.g. known failures",
    )


def add_push_options(push: argparse.ArgumentParser) -> None:
    """Give `cskd-hf data push` its options."""
    push.add_argument("ratings", metavar="FOLDER", help="folder that `cskd-hf data convert` wrote")
    push.add_argument("repo", metavar="ORG/NAME", help="dataset on the Hub, made where it does not exist")
    push.add_argument("--license", default="", metavar="ID", help="licence of images and ratings, e.g. cc-by-4.0")
    push.add_argument("--source", default="", metavar="TEXT", help="where images and ratings come from")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--revision", metavar="BRANCH", help="branch to commit to (default: the main one)")
    push.add_argument("--dry-run", metavar="DIR", help="write the repository's folder here and upload nothing")


def read_about(path: str | None) -> str:
    """The text of `--about`; empty where none is given."""
    return Path(path).read_text(encoding="utf-8") if path else ""


def parse_data_licenses(given: Sequence[str]) -> dict[str, str]:
    """`["photos=CC0"]` -> `{"photos": "CC0"}`.

    Raises:
        ValueError: one of them is something else.
    """
    licenses = {}
    for text in given:
        name, equals, license = text.partition("=")
        if not equals or not name.strip() or not license.strip():
            raise ValueError(f"--data-license {text!r} names no licence; give NAME=LICENCE, e.g. photos=CC0-1.0.")
        licenses[name.strip()] = license.strip()
    return licenses
