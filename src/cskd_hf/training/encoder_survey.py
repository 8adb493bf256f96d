"""Which image encoders of the installed transformers can be students: found in its own mappings, and tried out tiny."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_BACKBONE_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
)

from ..models.configuration_cskd import CSKDConfig, CSKDModuleConfig
from ..models.encoders_cskd import encoder_class, refusal, run_encoder, spatial_features
from ..models.modeling_cskd import CSKDForFeatureAlignment

SIDE = 64
_OURS = (CSKDConfig.model_type, CSKDModuleConfig.model_type)
_TOWERS = ("vision_config", "image_config")

# What makes a config tiny: the value for a number in each of these fields, whatever the family.
_TINY = {
    32: ("hidden_size", "embed_dim", "d_model", "embedding_size", "hidden_dim", "width", "output_dim", "projection_dim",
         "projection_size", "out_hidden_size"),
    48: ("intermediate_size", "mlp_dim", "ffn_dim"),
    2: ("num_hidden_layers", "num_layers", "depth", "num_attention_heads", "num_heads", "num_key_value_heads",
        "window_size"),
    SIDE: ("image_size", "input_size", "img_size"),
}  # fmt: skip
_TINY_NUMBERS = {name: value for value, names in _TINY.items() for name in names}
_TINY_SCALES = {"depth_multiplier": 0.25, "scale": 0.25, "width_multiplier": 0.25}
# And for lists, one entry a stage.
_TINY_LISTS = {
    "depths": lambda stage: 1,
    "num_blocks": lambda stage: 1,
    "hidden_sizes": lambda stage: 8 * 2**stage,
    "embed_dims": lambda stage: 8 * 2**stage,
    "num_heads": lambda stage: 1,
    "num_attention_heads": lambda stage: 1,
    "image_size": lambda stage: SIDE,
}
# Families whose fields depend on each other.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "align_vision_model": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "bit": {"num_groups": 4},
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "hgnet_v2": {
        "stage_in_channels": [48, 16, 16, 16], "stage_mid_channels": [8] * 4, "stage_out_channels": [16, 16, 16, 32],
        "hidden_sizes": [16, 16, 16, 32], "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4,
    },
    "levit": {"hidden_sizes": [16, 32, 48]},
    "llama4_vision_model": {"intermediate_size": 128, "projector_input_dim": 32, "projector_output_dim": 32},
    "pp_formulanet_vision": {"post_conv_mid_channels": 64, "post_conv_out_channels": 64},
    "textnet": {"stem_out_channels": 8},
}  # fmt: skip


@dataclass(frozen=True)
class EncoderFamily:
    """A kind of image encoder.

    Args:
        model_type: of its config.
        config_class: its config.
        found_in: which of transformers' lists names it: "image classification", "backbone", or the models whose vision
            tower it is.
    """

    model_type: str
    config_class: type[PreTrainedConfig]
    found_in: tuple[str, ...]


@dataclass(frozen=True)
class EncoderReport:
    """What a family gives, or why it cannot serve.

    Args:
        family, found_in: see [`EncoderFamily`].
        encoder: class of the encoder.
        feature: how the pooled feature is made, with `pooling="auto"`.
        width: the field of the config that gives its width, where one does.
        map: "tokens", "feature map", "tokens without a grid", or "none": what token-level alignment can use.
        gradient_checkpointing: whether activations can be recomputed to save memory.
        attentions: whether the encoder returns its attention.
        supported: whether it aligns.
        reason: why not.
    """

    family: str
    found_in: tuple[str, ...]
    encoder: str = ""
    feature: str = ""
    width: str = ""
    map: str = ""
    gradient_checkpointing: bool = False
    attentions: bool = False
    supported: bool = False
    reason: str = ""


def encoder_families() -> dict[str, EncoderFamily]:
    """Every image encoder that the installed transformers names, by model_type.

    Those for image classification, the backbones, and the vision towers: of a model with a `vision_config` or
    `image_config`, the class of that, or of its default where any encoder may be put in.
    """
    found: dict[str, tuple[type[PreTrainedConfig], list[str]]] = {}
    listed = {name: "image classification" for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES}
    for name in MODEL_FOR_BACKBONE_MAPPING_NAMES:
        listed.setdefault(name, "backbone")
    for model_type in dict.fromkeys([*listed, *CONFIG_MAPPING_NAMES]):
        if model_type in _OURS:
            continue
        config_class = CONFIG_MAPPING[model_type]
        tower = _tower_class(config_class)
        if tower is not None:
            found.setdefault(tower.model_type, (tower, []))[1].append(model_type)
        elif model_type in listed:
            found.setdefault(model_type, (config_class, []))[1].append(listed[model_type])
    return {name: EncoderFamily(name, kind, tuple(places)) for name, (kind, places) in sorted(found.items())}


def _tower_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedConfig] | None:
    for name in _TOWERS:
        tower = (config_class.sub_configs or {}).get(name)
        if tower is None:
            continue
        if getattr(tower, "model_type", ""):
            return tower
        default = getattr(config_class(), name, None)  # AutoConfig: any encoder
        return type(default) if isinstance(default, PreTrainedConfig) else None
    return None


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A config of a few thousand weights, for images of 64 x 64 pixels."""
    return config_class(**_tiny_fields(config_class()))


