"""A module of one's own as encoder: a registered function builds it, and a config names the function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_cskd import CSKDModuleConfig

_FACTORIES: dict[str, Callable[..., nn.Module]] = {}


def register_encoder(name: str, build: Callable[..., nn.Module]) -> None:
    """Make a module of one's own known as an encoder, in this process.

    ```python
    >>> cskd_hf.register_encoder("mine", build)  # build(width=32) returns an nn.Module
    >>> config = cskd_hf.CSKDModuleConfig(factory="mine", arguments={"width": 32}, image_size=64)
    >>> model = cskd_hf.CSKDForFeatureAlignment(cskd_hf.CSKDConfig(backbone_config=config))
    ```

    Whoever loads such a model must register the same name before: a checkpoint never imports or runs what it names.

    Args:
        name: what configs call it.
        build: returns the module for the `arguments` of the config; the module maps pixel values
            `(batch, 3, height, width)` to features `(batch, dim)`, to tokens `(batch, tokens, dim)`, or to a map
            `(batch, dim, height, width)`.

    Raises:
        ValueError: another function has this name.
    """
    known = _FACTORIES.setdefault(name, build)
    if known is not build and (known.__module__, known.__qualname__) != (build.__module__, build.__qualname__):
        raise ValueError(f"an encoder named '{name}' is registered already: {known.__module__}.{known.__qualname__}.")
    _FACTORIES[name] = build


class CSKDModule(PreTrainedModel):
    """The module that a registered function builds, as a transformers encoder."""

    config_class = CSKDModuleConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: CSKDModuleConfig) -> None:
        super().__init__(config)
        build = _FACTORIES.get(config.factory)
        if build is None:
            raise ValueError(
                f"the encoder '{config.factory}' is not registered in this process (registered: "
                f"{', '.join(sorted(_FACTORIES)) or 'none'}). Import the module that calls "
                f"cskd_hf.register_encoder('{config.factory}', ...) first; on the command line, cskd-hf --import MODULE."
            )
        # Not on the meta device: its buffers that are not in checkpoints would be lost.
        with torch.device("cpu"):
            self.module = build(**config.arguments)
        if not isinstance(self.module, nn.Module):
            raise ValueError(
                f"the encoder '{config.factory}' is a {type(self.module).__name__}; an nn.Module is needed."
            )
        self._unsaved = {
            name: buffer.clone() for name, buffer in self.named_buffers() if name not in self.state_dict()
        }
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The module initialised itself when it was built; but loading empties the buffers that no checkpoint holds.
        for name, value in self._unsaved.items():
            owner, _, buffer = name.rpartition(".")
            if self.get_submodule(owner) is module:
                getattr(module, buffer).copy_(value)

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values: `(batch_size, 3, height, width)`.
            kwargs: not for the module; ignored.
        """
        output = self.module(pixel_values)
        if not isinstance(output, torch.Tensor) or output.dim() not in (2, 3, 4):
            given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ValueError(
                f"the encoder '{self.config.factory}' returns {given}; features (batch, dim), tokens "
                "(batch, tokens, dim) or a map (batch, dim, height, width) are needed."
            )
        if output.dim() == 2:
            return BaseModelOutputWithPooling(pooler_output=output)
        return BaseModelOutputWithPooling(last_hidden_state=output)


__all__ = ["CSKDModule", "register_encoder"]
