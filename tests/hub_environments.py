"""Python environments that a published repository is used from: with this package, and without any trace of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cskd_hf

_PACKAGE = "cskd_hf"


def environment_without_package(folder: Path, *, torchvision: bool = False) -> Path:
    """Make a virtual environment with everything that the tests' own has, but this package; returns its Python.

    It is an environment of its own, with its own prefix and site-packages, whose entries are links to those of the tests'
    environment. Neither the package, nor its metadata, nor any .pth file or finder (which is how an editable install
    works) is among them, so it makes no difference how the package is installed where the tests run; that it cannot be
    found is checked at once.

    Args:
        folder: to make it in.
        torchvision: whether torchvision is among the entries.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    for place in _places_of_packages():
        for entry in sorted(place.iterdir()):
            hidden = _PACKAGE in entry.name or entry.suffix == ".pth" or entry.name.startswith("__editable__")
            other = entry.name.partition("-")[0] in ("torchvision", "torchvision.libs") and not torchvision
            if not hidden and not other and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
    python = folder / "bin" / "python"
    found = run_script(python, f"""
import importlib.metadata, importlib.util, json
names = [found.name for found in importlib.metadata.distributions()]
print(json.dumps([importlib.util.find_spec({_PACKAGE!r}) is not None, {_PACKAGE!r} in names,
                  importlib.util.find_spec("torchvision") is not None]))
""")  # fmt: skip
    assert found == [False, False, torchvision], found
    return python


def _places_of_packages() -> list[Path]:
    return [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]


def run_script(python: Path, code: str, environment: Mapping[str, str] | None = None, *, package: bool = False) -> Any:
    """Run code in a process of its own; returns what the last line that it prints is in JSON.

    Args:
        environment: variables beside those of this process.
        package: let it find this package, where the tests have it from.
    """
    own = clean_environment(package=package) | dict(environment or {})
    done = subprocess.run(
        [python, "-c", code], env=own, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def clean_environment(*, package: bool) -> dict[str, str]:
    """This process's variables, without what leads Python to modules; with this package's place, where it is wanted."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    own |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return own | ({"PYTHONPATH": str(Path(cskd_hf.__file__).parents[1])} if package else {})
