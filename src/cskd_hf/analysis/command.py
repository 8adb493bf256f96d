"""The `cskd-hf analyze` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..files import public_name
from ..training.settings import SettingsError
from .compare import analyse_all
from .notes import table
from .report import write_analysis


def analyze_command(namespace: argparse.Namespace) -> int:
    """`cskd-hf analyze`: print the table and the closing notes, write the page, the plots and the figures.

    Raises:
        SettingsError: names that do not fit the checkpoints, or too few images.
    """
    checkpoints = _named(namespace.checkpoints, namespace.names)
    if namespace.max_images < 4:
        raise SettingsError(f"max_images={namespace.max_images} must be at least 4.")
    quiet = namespace.quiet or not sys.stderr.isatty()
    device = "cuda" if torch.cuda.is_available() and not namespace.cpu else "cpu"
    found, reference = analyse_all(
        checkpoints, namespace.images, reference=namespace.reference, max_images=namespace.max_images,
        seed=namespace.seed, device=device, quiet=quiet,
    )  # fmt: skip
    facts = {"images": ", ".join(map(_public, namespace.images)), "seed of random weights": str(namespace.seed)}
    notes = write_analysis(
        namespace.output, found, reference=reference,
        reference_name=_public(namespace.reference) if namespace.reference else "", facts=facts,
    )  # fmt: skip
    print(table(found, reference))
    print("\n" + "\n".join(f"* {note}" for note in notes))
    print(f"\nPage: {Path(namespace.output) / 'analysis.html'}; figures: {Path(namespace.output) / 'analysis.json'}")
    return 0


def _named(locations: Sequence[str], names: Sequence[str] | None) -> dict[str, str]:
    if names is None:
        names = []
        for location in locations:
            name = stem = _public(location)
            number = 2
            while name in names:
                name, number = f"{stem}-{number}", number + 1
            names.append(name)
    if len(names) != len(locations) or len(set(names)) != len(names):
        raise SettingsError(
            f"names={list(names)} must be one different name for each of the {len(locations)} checkpoints."
        )
    return dict(zip(names, locations))


def _public(location: str) -> str:
    """The last part of a local path (of a config, its folder's), or the Hub name."""
    path = Path(location)
    return public_name(path.parent if path.name == "config.json" and path.resolve().parent.name else location)
