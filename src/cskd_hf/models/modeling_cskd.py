"""CSKD models: any image encoder, aligned with a frozen CLIP and scored over rating bins (arXiv 2307.15640)."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.utils import ModelOutput

from .configuration_cskd import CSKDConfig
from .encoders_cskd import (
    build_encoder,
    find_feature_size,
    find_part,
    part_of_whole,
    pool_features,
    run_encoder,
    spatial_features,
    suitable_encoder_class,
    vision_config,
)
from .prompts_cskd import PromptBank

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    # transformers ships the files that this one imports: the pipeline's too, so that a model that was loaded with its own
    # code keeps it when it is saved again. Older releases follow no further than these imports.
    from .calibration_cskd import percentile  # noqa: F401
    from .image_loading_cskd import load_image  # noqa: F401
    from .module_cskd import CSKDModule  # noqa: F401
    from .pipeline_cskd import ImageAestheticsPipeline  # noqa: F401


@dataclass
class CSKDFeatureAlignmentOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): mean cosine distance to `reference_embeds`, when given.
        aligned_embeds (`torch.FloatTensor` of shape `(batch_size, reference_dim)`):
            The feature in the space of the first reference encoder.
        projections (`tuple[torch.FloatTensor]`): the same for every reference encoder, in the order of the config.
        prompt_attributes (`torch.FloatTensor` of shape `(batch_size, n_prompt_attributes)`, *optional*):
            See [`CSKDImageAestheticsOutput`].
        pooler_output (`torch.FloatTensor` of shape `(batch_size, feature_size)`): the pooled feature.
        last_hidden_state: the encoder's token or feature map.
        hidden_states, attentions: the encoder's, where asked for.
    """

    loss: torch.FloatTensor | None = None
    aligned_embeds: torch.FloatTensor | None = None
    projections: tuple[torch.FloatTensor, ...] | None = None
    prompt_attributes: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class CSKDImageAestheticsOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): see `labels` of the forward.
        logits (`torch.FloatTensor` of shape `(batch_size, bins)`): before the softmax.
        distribution (`torch.FloatTensor` of shape `(batch_size, bins)`): the predicted rating histogram, float32.
        score (`torch.FloatTensor` of shape `(batch_size,)`): its mean, on the scale of `config.score_values`, float32.
        attributes (`torch.FloatTensor` of shape `(batch_size, n_attributes)`, *optional*):
            Each attribute on its own scale, in the order of `config.attributes`, float32; where the model has any.
        prompt_attributes (`torch.FloatTensor` of shape `(batch_size, n_prompt_attributes)`, *optional*):
            How far the image leans to the first prompt of each pair of `config.prompt_bank`, 0 to 1, float32.
        aligned_embeds (`torch.FloatTensor` of shape `(batch_size, reference_dim)`, *optional*):
            The feature in the space of the first reference encoder, comparable with CLIP text embeddings.
        pooler_output (`torch.FloatTensor` of shape `(batch_size, feature_size)`): the pooled feature.
        last_hidden_state, hidden_states, attentions: the encoder's, the last two where asked for.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    distribution: torch.FloatTensor | None = None
    score: torch.FloatTensor | None = None
    attributes: torch.FloatTensor | None = None
    prompt_attributes: torch.FloatTensor | None = None
    aligned_embeds: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def squared_emd(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared earth mover's distance of histograms over the same bins (Hou et al., arXiv 1611.05916).

    The mean over bins of the squared difference of the cumulative sums: NIMA's training loss (arXiv 1709.05424, r=2)
    without the root, whose gradient is unbounded at a perfect prediction.

    Args:
        predicted, target: `(batch_size, bins)`, each row summing to 1.

    Returns:
        `(batch_size,)`, in squared cumulative probability, 0 for equal histograms.
    """
    difference = predicted.float().cumsum(-1) - target.float().cumsum(-1)
    return difference.square().mean(-1)


class CSKDPreTrainedModel(PromptBank, PreTrainedModel):
    """Encoder, pooling and projectors, shared by the two CSKD models; weight initialisation and loading."""

    config_class = CSKDConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: CSKDConfig) -> None:
        super().__init__(config)
        if config.backbone_config is None:
            raise ValueError(
                "CSKDConfig.backbone_config is not set; give an encoder's config or use from_encoder(...)."
            )
        if config.feature_size is None:
            config.feature_size = find_feature_size(config.backbone_config, config.pooling)
        self.backbone = build_encoder(config.backbone_config)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.projectors = nn.ModuleList(
            _projector(config, reference["dim"]) for reference in config.reference_encoders
        )
        self.make_prompts()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PromptBank) and module.config.prompt_bank:
            init.constant_(module.prompt_embeds, float("nan"))  # where a checkpoint lacks them
        # The backbone initialises its own modules; these are the heads and projectors.
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        # The encoder's own way: timm models have another.
        self.backbone._set_gradient_checkpointing(*args, **kwargs)

    def encode(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, ModelOutput]:
        """Pooled feature `(batch_size, feature_size)` and the encoder's whole output.

        Args:
            pixel_values: `(batch_size, channels, height, width)`, as the image processor returns them.
            kwargs: passed to the encoder, e.g. `output_hidden_states`, `output_attentions`.
        """
        outputs = run_encoder(self.backbone, pixel_values, **kwargs)
        return pool_features(outputs, self.config.pooling), outputs

    def feature_map(self, outputs: ModelOutput, pixel_values: torch.Tensor) -> torch.Tensor:
        """The encoder's map `(batch_size, channels, height, width)` of these images; see [`spatial_features`]."""
        return spatial_features(outputs, pixel_values.shape, self.config.backbone_config)

    def project(self, pooled: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`(batch_size, feature_size)` -> one `(batch_size, dim)` for each reference encoder."""
        return tuple(projector(pooled) for projector in self.projectors)

    @classmethod
    def from_encoder(cls, encoder: str | PreTrainedModel, **config_kwargs: Any) -> CSKDPreTrainedModel:
        """A CSKD model around a pretrained image encoder; projectors and head are new.

        Args:
            encoder: Hub name or folder of any transformers image encoder (of a CLIP-like model, its vision tower), a
                loaded one, or the name, folder or model of another CSKD model, whose projectors are kept unless
                `reference_encoders` or `projector` is given.
            config_kwargs: fields of [`CSKDConfig`], e.g. `score_values`, `pooling`, `reference_encoders`.

        Raises:
            ValueError: it is no encoder of RGB images, or its weights do not fit what its config describes.
        """
        if not isinstance(encoder, PreTrainedModel):
            encoder, pooling = load_encoder(encoder)
            if pooling != "auto":
                config_kwargs = {"pooling": pooling} | config_kwargs
        if isinstance(encoder, CSKDPreTrainedModel):
            fields = {name: getattr(encoder.config, name) for name in _INHERITED_FIELDS}
            backbone = encoder.backbone
            if encoder.config.prompt_bank:
                logger.warning(
                    "the encoder's prompt bank is left behind, since training changes the space that it is in; build it anew "
                    "for the trained model with `cskd-hf prompts`"
                )
        else:
            fields = {"backbone_config": encoder.config}
            backbone = encoder
        # A copy: the caller keeps its config, and the maker's local path does not travel with the checkpoint.
        fields["backbone_config"] = copy.deepcopy(fields["backbone_config"])
        fields["backbone_config"]._name_or_path = ""
        if isinstance(backbone, BackboneMixin):
            fields["backbone_config"].architectures = [type(backbone).__name__]
        model = cls(CSKDConfig(**{**fields, **config_kwargs}))
        if type(backbone) is not type(model.backbone):
            backbone = find_part(backbone, model.backbone) or backbone.base_model  # of a classifier or the like
        missing, unexpected = model.backbone.load_state_dict(backbone.state_dict(), strict=False)
        if missing or unexpected:
            raise ValueError(
                f"the weights of {type(encoder).__name__} do not fit {type(model.backbone).__name__}, which its config "
                f"describes; missing {missing[:3]}, unexpected {unexpected[:3]}. Load it with its AutoModel class first."
            )
        if isinstance(encoder, CSKDPreTrainedModel) and not {"reference_encoders", "projector"} & set(config_kwargs):
            model.projectors.load_state_dict(encoder.projectors.state_dict())
        return model


_INHERITED_FIELDS = (
    "backbone_config", "feature_size", "pooling", "reference_encoders", "projector", "projector_hidden_size", "history"
)  # fmt: skip


def _projector(config: CSKDConfig, dim: int) -> nn.Module:
    if config.projector == "linear":
        return nn.Linear(config.feature_size, dim)
    hidden = config.projector_hidden_size or dim
    return nn.Sequential(nn.Linear(config.feature_size, hidden), nn.GELU(), nn.Linear(hidden, dim))


def load_encoder(name_or_path: str) -> tuple[PreTrainedModel, str]:
    """A pretrained image encoder in float32 (of a CLIP-like model, its vision tower), and how to pool it.

    The pooling is "cls" for an encoder whose pooler is not in the checkpoint, as in that of a ViT classifier:
    transformers fills it with random weights. Otherwise it is "auto".

    Raises:
        ValueError: the checkpoint lacks weights of the encoder.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    if config.model_type == CSKDConfig.model_type:
        return CSKDForFeatureAlignment.from_pretrained(name_or_path, dtype=torch.float32), "auto"
    whole, config = config, vision_config(config)
    try:
        kind = suitable_encoder_class(config)
    except ValueError as error:
        raise ValueError(
            f"'{name_or_path}' is of model_type '{config.model_type}', which cannot be a backbone: {error}. "
            "`cskd-hf encoders` lists those that can."
        ) from error
    model, loaded = kind.from_pretrained(name_or_path, config=config, dtype=torch.float32, output_loading_info=True)
    missing = sorted(loaded["missing_keys"])
    if any("pooler" not in name for name in missing):
        model, missing = part_of_whole(name_or_path, whole, model)
    if lacking := [name for name in missing if "pooler" not in name]:
        raise ValueError(
            f"'{name_or_path}' holds no weights for {len(lacking)} parts of {kind.__name__}, {lacking[0]} among "
            "them; give a checkpoint of the image encoder itself."
        )
    return model, "cls" if missing else "auto"


class CSKDForFeatureAlignment(CSKDPreTrainedModel):
    """Phase 1: the encoder with a projector into the space of each frozen reference encoder."""

    # A scoring checkpoint is this model and heads.
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^attribute_head\."]

    def __init__(self, config: CSKDConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        reference_embeds: torch.Tensor | tuple[torch.Tensor, ...] | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CSKDFeatureAlignmentOutput | tuple:
        """
        Args:
            pixel_values: `(batch_size, channels, height, width)`.
            reference_embeds: features of the reference encoders for the same crops, `(batch_size, reference_dim)`
                each; with them the output holds the loss 1 - cosine.
            return_dict: False returns a tuple.
        """
        pooled, outputs = self.encode(pixel_values, **kwargs)
        projections = self.project(pooled)
        loss = None
        if reference_embeds is not None:
            targets = reference_embeds if isinstance(reference_embeds, (tuple, list)) else (reference_embeds,)
            distances = [
                1 - F.cosine_similarity(p.float(), t.float()).mean() for p, t in zip(projections, targets, strict=True)
            ]
            loss = torch.stack(distances).mean()
        output = CSKDFeatureAlignmentOutput(
            loss=loss,
            aligned_embeds=projections[0] if projections else None,
            projections=projections,
            prompt_attributes=self.prompt_values(projections),
            pooler_output=pooled,
            last_hidden_state=outputs.get("last_hidden_state"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )
        return output.to_tuple() if return_dict is False else output


class CSKDForImageAesthetics(CSKDPreTrainedModel):
    """Teacher and student: the encoder with a linear head over score bins, and one for attributes where there are any."""

    def __init__(self, config: CSKDConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.feature_size, len(config.score_values))
        self.attribute_head = nn.Linear(config.feature_size, len(config.attributes)) if config.attributes else None
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CSKDImageAestheticsOutput | tuple:
        """
        Args:
            pixel_values: `(batch_size, channels, height, width)`, as the checkpoint's image processor returns them.
            labels: rating histograms `(batch_size, bins)` that sum to 1, for the squared EMD loss; or mean ratings
                `(batch_size,)` on the scale of `config.score_values`, for the squared error in bins.
            return_dict: False returns a tuple.
            kwargs: passed to the encoder, e.g. `output_hidden_states`, `output_attentions`.
        """
        pooled, outputs = self.encode(pixel_values, **kwargs)
        logits = self.classifier(pooled)
        # float32 and from the config: exact in bfloat16 checkpoints and after meta-device loading, where a buffer
        # would be rounded or left uninitialised.
        distribution = logits.float().softmax(-1)  # (B, bins)
        values = torch.tensor(self.config.score_values, dtype=torch.float32, device=logits.device)
        score = (distribution * values).sum(-1)  # (B,)
        projections = self.project(pooled)
        output = CSKDImageAestheticsOutput(
            loss=None if labels is None else rating_loss(distribution, labels, values),
            logits=logits,
            distribution=distribution,
            score=score,
            attributes=self.attribute_values(pooled),
            prompt_attributes=self.prompt_values(projections),
            aligned_embeds=projections[0] if projections else None,
            pooler_output=pooled,
            last_hidden_state=outputs.get("last_hidden_state"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
        )
        return output.to_tuple() if return_dict is False else output

    def attribute_values(self, pooled: torch.Tensor) -> torch.Tensor | None:
        """`(batch_size, feature_size)` -> `(batch_size, n_attributes)`, each within its scale: low + (high - low) s(x)
        with the logistic function s; None for a model without attributes."""
        if self.attribute_head is None:
            return None
        scales = torch.tensor(
            list(self.config.attributes.values()), dtype=torch.float32, device=pooled.device
        )  # (A, 2)
        low, high = scales.unbind(-1)
        return low + (high - low) * self.attribute_head(pooled).float().sigmoid()


def rating_loss(distribution: torch.Tensor, labels: torch.Tensor, score_values: torch.Tensor) -> torch.Tensor:
    """The mean of [`rating_losses`]."""
    return rating_losses(distribution, labels, score_values).mean()


def rating_losses(distribution: torch.Tensor, labels: torch.Tensor, score_values: torch.Tensor) -> torch.Tensor:
    """Losses of predicted histograms against histograms (squared EMD) or mean ratings (squared error).

    The squared error is taken in units of the whole scale, so that both losses have like size.

    Args:
        distribution: `(batch_size, bins)`.
        labels: `(batch_size, bins)` histograms, or `(batch_size,)` mean ratings on the scale of `score_values`.
        score_values: `(bins,)`.

    Returns:
        `(batch_size,)`.
    """
    if labels.shape == distribution.shape:
        return squared_emd(distribution, labels)
    if labels.shape == distribution.shape[:1]:
        span = score_values[-1] - score_values[0]
        return (((distribution * score_values).sum(-1) - labels.float()) / span).square()
    raise ValueError(
        f"labels of shape {tuple(labels.shape)} fit neither histograms {tuple(distribution.shape)} nor mean ratings "
        f"{tuple(distribution.shape[:1])}."
    )


__all__ = [
    "CSKDFeatureAlignmentOutput",
    "CSKDForFeatureAlignment",
    "CSKDForImageAesthetics",
    "CSKDImageAestheticsOutput",
    "CSKDPreTrainedModel",
    "pool_features",
    "spatial_features",
]
