"""The handler of Inference Endpoints that a published repository carries."""

from __future__ import annotations

import shutil
from pathlib import Path

HANDLER_FILE = "handler.py"
REQUIREMENTS_FILE = "requirements.txt"
HANDLER_REQUIREMENTS = (
    "transformers>=5.18,<6",
    "huggingface_hub>=1.3,<3",
    "safetensors>=0.6",
    "numpy>=1.26",
    "pillow>=10.3",
)
"""What the flat model code needs beside torch, which is the container's own, built for its accelerator."""


def write_handler(folder: Path, *, package: str | None = None) -> list[Path]:
    """Write handler.py and requirements.txt into the folder of a repository.

    Args:
        folder: of a checkpoint with its remote code, which the handler runs where cskd_hf is not installed.
        package: a requirement of pip that installs cskd_hf, if the endpoint shall run the package's code instead, e.g.
            `"cskd_hf @ git+https://..."`.

    Returns:
        the two files.
    """
    handler, requirements = folder / HANDLER_FILE, folder / REQUIREMENTS_FILE
    shutil.copyfile(Path(__file__).with_name("templates") / HANDLER_FILE, handler)
    lines = ([package] if package else []) + list(HANDLER_REQUIREMENTS)
    requirements.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [handler, requirements]
