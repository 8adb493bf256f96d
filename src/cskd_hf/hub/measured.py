"""What was measured of a checkpoint: its training's own figures, and evaluations with intervals."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .training_data import chose, trainings

_RESULTS = "results.json"


def training_of(folder: Path, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the last training of a checkpoint went, from results.json and log.jsonl of its run, or else its history.

    Returns:
        those of `steps`, `best_step`, `seconds`, `peak_memory_mib`, `bad_images`, `validation` (metrics of the weights that
        were kept, on the images that they were chosen by) and `images_per_second` (median, of the log) that are known.
    """
    last = history[-1] if history else {}
    facts = {name: last[name] for name in ("steps", "best_step", "seconds", "validation") if name in last}
    recorded = _read(folder / _RESULTS) if (folder / _RESULTS).is_file() else {}
    if "best_step" in recorded and "metrics" in recorded:
        names = {"step": "steps", "metrics": "validation"}
        own = ("step", "best_step", "seconds", "peak_memory_mib", "bad_images", "metrics")
        facts |= {names.get(name, name): recorded[name] for name in own if name in recorded}
    if (folder / "log.jsonl").is_file():
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        speeds = [line["images_per_second"] for line in map(json.loads, lines) if "images_per_second" in line]
        facts |= {"images_per_second": round(statistics.median(speeds), 1)} if speeds else {}
    return facts


def evaluations_of(
    folder: Path, given: Sequence[str | os.PathLike], weights: str, history: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every evaluation of a checkpoint: those that are given, in its folders, or of the fine-tune that made it.

    Args:
        folder: of the checkpoint.
        given: results.json files of `cskd-hf evaluate --output`, or their folders.
        weights: fingerprint of the checkpoint's weights; an evaluation of others is none of this checkpoint.
        history: of the checkpoint.

    Returns:
        for each `kind`, `data` (`name`, `location`, `images`, `splits`, `score_values`, `digest`), `metrics` and
        `attributes` (by name `value`, `low`, `high`), `confidence`, `n_resamples`, `threshold`, `speed` (or null), `seen`
        (empty, or how the images took part in the training) and `notes`; and sentences on those that were left out.

    Raises:
        ValueError: a given one is no evaluation, or one of other weights.
    """
    found, warnings, digests = [], [], set()
    for path in map(_results_file, given):
        result = _read(path)
        if not _is_evaluation(result):
            raise ValueError(
                f"'{path}' is not what `cskd-hf evaluate --output` writes; give its results.json or its folder."
            )
        if (measured := (result.get("model") or {}).get("weights")) != weights:
            raise ValueError(
                f"'{path}' measured other weights ({measured}) than those of this checkpoint ({weights}); evaluate it anew."
            )
        found.append(_evaluation(result, history))
    for path in sorted(folder.glob(f"*/{_RESULTS}")):
        result = _read(path)
        if _is_evaluation(result) and "model" in result:
            if result["model"]["weights"] == weights:
                found.append(_evaluation(result, history))
            else:
                warnings.append(f"{path.parent.name}/{_RESULTS} measured other weights and is left out.")
    found += _estimate(folder)
    once = [
        entry for entry in found if not (entry["data"]["digest"] in digests or digests.add(entry["data"]["digest"]))
    ]
    return once, warnings


def _results_file(place: str | os.PathLike) -> Path:
    path = Path(place)
    path = path / _RESULTS if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"there is no evaluation '{place}'; give a results.json of `cskd-hf evaluate --output`, or its folder."
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON ({error}).") from error
    return content if isinstance(content, dict) else {}


def _is_evaluation(result: Mapping[str, Any]) -> bool:
    return isinstance(result.get("metrics"), dict) and "digest" in (result.get("data") or {})


def _evaluation(result: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    data, settings, model = result["data"], result["settings"], result["model"]
    speed = None
    if seconds := model.get("scoring_seconds"):
        machine = {name: settings[name] for name in ("device", "batch_size", "num_workers", "processes")}
        speed = {
            "images": data["images"],
            "seconds": seconds,
            "images_per_second": data["images"] / seconds,
            **machine,
        }
    location = data.get("location", "")
    return {
        "kind": "evaluation",
        "data": {
            "name": data.get("name") or location,
            "location": location,
            "images": data["images"],
            "splits": data["splits"],
            "score_values": data["score_values"],
            "digest": data["digest"],
        },
        "metrics": _finite(result["metrics"]),
        "attributes": {
            name: {"images": entry["images"], "metrics": _finite(entry["metrics"])}
            for name, entry in result.get("attributes", {}).items()
            if "metrics" in entry
        },
        "confidence": settings["confidence"],
        "n_resamples": settings["n_resamples"],
        "threshold": settings["threshold"],
        "speed": speed,
        "seen": _seen(data, history),
        "notes": [f"{name}: {reason}" for name, reason in result.get("left_out", {}).items()],
    }


def _finite(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Those that have a value: a constant prediction has no correlation."""
    known = {}
    for name, figure in metrics.items():
        if figure["value"] is not None and math.isfinite(figure["value"]):
            known[name] = {end: figure.get(end) for end in ("value", "low", "high")}
    return known


def _seen(data: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> str:
    """How some of the images took part in a training, going by the names of set and split; empty if they did not."""
    for training, _ in trainings(history):
        settings = training.get("settings") or {}
        for rated in training.get("rated") or ():
            if rated["name"] != data.get("name") and rated["location"] != data.get("location"):
                continue
            if settings.get("train_split", "train") in data["splits"]:
                return "the model was trained on images of this split"
            validated = rated.get("validation_images") and settings.get("validation_split") in data["splits"]
            if validated and chose(training):
                return "the weights were chosen by images of this split"
    return ""


def _estimate(folder: Path) -> list[dict[str, Any]]:
    """The held-out estimate of the fine-tune whose model this is."""
    path, details = folder.parent / _RESULTS, folder.parent / "held_out" / _RESULTS
    result = _read(path) if path.is_file() else {}
    if result.get("command") != "finetune" or result["shipped"]["model"] != folder.name:
        return []
    estimate = result["estimate"]
    held = _read(details) if details.is_file() else {}
    data = {"name": result["ratings"], "location": result["ratings"], "images": estimate["held_out_images"]}
    known = held.get("data", {})
    data |= {"splits": {}, "score_values": known.get("score_values"), "digest": known.get("digest", "")}
    folds = f"{estimate['folds']}-fold " if estimate["folds"] > 1 else ""
    return [
        {
            "kind": f"{folds}{estimate['kind']}",
            "data": data,
            "metrics": _finite(estimate["candidates"][result["shipped"]["candidate"]]),
            "attributes": {},
            "confidence": held.get("settings", {}).get("confidence"),
            "n_resamples": held.get("settings", {}).get("n_resamples"),
            "threshold": held.get("settings", {}).get("threshold"),
            "speed": None,
            "seen": "",
            "notes": list(result["caveats"]),
        }
    ]
