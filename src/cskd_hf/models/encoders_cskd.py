"""Image encoders as backbones: how they are found, built and run, and how their output is pooled or becomes a map."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_cskd import CSKDModuleConfig
from .module_cskd import CSKDModule


class UnfitEncoder(ValueError):
    """An encoder that cannot make one feature of an RGB image; the message says why."""


def encoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of image encoder that takes this config.

    That of AutoModel; of AutoBackbone, where AutoModel has none or the config is that of a saved backbone; else the one
    with `pixel_values` beside the config's class, as for the vision towers of BLIP, ALIGN or MetaCLIP 2.

    Raises:
        UnfitEncoder: there is none.
    """
    kind = type(config)
    if isinstance(config, CSKDModuleConfig):
        return CSKDModule
    backbone = transformers.AutoBackbone._model_mapping.get(kind, None)
    if backbone is not None and (config.architectures or [None])[0] == backbone.__name__:
        return backbone
    found = transformers.AutoModel._model_mapping.get(kind, None)
    if isinstance(found, tuple):  # several for one config: the first is the plain one
        found = found[0]
    found = found or backbone or _class_beside(kind)
    if found is None:
        raise UnfitEncoder(
            f"transformers {transformers.__version__} has no class for it alone that takes pixel values"
        )
    return found


def _class_beside(kind: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
    name = kind.__module__.replace(".configuration_", ".modeling_")
    if name == kind.__module__ or importlib.util.find_spec(name) is None:
        return None
    found = [
        model
        for model in vars(importlib.import_module(name)).values()
        if inspect.isclass(model) and issubclass(model, PreTrainedModel) and model.config_class is kind
        and "pixel_values" in inspect.signature(model.forward).parameters and "With" not in model.__name__
    ]  # fmt: skip
    return min(found, key=lambda model: not model.__name__.endswith("Model"), default=None)


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with new weights."""
    return encoder_class(config)._from_config(config)


def vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of a CLIP-like model, the config of its vision tower; else the config itself."""
    for name in ("vision_config", "image_config"):
        if isinstance(part := getattr(config, name, None), PreTrainedConfig):
            return part
    return config


def find_part(model: nn.Module, encoder: nn.Module) -> nn.Module | None:
    """The part of a model whose weights are those of the encoder by name and shape."""
    wanted = {name: value.shape for name, value in encoder.state_dict().items()}
    for module in model.modules():
        if {name: value.shape for name, value in module.state_dict().items()} == wanted:
            return module
    return None


def run_encoder(encoder: nn.Module, pixel_values: torch.Tensor, **kwargs: Any) -> ModelOutput:
    """The encoder's output for `(batch_size, 3, height, width)`, with `last_hidden_state` also for a backbone.

    Args:
        kwargs: passed to the encoder, e.g. `output_hidden_states`.
    """
    if interpolates(encoder, pixel_values.shape[-2:]):
        kwargs.setdefault("interpolate_pos_encoding", True)
    if "spatial_shapes" in inspect.signature(encoder.forward).parameters:
        kwargs = _packed_patches(pixel_values, encoder.config.patch_size) | kwargs
    else:
        kwargs["pixel_values"] = pixel_values
    outputs = encoder(**kwargs)
    if "feature_maps" in outputs and "last_hidden_state" not in outputs:
        outputs["last_hidden_state"] = outputs["feature_maps"][-1]
    return outputs


def interpolates(encoder: nn.Module, size: Sequence[int]) -> bool:
    """Whether the encoder is asked to interpolate its position embeddings for images of this height and width."""
    asks = "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
    return asks and max(size) != image_side(encoder.config)


def _packed_patches(pixel_values: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor]:
    """The inputs of an encoder of images of any shape (SigLIP 2, NaFlex) for images of one shape.

    Returns:
        `pixel_values` `(batch_size, patches, patch_size * patch_size * channels)`, no mask, as none is padded, and the grid.

    Raises:
        ValueError: height or width is no multiple of the patch size.
    """
    batch, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    if (height, width) != (rows * patch_size, columns * patch_size):
        raise ValueError(f"images of {height} x {width} pixels do not divide into patches of {patch_size} pixels.")
    patches = pixel_values.reshape(batch, channels, rows, patch_size, columns, patch_size)
    patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)  # (B, T, P * P * C)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": None,
        # On the CPU: the encoder reads these numbers one by one.
        "spatial_shapes": torch.tensor([[rows, columns]] * batch, device="cpu"),
    }


