"""What a checkpoint was trained on, from the history in its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..data.ratings.checks import suggest
from ..models.configuration_cskd import CSKDConfig

STEPS = {
    "align": "phase 1: alignment",
    "teacher": "phase 2: teacher",
    "student": "phase 2: student",
    "finetune": "fine-tuning",
    "personalize": "personal taste",
}
"""What the trainings are called, by their command."""


def history_of(config: CSKDConfig) -> list[dict[str, Any]]:
    """The trainings of a checkpoint, with what the task vectors of single raters add to them; of one that was made before
    checkpoints had a history, the last training from its provenance."""
    made = config.provenance or {}
    history = list(config.history or _from_provenance(made))
    if added := (made.get("task_vectors") or {}).get("added"):
        names = dict.fromkeys(f"ratings by {entry['vector']}" for entry in added)
        rated = [{"name": name, "location": name, "images": None} for name in names]
        history.append({"command": "personalize", "rated": rated, "vectors": added})
    return history


def _from_provenance(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    rated, unrated = (
        [made.get(name)] if isinstance(made.get(name), str) else made.get(name) for name in ("ratings", "images")
    )
    if not rated and not unrated:
        return []
    counts = [made.get("rated_images"), *made.get("further_rated_images", [])]
    entry: dict[str, Any] = {"command": made.get("command", "")}
    entry["rated"] = [
        {"name": name, "location": name, "images": count}
        for name, count in zip(rated or (), [*counts, *[None] * len(rated or ())])
    ]
    used = made.get("images_used") if len(unrated or ()) == 1 else None
    entry["unrated"] = [{"name": name, "location": name, "images": used} for name in unrated or ()]
    return [entry]


def trainings(history: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Every training of a history with what it is called, those of its teachers before the one that had them; none twice."""
    found: list[tuple[Mapping[str, Any], str]] = []
    for entry, of_teacher in _all_trainings(history, False):
        if not any(entry == other for other, _ in found):
            name = STEPS.get(entry["command"], entry["command"])
            found.append((entry, f"{name} of the teacher" if of_teacher and entry["command"] != "teacher" else name))
    return found


def _all_trainings(history: Sequence[Mapping[str, Any]], of_teacher: bool) -> Iterator[tuple[Mapping[str, Any], bool]]:
    for entry in history:
        for teacher in entry.get("teachers") or ():
            yield from _all_trainings(teacher.get("history") or (), True)
        yield entry, of_teacher


def data_of(history: Sequence[Mapping[str, Any]], licenses: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every set of images that a training used: `name`, `location`, `use`, `images` (null where they are streamed or not
    counted), `license` (empty where nobody said) and `about`.

    Args:
        history: of the checkpoint.
        licenses: by name or location, for sets that do not say theirs.

    Raises:
        ValueError: a licence is of no set of these.
    """
    rows: list[dict[str, Any]] = []
    for training, step in trainings(history):
        for rated in training.get("rated") or ():
            rows.append(_row(rated, f"{step}, rated", rated.get("images")))
            if rated.get("validation_images"):
                why = "to choose the weights by" if chose(training) else "measured on while training"
                rows.append(_row(rated, f"{step}, rated, {why}", rated["validation_images"]))
        rows += [_row(unrated, f"{step}, unrated", unrated.get("images")) for unrated in training.get("unrated") or ()]
    rows = [row for number, row in enumerate(rows) if row not in rows[:number]]
    known = dict.fromkeys(name for row in rows for name in (row["name"], row["location"]))
    for name in licenses:
        if name not in known:
            raise ValueError(
                f"--data-license '{name}': no such set was trained on{suggest(name, list(known))}; allowed: "
                f"{', '.join(map(repr, known)) or 'none'}."
            )
    for row in rows:
        row["license"] = licenses.get(row["name"]) or licenses.get(row["location"]) or row["license"]
    return rows


def chose(training: Mapping[str, Any]) -> bool:
    """Whether the validation images of a training had a say in its result."""
    settings = training.get("settings") or {}
    return settings.get("keep") != "last" or bool(settings.get("patience"))


def _row(entry: Mapping[str, Any], use: str, images: int | None) -> dict[str, Any]:
    said = {name: entry.get(name, "") for name in ("name", "location")}
    return said | {"use": use, "images": images, "license": entry.get("license", ""), "about": entry.get("about", "")}
