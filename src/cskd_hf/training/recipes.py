"""Settings from a YAML recipe and the command line. Imports no torch."""

from __future__ import annotations

import argparse
import difflib
import typing
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .settings import LoopSettings, SettingsError

Settings = TypeVar("Settings", bound=LoopSettings)


def add_settings(parser: argparse.ArgumentParser, settings_class: type[LoopSettings]) -> None:
    """Give a parser one option for each setting, and `--recipe`."""
    parser.add_argument(
        "--recipe", metavar="FILE", help="YAML file of settings; options on the command line win over it"
    )
    types = typing.get_type_hints(settings_class)
    for entry in fields(settings_class):
        default = _default(entry)
        option = "--" + entry.name.replace("_", "-")
        note = "" if default in ("", []) else f" (default: {_shown(default)})"
        options: dict[str, Any] = {
            "dest": entry.name,
            "default": argparse.SUPPRESS,
            "help": (entry.metadata["help"] + note).replace("%", "%%"),
        }
        if types[entry.name] is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, **options)
            continue
        item = (typing.get_args(types[entry.name]) or (types[entry.name],))[0]
        many = {"nargs": "*"} if typing.get_origin(types[entry.name]) is list else {}
        choices = entry.metadata["choices"]
        metavar = {} if choices else {"metavar": item.__name__.upper()}
        parser.add_argument(option, type=item, choices=choices, **many, **metavar, **options)


def settings_from(namespace: argparse.Namespace, settings_class: type[Settings]) -> Settings:
    """Settings of a parsed command line over those of its recipe, checked.

    Raises:
        SettingsError: an unknown key, a value of the wrong type, or one out of range.
    """
    given = vars(namespace)
    values = read_recipe(given["recipe"], settings_class) if given.get("recipe") else {}
    names = {entry.name for entry in fields(settings_class)}
    values |= {name: value for name, value in given.items() if name in names}
    settings = settings_class(**values)
    settings.check()
    return settings


def read_recipe(path: str | Path, settings_class: type[LoopSettings]) -> dict[str, Any]:
    """The settings in a YAML file, each of the right type.

    Raises:
        SettingsError: no such file, not a mapping, an unknown key (the nearest known one is named), a wrong type.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"recipe '{path}' cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"recipe '{path}' must be a mapping of settings to values, e.g. 'max_steps: 1000'.")
    types = typing.get_type_hints(settings_class)
    known = {entry.name: types[entry.name] for entry in fields(settings_class)}
    values = {}
    for name, value in content.items():
        if name not in known:
            raise SettingsError(f"recipe '{path}' has an unknown setting '{name}'{nearest(str(name), list(known))}.")
        values[name] = _typed(name, value, known[name], path)
    return values


def nearest(name: str, known: list[str]) -> str:
    """'; did you mean ...?' for a mistyped name, or the names there are."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"


def write_recipe(settings: LoopSettings, path: str | Path) -> None:
    """Write all settings of a run, to be used as its recipe again."""
    Path(path).write_text(yaml.safe_dump(asdict(settings), sort_keys=False))


def _default(entry: Field) -> Any:
    return entry.default if entry.default is not MISSING else entry.default_factory()


def _shown(default: Any) -> str:
    return " ".join(str(value) for value in default) if isinstance(default, list) else str(default)


def _typed(name: str, value: Any, expected: Any, path: str | Path) -> Any:
    if typing.get_origin(expected) is list:
        item = typing.get_args(expected)[0]
        return [_typed(name, entry, item, path) for entry in (value if isinstance(value, list) else [value])]
    # YAML reads 1e-3 as text and 3 as a whole number; both are fine for a float.
    if expected is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif type(value) is expected:
        return value
    elif name == "freeze" and type(value) in (int, float):  # a number of layers, or a share of them
        return str(value)
    elif expected is str and value is None:
        return ""
    raise SettingsError(f"recipe '{path}': {name}={value!r} must be of type {expected.__name__}.")
