"""The image classifiers that transformers itself has: which one takes an encoder's weights, and what its head is given."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from ..models.configuration_cskd import CSKDModuleConfig
from ..models.encoders_cskd import interpolates, run_encoder
from ..models.modeling_cskd import CSKDForImageAesthetics


class UnfitStock(ValueError):
    """No stock class can do what the model does; the message says why."""


@dataclass(frozen=True)
class StockClassifier:
    """A classifier of transformers with a scorer's encoder in it.

    Args:
        model: the classifier, in evaluation mode.
        heads: its linear heads, `(bins, width)` each; of several, the mean of their values counts.
        additions: parts that the encoder has no weights for, by name and class, which the heads' input may depend on.
    """

    model: PreTrainedModel
    heads: list[nn.Linear]
    additions: list[str]

    @torch.no_grad()
    def head_input(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the heads are given for `(batch_size, 3, height, width)`: `(batch_size, width)`.

        Raises:
            UnfitStock: the classifier does not take these images, or gives no logits.
        """
        seen: list[torch.Tensor] = []
        hook = self.heads[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.model(pixel_values=pixel_values).logits
        except Exception as error:  # whatever a class raises is the reason why it cannot serve
            name, (height, width) = type(self.model).__name__, pixel_values.shape[-2:]
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(". ")
            raise UnfitStock(f"given images of {height} x {width} pixels, {name} fails with {reason}") from error
        finally:
            hook.remove()
        if logits is None or logits.shape != (len(pixel_values), self.heads[0].out_features):
            raise UnfitStock(f"{type(self.model).__name__} does not return one value for each label")
        return seen[0].flatten(1)

    @torch.no_grad()
    def fill_heads(self, classifier: nn.Linear, shares: Sequence[float]) -> None:
        """Give the heads a scorer's head; see [`head_shares`]."""
        for head in self.heads:
            head.weight.copy_(torch.cat([share * classifier.weight for share in shares], dim=1))
            head.bias.copy_(classifier.bias)


def head_shares(head_input: torch.Tensor, pooled: torch.Tensor, tokens: int) -> tuple[float, ...] | None:
    """How the pooled feature is made of what a stock head is given, measured on the features of a few images.

    The heads of most classes are given one feature; those of DINOv2's two, side by side: the CLS token and the mean of
    the patch tokens.

    Args:
        head_input: `(images, width)` or `(images, 2 * width)`.
        pooled: `(images, width)`.
        tokens: the encoder's, the CLS token among them.

    Returns:
        The weight of each of the features in the pooled one; None where it is made of other things.
    """
    parts = head_input.split(pooled.shape[-1], dim=-1)
    choices = {1: [(1.0,)], 2: [(1.0, 0.0), (0.0, 1.0), (1 / tokens, (tokens - 1) / tokens)]}
    for shares in choices.get(len(parts), []):
        made = sum(share * part for share, part in zip(shares, parts)) if parts[-1].shape == pooled.shape else None
        if made is not None and (made - pooled).abs().max() <= 1e-4 * pooled.abs().max():
            return shares
    return None


def stock_class(config: PreTrainedConfig) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """The classifier of an encoder, and a config for it: the encoder's own, or that of the model whose tower it is.

    Raises:
        UnfitStock: transformers has none.
    """
    if isinstance(config, CSKDModuleConfig):
        raise UnfitStock("the encoder is a module of one's own, not one of transformers")
    classes = AutoModelForImageClassification._model_mapping
    found = classes.get(type(config), None)
    if found is not None:
        return found[0] if isinstance(found, tuple) else found, config
    for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        whole = CONFIG_MAPPING[name]
        # The module, too: other models than SigLIP have its tower.
        if whole.sub_configs.get("vision_config") is type(config) and whole.__module__ == type(config).__module__:
            return classes[whole], whole(vision_config=config.to_dict())
    raise UnfitStock("transformers has no image classifier of this encoder")


def build_stock(model: CSKDForImageAesthetics, pixel_values: torch.Tensor) -> StockClassifier:
    """The classifier with the model's encoder and labels in it, and heads that are still random.

    A stock pipeline does not ask for interpolated position embeddings; where the model needs them, the classifier is
    made for its size of images and gets them as weights.

    Args:
        model: teacher or student, in evaluation mode.
        pixel_values: `(1, 3, height, width)` of the size that it will get.

    Raises:
        UnfitStock: there is none.
    """
    encoder = model.backbone
    config, weights = copy.deepcopy(encoder.config), encoder.state_dict()
    if interpolates(encoder, pixel_values.shape[-2:]):
        weights |= _positions(encoder, pixel_values)
        height, width = pixel_values.shape[-2:]
        one_number = isinstance(config.image_size, int) and height == width
        config.image_size = height if one_number else [height, width]
    kind, config = stock_class(config)
    if "spatial_shapes" in inspect.signature(kind.forward).parameters:
        raise UnfitStock(
            f"{kind.__name__} takes packed patches and their grid, which other image processors do not make"
        )
    config.architectures, config._name_or_path = None, ""
    for name in ("num_classes", "label_names"):  # of timm's configs, where they overrule the labels
        vars(config).pop(name, None)
    config.num_labels = len(model.config.id2label)
    config.id2label, config.label2id = dict(model.config.id2label), dict(model.config.label2id)
    config.score_values, config.provenance = list(model.config.score_values), model.config.provenance
    stock = kind._from_config(config, dtype=torch.float32).eval()
    weights = _placed(weights, stock)
    stock.load_state_dict(weights, strict=False)
    heads, additions = [], []
    for name, module in stock.named_modules():
        own = {f"{name}.{key}".lstrip(".") for key in module.state_dict() if "." not in key}
        if own <= set(weights):
            continue
        if isinstance(module, nn.Linear) and module.out_features == config.num_labels and not own & set(weights):
            heads.append(module)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and not own & set(weights):
            _silence(module)
        else:
            additions.append(f"'{name}' ({type(module).__name__})")
    if not heads:
        raise UnfitStock(f"{kind.__name__} has no linear head")
    return StockClassifier(stock, heads, additions)


@torch.no_grad()
def _positions(encoder: PreTrainedModel, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """The position embeddings that an encoder interpolates for these images, by the names of their weights."""
    found: dict[str, torch.Tensor] = {}
    owners = {name: part for name, part in encoder.named_modules() if hasattr(part, "interpolate_pos_encoding")}

    def recorded(name: str, interpolate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def record(*args: Any, **kwargs: Any) -> torch.Tensor:
            positions = interpolate(*args, **kwargs)  # (1, T, C)
            found[f"{name}.position_embeddings"] = positions.clone()
            found[f"{name}.position_embedding.weight"] = positions[0].clone()
            return positions

        return record

    for name, part in owners.items():
        part.interpolate_pos_encoding = recorded(name, part.interpolate_pos_encoding)
    try:
        run_encoder(encoder, pixel_values)
    finally:
        for part in owners.values():
            del part.interpolate_pos_encoding  # the instance's; that of its class comes forth again
    return {name: value for name, value in found.items() if name in encoder.state_dict()}


def _placed(weights: dict[str, torch.Tensor], stock: nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's weights under the names that they have in the classifier; those it has no place for are left out."""
    shapes = {name: value.shape for name, value in stock.state_dict().items()}

    def placed(prefix: str) -> dict[str, torch.Tensor]:
        return {prefix + name: value for name, value in weights.items() if shapes.get(prefix + name) == value.shape}

    prefixes = [name and name + "." for name, _ in stock.named_modules()]
    return max((placed(prefix) for prefix in prefixes), key=len)


@torch.no_grad()
def _silence(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Make a batch norm that the classifier adds do nothing."""
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
    norm.weight.fill_((1 + norm.eps) ** 0.5)
    norm.bias.zero_()
