"""The `cskd-hf card` command: the model card of a checkpoint, before it is pushed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..files import replaced_file
from .card import model_card
from .card_options import parse_data_licenses, read_about
from .facts import CheckpointFacts, missing_facts, read_facts


def card_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf card`; prints what the card lacks. Returns the exit code: 1 if `cskd-hf push` would refuse it.

    Raises:
        ValueError: the checkpoint or an option does not fit.
    """
    facts = _facts(namespace)
    card = str(model_card(facts, namespace.repo or namespace.checkpoint))
    if namespace.facts:
        facts.save(namespace.facts)
    if namespace.output:
        with replaced_file(namespace.output) as partial:
            partial.write_text(card, encoding="utf-8")
        print(f"card: {namespace.output}; the pictures and the results.json that it names come with `cskd-hf push`")
    else:
        print(card)
    missing = missing_facts(facts)
    for reason in missing:
        print(f"* {reason}", file=sys.stderr)
    return 1 if missing else 0


def _facts(namespace: argparse.Namespace) -> CheckpointFacts:
    path = Path(namespace.checkpoint)
    if path.suffix != ".json" or not path.is_file():
        return read_facts(
            path,
            evaluations=namespace.evaluation,
            license=namespace.license,
            data_licenses=parse_data_licenses(namespace.data_license),
            examples=namespace.example,
            about=read_about(namespace.about),
        )
    given = ("evaluation", "data_license", "example", "license", "about", "facts")
    if any(getattr(namespace, name) for name in given):
        raise ValueError(
            f"'{path}' holds all facts already; give --repo and --output only, or the checkpoint's folder."
        )
    try:
        return CheckpointFacts.load(path)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{path}' is not what `cskd-hf card --facts` writes ({error}).") from error