def image_side(config: PreTrainedConfig) -> int:
    """The longer side in pixels of the images that an encoder is made for; 64 where its config names none."""
    size = getattr(config, "image_size", None) or 64
    return size if isinstance(size, int) else max(size)


def find_feature_size(config: PreTrainedConfig, pooling: str) -> int:
    """Width of the pooled feature of an encoder, by a dry run: without memory or weights where it can do without.

    Raises:
        ValueError: it makes no feature of an RGB image; the message says why.
    """
    try:
        suitable_encoder_class(config)
        if not isinstance(config, CSKDModuleConfig):
            try:
                return _dry_run(config, pooling, "meta")
            except (RuntimeError, NotImplementedError) as error:
                if "meta" not in str(error):
                    raise
        return _dry_run(config, pooling, "cpu")
    except Exception as error:
        raise ValueError(
            f"an encoder of model_type '{config.model_type}' cannot be a backbone: {refusal(error, config)}. "
            "`cskd-hf encoders` lists those that can."
        ) from error


@torch.no_grad()
def _dry_run(config: PreTrainedConfig, pooling: str, device: str) -> int:
    side = image_side(config)
    with torch.device(device):
        outputs = run_encoder(build_encoder(config).eval(), torch.zeros(2, 3, side, side))
        pooled = pool_features(outputs, pooling)
    hidden = outputs.get("last_hidden_state")
    if hidden is not None and hidden.dim() == 4 and hidden.shape[1] == hidden.shape[2] != hidden.shape[3]:
        raise UnfitEncoder(f"its map of a square image is {tuple(hidden.shape)}, not (batch, channels, height, width)")
    if pooled.dim() != 2 or len(pooled) != 2:
        raise UnfitEncoder(f"it gives a feature of shape {tuple(pooled.shape)} for 2 images; (2, width) is needed")
    return pooled.shape[-1]


def suitable_encoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """[`encoder_class`], where it can be given pixel values alone.

    Raises:
        UnfitEncoder: it cannot; the message says why.
    """
    kind = encoder_class(config)
    parameters = inspect.signature(kind.forward).parameters
    if "pixel_values" not in parameters:
        raise UnfitEncoder(f"it takes {', '.join(list(parameters)[1:3])}, no pixel_values")
    others = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    } - {"self", "pixel_values"}
    if others and "spatial_shapes" not in others:
        raise UnfitEncoder(f"it needs {', '.join(sorted(others))} beside pixel_values")
    if (getattr(config, "num_frames", None) or 1) > 1:
        raise UnfitEncoder(f"it is made for video (num_frames={config.num_frames})")
    return kind


def refusal(error: Exception, config: PreTrainedConfig) -> str:
    """Why an encoder cannot serve, from what it raised when it was built or run."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(". ")
    if isinstance(error, UnfitEncoder):
        return text
    if isinstance(error, ImportError):
        if "timm" in text:
            return "it needs timm, which is an extra: pip install 'cskd_hf[timm]'"
        return f"it needs a library that is not installed ({text})"
    side = image_side(config)
    return f"given RGB images of {side} x {side} pixels, it fails with {type(error).__name__}: {text}"


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
    # Pixio, RADIO
    specials += [getattr(backbone_config, name, 0) for name in ("n_cls_tokens", "num_summary_tokens")]
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


def part_of_whole(
    name_or_path: str, config: PreTrainedConfig, encoder: PreTrainedModel
) -> tuple[PreTrainedModel, list[str]]:
    """The encoder taken out of the model that the checkpoint is of, and the names of weights that it lacks."""
    saved = getattr(transformers, (config.architectures or [""])[0], None)
    if saved is None:
        saved = encoder_class(config)
    model, loaded = saved.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
    part = find_part(model, encoder)
    if part is None:
        return encoder, sorted(encoder.state_dict())
    encoder.load_state_dict(part.state_dict())
    prefix = next(name for name, module in model.named_modules() if module is part)
    prefix = prefix and prefix + "."
    return encoder, sorted(name for name in loaded["missing_keys"] if name.startswith(prefix))
