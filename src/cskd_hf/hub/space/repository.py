"""The repository of a Space that runs the app."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

from ... import __version__
from ...files import public_name, replaced_folder
from .examples import write_examples

GRADIO_VERSION = "6.31.0"
"""That the app was tested with; the Space installs it."""
PYTHON_VERSION = "3.11"
_MODEL_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
_APP = '''"""The app of {name}, written by `cskd-hf app --dry-run`."""

from pathlib import Path

from cskd_hf.hub.space.app import run_app

FOLDER = Path(__file__).parent

if __name__ == "__main__":
    run_app({model}, examples=FOLDER / "examples")
'''
_CARD = """
# Image aesthetics

Scores photographs with {model} ([cskd_hf](https://arxiv.org/abs/2307.15640) {version}): drop some, or a zip of them, and
see the ranking, the predicted ratings of each, and what its score depends on.

`app.py` starts the app; {origin}
"""


def write_space(model: str, output: str | Path, *, package: str | None = None) -> Path:
    """Write the repository folder of a Space; `output` appears whole or not at all, and replaces an earlier one.

    Args:
        model: checkpoint: the Hub name of a public model; or a folder, whose model is copied into the Space.
        output: folder to make.
        package: a requirement of pip that installs cskd_hf, e.g. `"cskd_hf @ git+https://..."`. By default the code of
            this installation is copied into the Space, which then needs no published package.

    Returns:
        the folder: README.md with the Space's settings, app.py, requirements.txt, examples/, and, where they are copied,
        cskd_hf/ and model/.

    Raises:
        FileNotFoundError: a folder without one of the files of a model.
        FileExistsError: `output` holds something else than a Space.
    """
    output, folder = Path(output), Path(model)
    if output.exists() and not (output / "app.py").is_file() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"'{output}' exists and is no Space of an earlier run; give another folder.")
    local = folder.is_dir()
    for name in _MODEL_FILES if local else ():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"'{model}' has no {name}, so it is no checkpoint of one file of weights.")
    name = public_name(model)
    with replaced_folder(output) as space:
        if local:
            (space / "model").mkdir()
            for file in _MODEL_FILES:
                shutil.copyfile(folder / file, space / "model" / file)
        expression = 'FOLDER / "model"' if local else repr(model)
        (space / "app.py").write_text(_APP.format(name=name, model=expression), encoding="utf-8")
        (space / "requirements.txt").write_text("\n".join(_requirements(package)) + "\n", encoding="utf-8")
        if package is None:
            source = Path(__file__).parents[2]
            shutil.copytree(source, space / source.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        write_examples(space / "examples")
        _card(model, name, local, package).save(space / "README.md")
    return output


def _requirements(package: str | None) -> list[str]:
    """What pip installs beside gradio, of which the Space's settings name the version."""
    if package is not None:
        return [package]
    stated = importlib.metadata.requires("cskd_hf") or []
    return [re.sub(r"\s", "", line) for line in stated if "extra ==" not in line]


def _card(model: str, name: str, local: bool, package: str | None) -> SpaceCard:
    data = SpaceCardData(
        title="Image aesthetics",
        sdk="gradio",
        sdk_version=GRADIO_VERSION,
        python_version=PYTHON_VERSION,
        app_file="app.py",
        models=None if local else [model],
        license="apache-2.0",
        short_description="Score and rank photographs",
        tags=["image-aesthetics"],
    )
    origin = "`cskd_hf/` is the package." if package is None else "requirements.txt names the package."
    shown = f"the model `{name}` in `model/`" if local else f"[{model}](https://huggingface.co/{model})"
    text = _CARD.format(model=shown, version=__version__, origin=origin)
    return SpaceCard(f"---\n{data.to_yaml()}\n---\n{text}")
