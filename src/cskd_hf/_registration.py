"""Registers CSKD with the Auto classes and the pipeline registry of transformers.

`AutoModel`, `PIPELINE_REGISTRY` and their like take real classes, and our classes need torch: registering at once
would make `import cskd_hf` (and `cskd-hf --help`) as slow as importing torch. So each of our modules is imported right
after the transformers module that holds its registry (at once where that is loaded already), and registered when it is
whole: either import may be the one that starts the other.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from wrapt import register_post_import_hook

from .packaged import default_student_path

PIPELINE_TASK = "image-aesthetics"
_MODELS = f"{__package__}.models"


def _register_config(module: ModuleType) -> None:
    from transformers import AutoConfig

    for config_class in (module.CSKDConfig, module.CSKDModuleConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def _register_models(module: ModuleType) -> None:
    from transformers import AutoModel, AutoModelForImageClassification

    for auto_class in (AutoModel, AutoModelForImageClassification):
        auto_class.register(module.CSKDConfig, module.CSKDForImageAesthetics, exist_ok=True)
    from .models.module_cskd import CSKDModule

    AutoModel.register(CSKDModule.config_class, CSKDModule, exist_ok=True)


def _register_pipeline(module: ModuleType) -> None:
    from transformers import AutoModelForImageClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    PIPELINE_REGISTRY.register_pipeline(
        PIPELINE_TASK,
        pipeline_class=module.ImageAestheticsPipeline,
        pt_model=AutoModelForImageClassification,
        default={"model": (str(default_student_path()), "main")},
        type="image",
    )
    # A pipeline that is saved writes its registration down, which must not name a folder of this machine.
    pipeline_class = module.ImageAestheticsPipeline
    registered = pipeline_class._registered_impl[PIPELINE_TASK]
    pipeline_class._registered_impl = {PIPELINE_TASK: {k: v for k, v in registered.items() if k != "default"}}


_REGISTRATIONS = (
    ("transformers.models.auto.configuration_auto", f"{_MODELS}.configuration_cskd", _register_config),
    ("transformers.models.auto.modeling_auto", f"{_MODELS}.modeling_cskd", _register_models),
    ("transformers.pipelines", f"{_MODELS}.pipeline_cskd", _register_pipeline),
)


def register_with_transformers() -> None:
    """Arrange the registrations; called once, when the package is imported."""
    for registry, ours, register in _REGISTRATIONS:
        register_post_import_hook(register, ours)
        register_post_import_hook(lambda _, ours=ours: importlib.import_module(ours), registry)
