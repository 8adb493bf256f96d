"""The commands of `cskd-hf`: what each is, its options, and where its code is. Imports no torch: `--help` is instant."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from .analysis.options import add_analyze_options
from .data.options import add_check_images_options, add_check_options, add_convert_options, add_subset_options
from .evaluation.options import add_evaluate_options
from .export.command import add_export_options
from .finetuning.command import add_finetune_options
from .hub.card_options import add_card_options, add_push_options
from .hub.options import add_push
from .hub.space.command import add_options as add_app_options
from .personal.options import add_actions
from .prompts.options import add_prompts_options
from .scoring.options import add_calibrate_options, add_score_options
from .training.arguments import AlignSettings, FeatureSettings, StudentSettings, TeacherSettings
from .training.recipes import add_settings


class Command(NamedTuple):
    """A command, or an action of one.

    Args:
        name: as it is typed.
        summary: what it does, one line.
        add_options: gives its parser the options.
        code: `module:function` of this package that runs it with the parsed namespace and returns the exit code;
            imported when it runs.
    """

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    code: str


def _settings(settings_class: type) -> Callable[[argparse.ArgumentParser], None]:
    return partial(add_settings, settings_class=settings_class)


def _add_demo_options(demo: argparse.ArgumentParser) -> None:
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


def _add_encoders_options(encoders: argparse.ArgumentParser) -> None:
    encoders.add_argument("families", nargs="*", metavar="FAMILY", help="only these, e.g. vit swin clip")
    encoders.add_argument("--json", action="store_true", help="as JSON")


def _add_data_actions(data: argparse.ArgumentParser) -> None:
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=type(data))
    _add(actions, DATA_ACTIONS)


COMMANDS = (
    Command(
        "align",
        "phase 1: align an encoder with a frozen CLIP on unlabelled images",
        _settings(AlignSettings),
        "training.command:align_command",
    ),
    Command(
        "teacher",
        "phase 2: fine-tune an aligned encoder on rated images",
        _settings(TeacherSettings),
        "training.command:teacher_command",
    ),
    Command(
        "student",
        "phase 2: train a light student on rated images and on a teacher's ratings of unrated ones",
        _settings(StudentSettings),
        "training.command:student_command",
    ),
    Command(
        "features",
        "store the reference encoder's features of phase 1's images, once for many alignments",
        _settings(FeatureSettings),
        "training.command:features_command",
    ),
    Command(
        "demo", "the whole of CSKD on embedded data, in minutes, on a CPU", _add_demo_options, "demo:demo_command"
    ),
    Command(
        "score",
        "score the images of a folder with a trained model",
        add_score_options,
        "scoring.command:score_command",
    ),
    Command(
        "calibrate",
        "percentiles of a reference set, and the rating that each score answers to, into a checkpoint",
        add_calibrate_options,
        "scoring.calibrate:calibrate_command",
    ),
    Command(
        "prompts",
        "attributes by pairs of prompts (a sharp photo / a blurry photo), into a checkpoint that was aligned with a CLIP",
        add_prompts_options,
        "prompts.command:prompts_command",
    ),
    Command(
        "check-images",
        "find copies, and evaluation images, in a collection of images",
        add_check_images_options,
        "data.image_check:check_command",
    ),
    Command(
        "analyze",
        "compare the attention and the features of encoders, e.g. before and after alignment",
        add_analyze_options,
        "analysis.command:analyze_command",
    ),
    Command(
        "encoders",
        "which image encoders of transformers can be aligned, and how",
        _add_encoders_options,
        "training.encoder_survey:encoders_command",
    ),
    Command(
        "finetune",
        "train a scorer on your own ratings, with a held-out estimate of how good it is",
        add_finetune_options,
        "finetuning.command:finetune_command",
    ),
    Command(
        "personalize",
        "scorers of single raters as task vectors of a general scorer",
        add_actions,
        "personal.command:personalize_command",
    ),
    Command(
        "data",
        "rated images: find their faults, convert them, push them to the Hub, or draw some",
        _add_data_actions,
        "",
    ),
    Command(
        "evaluate",
        "measure a trained model on rated images, or compare two",
        add_evaluate_options,
        "evaluation.command:evaluate_command",
    ),
    Command(
        "card",
        "the model card of a trained model, from what its runs recorded",
        add_card_options,
        "hub.card_command:card_command",
    ),
    Command(
        "push", "push a trained model to the Hub, with its card and its code", add_push, "hub.publish:push_command"
    ),
    Command(
        "app",
        "score photographs in the browser, here or in a Space of the Hub",
        add_app_options,
        "hub.space.command:app_command",
    ),
    Command(
        "export",
        "write a trained model in a form that needs no cskd_hf",
        add_export_options,
        "export.command:export_command",
    ),
)

DATA_ACTIONS = (
    Command(
        "check",
        "find everything that is wrong with rated images; exit code 1 if anything is",
        add_check_options,
        "data.ratings.audit:check_command",
    ),
    Command(
        "convert",
        "write rated images as Parquet files for load_dataset and the Hub",
        add_convert_options,
        "data.ratings.convert:convert_command",
    ),
    Command(
        "push",
        "push converted rated images to the Hub, with their card",
        add_push_options,
        "hub.dataset_push:push_ratings_command",
    ),
    Command(
        "subset",
        "draw some of the rated images by seed, and write the list of their keys",
        add_subset_options,
        "data.ratings.label_subset:subset_command",
    ),
)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add every command; parsed, `run` of its namespace is the function that runs it and returns the exit code."""
    _add(commands, COMMANDS)


def code_of(command: Command) -> Callable[[argparse.Namespace], int]:
    """The function that runs a command."""
    module, _, name = command.code.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)


def _add(parsers: argparse._SubParsersAction, commands: Iterable[Command]) -> None:
    for command in commands:
        parser = parsers.add_parser(
            command.name, help=command.summary, description=command.summary, allow_abbrev=False
        )
        if command.code:
            parser.set_defaults(run=lambda namespace, command=command: code_of(command)(namespace))
        command.add_options(parser)
