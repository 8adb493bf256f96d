"""The options of `cskd-hf check-images` and of the actions of `cskd-hf data`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse


def add_check_images_options(check: argparse.ArgumentParser) -> None:
    """Give `cskd-hf check-images` its options."""
    check.add_argument("images", nargs="+", help="folders, saved datasets or Parquet files")
    check.add_argument(
        "--evaluation",
        nargs="+",
        default=[],
        metavar="LOCATION",
        help="evaluation images: folders, saved datasets, Parquet files or lists of rated images, of which FILE#SPLIT "
        "takes one split; exit code 1 if any of them is found",
    )
    check.add_argument(
        "--duplicates",
        choices=("exact", "perceptual"),
        default="perceptual",
        help="copies with equal bytes, or also those that show the same picture (default: %(default)s)",
    )
    check.add_argument("--output", metavar="FILE", help="also write counts and all pairs to this .json file")
    check.add_argument("--quiet", action="store_true", help="no progress bars")


def add_check_options(check: argparse.ArgumentParser) -> None:
    """Give `cskd-hf data check` its options."""
    _add_reading(check)
    check.add_argument(
        "--unlabeled",
        nargs="+",
        default=[],
        metavar="PLACE",
        help="images to train on without ratings: no image outside the split train may be among them",
    )
    check.add_argument("--labels-only", action="store_true", help="do not open the images, which takes time")
    check.add_argument(
        "--duplicates",
        choices=("exact", "perceptual"),
        default="perceptual",
        help="copies with equal bytes, or also those that show the same picture (default: %(default)s)",
    )
    check.add_argument("--output", metavar="FILE", help="also write all that was found to this .json file")


def add_convert_options(convert: argparse.ArgumentParser) -> None:
    """Give `cskd-hf data convert` its options."""
    _add_reading(convert)
    convert.add_argument("--output", required=True, metavar="FOLDER", help="folder to make")
    convert.add_argument(
        "--shard-mb", type=float, default=500, metavar="MB", help="size of a file of a split (default: %(default)s)"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")


def add_subset_options(subset: argparse.ArgumentParser) -> None:
    """Give `cskd-hf data subset` its options."""
    _add_reading(subset)
    subset.add_argument("--labels", type=int, default=0, metavar="N", help="how many images")
    subset.add_argument("--label-share", type=float, default=0.0, metavar="SHARE", help="or which share, e.g. 0.01")
    subset.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    subset.add_argument("--split", default="train", help="to draw from (default: %(default)s)")
    subset.add_argument("--output", required=True, metavar="FILE", help="list to write, for --label-ids")
    subset.add_argument("--overwrite", action="store_true", help="replace the list if it exists")


def _add_reading(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "data",
        metavar="NAME_OR_FILE",
        help="a data set of the field, e.g. ava or ava:DIR, or a file or folder of ratings",
    )
    command.add_argument(
        "folder", nargs="?", metavar="DIR", help="the folder of the data set; for a file, where its image paths start"
    )
    command.add_argument(
        "--images",
        choices=("require", "drop", "ignore"),
        help="rows without their image file: a fault (default), left out and counted, or not looked for",
    )
    command.add_argument(
        "--score-values", type=float, nargs="+", metavar="VALUE", help="rating that each bin stands for, or the ends"
    )
    command.add_argument(
        "--columns", nargs="+", default=[], metavar="COLUMN=NAME", help="names in the file, e.g. mean=my_score"
    )
    command.add_argument(
        "--attributes", nargs="+", default=[], metavar="NAME=LOW:HIGH", help="columns of attributes, e.g. color=1:5"
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")
