"""A trained scorer as a stock transformers image classifier, which needs neither this package nor remote code."""

from __future__ import annotations

import os
from pathlib import Path


class ExportError(ValueError):
    """A checkpoint that cannot be exported in this form; the message names the encoder, its pooling and the reason."""


def export_native(checkpoint: str | os.PathLike, output: str | os.PathLike) -> Path:
    """Write a checkpoint as the stock image classifier of its encoder, with the score bins as labels.

    Args:
        checkpoint: trained teacher or student, Hub name or folder.
        output: folder to make; one that exists is replaced once the new one is whole and gives the same distribution.

    Returns:
        The folder: config.json, preprocessor_config.json, model.safetensors.

    Raises:
        ExportError: transformers has no classifier of this encoder that pools as the checkpoint does.
        ValueError: there is no such checkpoint, or it has no trained head.
    """
    raise NotImplementedError
