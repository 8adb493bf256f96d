"""The model card of a checkpoint, from its facts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..evaluation.comparison import LOWER_IS_BETTER
from ..files import write_json
from .facts import RESULTS, CheckpointFacts, results
from .licenses import license_metadata
from .recipe import frozen_encoders, hyper_parameters, recipe
from .rendering import render
from .training_data import chose

CARD, EVAL_RESULTS = "README.md", ".eval_results"

_METRICS = {
    "srcc": ("SRCC", "spearmanr", "Spearman rank correlation"),
    "plcc": ("PLCC", "pearsonr", "Pearson correlation"),
    "krcc": ("KRCC", "kendalltau", "Kendall rank correlation"),
    "accuracy": ("accuracy", "accuracy", "share of images on the right side of"),
    "emd1": ("EMD (r = 1)", "emd1", "earth mover's distance of the histograms"),
    "emd2": ("EMD (r = 2)", "emd2", "earth mover's distance of the histograms, squared"),
    "mae": ("MAE", "mae", "mean absolute error, in points of the scale"),
    "rmse": ("RMSE", "rmse", "root of the mean squared error, in points of the scale"),
}
"""What a metric is called in the table, its name among the Hub's metrics (of those that are there), and what it is."""

_ON_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TASK = {"task_type": "image-classification", "task_name": "Image aesthetics assessment"}


def model_card(facts: CheckpointFacts, repo_id: str, *, native: bool = False) -> ModelCard:
    """The card: metadata with model-index and widget, and the text.

    Args:
        facts: of `read_facts`.
        repo_id: `organisation/name` that the text loads the model by; or a folder of this machine.
        native: the repository is of a stock transformers classifier, without this package's code.
    """
    text = render(
        "model_card.md",
        facts=facts,
        model=facts.model,
        values=facts.model["score_values"],
        repo_id=repo_id,
        title=repo_id.rstrip("/").rpartition("/")[2],
        on_hub=_ON_HUB.fullmatch(repo_id) is not None,
        native=native,
        kind=facts.history[-1]["command"] if facts.history else "",
        aligned=[entry["name"] for entry in facts.model["reference_encoders"]],
        recipe=recipe(facts.history),
        hyper_parameters=[(name, _yaml(settings)) for name, settings in hyper_parameters(facts.history)],
        evaluations=[_table(entry) for entry in facts.evaluations],
        chose=bool(facts.history) and chose(facts.history[-1]),
        validation=_validation(facts.training.get("validation") or {}),
        frozen=frozen_encoders(facts.history),
        notes=list(dict.fromkeys(entry["about"] for entry in facts.data if entry["about"])),
        count=lambda number: "not counted" if number is None else f"{number:,}",
    )
    return ModelCard(f"---\n{card_data(facts, repo_id, native=native).to_yaml()}\n---\n\n{text}")


def card_data(facts: CheckpointFacts, repo_id: str, *, native: bool = False) -> ModelCardData:
    """The metadata of the card. Arguments as of `model_card`."""
    found = evaluation_results(facts)
    name = repo_id.rstrip("/").rpartition("/")[2]
    base = base_model(facts)
    return ModelCardData(
        **license_metadata(facts.license),
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["image-aesthetics", "image-quality-assessment", "cskd"] + ([] if native else ["custom_code"]),
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=hub_datasets(facts) or None,
        metrics=list(dict.fromkeys(entry.metric_type for entry in found)) or None,
        widget=[_widget(example) for example in facts.examples] or None,
        eval_results=found or None,
        model_name=name if found else None,
    )


def base_model(facts: CheckpointFacts) -> str | None:
    """Hub name of the encoder that the first training started from; none for new weights or a local folder."""
    first = facts.history[0] if facts.history else {}
    encoder = first.get("encoder") or ""
    return encoder if not first.get("new_weights") and _ON_HUB.fullmatch(encoder) else None


def hub_datasets(facts: CheckpointFacts) -> list[str]:
    """Hub names of the data sets that it was trained on."""
    names = [_hub_dataset(entry["location"]) for entry in facts.data]
    return list(dict.fromkeys(filter(None, names)))


def _hub_dataset(location: str) -> str:
    """`organisation/name` of "hub:organisation/name@revision:config", "stream:organisation/name" and the like, or ""."""
    place = re.sub(r"^(stream|hub):", "", location)
    place = re.split(r"[:@?]", place)[0]
    return place if _ON_HUB.fullmatch(place) else ""


