"""Phase 1: align an encoder with frozen reference encoders on unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accelerate.utils import set_seed

from ..data.loading import ImageStream, plain_crops
from ..data.order import ImageOrder
from ..data.teacher_features import STORED_VIEWS_SEED, FeatureStore
from ..data.views import ViewSettings
from ..models.modeling_cskd import CSKDForFeatureAlignment
from .alignment_task import UNLABELLED, AlignmentTask
from .arguments import AlignSettings
from .build import build_model, build_preprocessing, provenance, split_holdout
from .loop import TrainingLoop, TrainingResult, make_accelerator
from .output import prepare_output
from .reference import ReferenceEncoder, load_reference
from .statistics import reference_statistics
from .token_alignment import TOKEN_LOSSES


def align(settings: AlignSettings, references: Sequence[ReferenceEncoder] | None = None) -> TrainingResult:
    """Run phase 1.

    Args:
        settings: see [`AlignSettings`].
        references: encoders of one's own, used in place of loading those that `settings.reference` names.

    Raises:
        SettingsError, FileNotFoundError, FeatureStoreError: the settings, the images or a store do not fit the run.
    """
    settings.check()
    prepare_output(settings)
    accelerator = make_accelerator(settings)
    references = tuple(references or _load_references(settings.reference))
    if any(name in TOKEN_LOSSES for name in settings.loss):
        for reference in references:
            reference.use_tokens(settings.token_grid)
    set_seed(settings.seed)
    model = build_model(
        CSKDForFeatureAlignment,
        settings,
        projector=settings.projector,
        reference_encoders=[{"name": reference.name, "dim": reference.dim} for reference in references],
    )
    preprocessing = build_preprocessing(settings, model)
    reference_side = max(side for reference in references for side in reference.preprocessing.size)
    side = max(preprocessing.size)
    views = ViewSettings(
        # Boxes of views are shares of the image, so student and stored reference see the same cut at their own size.
        size=side if settings.features else max(side, reference_side),
        scale=tuple(settings.crop_scale),
        flip=settings.flip,
    )
    stored_views = replace(views, size=reference_side)
    needed = max(views.source_side, stored_views.source_side)
    images, held = split_holdout(settings.images, settings.holdout, needed, settings.cache_images)
    model.config.provenance = provenance("align", settings, images_used=len(images))
    n_views = settings.n_views or (2 if settings.features else None)
    stores = {}
    if settings.features:
        for reference in references:
            with accelerator.main_process_first():
                stores[reference.name] = FeatureStore.open_or_build(
                    Path(settings.features) / reference.name,
                    reference.to(accelerator.device),
                    images,
                    views=stored_views,
                    n_views=n_views,
                    quiet=settings.quiet,
                )
    stream = ImageStream(
        images,
        ImageOrder(images.sizes, settings.image_weights, settings.seed),
        settings.batch_size,
        views,
        seed=STORED_VIEWS_SEED if stores else settings.seed,
        n_views=n_views,
        features=stores,
    )
    task = AlignmentTask(
        model,
        preprocessing,
        references,
        settings.loss,
        plain_crops(held, max(side, reference_side)),
        loss_weights=settings.loss_weights,
        reference_weights=settings.reference_weights,
        statistics=reference_statistics(settings, references, stream, accelerator),
    )
    return TrainingLoop(task, {UNLABELLED: stream}, settings, accelerator).run()


def _load_references(locations: list[str]) -> list[ReferenceEncoder]:
    """Those of the settings; a name that is taken gets a number."""
    references: dict[str, ReferenceEncoder] = {}
    for reference in map(load_reference, locations):
        name, number = reference.name, 2
        while reference.name in references:
            reference.name, number = f"{name}-{number}", number + 1
        references[reference.name] = reference
    return list(references.values())
