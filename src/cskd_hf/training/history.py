"""What a checkpoint remembers of each training that made it: data with counts, frozen encoders by their hashes, settings.

The list is the `history` of its config, first training to last; a model that starts from another one goes on with its list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import torch

from ..data.collection import ImageCollection
from ..data.ratings.schema import descriptions_of
from ..evaluation.hardware import device_name
from ..evaluation.predict import weights_fingerprint
from ..files import write_json
from ..models.configuration_cskd import CSKDConfig
from .build import public_value, starts_anew
from .settings import LoopSettings

_WORDS = ("train_split", "validation_split", "attributes", "freeze", "mode")  # free text that is no location


def add_training(config: CSKDConfig, command: str, settings: LoopSettings, **facts: Any) -> dict[str, Any]:
    """Add a training to the history of a config.

    Args:
        config: of the model that is trained.
        command: of the training.
        settings: of it.
        facts: `rated` and `unrated` (lists of sets), `references`, `teachers`, `held_out_images`, `device`, `processes`.

    Returns:
        the entry, to add to: `command`, `encoder` (what it started from, by name), `new_weights` (whether these were random),
        the facts, and `settings`.
    """
    encoder = settings.model if command == "finetune" else settings.encoder
    started = {"encoder": public_value(encoder), "new_weights": starts_anew(encoder)}
    entry = {"command": command, **started, **facts, "settings": hyper_parameters(settings)}
    config.history = [*(config.history or ()), entry]
    return entry


def hyper_parameters(settings: LoopSettings) -> dict[str, Any]:
    """The settings that decide the result, but for locations, which are their maker's own."""
    kept = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        values = value if isinstance(value, list) else [value]
        named = bool(entry.metadata["choices"]) or entry.name in _WORDS
        if not entry.metadata["resumable"] and all(named or isinstance(item, (bool, int, float)) for item in values):
            kept[entry.name] = value
    return kept


def machine_facts(device: torch.device, processes: int) -> dict[str, Any]:
    """What a training runs on."""
    return {"device": device_name(device), "processes": processes}


def rated_facts(ratings: datasets.Dataset, location: str, **facts: Any) -> dict[str, Any]:
    """What is known of a set of rated images.

    Args:
        ratings: in the ratings schema.
        location: as the settings have it.
        facts: its counts.
    """
    return {**_described(descriptions_of(ratings), location), **facts}


def unrated_facts(images: ImageCollection, locations: Sequence[str]) -> list[dict[str, Any]]:
    """What is known of the unrated images that are trained on, by place; `images` is null for a stream.

    Args:
        images: without those that are left out or held out.
        locations: as the settings have them.
    """
    found = []
    for source, location, size in zip(images.sources, locations, images.sizes, strict=True):
        while not hasattr(source, "descriptions") and hasattr(source, "source"):
            source = source.source  # the whole of a subset
        found.append({**_described(getattr(source, "descriptions", []), location), "images": size})
    return found


def _described(descriptions: Sequence[Mapping[str, Any]], location: str) -> dict[str, Any]:
    """`name`, `location`, and where they are known `license` and `about`."""
    public = public_value(str(location))
    names = dict.fromkeys(str(part.get("name", "")) for part in descriptions)
    facts = {"name": " + ".join(filter(None, names)) or public, "location": public}
    for key in ("license", "about"):
        if said := " ".join(dict.fromkeys(filter(None, (part.get(key) for part in descriptions)))):
            facts[key] = said
    return facts


def encoder_facts(name: str, module: torch.nn.Module, config: Any = None) -> dict[str, Any]:
    """Name and weights of a frozen encoder or teacher, and the history of one that has any."""
    facts: dict[str, Any] = {"name": public_value(name), "weights": weights_fingerprint(module)}
    history = getattr(config, "history", None)
    return facts | ({"history": list(history)} if history else {})


def note_result(folder: Path, result: Any) -> None:
    """Write into the config of a finished checkpoint how long its last training took, and what it ended with.

    Args:
        folder: with config.json.
        result: [`TrainingResult`].
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("history"):
        config["history"][-1] |= {
            "steps": result.step,
            "best_step": result.best_step,
            "seconds": result.seconds,
            "validation": result.metrics,
        }
        write_json(path, config)


def replace_rated(
    history: Sequence[Mapping[str, Any]], location: str, facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A history whose rated sets from one location are called what they are: for trainings on a copy of a set.

    Args:
        history: is not changed; the histories of its teachers are looked through as well.
        location: of the copy, as `rated_facts` has it, without the end of a file's name.
        facts: `name`, `location`, ... of the set itself; counts stay.
    """
    replaced = []
    for entry in history:
        entry = dict(entry)
        if entry.get("rated"):
            entry["rated"] = [
                {key: value for key, value in rated.items() if key not in ("license", "about")} | facts
                if Path(rated["location"]).stem == location
                else rated
                for rated in entry["rated"]
            ]
        if entry.get("teachers"):
            entry["teachers"] = [
                teacher | {"history": replace_rated(teacher["history"], location, facts)}
                if teacher.get("history")
                else teacher
                for teacher in entry["teachers"]
            ]
        replaced.append(entry)
    return replaced
