"""The commands of `cskd-hf`: their options, and where the code of each is. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from .finetuning.settings import FinetuneOptions, FinetuneSettings
from .training.arguments import AlignSettings, FeatureSettings, StudentSettings, TeacherSettings
from .training.recipes import add_settings, settings_from
from .training.settings import LoopSettings

Run = Callable[[argparse.Namespace], int]


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add every command; parsed, `run` of its namespace is the function that runs it and returns the exit code."""
    _add_training(
        commands, "align", "phase 1: align an encoder with a frozen CLIP on unlabelled images", AlignSettings, _align
    )
    _add_training(
        commands, "teacher", "phase 2: fine-tune an aligned encoder on rated images", TeacherSettings, _teacher
    )
    _add_training(
        commands,
        "student",
        "phase 2: train a light student on rated images and on a teacher's ratings of unrated ones",
        StudentSettings,
        _student,
    )
    _add_training(
        commands,
        "features",
        "store the reference encoder's features of phase 1's images, once for many alignments",
        FeatureSettings,
        _features,
    )
    for add in (
        _add_demo,
        _add_score,
        _add_check_images,
        _add_analyze,
        _add_encoders,
        _add_finetune,
        _add_personalize,
    ):
        add(commands)


def _add(commands: argparse._SubParsersAction, name: str, summary: str, run: Run) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    command.set_defaults(run=run)
    return command


def _add_training(
    commands: argparse._SubParsersAction, name: str, summary: str, settings_class: type[LoopSettings], train: Callable
) -> None:
    command = _add(commands, name, summary, lambda namespace: train(settings_from(namespace, settings_class)))
    add_settings(command, settings_class)


def _align(settings: AlignSettings) -> int:
    from .training.align import align

    return _report(align(settings))


def _teacher(settings: TeacherSettings) -> int:
    from .training.teacher import teach

    return _report(teach(settings))


def _student(settings: StudentSettings) -> int:
    from .training.student import distil

    return _report(distil(settings))


def _report(result) -> int:
    if _is_main():
        figures = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        best = f", best at step {result.best_step}: {figures}" if figures else ""
        print(f"{result.output_dir}: step {result.step}{best}")
    return 0


