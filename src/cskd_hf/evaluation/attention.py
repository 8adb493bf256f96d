"""How far and how evenly an encoder's heads attend: mean attention distance and attention entropy.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929), fig. 7 and app. D.7, who compare the
distance to the receptive field of a CNN; Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?"
(arXiv 2108.08810), sec. 4, by head and layer; Wei et al., "Contrastive Learning Rivals Masked Image Modeling in
Fine-tuning via Feature Distillation" (arXiv 2205.14141), sec. 4, before and after distillation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .attention_geometry import GeometryUnknownError, LayerGeometry, layer_geometry, window_blocks

_ROW_SUM_TOLERANCE = 0.02  # half precision


class NoAttentionError(ValueError):
    """The encoder hands out no attention maps, with the reason."""


@dataclass(frozen=True)
class AttentionStatistics:
    """What `attention_statistics` says of one layer, for each image and head, `(batch, heads)`.

    Args:
        distance: mean attention distance in pixels.
        entropy: in nats, over the patches among the keys.
        elsewhere: share of the patches' attention that goes to tokens which are no patches.
    """

    distance: torch.Tensor
    entropy: torch.Tensor
    elsewhere: torch.Tensor


def attention_statistics(attention: torch.Tensor, geometry: LayerGeometry) -> AttentionStatistics:
    r"""Distance and entropy of one layer's attention between patches.

    For the patch query i, the attention a_ij over the patches j that it may see is renormalised to sum to 1 (CLS,
    register and padding tokens have no place in the image, and are left out of both measures). Then

        distance_i = sum_j a_ij |p_i - p_j|        entropy_i = - sum_j a_ij ln a_ij

    with the places p in pixels of the encoder's input, and both are averaged over the image's patches. A query that
    puts no weight on any patch is left out.

    Args:
        attention: after the softmax, `(batch * windows, heads, queries, keys)`, as transformers returns it; windows of
            one image follow one another.
        geometry: of the layer.

    Returns:
        one value for each image and head.
    """
    windows, queries, keys = geometry.pairs.shape
    maps = attention.float().reshape(-1, windows, attention.shape[1], queries, keys)  # (B, W, heads, Q, K)
    pairs = geometry.pairs.to(maps.device)
    distances = geometry.distances().to(maps.device)
    is_patch = pairs.any(-1)[None, :, None]  # (1, W, 1, Q)
    maps = maps * pairs[:, None]
    mass = maps.sum(-1)  # (B, W, heads, Q)
    counted = is_patch & (mass > 0)
    maps = maps / mass.clamp_min(torch.finfo(maps.dtype).tiny)[..., None]
    distance = torch.einsum("bwhqk,wqk->bwhq", maps, distances)
    entropy = torch.special.entr(maps).sum(-1)
    total = counted.sum((1, 3))  # (B, heads)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.where(counted, values, 0.0).sum((1, 3)) / total

    elsewhere = torch.where(is_patch, 1 - mass, 0.0).sum((1, 3)) / is_patch.sum((1, 3))
    return AttentionStatistics(mean(distance), mean(entropy), elsewhere.clamp_min(0))


def uniform_attention(geometry: LayerGeometry) -> tuple[float, float]:
    """Distance in pixels and entropy in nats of a head that attends evenly to all patches it may see.

    The entropy is the largest possible; it is ln N for global attention over N patches.
    """
    statistics = attention_statistics(geometry.pairs.float()[:, None], geometry)
    return statistics.distance.item(), statistics.entropy.item()


def entropy_over_all_keys(attention: torch.Tensor) -> torch.Tensor:
    """Mean entropy of all queries over all keys in nats, `(heads,)`, for maps `(batch, heads, ..., queries, keys)`.

    For encoders whose tokens have no known place in the image.
    """
    entropy = torch.special.entr(attention.float()).sum(-1)  # (B, heads, ..., Q)
    return entropy.transpose(0, 1).flatten(1).mean(1)


@contextmanager
def eager_attention(encoder: nn.Module) -> Iterator[nn.Module]:
    """The encoder with attention that returns its maps; fused attention (sdpa, flash) computes none.

    Yields the encoder itself, or a copy where its family chooses the kind of attention when it is built (Data2Vec).
    """
    if any("SdpaSelfAttention" in type(module).__name__ for module in encoder.modules()):
        twin = type(encoder)._from_config(copy.deepcopy(encoder.config), attn_implementation="eager")
        twin.load_state_dict(encoder.state_dict())
        yield twin.to(encoder.device).train(encoder.training)
        return
    before = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        yield encoder
    finally:
        encoder.set_attn_implementation(before)


@dataclass(frozen=True)
class AttentionMap:
    """One layer's attention of a batch, and the block that it comes from where that has windows."""

    weights: torch.Tensor
    block: nn.Module | None = None


