"""`cskd-hf export`: its options and what it says. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path

FORMATS = {
    "native": "the stock transformers image classifier of its encoder, the score bins as labels",
    "onnx": "graphs for onnxruntime, with resize, crop and normalisation inside (extra onnx)",
}


def add_export_options(export: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    export.add_argument("checkpoint", help="trained teacher or student: Hub name or folder")
    described = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    export.add_argument("--format", choices=tuple(FORMATS), required=True, help=described)
    export.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    export.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")


def export_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf export`; returns the exit code 0."""
    _EXPORTS[namespace.format](namespace)
    return 0


def _export_native(namespace: argparse.Namespace) -> None:
    from transformers import AutoConfig

    from .native import export_native

    folder = export_native(namespace.checkpoint, namespace.output, overwrite=namespace.overwrite)
    config = AutoConfig.from_pretrained(folder)
    print(
        f"{folder}: {config.architectures[0]}, the same distribution on random images; without cskd_hf it answers to"
    )
    print(f'  pipeline("image-classification", model="{folder}", top_k={config.num_labels})')


def _export_onnx(namespace: argparse.Namespace) -> None:
    from .onnx_graphs import export_onnx

    folder = export_onnx(namespace.checkpoint, namespace.output, overwrite=namespace.overwrite)
    _print_graphs(folder)


def _print_graphs(folder: Path) -> None:
    report = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    for name, gap in report["difference"].items():
        print(f"{folder / name}: scores within {gap:.1g} of the scale of the checkpoint's on random pictures")
    print(f"  cskd-hf score {shlex.quote(str(folder))} PHOTOS")


_EXPORTS: dict[str, Callable[[argparse.Namespace], None]] = {"native": _export_native, "onnx": _export_onnx}
