"""Configuration of CSKD models."""

from __future__ import annotations

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .calibration_cskd import checked_calibration
from .prompts_cskd import checked_prompt_bank

POOLINGS = ("auto", "cls", "mean", "pooler")
PROJECTORS = ("linear", "mlp")
_REMOTE_CODE_FIELDS = ("auto_map", "custom_pipelines")


@strict
class CSKDConfig(PreTrainedConfig):
    r"""
    Configuration of [`CSKDForFeatureAlignment`] and [`CSKDForImageAesthetics`]: any transformers image encoder, a
    projector into the space of each reference encoder (CLIP), and a head over score bins.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`):
            The encoder's own configuration, e.g. a `ResNetConfig` or `ViTConfig`. A dict needs its `model_type`.
        feature_size (`int`, *optional*):
            Width of the pooled feature. Found by a dry run of the backbone when not given.
        pooling (`str`, *optional*, defaults to `"auto"`):
            How one feature is made of the encoder's output: `"cls"` (first token), `"mean"` (over tokens or map
            positions), `"pooler"` (the encoder's `pooler_output`), or `"auto"`: the spatial mean for feature maps, the
            `pooler_output` for encoders that have one, else the mean over tokens.
        reference_encoders (`list[dict]`, *optional*):
            One `{"name": str, "dim": int}` for each frozen encoder that the backbone is aligned with; each has a
            projector of its own.
        projector (`str`, *optional*, defaults to `"linear"`):
            `"linear"`, or `"mlp"` (linear, GELU, linear).
        projector_hidden_size (`int`, *optional*):
            Hidden width of the MLP projector; defaults to the reference's dim.
        score_values (`list[float]`, *optional*, defaults to 1..10):
            The value of each score bin on the scale of the ratings, strictly rising: 1..10 for AVA, 1..7 for OASIS.
        attributes (`dict[str, list[float]]`, *optional*):
            Lowest and highest value of each attribute that is predicted beside the score, e.g. `{"color": [1, 5]}`; kept
            in the order of the names, as a saved config is.
        calibration (`dict`, *optional*):
            What scores mean beside others: `quantiles` of a reference set, and a `map` from scores to ratings; see
            `checked_calibration`.
        prompt_bank (`dict`, *optional*):
            The pairs of prompts whose embeddings the model holds in `prompt_embeds`; see `checked_prompt_bank`.
        provenance (`dict`, *optional*):
            How the checkpoint came to be (recipe, data, seeds, versions); carried into every pipeline result.
        history (`list[dict]`, *optional*):
            The trainings that made the weights, first to last, each with its data, counts and settings: what a model card
            tells.

    Raises:
        ValueError: a field holds something that is not allowed; the message names field, value and what is allowed.
    """

    model_type = "cskd"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    feature_size: int | None = None
    pooling: str = "auto"
    reference_encoders: list[dict] | tuple[dict, ...] = ()
    projector: str = "linear"
    projector_hidden_size: int | None = None
    score_values: list[float | int] | tuple[float | int, ...] = tuple(range(1, 11))
    attributes: dict | None = None
    calibration: dict | None = None
    prompt_bank: dict | None = None
    initializer_range: float = 0.02
    provenance: dict | None = None
    history: list[dict] | tuple[dict, ...] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.backbone_config, dict):
            self.backbone_config = _backbone_from_dict(self.backbone_config)
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("projector", self.projector, PROJECTORS)
        self.score_values = _checked_score_values(self.score_values)
        self.attributes = _checked_attributes(self.attributes)
        self.calibration = checked_calibration(self.calibration)
        self.reference_encoders = _checked_references(self.reference_encoders)
        self.prompt_bank = checked_prompt_bank(self.prompt_bank, self.reference_encoders)
        # The bins are the labels, so that stock image-classification tools name them by their value.
        kwargs["id2label"] = {i: f"{value:g}" for i, value in enumerate(self.score_values)}
        kwargs["label2id"] = {label: i for i, label in kwargs["id2label"].items()}
        kwargs.pop("num_labels", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        found = config_dict.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(
                f"this checkpoint is of model_type '{found}', not '{cls.model_type}'. To use its encoder as the backbone "
                "of a CSKD model, call CSKDForImageAesthetics.from_encoder(...) or CSKDForFeatureAlignment.from_encoder(...)."
            )
        if not cls.__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            # This is the installed package: a published checkpoint's own code is neither asked for (pipeline() would
            # refuse its pipeline without trust_remote_code) nor named in what is saved again, which would not hold it.
            config_dict = {name: value for name, value in config_dict.items() if name not in _REMOTE_CODE_FIELDS}
        return super().from_dict(config_dict, **kwargs)


@strict
class CSKDModuleConfig(PreTrainedConfig):
    r"""
    Configuration of an encoder that is a module of one's own; see `register_encoder`.

    Args:
        factory (`str`): the name under which its function is registered.
        arguments (`dict`, *optional*): keyword arguments of the function, in JSON.
        image_size (`int`, *optional*, defaults to 224): side in pixels of its images.
        patch_size (`int`, *optional*): side in pixels of the patches, where it returns tokens.
    """

    model_type = "cskd_module"

    factory: str = ""
    arguments: dict | None = None
    image_size: int = 224
    patch_size: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.arguments = self.arguments or {}
        super().__post_init__(**kwargs)


def _backbone_from_dict(backbone: dict[str, Any]) -> PreTrainedConfig:
    if "model_type" not in backbone:
        raise ValueError(
            "backbone_config has no 'model_type'; give the encoder's, e.g. {'model_type': 'resnet', ...}. "
            f"Keys given: {sorted(backbone)}."
        )
    if backbone["model_type"] == CSKDModuleConfig.model_type:
        return CSKDModuleConfig.from_dict(backbone)
    return AutoConfig.for_model(**backbone)


def _check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field}={value!r} is not known; allowed: {', '.join(allowed)}.")


