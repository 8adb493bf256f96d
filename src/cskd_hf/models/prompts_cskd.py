"""Attributes of a picture from pairs of opposite prompts, in the space of the text encoder that belongs to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

PROMPT_EMBEDS = "prompt_embeds"
"""Name of the buffer `(attributes, 2, dim)` of a model with a prompt bank."""

_REQUIRED = ("reference", "logit_scale", "attributes")
_FIELDS = (*_REQUIRED, "text_encoder", "text_weights", "templates", "projector")
_ADVICE = "`cskd-hf prompts` writes it"


def prompt_probabilities(embeds: torch.Tensor, prompts: torch.Tensor, logit_scale: float) -> torch.Tensor:
    """How far an image leans to the first of two opposite prompts: the softmax over the pair (CLIP-IQA, Wang et al.,
    arXiv 2207.12396), which is s(logit_scale (cos(image, first) - cos(image, second))) with the logistic function s.

    Args:
        embeds: of the images, in the space of the prompts, of any length; `(batch_size, dim)`.
        prompts: `(attributes, 2, dim)`, of any length.
        logit_scale: of the text encoder's model, the inverse of its temperature.

    Returns:
        `(batch_size, attributes)`, 0 to 1, float32.
    """
    first, second = F.normalize(prompts.float(), dim=-1).unbind(1)  # (A, dim) each
    return (logit_scale * (F.normalize(embeds.float(), dim=-1) @ (first - second).T)).sigmoid()


class PromptBank:
    """The part of a model that holds prompts, and says how far an image leans to the first of each pair.

    A model with a `prompt_bank` in its config has the buffer `prompt_embeds`, `(attributes, 2, dim)`, among its weights.
    """

    def make_prompts(self) -> None:
        """Make place for the prompts that the config names; not a number until they are loaded or set."""
        if bank := self.config.prompt_bank:
            dim = self.projection_dim(bank["reference"])
            self.register_buffer(PROMPT_EMBEDS, torch.full((len(bank["attributes"]), 2, dim), float("nan")))

    def projection_number(self, reference: str) -> int:
        """Place of a reference encoder's projector."""
        return [entry["name"] for entry in self.config.reference_encoders].index(reference)

    def projection_dim(self, reference: str) -> int:
        """Width of the space of a reference encoder."""
        return self.config.reference_encoders[self.projection_number(reference)]["dim"]

    def set_prompts(self, bank: dict[str, Any] | None, embeds: torch.Tensor | None = None) -> None:
        """Take on pairs of prompts in the place of those that are there.

        Args:
            bank: `prompt_bank` of the config; None takes the prompts away.
            embeds: of its prompts, `(attributes, 2, dim)`.

        Raises:
            ValueError: bank and embeddings do not fit each other or the model.
        """
        bank = checked_prompt_bank(bank, self.config.reference_encoders)
        if bank is not None:
            needed = (len(bank["attributes"]), 2, self.projection_dim(bank["reference"]))
            if embeds is None or tuple(embeds.shape) != needed:
                given = None if embeds is None else tuple(embeds.shape)
                raise ValueError(f"the prompt bank needs embeddings of shape {needed}, but got {given}.")
        self.config.prompt_bank = bank
        self._buffers.pop(PROMPT_EMBEDS, None)
        if bank is not None:
            self.register_buffer(PROMPT_EMBEDS, embeds.detach().to(self.device, torch.float32).clone())

    def prompt_values(self, projections: tuple[torch.Tensor, ...]) -> torch.Tensor | None:
        """What `project` returns -> `(batch_size, n_prompt_attributes)`; None for a model without a prompt bank."""
        if not (bank := self.config.prompt_bank):
            return None
        embeds = projections[self.projection_number(bank["reference"])]
        return prompt_probabilities(embeds, self.prompt_embeds, bank["logit_scale"])


def checked_prompt_bank(bank: Any, references: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The `prompt_bank` of a config, or None where there is none.

    Args:
        bank: mapping with `reference` (name of the reference encoder in whose space the prompts are), `logit_scale`, and
            `attributes`, a list of `{"name": str, "first": [texts], "second": [texts]}` in the order of the model's
            `prompt_embeds`; optionally `text_encoder` (its name), `text_weights` (a hash of them), `templates` (that the
            texts were put into) and `projector` (how the projector was fitted, where phase 1 did not leave it so).
        references: `reference_encoders` of the config.

    Raises:
        ValueError: it is something else; the message names what.
    """
    if bank is None:
        return None
    if not isinstance(bank, Mapping) or set(bank) - set(_FIELDS) or not set(_REQUIRED) <= set(bank):
        raise ValueError(
            f"prompt_bank={bank!r} must be a mapping with {', '.join(_REQUIRED)}, and of other fields only "
            f"{', '.join(_FIELDS[len(_REQUIRED) :])}; {_ADVICE}."
        )
    known = [reference["name"] for reference in references]
    if bank["reference"] not in known:
        raise ValueError(
            f"prompt_bank's reference={bank['reference']!r} is none of reference_encoders: {known or 'there are none'}."
        )
    scale = bank["logit_scale"]
    if not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise ValueError(f"prompt_bank's logit_scale={scale!r} must be a finite number above 0; {_ADVICE}.")
    return dict(bank) | {"logit_scale": float(scale), "attributes": _checked_pairs(bank["attributes"])}


def _checked_pairs(pairs: Any) -> list[dict[str, Any]]:
    checked = []
    for pair in pairs if isinstance(pairs, (list, tuple)) else ():
        sides = [pair.get(side) for side in ("first", "second")] if isinstance(pair, Mapping) else []
        name = pair.get("name") if sides else None
        if not isinstance(name, str) or not name or not all(map(_are_texts, sides)):
            raise ValueError(
                f"prompt_bank's attributes hold {pair!r}; each needs a 'name' (text), and 'first' and 'second', lists of "
                f"texts; {_ADVICE}."
            )
        checked.append({"name": name, "first": list(sides[0]), "second": list(sides[1])})
    names = [pair["name"] for pair in checked]
    if not checked or len(set(names)) != len(names):
        raise ValueError(f"prompt_bank's attributes={names} must be one or more, each name once; {_ADVICE}.")
    return checked


def _are_texts(texts: Any) -> bool:
    return isinstance(texts, (list, tuple)) and len(texts) > 0 and all(isinstance(t, str) and t for t in texts)
