"""Phase 1: align an encoder with frozen reference encoders on unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from accelerate.utils import set_seed

from ..data.loading import ImageStream, plain_crops
from ..data.order import ImageOrder
from ..data.teacher_features import STORED_VIEWS_SEED
from ..models.modeling_cskd import CSKDForFeatureAlignment
from .alignment_task import UNLABELLED, AlignmentTask
from .arguments import AlignSettings
from .build import build_model, build_preprocessing, provenance
from .guarding import alignment_images
from .history import add_training, encoder_facts, machine_facts, unrated_facts
from .loop import TrainingLoop, TrainingResult, make_accelerator
from .output import prepare_output
from .reference import ReferenceEncoder, references_for
from .statistics import reference_statistics
from .stored_features import LIVE, StoredReferences, resolve_features


def align(settings: AlignSettings, references: Sequence[ReferenceEncoder] | None = None) -> TrainingResult:
    """Run phase 1.

    Args:
        settings: see [`AlignSettings`].
        references: encoders of one's own, used in place of loading those that `settings.reference` names.

    Raises:
        SettingsError, FileNotFoundError, FeatureStoreError: the settings, the images or a store do not fit the run.
    """
    settings.check()
    settings = resolve_features(settings)
    prepare_output(settings)
    accelerator = make_accelerator(settings)
    references = references_for(settings, references)
    set_seed(settings.seed)
    model = build_model(
        CSKDForFeatureAlignment,
        settings,
        projector=settings.projector,
        reference_encoders=[{"name": reference.name, "dim": reference.dim} for reference in references],
    )
    preprocessing = build_preprocessing(settings, model)
    stored = StoredReferences(settings, references)
    reference_side, side = stored.views.size, max(preprocessing.size)
    live = settings.features == LIVE
    views = replace(stored.views, size=max(side, reference_side) if live else side)
    needed = max(views.source_side, stored.views.source_side)
    images, held, left_out = alignment_images(settings, needed, accelerator)
    images_used = len(images) if images.indexed else "streamed"
    model.config.provenance = provenance("align", settings, images_used=images_used, **left_out)
    add_training(
        model.config,
        "align",
        settings,
        unrated=unrated_facts(images, settings.images),
        held_out_images=len(held),
        references=[
            encoder_facts(reference.name, reference.encoder, getattr(reference.encoder, "config", None))
            for reference in references
        ],
        **left_out,
        **machine_facts(accelerator.device, accelerator.num_processes),
    )
    stores = {} if live else stored.open(images, accelerator)
    stream = ImageStream(
        images,
        ImageOrder(images.sizes, settings.image_weights, settings.seed),
        settings.batch_size,
        views,
        seed=STORED_VIEWS_SEED if stores else settings.seed,
        n_views=(settings.n_views or None) if live else next(iter(stores.values())).n_views,
        features=stores,
        shuffle_buffer=settings.shuffle_buffer,
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
        mixup=settings.mixup,
        seed=settings.seed,
    )
    return TrainingLoop(task, {UNLABELLED: stream}, settings, accelerator).run()
