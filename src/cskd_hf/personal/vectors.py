"""Task vectors: what a rater changes in a general scorer, as the difference of weights, to be added, scaled and subtracted.

Task arithmetic is that of Ilharco et al. (arXiv 2212.04089); scorers for single raters as weighted sums of task vectors
follow Yun and Choo (2024), "Scaling Up Personalized Image Aesthetic Assessment via Task Vector Customization".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..evaluation.predict import weights_fingerprint
from ..files import replaced_file
from ..models.modeling_cskd import CSKDForImageAesthetics
from ..models.prompts_cskd import PROMPT_EMBEDS

SUFFIX = ".safetensors"
_FORMAT = "cskd_hf.task_vector"
_MARK = "task_vectors"  # in a model's provenance: what it was made of
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class VectorError(ValueError):
    """A task vector that cannot be used; the message says which, why, and what to do."""


@dataclass
class TaskVector:
    """A difference of weights.

    Attributes:
        tensors: what is added to the weight or buffer of each name.
        base: fingerprint of the model that it is to be added to.
        facts: rater, number of ratings and the like; anything that JSON holds.
    """

    tensors: dict[str, torch.Tensor]
    base: str
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike, dtype: str = "float32") -> None:
        """Write one safetensors file, whole or not at all.

        Args:
            path: ends in `.safetensors`.
            dtype: "float32", or "float16" for half the size.
        """
        stored = {name: value.detach().cpu().to(_DTYPES[dtype]).contiguous() for name, value in self.tensors.items()}
        metadata = {"format": _FORMAT, "base": self.base, "facts": json.dumps(self.facts, ensure_ascii=False)}
        with replaced_file(path) as partial:
            save_file(stored, partial, metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> TaskVector:
        """Read a file of `save`; the tensors come in float32.

        Raises:
            VectorError: there is no such file, or it is none of these.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise VectorError(f"'{path}' is no task vector; make one with `cskd-hf personalize`.")
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise VectorError(f"task vector '{path}' cannot be read: {error}") from error
        return cls(tensors, metadata["base"], json.loads(metadata["facts"]))

    def __len__(self) -> int:
        return sum(value.numel() for value in self.tensors.values())


def task_vector(base: CSKDForImageAesthetics, personal: CSKDForImageAesthetics, **facts: Any) -> TaskVector:
    """`personal` minus `base`, of the weights and buffers that differ.

    Raises:
        VectorError: the two are of different architectures.
    """
    before, after = _weights(base), _weights(personal)
    shapes = [{name: value.shape for name, value in state.items()} for state in (before, after)]
    if shapes[0] != shapes[1]:
        raise VectorError("the personal model is of another architecture than the base, so they have no difference.")
    tensors = {
        name: (after[name] - before[name]).float()
        for name in before
        if before[name].is_floating_point() and not torch.equal(before[name], after[name])
    }
    return TaskVector(tensors, base_of(base), facts)


def _weights(model: CSKDForImageAesthetics) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name != PROMPT_EMBEDS}


def base_of(model: CSKDForImageAesthetics) -> str:
    """Fingerprint of the general model: its own, or that of the base that vectors were added to."""
    made_of = (model.config.provenance or {}).get(_MARK)
    return made_of["base"] if made_of else weights_fingerprint(model)


@torch.no_grad()
def add_vector(model: CSKDForImageAesthetics, vector: TaskVector, scale: float = 1.0) -> None:
    """Add a vector to the weights, in place; a negative scale takes it away again.

    The calibration of the model goes, and where the vector changes the encoder, its prompt bank. Adding and subtracting the same vector gives the weights back up to the rounding of their format.

    Args:
        model: the base, or the base with other vectors added.
        vector: made for that base.
        scale: factor of the vector.

    Raises:
        VectorError: another base, or weights that it does not have; the model is left as it was.
    """
    own = base_of(model)
    if not math.isfinite(scale):
        raise VectorError(f"scale={scale} must be a finite number.")
    if vector.base != own:
        raise VectorError(
            f"the task vector of {_named(vector)} was made for the base {vector.base}, but this model is {own}; add it to "
            "the model that it was made with, or make it again."
        )
    state = model.state_dict()
    for name, value in vector.tensors.items():
        if name not in state or state[name].shape != value.shape:
            raise VectorError(
                f"the task vector of {_named(vector)} changes '{name}', which this model does not have so."
            )
    for name, value in vector.tensors.items():
        state[name].add_(value.to(state[name].device, state[name].dtype), alpha=scale)
    provenance = dict(model.config.provenance or {})
    added = [*provenance.get(_MARK, {}).get("added", []), {"vector": _named(vector), "scale": scale}]
    model.config.calibration = None  # it is of other weights
    if any(name.startswith(("backbone.", "projectors.")) for name in vector.tensors):
        model.set_prompts(None)  # the space that they are in has changed; a head alone leaves it as it is
    model.config.provenance = provenance | {_MARK: {"base": own, "added": added}}


def weighted_sum(vectors: Sequence[TaskVector], scales: Sequence[float], **facts: Any) -> TaskVector:
    """One vector that changes what all of them do, each by its scale.

    Raises:
        VectorError: none, or vectors of different bases.
    """
    check_bank(vectors)
    total: dict[str, torch.Tensor] = {}
    for vector, scale in zip(vectors, scales, strict=True):
        for name, value in vector.tensors.items():
            total[name] = total[name] + scale * value if name in total else scale * value
    return TaskVector(total, vectors[0].base, facts)


def check_bank(vectors: Sequence[TaskVector]) -> None:
    """Raises:
    VectorError: there is no vector, or they are of different bases.
    """
    if not vectors:
        raise VectorError("there is no task vector; make some with `cskd-hf personalize vectors`.")
    if len(bases := {vector.base for vector in vectors}) > 1:
        raise VectorError(f"the task vectors are of different bases: {', '.join(sorted(bases))}; use those of one.")


def load_bank(folder: str | os.PathLike) -> dict[str, TaskVector]:
    """All vectors of a folder, by file name, sorted.

    Raises:
        VectorError: there is none, or they are of different bases.
    """
    paths = sorted(Path(folder).glob(f"*{SUFFIX}"))
    if not paths:
        raise VectorError(f"'{folder}' holds no {SUFFIX} file; make some with `cskd-hf personalize vectors`.")
    bank = {path.name: TaskVector.load(path) for path in paths}
    check_bank(list(bank.values()))
    return bank


def _named(vector: TaskVector) -> str:
    facts: Mapping[str, Any] = vector.facts
    return str(facts.get("rater") or "an unnamed rater")