def evaluation_results(facts: CheckpointFacts) -> list[EvalResult]:
    """Every metric of every evaluation, for the model-index; the ends of its interval are among its arguments."""
    found: list[EvalResult] = []
    for entry in facts.evaluations:
        data = entry["data"]
        split = ", ".join(data["splits"]) or None
        dataset = _hub_dataset(data["location"]) or data["location"]
        taken = any((other.dataset_type, other.dataset_split) == (dataset, split) for other in found)
        for name, figure in entry["metrics"].items():
            interval = {"low": figure["low"], "high": figure["high"], "confidence": entry["confidence"]}
            found.append(
                EvalResult(
                    **_TASK,
                    dataset_type=dataset,
                    dataset_name=data["name"],
                    dataset_split=split,
                    # Two evaluations of one split are of different images.
                    dataset_config=data["digest"] if taken else None,
                    dataset_args={"images": data["images"], "digest": data["digest"], "protocol": entry["kind"]},
                    metric_type=_METRICS[name][1],
                    metric_name=_METRICS[name][0],
                    metric_value=figure["value"],
                    metric_args=interval if figure["low"] is not None else None,
                )
            )
    return found


def hub_evaluations(facts: CheckpointFacts) -> dict[str, list[dict[str, Any]]]:
    """The entries of .eval_results/ by file name: those evaluations whose data set is on the Hub.

    The Hub shows them where the data set is registered as a benchmark with tasks of these names.
    """
    files = {}
    for entry in facts.evaluations:
        data = entry["data"]
        if not (dataset := _hub_dataset(data["location"])):
            continue
        split = ", ".join(data["splits"])
        entries = [
            EvalResultEntry(
                dataset_id=dataset,
                task_id=name,
                value=figure["value"],
                notes=f"{_METRICS[name][0]}, split {split}, {data['images']} images" + _interval_note(figure),
            )
            for name, figure in entry["metrics"].items()
        ]
        name = re.sub(r"[^\w.-]+", "-", f"{dataset}-{split}").lower()
        files[f"{name}.yaml"] = eval_result_entries_to_yaml(entries)
    return files


def write_card(facts: CheckpointFacts, repo_id: str, folder: str | os.PathLike, *, native: bool = False) -> None:
    """Write README.md, results.json with every figure of it, the pictures that its widget shows, and .eval_results/ where an
    evaluation is of a Hub data set.

    Args:
        facts, repo_id, native: see `model_card`.
        folder: of the repository.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(str(model_card(facts, repo_id, native=native)), encoding="utf-8")
    write_json(folder / RESULTS, results(facts))
    for name, data in facts.example_images.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    for name, entries in hub_evaluations(facts).items():
        (folder / EVAL_RESULTS).mkdir(exist_ok=True)
        (folder / EVAL_RESULTS / name).write_text(_yaml(entries), encoding="utf-8")


def _widget(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example with its output, which the Hub shows even where nobody runs the model."""
    shares = sorted(example["distribution"].items(), key=lambda entry: -entry[1])
    output = [{"label": label, "score": share} for label, share in shares]
    return {"src": example["file"], "example_title": f"{example['title']} ({example['score']:.2f})", "output": output}


def _table(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as the template shows it: rounded to three places."""
    data = entry["data"]
    splits = ", ".join(f"{name} ({count:,})" for name, count in data["splits"].items())
    rows = [
        (_METRICS[name][0], _meaning(name, entry), "lower" if name in LOWER_IS_BETTER else "higher", *_figures(figure))
        for name, figure in entry["metrics"].items()
    ]
    attributes = [
        (name, found["images"], *(_figure_with_interval(found["metrics"].get(metric)) for metric in ("srcc", "mae")))
        for name, found in entry["attributes"].items()
    ]
    return {**entry, "splits": splits, "rows": rows, "attribute_rows": attributes}


def _meaning(metric: str, entry: Mapping[str, Any]) -> str:
    cut = f" {entry['threshold']:g}" if metric == "accuracy" and entry["threshold"] is not None else ""
    return _METRICS[metric][2] + cut


def _figures(figure: Mapping[str, float | None]) -> tuple[str, str]:
    """A metric and its interval."""
    if figure["low"] is None:
        return f"{figure['value']:.3f}", "-"
    return f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}"


def _figure_with_interval(figure: Mapping[str, float | None] | None) -> str:
    if figure is None:
        return "-"
    value, interval = _figures(figure)
    return value if interval == "-" else f"{value} ({interval})"


def _interval_note(figure: Mapping[str, float | None]) -> str:
    return "" if figure["low"] is None else f", 95 % interval {figure['low']:.4f} to {figure['high']:.4f}"


def _validation(metrics: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """Of the images that the weights were chosen by."""
    return [
        (_METRICS[name][0] if name in _METRICS else name, f"{value:.3f}")
        for name, value in metrics.items()
        if value is not None
    ]


def _yaml(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
