"""Settings of the three training commands. Imports no torch: `--help` is instant."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .distillation_settings import LAION, DistillationSettings, as_list, check_distillation
from .settings import LoopSettings, SettingsError, at_least, setting

_LOCATIONS = (
    "folders, saved datasets, .parquet, .arrow or .tar (WebDataset) files or patterns, names on the Hub; "
    "stream:LOCATION reads a dataset or shards in order, without an index"
)

# The names of training.losses, which is not imported here: it needs torch.
_TOKEN_LOSSES = ("token_cosine", "token_whitened_smooth_l1")
_ALIGNMENT_LOSSES = ("cosine", "mse", "whitened_smooth_l1", "phi_s", "phi_s_smooth_l1", *_TOKEN_LOSSES)
_OWN_LENGTH = ("mse", "phi_s", "phi_s_smooth_l1")  # draw the projection to the reference's own length


def _check_crop_scale(settings: Any, name: str) -> None:
    scale = getattr(settings, name)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise SettingsError(f"{name}={scale} must be two rising shares above 0, at most 1, e.g. 0.3 1.0.")


def _check_streams(settings: Any, store: str) -> None:
    """Streams have no index, so nothing can be stored by it, and no length, so their share must be given."""
    at_least(settings, "shuffle_buffer", 0)
    streams = [location for location in settings.images if location.startswith("stream:")]
    if streams and getattr(settings, store):
        raise SettingsError(
            f"{store} stores outputs by the index of an image, and {', '.join(streams)} has none; leave --"
            f"{store.replace('_', '-')} out, or give the location without 'stream:'."
        )
    if streams and len(settings.images) > 1 and not settings.image_weights:
        raise SettingsError(
            f"the length of {', '.join(streams)} is not known; give --image-weights, a share for each of the "
            f"{len(settings.images)} --images."
        )


def _check_weights(settings: Any, name: str) -> None:
    """Each value of a list setting once, with as many weights as values, or none."""
    values, weights = getattr(settings, name), getattr(settings, f"{name}_weights")
    option = f"{name}_weights".replace("_", "-")
    if name == "loss" and len(set(values)) < len(values):
        raise SettingsError(f"{name}={values} names one of them twice; give each once, with --{option}.")
    if weights and len(weights) != len(values):
        raise SettingsError(f"{len(values)} --{name} need as many --{option}; given: {weights}.")
    if not all(0 < weight < float("inf") for weight in weights):
        raise SettingsError(f"{name}_weights={weights} must all be above 0.")


@dataclass
class EncoderSettings(LoopSettings):
    """Which encoder is trained, and what it sees."""

    trains = True  # no setting: whether the command needs an encoder

    encoder: str = setting(
        "",
        "pretrained or aligned encoder: Hub name or folder; a config.json (or a folder with only that) starts from random weights",
    )
    pooling: str = setting(
        "auto", "how the encoder's output becomes one feature", choices=("auto", "cls", "mean", "pooler")
    )
    image_size: int = setting(0, "side in pixels that the encoder sees; 0 takes the encoder's own")
    flip: bool = setting(True, "mirror every second view")

    def check(self) -> None:
        super().check()
        if not self.encoder and self.trains:
            raise SettingsError("encoder is not set; give --encoder NAME_OR_FOLDER.")
        at_least(self, "image_size", 0)


@dataclass
class GuardSettings:
    """Which unlabelled images are left out before anything is trained."""

    evaluation_images: list[str] = setting(
        [],
        "images that the model will be judged by: folders, saved datasets, Parquet files or lists of rated images, "
        "of which FILE#SPLIT,SPLIT takes some splits; copies of them are kept out of training",
    )
    leaks: str = setting(
        "drop",
        "copies of evaluation images among the unlabelled: leave them out, refuse to train, or do not look for them",
        choices=("drop", "refuse", "off"),
    )
    duplicates: str = setting(
        "keep",
        "copies among the unlabelled images: keep them, or keep the first of those with equal bytes, or of those that "
        "show the same picture (decodes every image once)",
        choices=("keep", "exact", "perceptual"),
    )


def _check_guard(settings: GuardSettings) -> None:
    # [""] is what an empty option gives, and an empty path would mean the folder that the command runs in.
    settings.evaluation_images = [place for place in as_list(settings.evaluation_images) if place]
    if settings.evaluation_images and settings.leaks == "off":
        raise SettingsError("evaluation_images are given, but leaks=off looks for no copies; leave one of them out.")


@dataclass
class AlignSettings(GuardSettings, EncoderSettings):
    """Phase 1: align an encoder with frozen reference encoders on unlabelled images."""

    reference: list[str] = setting(
        [],
        "frozen reference encoders: Hub names or folders (CLIP and any transformers image encoder), or module:function",
    )
    images: list[str] = setting([], f"unlabelled images: {_LOCATIONS}")
    image_weights: list[float] = setting(
        [], "share of each of --images in a batch; none draws every image equally often"
    )
    shuffle_buffer: int = setting(1000, "images of a stream: location among which the next one is chosen by chance")
    projector: str = setting("linear", "from the encoder's feature to the reference's", choices=("linear", "mlp"))
    loss: list[str] = setting(
        ["cosine", "phi_s"], "alignment losses, summed with --loss-weights", choices=_ALIGNMENT_LOSSES
    )
    loss_weights: list[float] = setting([], "weight of each of --loss; none weighs all by 1")
    token_grid: int = setting(7, "rows and columns that references' token maps are averaged down to, for token losses")
    reference_weights: list[float] = setting([], "weight of each of --reference in the loss; none weighs all equally")
    crop_scale: list[float] = setting([0.3, 1.0], "smallest and largest share of an image's area in a training view")
    features: str = setting(
        "",
        "folder for stored reference features, computed where missing; 'live' runs the reference in every step; empty "
        "uses output_dir/features where it exists, else live",
    )
    n_views: int = setting(
        0,
        "different views of an image; 0 for a new one on every pass; of stored features, 0 takes as many as are stored (2 "
        "for a new store)",
    )
    mixup: float = setting(
        0.0,
        "alpha of mixtures of two images, which reference and encoder both see: more different pictures than there are "
        "images (mixup, arXiv 1710.09412; 2106.05237); needs the reference live; 0 for none",
    )
    holdout: int = setting(256, "unlabelled images kept out of training, to evaluate on")
    learning_rate: float = setting(3e-3, "peak learning rate")

    def check(self) -> None:
        super().check()
        if not self.reference:
            raise SettingsError(
                "reference is not set; give --reference NAME_OR_FOLDER, e.g. openai/clip-vit-base-patch32."
            )
        if not self.images:
            raise SettingsError("images is not set; give --images FOLDER [FOLDER ...].")
        if self.image_weights and len(self.image_weights) != len(self.images):
            raise SettingsError(
                f"{len(self.images)} --images need as many --image-weights; given: {self.image_weights}."
            )
        if not self.loss:
            raise SettingsError(f"loss is empty; give at least one of {', '.join(_ALIGNMENT_LOSSES)}.")
        _check_weights(self, "loss")
        _check_weights(self, "reference")
        at_least(self, "token_grid", 1)
        if set(self.loss) <= set(_TOKEN_LOSSES):
            raise SettingsError(
                f"loss={self.loss} compares tokens alone, which would leave the embedding untrained; add one of "
                f"{', '.join(name for name in _ALIGNMENT_LOSSES if name not in _TOKEN_LOSSES)}."
            )
        if "whitened_smooth_l1" in self.loss and (others := sorted(set(self.loss) & set(_OWN_LENGTH))):
            raise SettingsError(
                f"loss={self.loss} asks one projection to meet two targets: whitened_smooth_l1 that of the whitened "
                f"embedding, {others[0]} that of the raw one. Leave one of them out; cosine goes with either."
            )
        _check_streams(self, "features")
        _check_crop_scale(self, "crop_scale")
        _check_guard(self)
        at_least(self, "n_views", 0)
        at_least(self, "mixup", 0)
        if self.mixup and self.batch_size < 2:
            raise SettingsError("mixup mixes images of a batch; give --batch-size 2 or more, or leave it out.")
        at_least(self, "holdout", 1)


@dataclass
class FeatureSettings(AlignSettings):
    """Phase 1's stored reference features alone. Takes the settings of phase 1, so that one recipe serves both."""

    trains = False

    def check(self) -> None:
        if self.features == "live":
            raise SettingsError("features=live stores nothing; give --features FOLDER.")
        if self.mixup:
            raise SettingsError(f"mixup={self.mixup} shows pictures that no store can hold; leave it out.")
        if not self.features and not self.output_dir:
            raise SettingsError("give --features FOLDER, or --output-dir FOLDER to store in its folder 'features'.")
        self.features = self.features or f"{self.output_dir}/features"
        self.output_dir = self.output_dir or self.features
        super().check()


