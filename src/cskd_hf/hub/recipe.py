"""How a checkpoint was trained, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .training_data import chose, trainings


def recipe(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Name and description of each training, first to last."""
    return [(name, _sentences(entry)) for entry, name in trainings(history)]


def hyper_parameters(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and settings of each training that noted them, without those that are empty."""
    return [
        (name, {key: value for key, value in entry["settings"].items() if value not in ([], "")})
        for entry, name in trainings(history)
        if entry.get("settings")
    ]


def frozen_encoders(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Role, name and hash of the weights of every reference encoder and teacher of these trainings."""
    found = {}
    for entry, _ in trainings(history):
        for role, key in (("reference encoder", "references"), ("teacher", "teachers")):
            for encoder in entry.get(key) or ():
                found[role, encoder["name"], encoder.get("weights", "")] = None
    return list(found)


def _sentences(entry: Mapping[str, Any]) -> str:
    kinds = {
        "align": _alignment,
        "teacher": _teacher,
        "student": _student,
        "finetune": _finetune,
        "personalize": _personal,
    }
    return " ".join(filter(None, [kinds.get(entry["command"], _unknown)(entry), _start(entry), _length(entry)]))


def _start(entry: Mapping[str, Any]) -> str:
    if not entry.get("encoder"):
        return ""
    return f"It started from `{entry['encoder']}`" + (" with random weights." if entry.get("new_weights") else ".")


def _alignment(entry: Mapping[str, Any]) -> str:
    settings = entry.get("settings") or {}
    losses = f"; losses: {' + '.join(settings['loss'])}" if settings.get("loss") else ""
    held = f", with {entry['held_out_images']:,} more held out" if entry.get("held_out_images") else ""
    return (
        f"The encoder learned to give the features of the frozen {_named(entry.get('references'))} on {_unrated(entry)} "
        f"without ratings{held}{losses}."
    )


def _teacher(entry: Mapping[str, Any]) -> str:
    return f"Encoder and head learned the ratings of {_rated(entry)}.{_chosen(entry)}"


def _student(entry: Mapping[str, Any]) -> str:
    teachers = entry.get("teachers")
    settings = entry.get("settings") or {}
    parts = [f"Encoder and head learned the ratings of {_rated(entry)}"]
    if teachers or settings.get("ema_teacher"):
        whose = f"the teacher {_named(teachers)}" if teachers else "its own moving average"
        among = f" and of {_unrated(entry)} without ratings" if entry.get("unrated") else ""
        parts.append(f"and the soft ratings that {whose} gave of these{among}")
    return " ".join(parts) + "." + _chosen(entry)


def _finetune(entry: Mapping[str, Any]) -> str:
    how = {"probe": "A head on frozen features", "partial": "Head and last layers", "full": "All layers"}
    what = how.get(entry.get("mode", ""), "The model")
    more = f", and the soft ratings of {_unrated(entry)} without ratings" if entry.get("unrated") else ""
    return f"{what} learned the ratings of {_rated(entry)}{more}."


def _personal(entry: Mapping[str, Any]) -> str:
    added = ", ".join(f"`{vector['vector']}` (times {vector['scale']:g})" for vector in entry["vectors"])
    return f"Task vectors of single raters were added to its weights: {added}."


def _unknown(entry: Mapping[str, Any]) -> str:
    return ""


def _length(entry: Mapping[str, Any]) -> str:
    settings = entry.get("settings") or {}
    parts = []
    if "steps" in entry:
        forward = settings.get("batch_size")
        processes, accumulated = entry.get("processes", 1), settings.get("gradient_accumulation_steps", 1)
        size = f" of {forward * processes * accumulated} images" if forward else ""
        parts.append(f"{entry['steps']:,} steps{size}")
    if "seconds" in entry:
        parts.append(
            f"{entry['seconds']:,.0f} s on {entry['device']}" if entry.get("device") else f"{entry['seconds']:,.0f} s"
        )
    return f"It took {', '.join(parts)}." if parts else ""


def _chosen(entry: Mapping[str, Any]) -> str:
    chosen = sum(rated.get("validation_images") or 0 for rated in entry.get("rated") or ())
    if not chosen or not chose(entry):
        return ""
    step = f" (those of step {entry['best_step']:,})" if entry.get("best_step", -1) >= 0 else ""
    return f" The weights that were best on {chosen:,} further rated images were kept{step}."


def _rated(entry: Mapping[str, Any]) -> str:
    return _counted(entry.get("rated") or (), "rated images")


def _unrated(entry: Mapping[str, Any]) -> str:
    return _counted(entry.get("unrated") or (), "images")


def _counted(sets: Sequence[Mapping[str, Any]], noun: str) -> str:
    if not sets:
        return f"unknown {noun}"
    counts = [entry.get("images") for entry in sets]
    names = ", ".join(entry["name"] for entry in sets)
    number = f"{sum(counts):,}" if None not in counts else "streamed"
    return f"{number} {noun} ({names})"


def _named(encoders: Sequence[Mapping[str, Any]] | None) -> str:
    return " and ".join(f"`{encoder['name']}`" for encoder in encoders or ()) or "reference encoder"
