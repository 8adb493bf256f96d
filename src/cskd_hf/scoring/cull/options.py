"""The options of `cskd-hf cull` and `cskd-hf explain`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse

from ..options import add_model_option, add_reading_options

DEFAULT_CUTS = (20.0, 50.0, 80.0, 95.0)
"""Percentiles at which two, three, four and five stars begin: few deserve five."""

SHEET_LIMIT = 2500
"""Photographs on a contact sheet, of at most 19 kB each as text."""


def add_cull_options(cull: argparse.ArgumentParser) -> None:
    """Give `cskd-hf cull` its options."""
    add_model_option(cull, "checkpoint: Hub name or folder; or an exported .onnx file that gives embeddings")
    cull.add_argument("images", nargs="+", metavar="PATH", help="folders, searched at any depth, and image files")
    cull.add_argument(
        "--output",
        metavar="DIR",
        help="folder for contact_sheet.html, photographs.csv and results.json (default: NAME-cull in this folder)",
    )
    cull.add_argument(
        "--stars",
        nargs=4,
        type=float,
        default=list(DEFAULT_CUTS),
        metavar="P",
        help="percentiles at which two, three, four and five stars begin (default: {})".format(
            " ".join(f"{cut:g}" for cut in DEFAULT_CUTS)
        ),
    )
    cull.add_argument(
        "--stars-from",
        choices=["auto", "model", "folder"],
        default="auto",
        help="percentiles of the model's reference set, or among these photographs (default: the model's, if it has any)",
    )
    cull.add_argument(
        "--xmp",
        choices=["darktable", "lightroom", "both"],
        help="write the stars into XMP sidecars: photo.jpg.xmp, which darktable and digiKam read; photo.xmp, which "
        "Lightroom reads for the raw file of that name (not for a JPEG alone); or both",
    )
    cull.add_argument(
        "--xmp-label", action="store_true", help="with --xmp: also Green for the best of a group, Red for its others"
    )
    cull.add_argument(
        "--overwrite-ratings",
        action="store_true",
        help="with --xmp: replace ratings and labels that are there already",
    )
    cull.add_argument(
        "--sheet-limit",
        type=int,
        default=SHEET_LIMIT,
        metavar="N",
        help="photographs on the sheet (default: %(default)s)",
    )
    add_reading_options(cull)
    cull.add_argument("--quiet", action="store_true", help="no progress bar")
    cull.formatter_class = argparse.RawDescriptionHelpFormatter
    cull.epilog = (
        "Nothing is deleted and no photograph is changed; sidecars are written only with --xmp. Raw files are skipped\n"
        "and counted, not read, nor is the preview in them.\n"
        "exit code: 0 every image has a score; 3 some could not be read or some sidecar not written; 1 none has a score;\n"
        "2 wrong input."
    )


def add_explain_options(explain: argparse.ArgumentParser) -> None:
    """Give `cskd-hf explain` its options."""
    add_model_option(explain)
    explain.add_argument("images", nargs="+", metavar="IMAGE", help="image files, and folders")
    explain.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="folder for explanation.html, explanation.json and the overlays, one .png an image",
    )
    explain.add_argument(
        "--samples",
        type=int,
        default=8,
        metavar="N",
        help="noisy copies that the saliency is the mean of (default: %(default)s)",
    )
    explain.add_argument(
        "--device", help="as torch names it, e.g. cpu or cuda:1 (default: an accelerator, if there is one)"
    )
    explain.add_argument("--quiet", action="store_true", help="no progress bar")
    explain.formatter_class = argparse.RawDescriptionHelpFormatter
    explain.epilog = "exit code: 0 every image was explained; 3 some could not be read; 1 none could; 2 wrong input."
