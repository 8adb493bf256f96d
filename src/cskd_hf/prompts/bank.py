"""The prompt bank of a checkpoint: text embeddings of pairs of prompts, written into its config and its weights."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor

from ..data.mixture import open_images, sample_images
from ..data.views import Preprocessing
from ..evaluation.predict import weights_fingerprint
from ..files import replaced_file, write_json
from ..models.configuration_cskd import CSKDConfig
from ..models.modeling_cskd import CSKDForFeatureAlignment, CSKDPreTrainedModel
from ..models.prompts_cskd import PROMPT_EMBEDS, checked_prompt_bank
from ..training.reference import ReferenceEncoder
from ..training.reference_loading import load_reference_encoder
from .pairs import DEFAULT, PromptError, Prompts, read_prompts
from .projector import MIN_IMAGES, fit_projector
from .text_encoder import TextEncoder, embed_prompts

logger = logging.getLogger(__name__)

_WEIGHTS, _INDEX, _SHARD = "model.safetensors", "model.safetensors.index.json", "model-prompts.safetensors"


def build_prompt_bank(
    checkpoint: str | os.PathLike,
    text_encoder: str,
    prompts: str | os.PathLike | Prompts = DEFAULT,
    *,
    reference: str = "",
    logit_scale: float | None = None,
    fit_images: Sequence[str] = (),
    max_images: int = 2000,
) -> dict[str, Any]:
    """Give a checkpoint attributes by prompts: the text tower is needed here, and never again.

    The embeddings become the buffer `prompt_embeds` of its weights, the texts the field `prompt_bank` of its config; a
    bank that is there is replaced. Scores do not change. `fit_images` also fits the projector anew, for an encoder that
    phase 2 has moved away from the reference's space: that changes `aligned_embeds` and the hash of the weights.

    Args:
        checkpoint: folder of a student or teacher, or of phase 1.
        text_encoder: the CLIP, SigLIP or the like that phase 1 aligned the encoder with; Hub name or folder.
        prompts: see [`read_prompts`].
        reference: name among the checkpoint's `reference_encoders`, where it has several of this text encoder's width.
        logit_scale: of cosines; the text encoder's own where it has one.
        fit_images: places of images without ratings, see `open_source`.
        max_images: of these, evenly spaced.

    Returns:
        the bank as the config has it, see `checked_prompt_bank`.

    Raises:
        PromptError: the checkpoint is no folder of a CSKD model, was aligned with another encoder, or the prompts or the
            text encoder cannot be used.
    """
    folder = Path(checkpoint)
    config = _config_of(folder)
    if fit_images and max_images < MIN_IMAGES:
        raise PromptError(f"--max-images {max_images} must be at least {MIN_IMAGES}.")
    if not isinstance(prompts, Prompts):
        prompts = read_prompts(prompts)
    encoder = TextEncoder.from_pretrained(text_encoder)
    embeds = embed_prompts(encoder, prompts)
    entry = matching_reference(config, encoder, embeds.shape[-1], text_encoder, reference)
    bank: dict[str, Any] = {
        "reference": entry["name"],
        "text_encoder": encoder.name,
        "text_weights": encoder.fingerprint(),
        "logit_scale": encoder.logit_scale if logit_scale is None else logit_scale,
        "templates": list(prompts.templates),
        "attributes": [
            {"name": pair.name, "first": list(pair.first), "second": list(pair.second)} for pair in prompts.pairs
        ],
    }
    changed = {PROMPT_EMBEDS: embeds}
    if fit_images:
        number = [known["name"] for known in config.reference_encoders].index(entry["name"])
        fitted, bank["projector"] = _fitted(folder, text_encoder, number, fit_images, max_images)
        changed |= fitted
    elif before := (config.prompt_bank or {}).get("projector"):
        if config.prompt_bank["reference"] == entry["name"]:
            bank["projector"] = before  # fitted when the last bank was built, and still so
    bank = checked_prompt_bank(bank, config.reference_encoders)
    _write(folder, bank, changed)
    return bank


def remove_prompt_bank(checkpoint: str | os.PathLike) -> None:
    """Take a bank out of a checkpoint again; a projector that was fitted for it stays.

    Raises:
        PromptError: the checkpoint is no folder of a CSKD model.
    """
    folder = Path(checkpoint)
    _config_of(folder)
    _write(folder, None, {PROMPT_EMBEDS: None})


def matching_reference(
    config: CSKDConfig, encoder: TextEncoder, dim: int, location: str, wanted: str = ""
) -> dict[str, Any]:
    """The reference encoder of a config in whose space a text encoder embeds.

    That is one of the same width whose weights, where the config's history tells their hash, are those of the text
    encoder's own image tower; where it does not, one of its name, or the one that is asked for.

    Args:
        config: of the checkpoint.
        encoder: the text encoder.
        dim: of its embeddings.
        location: that it was loaded from.
        wanted: name of the reference encoder; empty for whichever fits.

    Raises:
        PromptError: none fits, or several do.
    """
    known = list(config.reference_encoders)
    said = ", ".join(f"'{entry['name']}' with {entry['dim']} numbers" for entry in known) or "nothing"
    if not known:
        raise PromptError("the checkpoint was not aligned with any encoder; prompts need `cskd-hf align` first.")
    if wanted and wanted not in [entry["name"] for entry in known]:
        raise PromptError(f"the checkpoint was not aligned with '{wanted}', but with {said}.")
    hashes = _reference_hashes(config)
    candidates = [entry for entry in known if entry["dim"] == dim and wanted in ("", entry["name"])]
    own = _image_tower_hash(location) if any(entry["name"] in hashes for entry in candidates) else ""
    fitting = [
        entry
        for entry in candidates
        if (hashes[entry["name"]] == own if entry["name"] in hashes else entry["name"] in (encoder.name, wanted))
    ]
    if not fitting:
        reason = ", and its image tower has other weights than that" if own else ""
        raise PromptError(
            f"the text encoder '{encoder.name}', whose texts have {dim} numbers, is not of the space that the checkpoint is "
            f"in: it was aligned with {said}{reason}. Give the encoder of its phase 1."
        )
    if len(fitting) > 1:
        raise PromptError(f"'{encoder.name}' fits several of {said}; name one with --reference.")
    return fitting[0]


def _reference_hashes(config: CSKDConfig) -> dict[str, str]:
    """Hash of the weights of each reference encoder that a training names, by its name."""
    found = {}
    for training in config.history or ():
        for reference in training.get("references") or ():
            if isinstance(reference, Mapping) and reference.get("weights"):
                found[reference.get("name")] = reference["weights"]
    return found


def _image_tower_hash(location: str) -> str:
    try:
        return weights_fingerprint(load_reference_encoder(location)[0])
    except ValueError as error:
        raise PromptError(f"text encoder '{location}' has no image tower to tell it by: {error}") from error


def _config_of(folder: Path) -> CSKDConfig:
    if not (folder / "config.json").is_file():
        raise PromptError(f"'{folder}' is no folder of a checkpoint; one on the Hub has to be downloaded first.")
    if not any((folder / name).is_file() for name in (_WEIGHTS, _INDEX)):
        raise PromptError(
            f"'{folder}' has no {_WEIGHTS}, which the prompts are written into; download the whole checkpoint, or save it "
            "as safetensors (`save_pretrained`)."
        )
    return CSKDConfig.from_pretrained(folder)


def _fitted(
    folder: Path, location: str, number: int, images: Sequence[str], count: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of the projector, fitted anew, and how that went."""
    # Encoder and projectors alone: no head has a part in it.
    model = CSKDForFeatureAlignment.from_pretrained(folder, dtype=torch.float32).eval()
    preprocessing = Preprocessing.from_image_processor(AutoImageProcessor.from_pretrained(folder))
    reference = ReferenceEncoder.from_pretrained(location)
    side = max(*preprocessing.size, *reference.preprocessing.size)
    facts = fit_projector(
        model, preprocessing, reference, number, sample_images(open_images(list(images), side, False), count)
    )
    return _projector_tensors(model, number), facts


