"""The `cskd-hf app` command."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path

from ...scoring.options import add_model_option


class SpaceError(ValueError):
    """The app cannot start; the message says what to do."""


def add_options(app: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    add_model_option(app)
    app.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for other machines too (default: %(default)s)",
    )
    app.add_argument("--port", type=int, help="by default the first free one from 7860 on")
    app.add_argument("--open", action="store_true", help="open the page in the browser")
    app.add_argument("--dry-run", metavar="DIR", help="start nothing; write the repository of a Space to this folder")
    app.add_argument(
        "--package",
        metavar="REQUIREMENT",
        help="with --dry-run: what pip installs cskd_hf from in the Space; by default its code is copied into it",
    )


def app_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf app`: serve the app until it is stopped, or write the repository of a Space.

    Raises:
        SpaceError: gradio is not installed, or `--package` without `--dry-run`.
        ScoringError, FileNotFoundError: the checkpoint cannot score images, or is not there.
    """
    if namespace.dry_run is not None:
        from .repository import write_space

        folder = write_space(namespace.model, namespace.dry_run, package=namespace.package)
        print(f"{folder}: the repository of a Space; push it with `hf upload ORG/NAME {folder} . --repo-type space`")
        return 0
    if namespace.package is not None:
        raise SpaceError("--package is what a Space installs; give --dry-run DIR too.")
    if importlib.util.find_spec("gradio") is None:
        raise SpaceError("the app needs gradio, which is an extra: pip install 'cskd_hf[app]'")
    from .app import run_app
    from .examples import write_examples

    with tempfile.TemporaryDirectory() as folder:
        examples = Path(folder) / "examples"
        write_examples(examples)
        run_app(namespace.model, host=namespace.host, port=namespace.port, examples=examples, inbrowser=namespace.open)
    return 0
