"""The code that a checkpoint carries for those who have not installed this package: the flat files of `models/`."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

from .._registration import PIPELINE_TASK
from ..files import write_json

AUTO_MAP = {
    "AutoConfig": "configuration_cskd.CSKDConfig",
    "AutoModel": "modeling_cskd.CSKDForImageAesthetics",
    "AutoModelForImageClassification": "modeling_cskd.CSKDForImageAesthetics",
}
# Written by hand: `Pipeline.save_pretrained` would add the maker's own default model, and `pt` may only hold names that
# transformers itself exports.
CUSTOM_PIPELINES = {
    PIPELINE_TASK: {
        "impl": "pipeline_cskd.ImageAestheticsPipeline",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    }
}


def code_files() -> list[str]:
    """Names of the files of code that are shipped, sorted."""
    models = resources.files(f"{__package__.rpartition('.')[0]}.models")
    return sorted(file.name for file in models.iterdir() if file.name.endswith(".py") and file.name != "__init__.py")


def add_remote_code(folder: Path) -> None:
    """Copy the code into a folder with a config.json, and name it there.

    transformers reads `auto_map` and `custom_pipelines` only with `trust_remote_code=True`, and not at all where this
    package is imported: its registered classes win, and `CSKDConfig` drops both entries.
    """
    models = resources.files(f"{__package__.rpartition('.')[0]}.models")
    for name in code_files():
        with resources.as_file(models / name) as source:
            shutil.copyfile(source, folder / name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES})
