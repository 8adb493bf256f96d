"""The text tower of a CLIP-like model: texts in, embeddings that are comparable with its image embeddings out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.predict import weights_fingerprint
from ..files import public_name
from .pairs import PromptError, Prompts

logger = logging.getLogger(__name__)

_BATCH = 64


class TextEncoder:
    """A whole CLIP, SigLIP or other model of transformers with `get_text_features`, for its text tower.

    Args:
        model: in float32.
        tokenizer: its own.
        name: of it, without a folder of its maker's.

    Raises:
        PromptError: the model embeds no texts.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        if not callable(getattr(model, "get_text_features", None)):
            raise PromptError(
                f"text encoder '{name}' is a {type(model).__name__}, which embeds no texts beside images; give a whole CLIP, "
                "SigLIP or the like."
            )
        self.model, self.tokenizer, self.name = model.eval().requires_grad_(False), tokenizer, name
        text_config = getattr(model.config, "text_config", model.config)
        # A tokenizer that does not know its limit says 10**30.
        self.length = min(getattr(text_config, "max_position_embeddings", 64), tokenizer.model_max_length)

    @classmethod
    def from_pretrained(cls, name_or_path: str) -> TextEncoder:
        """Load model and tokenizer.

        Raises:
            PromptError: it cannot be read, or embeds no texts.
        """
        try:
            model = AutoModel.from_pretrained(name_or_path, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        except (OSError, ValueError, ImportError) as error:
            raise PromptError(
                f"text encoder '{name_or_path}' cannot be loaded: {' '.join(str(error).split())[:300]} It must be a Hub name "
                "or a folder of a whole CLIP, SigLIP or the like, with its tokenizer."
            ) from error
        return cls(model, tokenizer, public_name(name_or_path).rstrip("/").rpartition("/")[2])

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines by.

        Raises:
            PromptError: it has no such parameter.
        """
        scale = getattr(self.model, "logit_scale", None)
        if scale is None:
            raise PromptError(f"text encoder '{self.name}' has no logit_scale; give one (CLIP's is 100).")
        return float(scale.exp())

    def fingerprint(self) -> str:
        """Hash of all weights of the model."""
        return weights_fingerprint(self.model)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit-length embeddings `(texts, dim)`, float32.

        Raises:
            PromptError: a text is longer than the tower reads.
        """
        parts = []
        for first in range(0, len(texts), _BATCH):
            some = list(texts[first : first + _BATCH])
            self._check_length(some)
            # SigLIP was trained on texts of full length, padding and all; to a CLIP the padding makes no difference.
            tokens = self.tokenizer(some, padding="max_length", max_length=self.length, return_tensors="pt")
            if "siglip" in self.model.config.model_type:
                tokens.pop("attention_mask", None)  # nor did it leave the padding out
            features = self.model.get_text_features(**tokens)
            features = features if isinstance(features, torch.Tensor) else features.pooler_output
            parts.append(F.normalize(features.float(), dim=-1))
        return torch.cat(parts)

    def _check_length(self, texts: Sequence[str]) -> None:
        for text, ids in zip(texts, self.tokenizer(list(texts))["input_ids"]):
            if len(ids) > self.length:
                raise PromptError(
                    f"the prompt {text!r} has {len(ids)} tokens, but '{self.name}' reads {self.length}; make it shorter."
                )

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts with a word that the tokenizer does not know. Most know parts of every word."""
        unknown = self.tokenizer.unk_token_id
        special = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self.tokenizer.pad_token_id)
        if unknown is None or unknown in special:
            return []
        return [text for text, ids in zip(texts, self.tokenizer(list(texts))["input_ids"]) if unknown in ids]


def embed_prompts(encoder: TextEncoder, prompts: Prompts) -> torch.Tensor:
    """Unit-length embeddings of pairs `(attributes, 2, dim)`: of each side the mean direction of its texts.

    The mean over templates is that of CLIP's zero-shot classifiers (Radford et al., arXiv 2103.00020, section 3.1.4).
    """
    sides = [texts for pair in prompts.pairs for texts in prompts.texts(pair)]
    unknown = encoder.unknown(list(dict.fromkeys(text for texts in sides for text in texts)))
    if unknown:
        logger.warning(
            "'%s' does not know a word in %d of the prompts, e.g. %r", encoder.name, len(unknown), unknown[0]
        )
    means = [F.normalize(encoder.embed(texts).mean(0), dim=-1) for texts in sides]
    return torch.stack(means).unflatten(0, (-1, 2))
