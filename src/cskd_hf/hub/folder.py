"""The whole repository folder of a checkpoint, as it goes to the Hub."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.predict import load_scorer, weights_fingerprint
from ..export.native import export_native
from ..files import public, replaced_folder, write_json
from ..models.configuration_cskd import CSKDModuleConfig
from ..scoring.onnx_metadata import read_metadata
from .card import CARD, EVAL_RESULTS, write_card
from .checks import PublishError, check_no_pickles, check_same_scores, relative_files
from .endpoint import HANDLER_FILE, REQUIREMENTS_FILE, write_handler
from .facts import RESULTS, checkpoint_folder, missing_facts, read_facts
from .model_facts import EXAMPLES
from .remote_code import add_remote_code

logger = logging.getLogger(__name__)

_WEIGHTS_INDEX = "model.safetensors.index.json"
_ONNX = ("*.onnx", "*.onnx.data", "*.onnx_data")

WRITTEN = (
    "config.json", "preprocessor_config.json", "model*.safetensors", _WEIGHTS_INDEX, CARD, RESULTS,
    *_ONNX, "*_cskd.py", HANDLER_FILE, REQUIREMENTS_FILE, f"{EXAMPLES}/*", f"{EVAL_RESULTS}/*",
)  # fmt: skip
"""Patterns of all files that a published folder may have: what an earlier push left of them goes with the next."""


@dataclass(frozen=True)
class PublishedFolder:
    """A folder that is ready for the Hub: written, scanned, and loaded again with the scores of its checkpoint.

    Args:
        path: the folder.
        files: all of its files, relative, with forward slashes, sorted.
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
    examples: Sequence[str | os.PathLike] = (),
    about: str = "",
    overwrite: bool = False,
) -> PublishedFolder:
    """Write the repository folder of a trained teacher or student, and check it; `output` appears whole or not at all.

    The weights are the checkpoint's own file, byte for byte, unless native.

    Args:
        checkpoint: folder of a run, of a fine-tune (whose model/ is meant), or one that `save_pretrained` wrote.
        output: folder to make.
        repo_id: `organisation/name` that the card speaks of.
        native: write the stock classifier of `export_native` instead of this package's model with its code.
        evaluations: folders or `results.json` files of `cskd-hf evaluate --output`.
        license: of the weights, e.g. `apache-2.0`.
        data_licenses: licence of each training set by its name in the card, for sets that do not say theirs.
        examples: pictures that the card shows with the model's answers; none takes generated ones.
        about: what the makers know beside the records, e.g. known failures: Markdown, a section of the card.
        overwrite: replace `output` if it exists.

    Returns:
        The folder: config.json, preprocessor_config.json, model.safetensors, README.md (the card), results.json (the
        card's figures, unrounded), the card's examples; unless native, the flat code of `models/` with the entries of
        config.json that name it, handler.py and requirements.txt, and *.onnx where the checkpoint holds them.

    Raises:
        PublishError: the card would lack data, licence or metrics; a file holds a pickle; or the folder, loaded again,
            gives other scores than the checkpoint. The message says which.
        ExportError: native, of an encoder without a stock classifier.
        ValueError: `output` exists, or `checkpoint` is no trained scorer.
    """
    output, given = Path(output), Path(checkpoint)
    checkpoint = checkpoint_folder(given)
    _check_places(given, output, overwrite)
    config = _own_config(checkpoint)
    facts = read_facts(
        given, evaluations=evaluations, license=license, data_licenses=data_licenses, examples=examples, about=about
    )
    if reasons := missing_facts(facts):
        raise PublishError(f"the card of '{checkpoint}' would lack what its readers need: {' '.join(reasons)}")
    for warning in facts.warnings:
        logger.warning("%s", warning)
    with replaced_folder(output) as partial:
        if native:
            _move_files(export_native(checkpoint, partial / "native"), partial)
        else:
            _copy_checkpoint(checkpoint, partial, config)
            add_remote_code(partial)
            _add_handler(partial, config)
        write_card(facts, repo_id, partial, native=native)
        check_no_pickles(partial)
        check_same_scores(checkpoint, partial, native=native)
        files = tuple(relative_files(partial))
    return PublishedFolder(output, files, native)


def _check_places(checkpoint: Path, output: Path, overwrite: bool) -> None:
    source, target = checkpoint.resolve(), output.resolve()
    if source.is_relative_to(target) or target == Path.cwd():
        raise PublishError(f"'{output}' cannot be replaced: it is or holds the checkpoint; give another folder.")
    if output.exists() and not overwrite:
        raise ValueError(f"'{output}' exists; give another folder, or --overwrite to replace it.")
    if output.exists() and not all((output / name).is_file() for name in ("config.json", CARD)):
        raise PublishError(f"'{output}' is not a folder that was published, so it is not replaced; give another one.")


def _own_config(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's config.json, without the places of its maker's machine.

    Raises:
        PublishError: its encoder is a module whose code nobody else has.
    """
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    backbone = config.get("backbone_config") or {}
    backbone.pop("_name_or_path", None)
    if backbone.get("model_type") == CSKDModuleConfig.model_type:
        raise PublishError(
            f"the encoder of '{checkpoint}' is the module '{backbone.get('factory')}' of your own, whose code is in no "
            "repository, so nobody could load it. Train a student with an encoder of transformers, and push that."
        )
    return public(config)


def _copy_checkpoint(checkpoint: Path, folder: Path, config: dict[str, Any]) -> None:
    """Config, preprocessing and weights, and what was built for the same weights: ONNX graphs."""
    write_json(folder / "config.json", config)
    names = ["preprocessor_config.json", *_weights_of(checkpoint)]
    graphs = [path for pattern in _ONNX for path in sorted(checkpoint.glob(pattern))]
    _check_graphs(checkpoint, graphs)
    names += [path.name for path in graphs]
    for name in names:
        if not (checkpoint / name).is_file():
            raise PublishError(f"'{checkpoint}' has no file '{name}', which belongs to a checkpoint; save it again.")
        shutil.copyfile(checkpoint / name, folder / name)


def _check_graphs(checkpoint: Path, graphs: Sequence[Path]) -> None:
    """Raises:
    PublishError: a graph of `cskd-hf export` is of other weights than the checkpoint's, e.g. from before more training.
    """
    exported = {path: known["weights"] for path in graphs if (known := read_metadata(path))}
    if not exported:
        return
    weights = weights_fingerprint(load_scorer(str(checkpoint))[0])
    for path, of in exported.items():
        if of != weights:
            raise PublishError(
                f"'{path}' was exported from other weights than those of '{checkpoint}'; delete it, or export it again."
            )


def _weights_of(checkpoint: Path) -> list[str]:
    index = checkpoint / _WEIGHTS_INDEX
    if not index.is_file():
        return ["model.safetensors"]
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [index.name, *sorted(set(shards))]


def _add_handler(folder: Path, config: dict[str, Any]) -> None:
    _, requirements = write_handler(folder)
    if config["backbone_config"]["model_type"].startswith("timm"):
        with open(requirements, "a", encoding="utf-8") as file:
            file.write("timm>=1.0\n")


def _move_files(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        os.replace(path, folder / path.name)
    source.rmdir()
