"""The commands of `cskd-hf`: their options, and where the code of each is. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from .export.command import add_export_options
from .finetuning.settings import FinetuneOptions, FinetuneSettings
from .hub.card_options import add_card_options, add_push_options
from .hub.options import add_push
from .hub.space.command import add_options as add_app_options
from .personal.options import add_actions
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
        _add_data,
        _add_evaluate,
        _add_card,
        _add_app,
        _add_push,
        _add_export,
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
    add_actions(personalize)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .evaluation.command import evaluate_command

        return evaluate_command(namespace)

    evaluate = _add(commands, "evaluate", "measure a trained model on rated images, or compare two", run)
    evaluate.add_argument("model", help="checkpoint: Hub name or folder")
    evaluate.add_argument(
        "ratings",
        help="rated images: CSV, TSV, JSONL, Parquet or a saved dataset, NAME:DIR of a known data set such as ava:DIR, or "
        "hub:ORG/NAME",
    )
    evaluate.add_argument("--split", nargs="+", default=["test"], help="splits, or `all` (default: %(default)s)")
    evaluate.add_argument("--image-dir", metavar="DIR", help="folder that the ratings' image paths start from")
    evaluate.add_argument(
        "--score-values", type=float, nargs="+", metavar="X", help="value of each bin, for ratings without histograms"
    )
    evaluate.add_argument("--against", metavar="MODEL", help="another checkpoint, compared on the same images")
    evaluate.add_argument(
        "--by", nargs="+", metavar="COLUMN", help="group by these columns (default: split, theme and category)"
    )
    evaluate.add_argument(
        "--threshold", type=float, metavar="X", help="cut of the accuracy (default: the middle of the ratings' scale)"
    )
    evaluate.add_argument(
        "--rescale", action="store_true", help="map the ends of a model's scale to those of the ratings' scale"
    )
    evaluate.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0 for no intervals (default: %(default)s)"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of the resamples (default: %(default)s)")
    evaluate.add_argument(
        "--output", metavar="DIR", help="write results.json, scores.csv and report.html to this folder"
    )
    evaluate.add_argument("--batch-size", type=int, default=64, help="images a forward (default: %(default)s)")
    evaluate.add_argument(
        "--num-workers", type=int, default=0, metavar="N", help="threads that decode images (default: %(default)s)"
    )
    evaluate.add_argument("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    evaluate.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_card(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .hub.card_command import card_command

        return card_command(namespace)

    add_card_options(_add(commands, "card", "the model card of a trained model, from what its runs recorded", run))


def _add_app(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .hub.space.command import app_command

        return app_command(namespace)

    app = _add(commands, "app", "score photographs in the browser, here or in a Space of the Hub", run)
    add_app_options(app)


def _add_push(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .hub.publish import push_command

        return push_command(namespace)

    add_push(_add(commands, "push", "push a trained model to the Hub, with its card and its code", run))


def _add_export(commands: argparse._SubParsersAction) -> None:
    def run(namespace: argparse.Namespace) -> int:
        from .export.command import export_command

        return export_command(namespace)

    export = _add(commands, "export", "write a trained model in a form that needs no cskd_hf", run)
    add_export_options(export)


def _add_data(commands: argparse._SubParsersAction) -> None:
    def check(namespace: argparse.Namespace) -> int:
        from .data.ratings.audit import check_command

        return check_command(namespace)

    def convert(namespace: argparse.Namespace) -> int:
        from .data.ratings.convert import convert_command

        return convert_command(namespace)

    def subset(namespace: argparse.Namespace) -> int:
        from .data.ratings.label_subset import subset_command

        return subset_command(namespace)

    def push(namespace: argparse.Namespace) -> int:
        from .hub.dataset_push import push_ratings_command

        return push_ratings_command(namespace)

    data = commands.add_parser(
        "data", help="rated images: find their faults, convert them, push them to the Hub, or draw some"
    )
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=type(data))
    checking = _add(
        actions, "check", "find everything that is wrong with rated images; exit code 1 if anything is", check
    )
    _add_reading(checking)
    checking.add_argument(
        "--unlabeled",
        nargs="+",
        default=[],
        metavar="PLACE",
        help="images to train on without ratings: no image outside the split train may be among them",
    )
    checking.add_argument("--labels-only", action="store_true", help="do not open the images, which takes time")
    checking.add_argument(
        "--duplicates",
        choices=("exact", "perceptual"),
        default="perceptual",
        help="copies with equal bytes, or also those that show the same picture (default: %(default)s)",
    )
    checking.add_argument("--output", metavar="FILE", help="also write all that was found to this .json file")
    converting = _add(actions, "convert", "write rated images as Parquet files for load_dataset and the Hub", convert)
    _add_reading(converting)
    converting.add_argument("--output", required=True, metavar="FOLDER", help="folder to make")
    converting.add_argument(
        "--shard-mb", type=float, default=500, metavar="MB", help="size of a file of a split (default: %(default)s)"
    )
    converting.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    add_push_options(_add(actions, "push", "push converted rated images to the Hub, with their card", push))
    drawing = _add(
        actions, "subset", "draw some of the rated images by seed, and write the list of their keys", subset
    )
    _add_reading(drawing)
    drawing.add_argument("--labels", type=int, default=0, metavar="N", help="how many images")
    drawing.add_argument("--label-share", type=float, default=0.0, metavar="SHARE", help="or which share, e.g. 0.01")
    drawing.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    drawing.add_argument("--split", default="train", help="to draw from (default: %(default)s)")
    drawing.add_argument("--output", required=True, metavar="FILE", help="list to write, for --label-ids")
    drawing.add_argument("--overwrite", action="store_true", help="replace the list if it exists")


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
