"""The layers of an encoder: how deep each parameter is, for layer-wise learning rates and frozen first layers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from ..data.views import Preprocessing
from ..models.modeling_cskd import CSKDPreTrainedModel
from .settings import SettingsError


def rate_factors(depths: dict[str, int], layers: int, decay: float) -> dict[str, float]:
    """Factor of the learning rate of each parameter: decay^(layers + 1 - depth).

    Layer-wise decay after ELECTRA (arXiv 2003.10555) and ULMFiT's discriminative rates (arXiv 1801.06146), in BEiT's
    numbering (arXiv 2106.08254): the stem is layer 0, the blocks follow from 1 on, and what comes after the last block
    is one layer further, at the full rate.

    Args:
        depths, layers: see `layer_depths`.
        decay: from each layer to the one before it, above 0, at most 1.
    """
    return {name: decay ** (layers + 1 - depth) for name, depth in depths.items()}


def freeze_layers(model: CSKDPreTrainedModel, preprocessing: Preprocessing, freeze: str) -> None:
    """Take the first layers of the encoder out of training.

    Args:
        model: on its device.
        preprocessing: of the model.
        freeze: a number of layers, which takes in the stem, a share of them, "encoder" for all of it, or nothing.

    Raises:
        SettingsError: there are fewer layers.
    """
    if not freeze:
        return
    if freeze == "encoder":
        model.backbone.requires_grad_(False)
        return
    depths, layers = layer_depths(model, preprocessing)
    count = int(freeze) if freeze.isdigit() else round(float(freeze) * layers)
    if count > layers:
        raise SettingsError(
            f"freeze={freeze}, but the encoder has {layers} layers; give at most that, or 'encoder' for all of it."
        )
    for name, parameter in model.backbone.named_parameters():
        if depths[name] <= count:
            parameter.requires_grad_(False)


def layer_depths(model: CSKDPreTrainedModel, preprocessing: Preprocessing) -> tuple[dict[str, int], int]:
    """The layer that each parameter of the encoder belongs to, by its name in the encoder, and the number L of layers.

    Layers are the entries of module lists whose every entry holds two weight matrices or more: transformer blocks,
    residual blocks, not the linear maps within them. Where a list's entry holds such a list itself (stages), the inner
    ones count. What is outside of them (stem, down-sampling, norms) has the number of the last layer that has begun
    before it in a forward pass, which is why one is made: modules need not be registered in the order of their use.

    Args:
        model: on its device.
        preprocessing: of the model.

    Returns:
        0 for the stem, 1 to L for the layers, L + 1 for what is used after the last of them; and L.
    """
    encoder = model.backbone
    places = _call_order(model, preprocessing)
    blocks = _blocks("", encoder) or list(_single_layers(encoder))
    starts = {block: _place(block, places) for block in blocks}
    ordered = sorted(blocks, key=starts.__getitem__)
    number = {block: depth for depth, block in enumerate(ordered, start=1)}
    depths = {}
    for name, _ in encoder.named_parameters():
        owner = name.rpartition(".")[0]
        within = [block for block in blocks if owner == block or owner.startswith(block + ".")]
        if within:
            depths[name] = number[within[0]]
        else:
            begun = sum(starts[block] < places.get(owner, _nearest(owner, places)) for block in blocks)
            depths[name] = begun if begun < len(blocks) else begun + 1
    return depths, len(blocks)


def _blocks(path: str, module: nn.Module) -> list[str]:
    """Names of the layers below a module."""
    found = []
    chain = _is_chain(module)
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        inner = _blocks(below, child)
        found += inner or ([below] if chain and _has_parameters(child) else [])
    return found


def _is_chain(modules: nn.Module) -> bool:
    if not isinstance(modules, (nn.ModuleList, nn.Sequential)):
        return False
    entries = [entry for entry in modules.children() if _has_parameters(entry)]
    return bool(entries) and all(_matrices(entry) > 1 for entry in entries)


def _matrices(module: nn.Module) -> int:
    """Number of weight matrices; tables of positions are none."""
    return sum(p.ndim > 1 and name.endswith("weight") for name, p in module.named_parameters())


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _single_layers(encoder: nn.Module) -> Iterator[str]:
    """Of an encoder without lists of blocks: every module that owns a matrix."""
    for name, module in encoder.named_modules():
        if name and any(p.ndim > 1 for p in module.parameters(recurse=False)):
            yield name


@torch.no_grad()
def _call_order(model: CSKDPreTrainedModel, preprocessing: Preprocessing) -> dict[str, int]:
    """When each module of the encoder is first called in a forward pass."""
    order: dict[str, int] = {}

    def note(name: str, *_: object) -> None:
        order.setdefault(name, len(order))

    modules = model.backbone.named_modules()
    hooks = [module.register_forward_pre_hook(partial(note, name)) for name, module in modules]
    training = model.training
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng():  # masked autoencoders draw what they mask
            model.eval().encode(torch.zeros(1, 3, *preprocessing.size, device=device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return order


def _nearest(name: str, places: dict[str, int]) -> int:
    """When the nearest module around one that is not called itself is called."""
    while name and name not in places:
        name = name.rpartition(".")[0]
    return places.get(name, 0)


def _place(block: str, places: dict[str, int]) -> int:
    """When a layer begins: at its own first call, or that of the first module within it that is called."""
    if block in places:
        return places[block]
    inner = [place for name, place in places.items() if name.startswith(block + ".")]
    return min(inner, default=_nearest(block, places))