def _features(settings: FeatureSettings) -> int:
    from .training.stored_features import store_features

    for name, store in store_features(settings).items():
        if _is_main():
            unreadable = f", {len(store.unreadable)} unreadable (in its manifest.json)" if store.unreadable else ""
            print(f"{store.folder}: {len(store)} images x {store.n_views} views of {name}{unreadable}")
    return 0


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _add_demo(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .demo import run_demo

        return run_demo(namespace.output, seeds=namespace.seeds, labels=namespace.labels, quick=namespace.quick)

    demo = _add(commands, "demo", "the whole of CSKD on embedded data, in minutes, on a CPU", run)
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


def _add_score(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .scoring.folder import score_command

        return score_command(namespace)

    score = _add(commands, "score", "score the images of a folder with a trained model", run)
    score.add_argument("model", help="checkpoint: Hub name or folder")
    score.add_argument("images", nargs="+", help="image files or folders")
    score.add_argument("--output", metavar="FILE", help="also write the scores to this .csv or .jsonl file")
    score.add_argument("--batch-size", type=int, default=16, help="images a forward (default: %(default)s)")
    score.add_argument("--top", type=int, default=0, metavar="N", help="show only the best N")
    score.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_check_images(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .data.image_check import check_command

        return check_command(namespace)

    check = _add(commands, "check-images", "find copies, and evaluation images, in a collection of images", run)
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


def _add_analyze(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .analysis.command import analyze_command

        return analyze_command(namespace)

    summary = "compare the attention and the features of encoders, e.g. before and after alignment"
    analyze = _add(commands, "analyze", summary, run)
    analyze.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="checkpoints of this package or any image encoders, Hub names or folders; a config.json has random weights",
    )
    analyze.add_argument(
        "--images", nargs="+", required=True, metavar="PLACE", help="folders, saved datasets or Parquet files"
    )
    analyze.add_argument("--reference", help="encoder to compare features with: Hub name, folder or module:function")
    analyze.add_argument("--names", nargs="+", metavar="NAME", help="of the checkpoints, in their order")
    analyze.add_argument(
        "--max-images", type=int, default=500, metavar="N", help="evenly spaced over all (default: %(default)s)"
    )
    analyze.add_argument(
        "--output", default="runs/analysis", help="folder for page, plots and figures (default: %(default)s)"
    )
    analyze.add_argument("--seed", type=int, default=0, help="of random weights (default: %(default)s)")
    analyze.add_argument("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    analyze.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_encoders(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .training.encoder_survey import encoders_command

        return encoders_command(namespace.families, namespace.json)

    encoders = _add(commands, "encoders", "which image encoders of transformers can be aligned, and how", run)
    encoders.add_argument("families", nargs="*", metavar="FAMILY", help="only these, e.g. vit swin clip")
    encoders.add_argument("--json", action="store_true", help="as JSON")


def _add_finetune(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        settings = settings_from(namespace, FinetuneSettings)
        from .finetuning.run import finetune_command

        return finetune_command(settings)

    summary = "train a scorer on your own ratings, with a held-out estimate of how good it is"
    finetune = _add(commands, "finetune", summary, run)
    finetune.add_argument("ratings", help="rated images: CSV, TSV, JSONL or Parquet file, saved dataset, or NAME:DIR")
    add_settings(finetune, FinetuneOptions)


def _add_personalize(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .personal.command import personalize_command

        return personalize_command(namespace)

    personalize = _add(commands, "personalize", "scorers of single raters as task vectors of a general scorer", run)
    actions = personalize.add_subparsers(dest="action", required=True, metavar="ACTION")
    vectors = actions.add_parser("vectors", help="a task vector for each rater of a file of votes", allow_abbrev=False)
    fit = actions.add_parser("fit", help="a new rater's vector from about 20 ratings", allow_abbrev=False)
    apply = actions.add_parser("apply", help="add vectors to the general scorer and save it", allow_abbrev=False)
    for action in (vectors, fit, apply):
        action.add_argument("base", help="general scorer: Hub name or folder")
    vectors.add_argument("votes", help="CSV, TSV, JSONL or Parquet file with image, rater and rating, one row a vote")
    fit.add_argument("ratings", help="file with image and rating; with --rater, one row a vote")
    apply.add_argument("vectors", nargs="+", help="files of task vectors")
    for action in (vectors, fit):
        action.add_argument("--images", metavar="DIR", help="folder that the image paths start from")
        action.add_argument(
            "--scale",
            type=float,
            nargs=2,
            default=[],
            metavar=("LOW", "HIGH"),
            help="of the ratings, if not the base's",
        )
        action.add_argument("--quiet", action="store_true", help="no progress bars")
    vectors.add_argument("--output", default="vectors", help="folder for one file a rater (default: %(default)s)")
    vectors.add_argument(
        "--parts",
        choices=("head", "last", "all"),
        default="head",
        help="what a vector changes: the head in closed form, the last block too, or all layers (default: %(default)s)",
    )
    vectors.add_argument("--min-ratings", type=int, default=20, metavar="N", help="of a rater (default: %(default)s)")
    vectors.add_argument("--half", action="store_true", help="store float16: half the size")
    vectors.add_argument("--steps", type=int, default=30, help="of the gradient (default: %(default)s)")
    vectors.add_argument("--learning-rate", type=float, default=3e-5, help="of the gradient (default: %(default)s)")
    vectors.add_argument("--seed", type=int, default=0, help="of batches (default: %(default)s)")
    fit.add_argument("--bank", metavar="DIR", help="folder of other raters' vectors, whose weighted sum is fitted")
    fit.add_argument("--rater", metavar="NAME", help="whose ratings to take")
    fit.add_argument("--output", default="personal.safetensors", help="file to write (default: %(default)s)")
    apply.add_argument(
        "--scale", type=float, nargs="+", default=[], help="factor of each vector; negative takes it away"
    )
    apply.add_argument("--output", required=True, help="folder for the model")
