"""`cskd-hf export`: its options and what it says. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMATS = {
    "native": "the stock transformers image classifier of its encoder, the score bins as labels",
    "onnx": "graphs for onnxruntime, with resize, crop and normalisation inside (extra onnx)",
    "int8": "the same in whole numbers of 8 bits, with the measured loss (extra onnx)",
    "torch-export": "a torch.export program, from prepared pixels on",
}
_INT8_OPTIONS = ("calibration_images", "ratings", "split", "image_dir", "limit")
_SPLIT, _LIMIT = ["test"], 512


def add_export_options(export: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    export.add_argument("checkpoint", help="trained teacher or student: Hub name or folder")
    described = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    export.add_argument("--format", choices=tuple(FORMATS), required=True, help=described)
    export.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    export.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    int8 = export.add_argument_group("for --format int8")
    int8.add_argument(
        "--calibration-images",
        metavar="DIR",
        help="images like those that will be scored: half of them set the ranges, the other half measures",
    )
    int8.add_argument("--ratings", metavar="PLACE", help="rated images, to measure the loss of SRCC on")
    int8.add_argument("--split", nargs="+", help=f"of the rated images, or `all` (default: {_SPLIT[0]})")
    int8.add_argument("--image-dir", metavar="DIR", help="folder that the ratings' image paths start from")
    int8.add_argument("--limit", type=int, metavar="N", help=f"calibration images that are used (default: {_LIMIT})")
    int8.add_argument("--quiet", action="store_true", help="no progress bar")


def export_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf export`; returns the exit code 0.

    Raises:
        ValueError: options of another format; or what the export of this format raises.
    """
    if namespace.format != "int8":
        for name in _INT8_OPTIONS:
            if getattr(namespace, name) is not None:
                raise ValueError(
                    f"--{name.replace('_', '-')} is an option of --format int8, not of {namespace.format}."
                )
    elif not namespace.calibration_images:
        raise ValueError("--format int8 needs --calibration-images DIR: 200 images or more, like those to be scored.")
    elif not namespace.ratings and (namespace.split or namespace.image_dir):
        raise ValueError("--split and --image-dir are of --ratings, which is not given.")
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
    for name, gap in _report(folder)["difference"].items():
        print(f"{folder / name}: scores within {gap:.1g} of the scale of the checkpoint's on random pictures")
    print(f"  cskd-hf score --model {shlex.quote(str(folder))} PHOTOS")


def _export_int8(namespace: argparse.Namespace) -> None:
    from ..data.ratings import select_split
    from ..data.ratings.locations import open_ratings
    from .int8 import export_int8, summary

    ratings = None
    if namespace.ratings:
        rated = open_ratings(namespace.ratings, image_dir=namespace.image_dir)
        ratings = select_split(rated, *(namespace.split or _SPLIT))
    folder = export_int8(
        namespace.checkpoint,
        namespace.output,
        calibration_images=namespace.calibration_images,
        ratings=ratings,
        limit=_LIMIT if namespace.limit is None else namespace.limit,
        overwrite=namespace.overwrite,
        quiet=namespace.quiet,
    )
    report = _report(folder)["quantisation"]
    print(f"{folder}: model.onnx and pipeline.onnx in int8", *summary(report), sep="\n  ")
    print(f"  cskd-hf score --model {shlex.quote(str(folder))} PHOTOS")


def _export_torch(namespace: argparse.Namespace) -> None:
    from .torch_program import PROGRAM_FILE, export_torch

    folder = export_torch(namespace.checkpoint, namespace.output, overwrite=namespace.overwrite)
    report = _report(folder)
    size = "any" if report["size"] == "any" else "{} x {}".format(*report["size"])
    print(
        f"{folder / PROGRAM_FILE}: scores within {report['difference'][PROGRAM_FILE]:.1g} of the scale of the checkpoint's"
    )
    print(f"  batch: any; height and width: {size}")
    print(f'  torch.export.load("{folder / PROGRAM_FILE}").module()(pixel_values)')


def _report(folder: Path) -> dict[str, Any]:
    from .places import EXPORT_FILE

    return json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))


_EXPORTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "native": _export_native,
    "onnx": _export_onnx,
    "int8": _export_int8,
    "torch-export": _export_torch,
}