def _projector_tensors(model: CSKDPreTrainedModel, number: int) -> dict[str, torch.Tensor]:
    prefix = f"projectors.{number}."
    return {name: value for name, value in model.state_dict().items() if name.startswith(prefix)}


def _write(folder: Path, bank: dict[str, Any] | None, changed: Mapping[str, torch.Tensor | None]) -> None:
    """Put tensors into the weights and the bank into config.json; nothing else of either changes.

    A config never names a bank that the weights do not hold, whenever this is stopped.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.pop("prompt_bank", None):
        write_json(folder / "config.json", config)
    if (folder / _INDEX).is_file():
        _change_shards(folder, changed)
    else:
        _change_file(folder / _WEIGHTS, changed)
    if bank is not None:
        write_json(folder / "config.json", config | {"prompt_bank": bank})


def _change_file(path: Path, changed: Mapping[str, torch.Tensor | None]) -> None:
    """Replace some tensors of a file of weights; None takes one out."""
    tensors = load_file(path) if path.is_file() else {}
    for name, value in changed.items():
        if value is None:
            tensors.pop(name, None)
        else:
            like = tensors[name].dtype if name in tensors and name != PROMPT_EMBEDS else torch.float32
            tensors[name] = value.detach().to(like).contiguous()
    with replaced_file(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})


def _change_shards(folder: Path, changed: Mapping[str, torch.Tensor | None]) -> None:
    """The same of weights in several files: the prompts have one of their own."""
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    places = index["weight_map"]
    by_file: dict[str, dict[str, torch.Tensor | None]] = {}
    for name, value in changed.items():
        if value is not None or name in places:
            by_file.setdefault(places.get(name, _SHARD), {})[name] = value
    for file, some in by_file.items():
        _change_file(folder / file, some)
        for name, value in some.items():
            places[name] = file
            if value is None:
                del places[name]
    write_json(folder / _INDEX, index)
    if _SHARD not in places.values():
        (folder / _SHARD).unlink(missing_ok=True)