@dataclass
class RatedSettings(EncoderSettings):
    """What teacher and student share: rated images and a head."""

    ratings: list[str] = setting(
        [],
        "rated images: a CSV, TSV, JSONL, Parquet file or saved dataset, NAME:DIR for a data set of the field (ava:DIR), or "
        "hub:NAME; of several, the first is what the model learns to score, and the others train the encoder on scales of "
        "their own",
    )
    ratings_weights: list[float] = setting(
        [], "share of each of --ratings in a batch and in the loss; none draws every rated image equally often"
    )
    image_dir: list[str] = setting(
        [],
        "folder that the ratings' image paths start from, one for all files or one for each of --ratings; empty: the "
        "ratings' own folder",
    )
    train_split: str = setting("train", "split to train on, of every set")
    validation_split: str = setting(
        "validation", "split of the first set that chooses the best weights; empty for none"
    )
    score_values: list[float] = setting(
        [], "value of each score bin, for ratings that do not say it: those without histograms"
    )
    soft_bins: list[float] = setting(
        [],
        "standard deviation, on the scale of the ratings, of the normal distributions that stand in for missing histograms, "
        "one for all or one for each of --ratings; without it, mean ratings train by squared error",
    )
    attributes: list[str] = setting(
        [], "columns of mean ratings of attributes in files that do not say so, each as NAME=LOWEST:HIGHEST"
    )
    attribute_weight: float = setting(
        0.5, "weight of the loss to attributes, where a set has them; 0 leaves them out of the model"
    )
    labels: int = setting(0, "number of rated images of the first set to use, drawn by --seed; 0 uses all")
    label_share: float = setting(0.0, "share of them instead, e.g. 0.01 for 1 %; 0 uses all")
    label_ids: str = setting(
        "",
        "file with the keys of the rated images to use, one a line (cskd-hf data subset); --labels or --label-share take "
        "the first of them",
    )
    head_init: str = setting(
        "probe", "start of the heads: ridge probe on frozen features, or random", choices=("probe", "random")
    )
    probe_l2: float = setting(300.0, "penalty of the ridge probe, on standardised features")
    head_learning_rate: float = setting(1e-2, "peak learning rate of the heads")
    layer_decay: float = setting(
        1.0,
        "factor of the learning rate from each layer of the encoder to the one before it, e.g. 0.75 for a ViT; 1 trains all "
        "at one rate",
    )
    freeze: str = setting(
        "",
        "first part of the encoder that is not trained: a number of layers, a share of them such as 0.5, or 'encoder' for "
        "all of it",
    )
    freeze_norm: bool = setting(False, "keep the running statistics of batch norms as they are")
    rated_crop_scale: list[float] = setting(
        [1.0, 1.0], "smallest and largest share of a rated image's area in a training view; a cut changes composition"
    )

    def __post_init__(self) -> None:
        # One location needs no list, and [""] is what an empty option gives.
        for name in ("ratings", "image_dir"):
            given = getattr(self, name)
            given = [given] if isinstance(given, (str, os.PathLike)) else given
            setattr(self, name, [os.fspath(place) for place in given] if any(given) else [])
        if isinstance(self.soft_bins, (int, float)):
            self.soft_bins = [float(self.soft_bins)] if self.soft_bins else []
        self.freeze = str(self.freeze)

    def check(self) -> None:
        super().check()
        if not all(self.ratings) or not self.ratings:
            raise SettingsError("ratings is not set; give --ratings FILE [FILE ...].")
        if repeated := sorted({place for place in self.ratings if self.ratings.count(place) > 1}):
            raise SettingsError(f"ratings names {', '.join(repeated)} more than once; give each set once.")
        _check_weights(self, "ratings")
        for name in ("image_dir", "soft_bins"):
            if len(getattr(self, name)) not in (0, 1, len(self.ratings)):
                raise SettingsError(
                    f"{name}={getattr(self, name)} must be one value, or one for each of the {len(self.ratings)} --ratings."
                )
        if not all(0 <= width < float("inf") for width in self.soft_bins):
            raise SettingsError(f"soft_bins={self.soft_bins} must be widths above 0, or 0 for a set that has none.")
        parse_attributes(self.attributes)
        at_least(self, "attribute_weight", 0)
        at_least(self, "labels", 0)
        if not 0 <= self.label_share <= 1:
            raise SettingsError(f"label_share={self.label_share} must be between 0 and 1, e.g. 0.01 for 1 %.")
        if self.labels and self.label_share:
            raise SettingsError(f"labels={self.labels} and label_share={self.label_share}: give one of them.")
        _check_crop_scale(self, "rated_crop_scale")
        if self.probe_l2 <= 0 or self.head_learning_rate <= 0:
            raise SettingsError("probe_l2 and head_learning_rate must be above 0.")
        if not 0 < self.layer_decay <= 1:
            raise SettingsError(f"layer_decay={self.layer_decay} must be above 0, at most 1.")
        if self.freeze not in ("", "encoder") and not _layers(self.freeze):
            raise SettingsError(
                f"freeze={self.freeze!r} must be a number of layers from 1, a share above 0 and below 1, or 'encoder'."
            )


