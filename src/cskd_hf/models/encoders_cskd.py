"""Image encoders of transformers as backbones: how their output becomes one feature, or a spatial map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils import ModelOutput


def pool_features(outputs: ModelOutput, pooling: str) -> torch.Tensor:
    """One feature for each image, `(batch_size, feature_size)`, from an encoder's output; see `CSKDConfig.pooling`."""
    hidden = outputs.last_hidden_state if "last_hidden_state" in outputs else None
    pooler = outputs.pooler_output if "pooler_output" in outputs else None
    if pooling == "pooler" or (pooling == "auto" and pooler is not None):
        if pooler is None:
            raise ValueError(
                "pooling='pooler', but this encoder returns no pooler_output; use 'auto', 'mean' or 'cls'."
            )
        return pooler.flatten(1)
    if hidden is None:
        raise ValueError(f"pooling={pooling!r} needs last_hidden_state, which this encoder does not return.")
    if hidden.dim() == 4:  # (B, C, H, W)
        if pooling == "cls":
            raise ValueError(
                "pooling='cls' needs tokens, but this encoder returns a feature map; use 'auto' or 'mean'."
            )
        return hidden.mean(dim=(2, 3))
    return hidden[:, 0] if pooling == "cls" else hidden.mean(dim=1)  # (B, T, C) -> (B, C)


def spatial_features(outputs: ModelOutput, pixel_values_shape: Sequence[int], backbone_config: Any) -> torch.Tensor:
    """The encoder's feature map, or its patch tokens laid out as one, for losses that compare positions.

    CLS, distillation and register tokens are left out. The grid is that of the patches, so it need not be square; a
    hierarchical encoder (Swin) has one that is smaller by a power of two.

    Args:
        outputs: what the encoder (or a CSKD model) returned, with a `last_hidden_state` of shape
            `(batch_size, channels, height, width)` or `(batch_size, tokens, channels)`.
        pixel_values_shape: shape of the encoder's input, `(batch_size, 3, height, width)` in pixels.
        backbone_config: the encoder's config, for the size of its patches and the number of its registers.

    Returns:
        `(batch_size, channels, height, width)` in positions.

    Raises:
        ValueError: the output holds no map, or its tokens do not form the grid of the patches.
    """
    name = getattr(backbone_config, "model_type", type(backbone_config).__name__)
    hidden = outputs.get("last_hidden_state")
    if hidden is None or hidden.dim() not in (3, 4):
        shape = None if hidden is None else tuple(hidden.shape)
        raise ValueError(
            f"an encoder of model_type '{name}' gives no token or feature map (last_hidden_state: {shape}), which "
            "token-level alignment needs; use a loss on the pooled feature."
        )
    if hidden.dim() == 4:
        return hidden
    height, width = pixel_values_shape[-2:]
    grid = _token_grid(hidden.shape[1], (height, width), backbone_config)
    if grid is None:
        raise ValueError(
            f"the {hidden.shape[1]} tokens of an encoder of model_type '{name}' do not form a grid over images of "
            f"{height} x {width} pixels, which token-level alignment needs; use a loss on the pooled feature."
        )
    patches = hidden[:, hidden.shape[1] - grid[0] * grid[1] :]  # special tokens come first
    return patches.transpose(1, 2).unflatten(2, grid)  # (B, T, C) -> (B, C, H, W)


def _token_grid(tokens: int, image_size: tuple[int, int], backbone_config: Any) -> tuple[int, int] | None:
    """Height and width in patches of the grid that so many tokens form, or None."""
    registers = getattr(backbone_config, "num_register_tokens", None) or 0
    specials = [registers + n for n in (0, 1, 2)]  # none, CLS, CLS and distillation
    for stage in range(6):  # each stage of a hierarchical encoder halves the grid
        strides = [side * 2**stage for side in _patch_stride(backbone_config)]
        for rounded in (lambda n, s: n // s, lambda n, s: -(-n // s)):
            grid = tuple(rounded(side, stride) for side, stride in zip(image_size, strides))
            if grid[0] * grid[1] > 0 and tokens - grid[0] * grid[1] in specials:
                return grid
    return None


def _patch_stride(backbone_config: Any) -> tuple[int, int]:
    """Distance of neighbouring patches in pixels, vertical and horizontal; (1, 1) where the config names none."""
    for name in ("patch_stride", "patch_size"):
        size = getattr(backbone_config, name, None)
        while isinstance(size, (list, tuple)) and size and isinstance(size[0], (list, tuple)):
            size = size[0]  # one for each stage
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)) and size:
            return tuple(size)[:2] if len(size) == 2 else (size[0], size[0])
    return 1, 1
