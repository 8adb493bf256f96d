"""The `cskd-hf` command. It only dispatches; torch is imported when a command starts to work."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from . import __version__
from .training.arguments import AlignSettings, FeatureSettings, StudentSettings, TeacherSettings
from .training.recipes import add_settings, nearest, settings_from

_FEATURES = "store the reference encoder's features of phase 1's images, once for many alignments"
_TRAINING = {
    "align": (AlignSettings, "phase 1: align an encoder with a frozen CLIP on unlabelled images"),
    "teacher": (TeacherSettings, "phase 2: fine-tune an aligned encoder on rated images"),
    "student": (
        StudentSettings,
        "phase 2: train a light student on rated images and on a teacher's ratings of unrated ones",
    ),
}


class _Parser(argparse.ArgumentParser):
    """Names the nearest option for a mistyped one."""

    def error(self, message: str) -> None:
        unknown = "unrecognized arguments: "
        if message.startswith(unknown):
            options = [name for action in self._all_actions() for name in action.option_strings]
            first = message.removeprefix(unknown).split()[0].split("=")[0]
            message = f"unknown option '{first}'{nearest(first, options) if first.startswith('-') else ''}"
        super().error(message)

    def _all_actions(self) -> list[argparse.Action]:
        actions = list(self._actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = [
                    parser for name, parser in action.choices.items() if name in sys.argv
                ] or action.choices.values()
                actions += [inner for parser in chosen for inner in parser._actions]
        return actions


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="cskd-hf", description="CSKD: image aesthetics models from CLIP, few ratings and many unrated images."
    )
    parser.add_argument("--version", action="version", version=f"cskd-hf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (settings_class, summary) in _TRAINING.items():
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        add_settings(command, settings_class)
    features = commands.add_parser("features", help=_FEATURES, description=_FEATURES, allow_abbrev=False)
    add_settings(features, FeatureSettings)
    demo = commands.add_parser(
        "demo", help="the whole of CSKD on embedded data, in minutes, on a CPU", allow_abbrev=False
    )
    demo.add_argument(
        "--output",
        default="runs/demo",
        help="folder for student/, report.html and results.json (default: %(default)s)",
    )
    demo.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=None,
        metavar="SEED",
        help="seeds of the compared runs (default: 0 1 2)",
    )
    demo.add_argument(
        "--labels", type=int, default=None, metavar="N", help="rated images to learn from (default: 300)"
    )
    demo.add_argument(
        "--quick", action="store_true", help="one seed and short training: shows that it works, proves no order"
    )
    score = commands.add_parser("score", help="score the images of a folder with a trained model", allow_abbrev=False)
    score.add_argument("model", help="checkpoint: Hub name or folder")
    score.add_argument("images", nargs="+", help="image files or folders")
    score.add_argument("--output", metavar="FILE", help="also write the scores to this .csv or .jsonl file")
    score.add_argument("--batch-size", type=int, default=16, help="images a forward (default: %(default)s)")
    score.add_argument("--top", type=int, default=0, metavar="N", help="show only the best N")
    score.add_argument("--quiet", action="store_true", help="no progress bar")
    check = commands.add_parser(
        "check-images", help="find copies, and evaluation images, in a collection of images", allow_abbrev=False
    )
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
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, or 2 for input that was refused."""
    namespace = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return _dispatch(namespace)
    except (ValueError, OSError, FloatingPointError) as error:
        if not _expected(error):
            raise
        print(f"cskd-hf {namespace.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cskd-hf {namespace.command}: stopped", file=sys.stderr)
        return 130


def _expected(error: Exception) -> bool:
    """Whether it says what is wrong with the input, so that a traceback would only hide it: files and Hub names that are
    not there, and whatever this package itself refused."""
    if isinstance(error, OSError):
        return True
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "").startswith(f"{__package__}.")


def _calm_libraries() -> None:
    """Leave the terminal to our own progress bars and messages."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.WARNING)


def _dispatch(namespace: argparse.Namespace) -> int:
    _calm_libraries()
    if namespace.command in _TRAINING:
        settings = settings_from(namespace, _TRAINING[namespace.command][0])
        return _train(namespace.command, settings)
    if namespace.command == "features":
        return _store_features(settings_from(namespace, FeatureSettings))
    if namespace.command == "demo":
        from .demo import run_demo

        return run_demo(namespace.output, seeds=namespace.seeds, labels=namespace.labels, quick=namespace.quick)
    if namespace.command == "check-images":
        from .data.image_check import check_command

        return check_command(namespace)
    from .scoring.folder import score_command

    return score_command(namespace)


def _train(command: str, settings: AlignSettings | TeacherSettings | StudentSettings) -> int:
    if command == "align":
        from .training.align import align as run
    elif command == "teacher":
        from .training.teacher import teach as run
    else:
        from .training.student import distil as run
    result = run(settings)
    if os.environ.get("RANK", "0") != "0":
        return 0
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    print(
        f"{result.output_dir}: step {result.step}"
        + (f", best at step {result.best_step}: {figures}" if figures else "")
    )
    return 0


def _store_features(settings: FeatureSettings) -> int:
    from .training.stored_features import store_features

    for name, store in store_features(settings).items():
        if os.environ.get("RANK", "0") == "0":
            unreadable = f", {len(store.unreadable)} unreadable (in its manifest.json)" if store.unreadable else ""
            print(f"{store.folder}: {len(store)} images x {store.n_views} views of {name}{unreadable}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
