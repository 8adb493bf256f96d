"""Where an export may be written."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..models.configuration_cskd import CSKDConfig

EXPORT_FILE = "export.json"
"""What an export, but for a native one, says of itself."""


def checked_output(checkpoint: str | os.PathLike, output: str | os.PathLike, overwrite: bool) -> Path:
    """The folder to make, where nothing would be lost by that.

    Args:
        checkpoint: that is exported; Hub name or folder.
        output: folder to make.
        overwrite: an earlier export there may be replaced.

    Raises:
        ValueError: something is there that is not to be replaced, or is no export.
    """
    output = Path(output)
    target = output.resolve()
    if Path(checkpoint).resolve().is_relative_to(target) or target == Path.cwd():
        raise ValueError(f"'{output}' cannot be replaced: it is or holds the checkpoint, or you are in it.")
    if not output.exists():
        return output
    if not overwrite:
        raise ValueError(f"'{output}' exists; give another output, or --overwrite to replace it.")
    if not output.is_dir() or (any(output.iterdir()) and not _is_export(output)):
        raise ValueError(f"'{output}' holds no export, so it is not replaced; give another output.")
    return output


def _is_export(folder: Path) -> bool:
    if (folder / EXPORT_FILE).is_file():
        return True
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    # A native export is the only stock model with score values; an encoder, say, has none.
    return isinstance(config, dict) and "score_values" in config and config.get("model_type") != CSKDConfig.model_type