def _tiny_fields(config: PreTrainedConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in config.to_dict():
        value = getattr(config, name, None)
        if isinstance(value, PreTrainedConfig):
            fields[name] = type(value)(**_tiny_fields(value))
        elif isinstance(value, int) and not isinstance(value, bool) and name in _TINY_NUMBERS:
            fields[name] = min(value, _TINY_NUMBERS[name]) if value > 0 else value
        elif name in _TINY_SCALES and isinstance(value, (int, float)):
            fields[name] = _TINY_SCALES[name]
        elif isinstance(value, (list, tuple)) and name in _TINY_LISTS:
            fields[name] = [_TINY_LISTS[name](stage) for stage in range(len(value))]
    if "embed_dim" in fields and "depths" in fields:
        fields.pop("hidden_size", None)  # it follows from these two
    return fields | _OVERRIDES.get(config.model_type, {})


def survey_encoders(names: Sequence[str] = ()) -> list[EncoderReport]:
    """Try every family: build it tiny, align it for one step, look at what it returns.

    Args:
        names: only these, by model_type or by the model whose vision tower it is; all where empty.

    Raises:
        ValueError: there is no such family.
    """
    families = encoder_families()
    chosen = [f for f in families.values() if not names or {f.model_type, *f.found_in} & set(names)]
    known = {name for family in families.values() for name in (family.model_type, *family.found_in)}
    if unknown := [name for name in names if name not in known]:
        from .recipes import nearest

        raise ValueError(
            f"transformers has no image encoder named '{unknown[0]}'{nearest(unknown[0], sorted(known))}; "
            "`cskd-hf encoders` lists all."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [survey_encoder(family) for family in chosen]


def survey_encoder(family: EncoderFamily) -> EncoderReport:
    """Try one family."""
    known: dict[str, Any] = {"family": family.model_type, "found_in": family.found_in}
    config = None
    try:
        config = tiny_config(family.config_class)
        known["encoder"] = encoder_class(config).__name__
        return EncoderReport(**known, **_try_encoder(config), supported=True)
    except Exception as error:  # whatever a family raises is the reason why it cannot serve
        cause = error.__cause__ or error
        if config is None:
            return EncoderReport(**known, reason=f"no tiny config of it can be made: {str(cause)[:120]}")
        return EncoderReport(**known, reason=refusal(cause, config))


def _try_encoder(config: PreTrainedConfig) -> dict[str, Any]:
    torch.manual_seed(0)
    model = CSKDForFeatureAlignment(CSKDConfig(backbone_config=config, reference_encoders=[{"name": "any", "dim": 8}]))
    pixels = torch.randn(2, 3, SIDE, SIDE)
    model(pixels, reference_embeds=torch.randn(2, 8)).loss.backward()
    if not any(p.grad is not None and p.grad.any() for p in model.backbone.parameters()):
        raise ValueError("no gradient reaches its weights")
    with torch.no_grad():
        outputs = run_encoder(model.eval().backbone, pixels)
    hidden = outputs.get("last_hidden_state")
    kind = "none" if hidden is None else {3: "tokens", 4: "feature map"}.get(hidden.dim(), "none")
    pooled = outputs.get("pooler_output") is not None
    try:
        spatial_features(outputs, pixels.shape, model.config.backbone_config)
    except ValueError:
        kind = "tokens without a grid" if kind == "tokens" else "none"
    return {
        "feature": "pooler_output" if pooled else "mean of the map" if hidden.dim() == 4 else "mean of the tokens",
        "width": _width_field(model.config.backbone_config, model.config.feature_size),
        "map": kind,
        "gradient_checkpointing": _recomputes(model, pixels),
        "attentions": _gives_attention(model, pixels),
    }


def _width_field(config: PreTrainedConfig, width: int) -> str:
    for name in ("hidden_size", "hidden_sizes", "encoder_hidden_sizes", "embed_dims", "embed_dim", "output_channels"):
        value = getattr(config, name, None)
        if isinstance(value, (list, tuple)) and value and value[-1] == width:
            return f"{name}[-1]"
        if value == width:
            return name
    return ""


def _recomputes(model: CSKDForFeatureAlignment, pixels: torch.Tensor) -> bool:
    """Whether gradient checkpointing is offered, and used."""
    try:
        model.gradient_checkpointing_enable()
    except ValueError:
        return False
    calls = []

    def count(function: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(function)
        return function(*args, **kwargs)

    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = count
    model.train()(pixels)
    model.eval().gradient_checkpointing_disable()
    return bool(calls)


@torch.no_grad()
def _gives_attention(model: CSKDForFeatureAlignment, pixels: torch.Tensor) -> bool:
    try:
        model.backbone.set_attn_implementation("eager")
        attentions = run_encoder(model.backbone, pixels, output_attentions=True).get("attentions")
    except (ValueError, TypeError, AttributeError):
        return False
    return bool(attentions) and any(layer is not None for layer in attentions)


def encoders_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf encoders`: print the table; returns the exit code 0."""
    reports = survey_encoders(namespace.families)
    if namespace.json:
        print(json.dumps([asdict(report) for report in reports], indent=1))
        return 0
    rows = [("family", "encoder", "pooled feature", "width", "map", "checkpointing", "attention")]
    for r in reports:
        if r.supported:
            flags = ["yes" if flag else "no" for flag in (r.gradient_checkpointing, r.attentions)]
            rows.append((r.family, r.encoder, r.feature, r.width or "by a dry run", r.map, *flags))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"{len(rows) - 1} supported")
    refused = [r for r in reports if not r.supported]
    if refused:
        print("\nnot supported")
    for r in refused:
        print(f"  {r.family} ({r.encoder or 'no class'}): {r.reason}")
    return 0
