"""CSKD: CLIP-based semi-supervised knowledge distillation for image aesthetics (arXiv 2307.15640).

Importing the package registers its classes with transformers (see `_registration`) and costs a few milliseconds:
torch and transformers are only loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._registration import register_with_transformers

__version__ = "0.1.0"

_MODULE_OF = {
    "CSKDConfig": "models.configuration_cskd",
    "CSKDModuleConfig": "models.configuration_cskd",
    "register_encoder": "models.module_cskd",
    "CSKDPreTrainedModel": "models.modeling_cskd",
    "CSKDForFeatureAlignment": "models.modeling_cskd",
    "CSKDForImageAesthetics": "models.modeling_cskd",
    "CSKDFeatureAlignmentOutput": "models.modeling_cskd",
    "CSKDImageAestheticsOutput": "models.modeling_cskd",
    "ImageAestheticsPipeline": "models.pipeline_cskd",
    "ImageLoadError": "models.image_loading_cskd",
    "load_image": "models.image_loading_cskd",
    "build_prompt_bank": "prompts.bank",
    "default_student_path": "packaged",
    "TensorScorer": "scoring.tensors",
    "ReferenceEncoder": "training.reference",
    "RatingsError": "data.ratings",
    "attributes_of": "data.ratings",
    "load_ratings": "data.ratings",
    "open_ratings": "data.ratings.locations",
    "score_values_of": "data.ratings",
}

if TYPE_CHECKING:
    from .data.ratings import RatingsError, attributes_of, load_ratings, score_values_of
    from .data.ratings.locations import open_ratings
    from .models.configuration_cskd import CSKDConfig, CSKDModuleConfig
    from .models.image_loading_cskd import ImageLoadError, load_image
    from .models.modeling_cskd import (
        CSKDFeatureAlignmentOutput,
        CSKDForFeatureAlignment,
        CSKDForImageAesthetics,
        CSKDImageAestheticsOutput,
        CSKDPreTrainedModel,
    )
    from .models.module_cskd import register_encoder
    from .models.pipeline_cskd import ImageAestheticsPipeline
    from .packaged import default_student_path
    from .prompts.bank import build_prompt_bank
    from .scoring.tensors import TensorScorer
    from .training.reference import ReferenceEncoder

__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


register_with_transformers()