def _layers(text: str) -> bool:
    """Whether text is a whole number from 1, or a share between 0 and 1."""
    try:
        return int(text) >= 1 if text.isdigit() else 0 < float(text) < 1
    except ValueError:
        return False


def parse_attributes(given: list[str]) -> dict[str, tuple[float, float]]:
    """`["color=1:5"]` -> `{"color": (1.0, 5.0)}`.

    Raises:
        SettingsError: one of them is something else.
    """
    attributes = {}
    for text in given:
        name, _, scale = text.rpartition("=")
        low, _, high = scale.partition(":")
        try:
            attributes[name] = (float(low), float(high))
        except ValueError:
            name = ""
        if not name or not attributes[name][0] < attributes[name][1]:
            raise SettingsError(f"attributes holds {text!r}; write NAME=LOWEST:HIGHEST, e.g. color=1:5.")
    return attributes


@dataclass
class TeacherSettings(RatedSettings):
    """Phase 2, teacher: fine-tune an aligned encoder on the rated images."""

    max_steps: int = setting(200, "optimiser steps")
    learning_rate: float = setting(3e-4, "peak learning rate of the encoder")
    head_learning_rate: float = setting(3e-3, "peak learning rate of the head")
    eval_every: int = setting(20, "steps between evaluations; 0 evaluates only at the end")
    warmup_steps: int = setting(20, "steps of linear warm-up")


