"""`cskd-hf finetune`: its options and what it says. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse

from ..training.recipes import add_settings, settings_from
from .settings import FinetuneOptions, FinetuneSettings


def add_finetune_options(finetune: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    finetune.add_argument("ratings", help="rated images: CSV, TSV, JSONL or Parquet file, saved dataset, or NAME:DIR")
    add_settings(finetune, FinetuneOptions)


def finetune_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf finetune`; prints the estimate and where the model is. Returns the exit code 0."""
    settings = settings_from(namespace, FinetuneSettings)
    from .report import summary
    from .run import finetune

    print(summary(finetune(settings)))
    return 0
