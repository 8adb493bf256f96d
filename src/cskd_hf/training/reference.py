"""The reference encoder: the frozen CLIP, or any other image encoder, with its own preprocessing."""

from __future__ import annotations

import hashlib
import importlib

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModelWithProjection

from ..data.views import Preprocessing
from ..models.modeling_cskd import load_encoder, pool_features


class ReferenceEncoder(nn.Module):
    """A frozen image encoder that takes the same crop as the student and prepares it in its own way.

    ```python
    >>> clip = ReferenceEncoder.from_pretrained("openai/clip-vit-base-patch32")
    >>> own = ReferenceEncoder(my_module, Preprocessing(size=(224, 224)), name="mine")
    ```

    Args:
        encoder: any module that maps normalised pixel values `(batch, 3, height, width)` to features `(batch, dim)`, or
            to a transformers output with `image_embeds`, or with a state that `pooling` makes one feature of.
        preprocessing: its size, mean, std and interpolation.
        name: names it in configs, logs and stores.
        pooling: see [`CSKDConfig`].

    Raises:
        ValueError: the encoder does not return one feature an image.
    """

    def __init__(self, encoder: nn.Module, preprocessing: Preprocessing, *, name: str, pooling: str = "auto") -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.name = name
        self.pooling = pooling
        probe = self(torch.zeros(1, 3, *preprocessing.size, dtype=torch.uint8, device=self._device()))
        if probe.dim() != 2:
            raise ValueError(
                f"reference encoder '{name}' returns features of shape {tuple(probe.shape)}; (batch, dim) is needed."
            )
        self.dim = probe.shape[1]

    def _device(self) -> torch.device:
        return next((p.device for p in self.encoder.parameters()), torch.device("cpu"))

    def train(self, mode: bool = True) -> ReferenceEncoder:
        """Stays in evaluation mode whatever its owner does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops `(batch, 3, side, side)` -> float32 features `(batch, dim)`."""
        pixel_values = self.preprocessing(crops.to(self._device()))
        if isinstance(self.encoder, nn.Module) and hasattr(self.encoder, "config"):
            outputs = self.encoder(pixel_values=pixel_values)
        else:
            outputs = self.encoder(pixel_values)
        if not isinstance(outputs, torch.Tensor):
            embeds = outputs.get("image_embeds")
            outputs = embeds if embeds is not None else pool_features(outputs, self.pooling)
        return outputs.float()

    def fingerprint(self) -> str:
        """Name, preprocessing and a hash of the weights: what stored features depend on."""
        return f"{self.name} {self.preprocessing} pooling={self.pooling} weights={weights_fingerprint(self.encoder)}"

    @classmethod
    def from_pretrained(cls, name_or_path: str, *, name: str | None = None, pooling: str = "auto") -> ReferenceEncoder:
        """Load a CLIP (its projected image embedding), or any transformers image encoder (its pooled feature).

        Args:
            name_or_path: on the Hub, or a folder, with its image processor.
            name: defaults to the last part of `name_or_path`.
            pooling: for encoders without an `image_embeds` output.
        """
        config = AutoConfig.from_pretrained(name_or_path)
        if config.model_type in ("clip", "clip_vision_model"):
            encoder, loaded = CLIPVisionModelWithProjection.from_pretrained(
                name_or_path, dtype=torch.float32, output_loading_info=True
            )
            if loaded["missing_keys"]:
                raise ValueError(
                    f"'{name_or_path}' holds no weights for {sorted(loaded['missing_keys'])[0]}; give a whole CLIP."
                )
        else:
            encoder, found = load_encoder(name_or_path)
            pooling = found if pooling == "auto" else pooling
        processor = AutoImageProcessor.from_pretrained(name_or_path)
        preprocessing = Preprocessing.from_image_processor(processor)
        return cls(encoder, preprocessing, name=name or str(name_or_path).rstrip("/").split("/")[-1], pooling=pooling)


def load_reference(location: str) -> ReferenceEncoder:
    """A reference encoder by Hub name, folder, or `package.module:function` that returns a [`ReferenceEncoder`].

    Raises:
        ValueError: the function is not there, or returns something else.
    """
    module_name, _, function = location.partition(":")
    if not function or "/" in function:
        return ReferenceEncoder.from_pretrained(location)
    try:
        reference = getattr(importlib.import_module(module_name), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"reference '{location}' cannot be loaded: {error}. Allowed: a Hub name, a folder, module:function."
        ) from error
    if not isinstance(reference, ReferenceEncoder):
        raise ValueError(
            f"'{location}' returned {type(reference).__name__}; it must return a cskd_hf.ReferenceEncoder."
        )
    return reference


def load_references(locations: list[str]) -> list[ReferenceEncoder]:
    """Those of the settings; a name that is taken gets a number."""
    references: dict[str, ReferenceEncoder] = {}
    for reference in map(load_reference, locations):
        name, number = reference.name, 2
        while reference.name in references:
            reference.name, number = f"{name}-{number}", number + 1
        references[reference.name] = reference
    return list(references.values())


def weights_fingerprint(module: nn.Module) -> str:
    """Hash of all weights and buffers of a module."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