@dataclass
class StudentSettings(GuardSettings, DistillationSettings, RatedSettings):
    """Phase 2, student: rated images, and the teacher's soft ratings of rated and unrated images."""

    teacher_clip: str = setting("", "CLIP that a LAION head is for, e.g. openai/clip-vit-large-patch14")
    laion_spread: float = setting(
        1.4, "standard deviation of the ratings that a LAION score is taken for, in its points; 1.4 is AVA's mean"
    )
    laion_scale: list[float] = setting(
        [], "LAION scores that stand for the ends of the ratings' scale; needed where that is not 1..10"
    )
    images: list[str] = setting([], f"unrated images: {_LOCATIONS}; none distils on rated images")
    image_weights: list[float] = setting(
        [], "share of each of --images in a batch; none draws every image equally often"
    )
    shuffle_buffer: int = setting(1000, "images of a stream: location among which the next one is chosen by chance")
    crop_scale: list[float] = setting(
        [1.0, 1.0], "smallest and largest share of an unrated image's area in a training view"
    )
    unrated_per_rated: float = setting(3.0, "unrated images in a batch for each rated one")
    rated_weight: float = setting(1.0, "weight of the loss to the ratings")
    distill_weight: float = setting(1.0, "weight of the loss to the teacher's distribution")
    pseudo_labels: str = setting("", "folder for the teacher's stored outputs; empty runs the teacher in every step")
    n_views: int = setting(2, "different views of an image where the teacher's outputs are stored")
    max_steps: int = setting(200, "optimiser steps")
    eval_every: int = setting(50, "steps between evaluations; 0 evaluates only at the end")
    warmup_steps: int = setting(20, "steps of linear warm-up")

    def check(self) -> None:
        super().check()
        for name in ("unrated_per_rated", "rated_weight", "distill_weight"):
            at_least(self, name, 0)
        _check_streams(self, "pseudo_labels")
        _check_crop_scale(self, "crop_scale")
        _check_guard(self)
        at_least(self, "n_views", 1)
        check_distillation(self)
        if any(name.startswith(LAION) for name in self.teacher) != bool(self.teacher_clip):
            raise SettingsError(
                f"teacher={self.teacher} and teacher_clip={self.teacher_clip!r}: a LAION head (laion:HEAD.pth) and its "
                "CLIP go together; give both, or another --teacher alone."
            )
        if not self.laion_spread > 0:
            raise SettingsError(f"laion_spread={self.laion_spread} must be above 0.")
        if self.laion_scale and (len(self.laion_scale) != 2 or not self.laion_scale[0] < self.laion_scale[1]):
            raise SettingsError(f"laion_scale={self.laion_scale} must be two rising scores, e.g. 1 10.")
        if self.images and not (self.has_teacher or self.align_weight):
            raise SettingsError("images are given but no teacher to rate them; give --teacher, or leave --images out.")
        if self.image_weights and len(self.image_weights) != len(self.images):
            raise SettingsError(
                f"{len(self.images)} --images need as many --image-weights; given: {self.image_weights}."
            )
        weights = ("rated_weight", "distill_weight", "feature_weight", "ranking_weight", "align_weight")
        if self.has_teacher and not any(getattr(self, name) for name in weights):
            raise SettingsError(f"{', '.join(weights)} are all 0: nothing would be trained.")
        if self.rated_batch_size < 1:
            raise SettingsError(
                f"batch_size={self.batch_size} with unrated_per_rated={self.unrated_per_rated} leaves no rated image."
            )

    @property
    def rated_batch_size(self) -> int:
        """Rated images in a batch; the rest are unrated."""
        return round(self.batch_size / (1 + self.unrated_per_rated)) if self.images else self.batch_size
