"""Encoders of one's own, named on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..models.module_cskd import register_encoder
from .settings import SettingsError


def names_function(location: str) -> bool:
    """Whether a setting is of the form `package.module:function`, and no path or Hub name."""
    module_name, _, function = location.partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module_name.split("."))


def import_function(location: str) -> Callable[..., Any]:
    """The function that `package.module:function` names; modules in the current folder are found too.

    Raises:
        SettingsError: it is not there.
    """
    module_name, _, function = location.partition(":")
    try:
        return getattr(_import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"'{location}' cannot be loaded: {error}. It must be module:function.") from error


def import_encoders(locations: Sequence[str]) -> None:
    """Import modules that register encoders; a `module:function` is registered under this name.

    Raises:
        SettingsError: one is not there.
    """
    for location in locations:
        if names_function(location):
            register_encoder(location, import_function(location))
            continue
        try:
            _import_module(location)
        except ImportError as error:
            raise SettingsError(f"--import {location} cannot be loaded: {error}.") from error


def _import_module(name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # an installed command does not look there
    return importlib.import_module(name)