def _checked_score_values(values: Any) -> list[float]:
    values = [float(v) for v in values]
    rising = all(a < b for a, b in zip(values, values[1:]))
    if len(values) < 2 or not rising or not all(math.isfinite(v) for v in values):
        raise ValueError(f"score_values={values} must be at least two finite, strictly rising numbers, e.g. 1..10.")
    return values


def _checked_attributes(attributes: Any) -> dict[str, list[float]]:
    checked = {}
    # By name, because to_json_string sorts: the outputs of the head must not change places in a saved model.
    for name, scale in sorted((attributes or {}).items(), key=lambda entry: str(entry[0])):
        ends = list(scale) if isinstance(scale, (list, tuple)) else []
        numbers = all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends)
        if not isinstance(name, str) or not name or len(ends) != 2 or not numbers or not ends[0] < ends[1]:
            raise ValueError(
                f"attributes holds {name!r}: {scale!r}; each needs a name (text) and its lowest and highest value, two "
                "finite, rising numbers, e.g. {'color': [1, 5]}."
            )
        checked[name] = [float(end) for end in ends]
    return checked


def _checked_references(references: Any) -> list[dict[str, Any]]:
    checked = []
    for entry in references or ():
        name, dim = entry.get("name"), entry.get("dim")
        if not isinstance(name, str) or not name or not isinstance(dim, int) or dim < 1:
            raise ValueError(
                f"reference_encoders holds {entry!r}; each needs a 'name' (text) and a 'dim' (a whole number above 0)."
            )
        checked.append({"name": name, "dim": dim})
    names = [entry["name"] for entry in checked]
    if len(set(names)) != len(names):
        raise ValueError(f"reference_encoders names one encoder twice: {names}; each name may appear once.")
    return checked


__all__ = ["CSKDConfig", "CSKDModuleConfig"]
