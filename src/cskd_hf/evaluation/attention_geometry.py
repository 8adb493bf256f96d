"""Where the queries and keys of an attention map lie in the image, for each family of encoders.

Attention maps come as bare matrices; what a row or a column stands for differs by family: a patch, a CLS or register
token, a patch of a shifted window, a block of patches whose keys were merged, a padded place. A [`LayerGeometry`] says
it for one layer, in pixels of the encoder's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Size = tuple[int, int]

_MOST_PREFIX_TOKENS = 32  # a sequence with more tokens that are no patches is of another kind
_ODD_ORDER = {
    "hiera": "its tokens are kept in the order of mask units, and its queries are pooled within them",
    "vit_mae": "it shuffles its patches at random and drops most of them",
    "yolos": "its detection tokens follow the patches",
    "perceiver": "its queries are latent vectors without a place in the image",
    "imagegpt": "its tokens are colour clusters of single pixels, in sequence",
    "rf_detr_dinov2": "its tokens are kept in the order of windows",
    "lw_detr_vit": "its tokens are kept in the order of windows",
    "sam2_vision_model": "what it hands out as attentions are no attention maps",
}


class GeometryUnknownError(ValueError):
    """The places of a layer's queries and keys cannot be told, with the reason."""


@dataclass(frozen=True)
class LayerGeometry:
    """Places of the queries and keys of one layer.

    Args:
        queries: `(windows, queries, 2)`, (y, x) of each query's centre in pixels of the encoder's input; a layer of
            global attention has one window.
        keys: `(windows, keys, 2)`, the same of the keys.
        pairs: bool `(windows, queries, keys)`: both are patches, and the layer lets them see each other.
        stride: pixels from one query to the next, down and across.
        prefix: tokens before the patches: CLS, distillation, register tokens.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    pairs: torch.Tensor
    stride: tuple[float, float]
    prefix: int = 0

    @property
    def windows(self) -> int:
        return self.pairs.shape[0]

    def distances(self) -> torch.Tensor:
        """Euclidean distance of each query from each key in pixels, `(windows, queries, keys)`; 0 outside `pairs`."""
        return torch.where(self.pairs, torch.cdist(self.queries, self.keys), 0.0)


def grid_positions(grid: Size, stride: tuple[float, float], offset: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
    """(y, x) in pixels of a grid's cells, row by row: `(height * width, 2)`."""
    y = torch.arange(grid[0], dtype=torch.float32) * stride[0] + offset[0]
    x = torch.arange(grid[1], dtype=torch.float32) * stride[1] + offset[1]
    return torch.cartesian_prod(y, x)


def global_geometry(
    grid: Size, stride: tuple[float, float], prefix: int = 0, key_grid: Size | None = None, pooled_keys: bool = False
) -> LayerGeometry:
    """Every patch attends to every key: ViT, DeiT, BEiT, DINO, CLIP, SigLIP; with merged keys PVT and SegFormer.

    Args:
        grid: rows and columns of patches.
        stride: pixels from patch to patch, down and across.
        prefix: tokens before the patches, among the queries and among the keys.
        key_grid: rows and columns of the merged keys where they are fewer than the patches; a key lies in the middle of
            the patches that it is made of.
        pooled_keys: the keys come of adaptive average pooling, whose blocks may overlap, and not of a convolution whose
            kernel is its stride.
    """
    queries = grid_positions(grid, stride)
    if key_grid in (None, grid):
        keys = queries
    else:
        rows, columns = (_merged_centres(cells, keys, pooled_keys) for cells, keys in zip(grid, key_grid))
        keys = torch.cartesian_prod(rows * stride[0], columns * stride[1])
    nowhere = torch.zeros(prefix, 2)
    pairs = torch.ones(prefix + len(queries), prefix + len(keys), dtype=torch.bool)
    pairs[:prefix] = False
    pairs[:, :prefix] = False
    return LayerGeometry(
        torch.cat([nowhere, queries])[None], torch.cat([nowhere, keys])[None], pairs[None], stride, prefix
    )


