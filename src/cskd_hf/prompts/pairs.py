"""Pairs of opposite prompts: those of the package, and those of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

BUILT_IN = ("photographs", "synthetic")
DEFAULT = "photographs"


class PromptError(ValueError):
    """Prompts, or a text encoder, that cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class PromptPair:
    """An attribute by two opposites.

    Args:
        name: of the attribute; a high value means the first.
        first, second: texts of each side.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    """Pairs, and the templates that every text of them is put into.

    Args:
        pairs: of different names.
        templates: texts with one `{}`.
    """

    pairs: tuple[PromptPair, ...]
    templates: tuple[str, ...] = ("{}",)

    def texts(self, pair: PromptPair) -> tuple[list[str], list[str]]:
        """Every text of both sides in every template."""
        first, second = (
            [template.replace("{}", text) for template in self.templates for text in side]
            for side in (pair.first, pair.second)
        )
        return first, second


def read_prompts(place: str | Path) -> Prompts:
    """Prompts of the package by name, or those of a YAML or JSON file.

    Args:
        place: "photographs", "synthetic", or a file with `attributes`, a mapping of a name to two sides, each a text or
            a list of texts; and optionally `templates`, a list of texts with `{}` in the place of a side's text.

    Raises:
        PromptError: there is no such file, or it holds something else.
    """
    if str(place) in BUILT_IN:
        file = resources.files(__package__) / f"{place}.yaml"
    elif Path(place).is_file():
        file = Path(place)
    else:
        raise PromptError(f"prompts '{place}' are neither a file nor one of {', '.join(BUILT_IN)}.")
    try:
        return prompts_from(yaml.safe_load(file.read_text(encoding="utf-8")))
    except PromptError as error:
        raise PromptError(f"{place}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # of a date that there is none, or of what is not UTF-8
        raise PromptError(f"'{place}' is no YAML or JSON in UTF-8: {' '.join(str(error).split())}") from error


def prompts_from(content: Any) -> Prompts:
    """Prompts of what a file of them holds; see [`read_prompts`].

    Raises:
        PromptError: it is something else.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("attributes"), Mapping):
        raise PromptError(
            "prompts need 'attributes', e.g. {'attributes': {'sharpness': ['sharp photo', 'blurry photo']}}."
        )
    if unknown := set(content) - {"attributes", "templates"}:
        raise PromptError(f"prompts have no {sorted(map(str, unknown))}; allowed: attributes, templates.")
    templates = content.get("templates") or ["{}"]
    templates = tuple(templates) if isinstance(templates, (list, tuple)) else (templates,)
    if wrong := [entry for entry in templates if not isinstance(entry, str) or entry.count("{}") != 1]:
        raise PromptError(f"the template {wrong[0]!r} must be a text with one {{}}, e.g. 'a photo that is {{}}'.")
    pairs = tuple(_pair(name, sides) for name, sides in content["attributes"].items())
    if not pairs:
        raise PromptError("'attributes' is empty; give at least one.")
    return Prompts(pairs, templates)


def _pair(name: Any, sides: Any) -> PromptPair:
    texts = [_texts(side) for side in sides] if isinstance(sides, (list, tuple)) and len(sides) == 2 else []
    if not isinstance(name, str) or not name.strip() or len(texts) != 2 or not all(texts):
        raise PromptError(
            f"the attribute {name!r}: {sides!r} must be a name and two sides, each a text or a list of texts (in quotes, "
            "where YAML would take one for a number or for yes or no)."
        )
    return PromptPair(name, *texts)


def _texts(side: Any) -> tuple[str, ...]:
    """Empty where it holds anything but texts."""
    texts = (side,) if isinstance(side, str) else tuple(side) if isinstance(side, (list, tuple)) else ()
    return texts if all(isinstance(text, str) and text.strip() for text in texts) else ()
