"""The options of `cskd-hf score` and `cskd-hf calibrate`. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse

from ..packaged import default_student_path


def add_model_option(command: argparse.ArgumentParser, what: str = "checkpoint: Hub name or folder") -> None:
    """Give a command that scores photographs the option of what scores them."""
    command.add_argument(
        "--model",
        default=str(default_student_path()),
        help=f"{what} (default: the small student that comes with the package)",
    )


def add_reading_options(command: argparse.ArgumentParser) -> None:
    """Give a command that scores many files the options of how they are read."""
    command.add_argument("--batch-size", type=int, default=16, help="images a forward (default: %(default)s)")
    command.add_argument(
        "--workers", type=int, metavar="N", help="threads that read images (default: one a core; 0: no thread)"
    )
    command.add_argument(
        "--device", help="as torch names it, e.g. cpu or cuda:1 (default: an accelerator, if there is one)"
    )
    command.add_argument(
        "--reduced-decoding",
        action="store_true",
        help="decode JPEG files at a reduced scale that is still twice what the model sees: several times faster for large "
        "photographs, and scores change a little",
    )
    command.add_argument(
        "--allow-truncated", action="store_true", help="score the readable part of a file that breaks off"
    )


def add_score_options(score: argparse.ArgumentParser) -> None:
    """Give `cskd-hf score` its options."""
    add_model_option(score, "checkpoint: Hub name or folder; or an exported .onnx file")
    score.add_argument(
        "images", nargs="+", metavar="PATH", help="image files, and folders that are searched at any depth"
    )
    score.add_argument(
        "--output",
        metavar="FILE",
        help="write the scores to this .csv, .jsonl or .parquet file; FILE.ledger beside it lets a stopped run go on, and "
        "a later one score only what is new or has changed",
    )
    add_reading_options(score)
    score.add_argument("--top", type=int, default=0, metavar="N", help="show and write only the best N")
    score.add_argument(
        "--sort",
        choices=["path", "score"],
        default="path",
        help="order of the file: as given and by path within a folder, or the best first, as --top always has it (default: "
        "%(default)s)",
    )
    score.add_argument(
        "--resume-by",
        choices=["mtime", "hash"],
        default="mtime",
        help="how to see that an image has a score already: by size and time of its last change, or by its content, which "
        "reads every file (default: %(default)s)",
    )
    score.add_argument("--restart", action="store_true", help="forget the scores of earlier runs into this output")
    score.add_argument("--quiet", action="store_true", help="no progress bar")
    score.formatter_class = argparse.RawDescriptionHelpFormatter
    score.epilog = (
        "exit code: 0 every image has a score; 3 some could not be read, see the column `error`; 1 none could;\n"
        "2 wrong input. Started by `torchrun --nproc-per-node N -m cskd_hf.cli score ...`, each process scores its share;\n"
        "the code is then 0 where some could not be read, since torchrun takes every other one for a crash."
    )


def add_calibrate_options(calibrate: argparse.ArgumentParser) -> None:
    """Give `cskd-hf calibrate` its options."""
    calibrate.add_argument("checkpoint", help="folder of a trained teacher or student; its config.json is changed")
    calibrate.add_argument("images", nargs="*", help="image files or folders of the reference set")
    calibrate.add_argument(
        "--ratings",
        metavar="PLACE",
        help="rated images, a file or NAME:DIR: also fit the rating that each score answers to; the reference set, "
        "where no images are given",
    )
    calibrate.add_argument("--split", nargs="+", help="of the rated images, or `all` (default: all)")
    calibrate.add_argument("--image-dir", metavar="DIR", help="folder that the ratings' image paths start from")
    calibrate.add_argument("--name", help="of the reference set, for the model card (default: its folder's name)")
    calibrate.add_argument("--quiet", action="store_true", help="no progress bar")
