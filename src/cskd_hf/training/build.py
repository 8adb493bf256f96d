"""Models and data of a run, from its settings."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
import transformers
from transformers import AutoConfig

from ..data.ratings import score_values_of
from ..data.ratings.faults import UnknownScaleError
from ..data.ratings.locations import HUB, open_ratings, split_location
from ..data.views import Preprocessing
from ..models.configuration_cskd import CSKDConfig, CSKDModuleConfig
from ..models.modeling_cskd import CSKDPreTrainedModel
from ..models.module_cskd import register_encoder
from .arguments import EncoderSettings, RatedSettings, parse_attributes
from .own_encoders import import_function, names_function
from .reference_loading import load_preprocessing
from .settings import SettingsError

logger = logging.getLogger(__name__)


def build_model(
    model_class: type[CSKDPreTrainedModel], settings: EncoderSettings, **config_kwargs: Any
) -> CSKDPreTrainedModel:
    """The encoder of the settings as a CSKD model, in float32: pretrained, or from a config with random weights.

    Raises:
        SettingsError: the encoder is neither a model nor a config.
    """
    kwargs = config_kwargs | ({"pooling": settings.pooling} if settings.pooling != "auto" else {})
    path = Path(settings.encoder)
    if names_function(settings.encoder) and not path.exists():
        register_encoder(settings.encoder, import_function(settings.encoder))
        size = {"image_size": settings.image_size} if settings.image_size else {}
        return model_class(CSKDConfig(backbone_config=CSKDModuleConfig(factory=settings.encoder, **size), **kwargs))
    if starts_anew(settings.encoder):
        logger.info("'%s' holds a config only: starting from random weights", path)
        return model_class(_config_without_weights(path, kwargs))
    try:
        return model_class.from_encoder(settings.encoder, **kwargs)
    except OSError as error:
        raise SettingsError(
            f"encoder '{settings.encoder}' is neither a model on the Hub, nor a folder with a model, nor a config.json: {error}"
        ) from error


def starts_anew(encoder: str) -> bool:
    """Whether an encoder of the settings is a config alone, so that its weights are random."""
    path = Path(encoder)
    return path.suffix == ".json" or (path / "config.json").is_file() and not _holds_weights(path)


def _holds_weights(folder: Path) -> bool:
    """Whether a model folder has more than text in it; what it is, `from_pretrained` finds out."""
    return any(path.suffix not in (".json", ".md", ".txt", ".yaml") for path in folder.iterdir() if path.is_file())


def _config_without_weights(path: Path, kwargs: dict[str, Any]) -> CSKDConfig:
    file = path if path.suffix == ".json" else path / "config.json"
    if not file.is_file():
        raise SettingsError(f"encoder '{path}' does not exist.")
    config = AutoConfig.for_model(**json.loads(file.read_text()))
    if isinstance(config, CSKDConfig):
        # New weights have no past.
        past = dict.fromkeys(("provenance", "history", "calibration", "prompt_bank"))
        return CSKDConfig(**{**config.to_diff_dict(), **past, **kwargs})
    return CSKDConfig(backbone_config=config, **kwargs)


def build_preprocessing(settings: EncoderSettings, model: CSKDPreTrainedModel) -> Preprocessing:
    """Preprocessing of the encoder: its own where it has one, else its image size with ImageNet's mean and std."""
    path = Path(settings.encoder)
    own = isinstance(model.config.backbone_config, CSKDModuleConfig) and not path.exists()
    folder = path.parent if path.suffix == ".json" else path
    try:
        if own:
            raise OSError("a function has no folder with an image processor")
        preprocessing = load_preprocessing(str(folder))
    except OSError:
        if not path.exists() and not own:
            raise
        side = getattr(model.config.backbone_config, "image_size", None) or 224
        preprocessing = Preprocessing(size=(side, side) if isinstance(side, int) else tuple(side))
        logger.info("'%s' has no image processor: taking %s, with ImageNet's mean and std", folder, preprocessing.size)
    if settings.image_size:
        preprocessing = replace(preprocessing, size=(settings.image_size,) * 2)
    _try_size(model, preprocessing.size)
    return preprocessing


@torch.no_grad()
def _try_size(model: CSKDPreTrainedModel, size: tuple[int, int]) -> None:
    """Find out before anything slow starts whether the encoder takes images of this size."""
    training = model.training
    try:
        model.eval().encode(torch.zeros(1, 3, *size, device=model.device))
    except (ValueError, RuntimeError) as error:
        raise SettingsError(
            f"the encoder does not take images of {size[0]} x {size[1]} pixels ({error}); give another --image-size."
        ) from error
    finally:
        model.train(training)


def load_rated(settings: RatedSettings) -> list[datasets.Dataset]:
    """The sets of the settings, each in the ratings schema.

    `score_values` are for sets that do not say their own: one set alone is held to them, several are asked first.

    Raises:
        RatingsError: a set cannot be used.
        SettingsError: every one of several sets has score values of its own.
    """
    given = settings.score_values or None
    sets, needed = [], False
    for number, location in enumerate(settings.ratings):
        options = _reading_options(settings, number)
        if len(settings.ratings) == 1:
            return [open_ratings(location, score_values=given, **options)]
        try:
            sets.append(open_ratings(location, **options))
        except UnknownScaleError:
            if not given:
                raise
            sets.append(open_ratings(location, score_values=given, **options))
            needed = True
    if given and not needed:
        own = "; ".join(f"'{name}': {list(score_values_of(ds))}" for name, ds in zip(settings.ratings, sets))
        raise SettingsError(f"score_values={given}, but every set has its own: {own}. Leave --score-values out.")
    return sets


def _reading_options(settings: RatedSettings, number: int) -> dict[str, Any]:
    """How one of the sets is read: its folder of images, and its attributes where it is no set whose columns are known."""
    folders, options = settings.image_dir, {}
    name, _ = split_location(settings.ratings[number])
    if len(folders) == len(settings.ratings):
        options["image_dir"] = folders[number] or None
    elif folders and not name:
        options["image_dir"] = folders[0]
    if settings.attributes and name in ("", HUB):
        options["attributes"] = parse_attributes(settings.attributes)
    return options


def provenance(command: str, settings: EncoderSettings, **facts: Any) -> dict[str, Any]:
    """What a checkpoint says of its making: the command, its inputs by name, and the versions."""
    named = {
        name: public_value(value)
        for name in (
            "encoder",
            "reference",
            "teacher",
            "teacher_clip",
            "ratings",
            "images",
            "labels",
            "label_share",
            "label_ids",
            "seed",
            "max_steps",
        )
        if (value := getattr(settings, name, None)) not in (None, "", [], 0)
    }
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
    }
    from .. import __version__

    return {"command": command, "cskd_hf": __version__, **named, **facts, "versions": versions}


def public_value(value: Any) -> Any:
    """A local path is reduced to its last part: checkpoints are published, the maker's folders are not."""
    if isinstance(value, list):
        return [public_value(entry) for entry in value]
    if not isinstance(value, str) or not value:
        return value
    if Path(value).exists():
        return Path(value).resolve().name
    kind, colon, rest = value.partition(":")  # laion:HEAD.pth, ava:DIR?options, stream:LOCATION
    place, mark, options = rest.partition("?")
    return f"{kind}:{public_value(place)}{mark}{options}" if colon and rest else value
