"""The whole repository folder of a checkpoint, as it goes to the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PublishedFolder:
    """A folder that is ready for the Hub: written, scanned, and loaded again with the scores of its checkpoint.

    Args:
        path: the folder.
        files: all of its files, relative, sorted.
        native: whether it is the stock classifier of its encoder, which needs no remote code.
    """

    path: Path
    files: tuple[str, ...]
    native: bool


def build_folder(
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    *,
    repo_id: str,
    native: bool = False,
    evaluations: Sequence[str | os.PathLike] = (),
    license: str = "",
    data_licenses: Mapping[str, str] | None = None,
) -> PublishedFolder:
    """Write the repository folder of a trained teacher or student, and check it; `output` appears whole or not at all.

    Args:
        checkpoint: folder of a run, or one that `save_pretrained` wrote.
        output: folder to make; one that exists is replaced.
        repo_id: `organisation/name` that the card speaks of.
        native: write the stock classifier of `export_native` instead of this package's model with its code.
        evaluations: folders or `results.json` files of `cskd-hf evaluate --output`.
        license: of the weights, e.g. `apache-2.0`.
        data_licenses: licence of each training set by its name in the checkpoint's provenance.

    Returns:
        The folder: config.json, preprocessor_config.json, model.safetensors, README.md (the card), results.json; unless
        native, the flat code of `models/` with the entries of config.json that name it, handler.py and requirements.txt;
        prompt_bank.safetensors and *.onnx where the checkpoint holds them.

    Raises:
        PublishError: the card would lack data, licence or metrics; a file holds a pickle; or the folder, loaded again,
            gives other scores than the checkpoint. The message says which.
    """
    raise NotImplementedError
