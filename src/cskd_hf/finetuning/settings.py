"""Settings of `cskd-hf finetune`, and the sizes at which its defaults change. Imports no torch: `--help` is instant."""

from __future__ import annotations

from dataclasses import dataclass

from ..training.settings import SettingsError, at_least, setting

DEFAULT_MODEL = "openai/clip-vit-base-patch32"
"""Encoder that is fine-tuned where none is given; it comes from the Hub."""

MIN_RATINGS = 10
"""Fewest rated pictures, copies counted once: with less, even two folds of an estimate would have five images each."""

MAX_CROSS_VALIDATED = 1000
"""Most ratings that are cross-validated. A single hold-out of a fifth of more than these has 200 images, whose SRCC is
known to about +-0.1; of fewer ratings every one is needed for both training and the estimate."""

PARTIAL_FROM = 300
"""Ratings from which the last layers are trained as well. Steps are chosen on 15 % of the training images; of fewer
than 300 ratings that is less than 45 images, whose SRCC is known to about +-0.25, too coarse to choose by. On real
photographs (benchmarks/results/real_photos.json) a careful fine-tune gains 0.02 SRCC on the probe at 339 labels."""

FULL_FROM = 3000
"""Ratings from which all layers are trained."""

CHOOSING_SHARE = 0.15
"""Share of the training images on which the step of a partial or full fine-tune is chosen."""

PROBE_FOLDS, TUNED_FOLDS = 10, 5
"""Folds of the cross-validation: a probe costs nothing once the features are there, other fits cost a training each."""

_MODES = ("auto", "probe", "partial", "full")


@dataclass
class FinetuneOptions:
    """All settings but the ratings' file."""

    images: str = setting("", "folder that the ratings' image paths start from; empty: the ratings' own folder")
    model: str = setting(
        DEFAULT_MODEL, "what to start from: any image encoder or a trained scorer, Hub name or folder"
    )
    unlabeled: list[str] = setting(
        [], "unrated images for the semi-supervised path: folders, saved datasets or Parquet files"
    )
    output: str = setting("runs/finetune", "folder for model/, report.html, results.json and scores.csv")
    scale: list[float] = setting([], "lowest and highest possible rating, e.g. 1 5; for ratings without votes")
    score_values: list[float] = setting([], "value of each score bin, where the file does not name them")
    mode: str = setting(
        "auto",
        f"what is trained: a head in closed form, the last layers, or all; auto goes by the number of ratings (from "
        f"{PARTIAL_FROM} partial, from {FULL_FROM} full)",
        choices=_MODES,
    )
    train_layers: int = setting(1, "last blocks of the encoder that a partial fine-tune trains")
    folds: int = setting(
        0,
        f"folds of the cross-validation; 0: {PROBE_FOLDS} for a probe, else {TUNED_FOLDS}; 1 takes a single hold-out",
    )
    group_by: str = setting(
        "",
        "column of what belongs together, such as a series, theme or photographer: images of one value are held out "
        "together, for an estimate of new ones",
    )
    holdout: float = setting(0.2, "share of the ratings that a single hold-out takes")
    student: str = setting(
        "", "encoder of the model that learns from unrated images; empty: a copy of --model; a config.json is made new"
    )
    ship: str = setting(
        "auto",
        "with --unlabeled, which model to save: the semi-supervised one only where it is clearly ahead, or always the one",
        choices=("auto", "ratings", "semi"),
    )
    max_steps: int = setting(0, "optimiser steps of a partial or full fine-tune; 0 goes by the number of ratings")
    student_steps: int = setting(0, "optimiser steps of the semi-supervised model; 0 goes by the number of images")
    learning_rate: float = setting(3e-5, "peak learning rate of the encoder's layers")
    head_learning_rate: float = setting(1e-4, "peak learning rate of the head")
    image_size: int = setting(0, "side in pixels that the encoder sees; 0 takes the encoder's own")
    batch_size: int = setting(32, "images in a forward pass")
    seed: int = setting(0, "of folds, hold-out and training")
    cpu: bool = setting(False, "run on the CPU even where there is a GPU")
    overwrite: bool = setting(False, "replace a fine-tune that is already in --output")
    quiet: bool = setting(False, "no progress bars")

    def check(self) -> None:
        """Raises:
        SettingsError: a value is missing or out of range; the message names it and what is allowed.
        """
        for name in ("folds", "max_steps", "student_steps", "image_size"):
            at_least(self, name, 0)
        for name in ("batch_size", "train_layers"):
            at_least(self, name, 1)
        if not 0.05 <= self.holdout <= 0.5:
            raise SettingsError(f"holdout={self.holdout} must be between 0.05 and 0.5.")
        if self.learning_rate <= 0 or self.head_learning_rate <= 0:
            raise SettingsError("learning_rate and head_learning_rate must be above 0.")
        if self.scale and self.score_values:
            raise SettingsError("scale and score_values both say where the ratings end; give one of them.")
        if self.scale and (len(self.scale) != 2 or not self.scale[0] < self.scale[1]):
            raise SettingsError(
                f"scale={self.scale} must be two rising numbers, the lowest and highest rating, e.g. 1 5."
            )
        if self.student and not self.unlabeled:
            raise SettingsError("student is the model that learns from unrated images; give --unlabeled DIR as well.")
        if self.ship == "semi" and not self.unlabeled:
            raise SettingsError("ship=semi needs unrated images; give --unlabeled DIR.")


@dataclass
class FinetuneSettings(FinetuneOptions):
    """Fine-tune a model on one's own ratings."""

    ratings: str = setting("", "rated images: CSV, TSV, JSONL, Parquet, or a saved dataset")

    def check(self) -> None:
        super().check()
        if not self.ratings:
            raise SettingsError("ratings is not set; give the file of rated images.")