class AttentionReader:
    """Collects the attention maps of an encoder's forward pass, from what its own modules return.

    Most encoders hand out one map a layer in `outputs.attentions`. Swin's and ViTDet's blocks are listened to instead:
    Swin's whole output holds only the last block of each stage.

    ```python
    >>> with eager_attention(encoder) as eager, AttentionReader(eager) as reader:
    ...     outputs = eager(pixel_values, output_attentions=True)
    ...     maps = reader.maps(outputs, batch_size=len(pixel_values))
    ```
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder
        self._caught: list[AttentionMap] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> AttentionReader:
        self._hooks = [block.register_forward_hook(self._catch) for block in window_blocks(self.encoder)]
        return self

    def __exit__(self, *exception: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _catch(self, block: nn.Module, _: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, torch.Tensor) and weights.dim() == 4:
            self._caught.append(AttentionMap(weights, block))

    def maps(self, outputs: Any, batch_size: int) -> list[AttentionMap]:
        """The maps of the last forward pass, in the order of the layers.

        Args:
            outputs: what the encoder returned.
            batch_size: images in it.

        Raises:
            NoAttentionError: there are none, or what it hands out are no maps whose rows sum to 1.
        """
        family = self.encoder.config.model_type
        maps, self._caught = self._caught, []
        if not maps:
            maps = [AttentionMap(weights) for weights in _flat(outputs.get("attentions"))]
        if not maps:
            raise NoAttentionError(
                f"the encoder is of the family '{family}', which hands out no attention maps: a convolutional network "
                "has none, and some families with attention keep theirs; only the measures of its features are shown"
            )
        for entry in maps:
            sums = entry.weights.float().sum(-1)
            whole = entry.weights.dim() >= 4 and entry.weights.shape[0] % batch_size == 0
            if not whole or (sums - 1).abs().max() > _ROW_SUM_TOLERANCE:
                raise NoAttentionError(
                    f"what the family '{family}' hands out as attentions, of shape {tuple(entry.weights.shape)}, are no "
                    "attention maps (batch, heads, queries, keys) with rows that sum to 1; only the measures of its "
                    "features are shown"
                )
        return maps


def _flat(attentions: Any) -> list[torch.Tensor]:
    """Maps in order; PVT v2 hands out a tuple for each stage."""
    if isinstance(attentions, (tuple, list)):
        return [weights for entry in attentions for weights in _flat(entry)]
    return [] if attentions is None else [attentions]


@dataclass
class LayerSummary:
    """One layer over all images: a value for each head.

    Args:
        distance: mean attention distance in pixels; none where the tokens' places are not known.
        entropy: in nats, over patches; over all keys where their places are not known.
        max_entropy: of attention that is even over all keys in question, in nats.
        uniform_distance: the distance of such attention in pixels.
        elsewhere: share of the attention that goes to tokens which are no patches (CLS, registers, padding).
        stride: pixels from patch to patch, down and across.
    """

    distance: list[float] | None
    entropy: list[float]
    max_entropy: float
    uniform_distance: float | None = None
    elsewhere: list[float] | None = None
    stride: list[float] | None = None


@dataclass
class _Sums:
    geometry: LayerGeometry | None
    keys: int
    totals: list[torch.Tensor] = field(default_factory=list)


class AttentionMeter:
    """Mean distance and entropy by layer and head over many batches; keeps sums only, never a map.

    Args:
        encoder: a transformers image encoder.
        pixels: height and width of its input.
    """

    def __init__(self, encoder: nn.Module, pixels: tuple[int, int]) -> None:
        self.encoder, self.pixels = encoder, pixels
        self.images = 0
        self.reason = ""  # why there are no distances
        self._layers: list[_Sums] = []

    @property
    def prefix(self) -> int:
        """Tokens before the patches in the last layer; 0 where that is not known."""
        geometry = self._layers[-1].geometry if self._layers else None
        return geometry.prefix if geometry is not None else 0

    def update(self, maps: Sequence[AttentionMap], batch_size: int) -> None:
        """Add a batch of images."""
        if not self._layers:
            self._layers = self._start(maps, batch_size)
        for layer, entry in zip(self._layers, maps, strict=True):
            if layer.geometry is None:
                values = [entropy_over_all_keys(entry.weights).double() * batch_size]
            else:
                found = attention_statistics(entry.weights, layer.geometry)
                values = [part.double().sum(0) for part in (found.entropy, found.distance, found.elsewhere)]
            values = [value.cpu() for value in values]
            layer.totals = [a + b for a, b in zip(layer.totals, values)] if layer.totals else values
        self.images += batch_size

    def _start(self, maps: Sequence[AttentionMap], batch_size: int) -> list[_Sums]:
        geometries: list[LayerGeometry | None] = []
        try:
            for number, entry in enumerate(maps):
                shape = [entry.weights.shape[0] // batch_size, *entry.weights.shape[1:]]
                geometries.append(layer_geometry(self.encoder, self.pixels, shape, number, entry.block))
        except GeometryUnknownError as error:
            self.reason = f"{error}; entropy is over all keys"
            geometries = [None] * len(maps)
        return [_Sums(geometry, entry.weights.shape[-1]) for geometry, entry in zip(geometries, maps)]

    def layers(self) -> list[LayerSummary]:
        """The means over all images so far."""
        summaries = []
        for layer in self._layers:
            means = [(total / self.images).tolist() for total in layer.totals]
            if layer.geometry is None:
                summaries.append(LayerSummary(None, means[0], float(torch.tensor(float(layer.keys)).log())))
                continue
            uniform_distance, max_entropy = uniform_attention(layer.geometry)
            entropy, distance, elsewhere = means
            summaries.append(
                LayerSummary(distance, entropy, max_entropy, uniform_distance, elsewhere, list(layer.geometry.stride))
            )
        return summaries