def _merged_centres(cells: int, keys: int, pooled: bool) -> torch.Tensor:
    """Middle, in cells, of the blocks that `cells` cells are merged into."""
    if pooled:
        first = [key * cells // keys for key in range(keys)]
        last = [math.ceil((key + 1) * cells / keys) - 1 for key in range(keys)]
        return (torch.tensor(first) + torch.tensor(last)) / 2
    ratio = cells // keys
    return torch.arange(keys) * ratio + (ratio - 1) / 2


def window_geometry(grid: Size, stride: tuple[float, float], window: int, shift: int = 0) -> LayerGeometry:
    """Attention inside square windows: Swin, Swin V2, ViTDet.

    The grid is padded on the right and below to whole windows, rolled up and left by `shift`, and cut into windows from
    left to right, top to bottom (Liu et al., arXiv 2103.14030, sec. 3.2 and fig. 4). A window that the roll filled from
    two edges of the image holds parts that do not see each other. Padding is no patch.

    Args:
        grid: rows and columns of patches.
        stride: pixels from patch to patch, down and across.
        window: side of a window in patches.
        shift: patches that the grid is rolled by; 0 for none.
    """
    padded = tuple(math.ceil(length / window) * window for length in grid)
    places = grid_positions(padded, stride).view(*padded, 2)
    patch = torch.zeros(padded, dtype=torch.bool)
    patch[: grid[0], : grid[1]] = True
    wrapped = [torch.arange(length) >= length - shift for length in padded]  # after the roll: came over the edge
    part = wrapped[0].int()[:, None] * 2 + wrapped[1].int()[None, :]
    places, patch = (torch.roll(values, (-shift, -shift), (0, 1)) for values in (places, patch))
    places, patch, part = (_cut(values, window) for values in (places, patch[..., None], part[..., None]))
    patch, part = patch[..., 0], part[..., 0]
    pairs = (part[:, :, None] == part[:, None, :]) & patch[:, :, None] & patch[:, None, :]
    return LayerGeometry(places, places, pairs, stride)


def _cut(values: torch.Tensor, window: int) -> torch.Tensor:
    """(height, width, channels) -> (windows, window * window, channels)"""
    height, width, channels = values.shape
    values = values.view(height // window, window, width // window, window, channels)
    return values.transpose(1, 2).reshape(-1, window * window, channels)


def window_blocks(encoder: nn.Module) -> list[nn.Module]:
    """Blocks of an encoder whose attention has windows, in their order: Swin's and ViTDet's; none for others."""
    return [
        module
        for module in encoder.modules()
        if isinstance(getattr(module, "window_size", None), int)
        and isinstance(getattr(module, "attention", None), nn.Module)
        and not isinstance(module.attention, nn.ModuleList)
    ]


def layer_geometry(
    encoder: nn.Module, pixels: Size, shape: Sequence[int], layer: int, block: nn.Module | None = None
) -> LayerGeometry:
    """Where the queries and keys of one of an encoder's layers lie.

    Args:
        encoder: a transformers image encoder with its `config`.
        pixels: height and width of its input.
        shape: of the layer's attention map for one image, as the encoder returns it.
        layer: its number, from 0.
        block: the module it comes from, for an encoder with windows (see `window_blocks`).

    Raises:
        GeometryUnknownError: the encoder's family keeps its tokens in an order that is not known here, or the numbers of
            tokens fit no grid.
    """
    config = encoder.config
    family = config.model_type
    if family in _ODD_ORDER:
        raise GeometryUnknownError(f"attention distance is not defined here for '{family}': {_ODD_ORDER[family]}")
    if len(shape) != 4:
        raise GeometryUnknownError(
            f"attention distance is not defined here for '{family}': its maps have the shape {tuple(shape)}, and not "
            "(batch, heads, queries, keys)"
        )
    windows, _, queries, keys = shape
    stage, depths = _stage(config, layer)
    stride = _stride(config, stage)
    if block is not None and block.window_size:
        grid = _cells(pixels, stride, math.ceil) if depths else _cells(pixels, stride, math.floor)
        geometry = window_geometry(grid, stride, int(block.window_size), int(getattr(block, "shift_size", 0)))
        if (geometry.windows, geometry.pairs.shape[1], geometry.pairs.shape[2]) != (windows, queries, keys):
            raise _misfit(family, shape, grid)
        return geometry
    grid, prefix = _fit(pixels, stride, queries, family, shape)
    if keys == queries:
        return global_geometry(grid, stride, prefix)
    pooled = bool(getattr(config, "linear_attention", False))
    key_grid = (7, 7) if pooled else _reduced(config, grid, stage)
    if key_grid is None or windows != 1 or prefix + key_grid[0] * key_grid[1] != keys:
        raise _misfit(family, shape, grid)
    return global_geometry(grid, stride, prefix, key_grid, pooled)


def _misfit(family: str, shape: Sequence[int], grid: Size) -> GeometryUnknownError:
    return GeometryUnknownError(
        f"attention distance is not defined here for '{family}': a map of shape {tuple(shape)} fits no grid of "
        f"{grid[0]} x {grid[1]} patches that is known"
    )


def _stage(config: Any, layer: int) -> tuple[int, list[int]]:
    """The stage of a layer and the layers of each stage; an encoder of one stage has no list."""
    depths = list(getattr(config, "depths", None) or [])
    stage, rest = 0, layer
    while depths and stage < len(depths) - 1 and rest >= depths[stage]:
        rest -= depths[stage]
        stage += 1
    return stage, depths


def _stride(config: Any, stage: int) -> tuple[float, float]:
    """Pixels of the input from patch to patch at a stage, from the config."""
    strides = getattr(config, "strides", None)
    if isinstance(strides, (list, tuple)):  # PVT, SegFormer
        whole = math.prod(_one(stride) for stride in strides[: stage + 1])
        return (whole, whole)
    patch = getattr(config, "patch_size", None)
    if patch is None:
        raise GeometryUnknownError(
            f"attention distance is not defined here for '{config.model_type}': its config names no patch_size"
        )
    height, width = (patch, patch) if isinstance(patch, int) else tuple(patch)[-2:]
    return (height * 2**stage, width * 2**stage)


def _one(value: Any) -> int:
    return int(value if isinstance(value, (int, float)) else value[0])


def _cells(pixels: Size, stride: tuple[float, float], rounding: Any) -> Size:
    return rounding(pixels[0] / stride[0]), rounding(pixels[1] / stride[1])


def _fit(
    pixels: Size, stride: tuple[float, float], tokens: int, family: str, shape: Sequence[int]
) -> tuple[Size, int]:
    """The grid of patches, and how many tokens come before it."""
    for rounding in (math.floor, math.ceil):  # a patch that the image fills in part is dropped, or padded
        grid = _cells(pixels, stride, rounding)
        prefix = tokens - grid[0] * grid[1]
        if 0 <= prefix <= _MOST_PREFIX_TOKENS and (prefix == 0 or prefix < grid[0] * grid[1]):
            return grid, prefix
    raise _misfit(family, shape, grid)


def _reduced(config: Any, grid: Size, stage: int) -> Size | None:
    ratios = getattr(config, "sequence_reduction_ratios", None) or getattr(config, "sr_ratios", None)
    return tuple(length // ratios[stage] for length in grid) if ratios else None
