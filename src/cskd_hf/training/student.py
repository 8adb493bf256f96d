"""Phase 2, student: rated images, and the teacher's soft ratings of rated and unrated images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator

from ..data.loading import ImageStream, plain_crops
from ..data.mixture import open_images, sample_images
from ..data.order import ImageOrder
from ..data.teacher_features import STORED_VIEWS_SEED, FeatureStore
from ..data.views import Preprocessing, ViewSettings, stack_crops
from ..evaluation.predict import RatedImages, pooled_features
from ..models.modeling_cskd import CSKDForImageAesthetics
from .arguments import StudentSettings
from .distillation_task import UNRATED, DistillationTask
from .guarding import guarded
from .history import encoder_facts, unrated_facts
from .loop import TrainingLoop, TrainingResult, make_accelerator
from .output import prepare_output
from .probe import start_head_from_probe
from .rated_data import RatedData
from .rated_task import RatingTask
from .reference import ReferenceEncoder, load_reference
from .rounds import train_in_rounds
from .teacher import build_rated_model, start_attributes, start_rated_task
from .teachers import Teacher, load_teachers, teacher_facts

_PROBED = 2048  # unrated images that the head's start is computed from


def distil(settings: StudentSettings) -> TrainingResult:
    """Train a student; without a teacher, on the rated images alone. With several rounds, see [`train_in_rounds`].

    Raises:
        SettingsError, RatingsError: the settings, the ratings or the teacher do not fit the run.
    """
    settings.check()
    return train_in_rounds(settings, train_student) if settings.rounds > 1 else train_student(settings)


def train_student(settings: StudentSettings, facts: dict[str, Any] | None = None) -> TrainingResult:
    """Train a student in one round.

    Args:
        settings: checked.
        facts: further entries of the checkpoint's provenance.
    """
    data = RatedData(settings)
    prepare_output(settings)
    accelerator = make_accelerator(settings)
    teacher = load_teachers(settings, data.score_values)
    reference = load_reference(settings.align_reference) if settings.align_reference else None
    for module in (teacher, reference):
        if module is not None:
            module.to(accelerator.device)
    from_teacher = settings.head_init == "probe" and bool(settings.images) and teacher is not None
    model, preprocessing = build_rated_model(settings, data, "student", accelerator, start=not from_teacher)
    model.config.provenance |= facts or {}
    training = model.config.history[-1]
    training |= facts or {}
    if teacher is not None:
        training["teachers"] = teacher_facts(teacher, settings.teacher)
    if reference is not None:
        training["references"] = [encoder_facts(reference.name, reference.encoder)]
    side, frozen_side = max(preprocessing.size), _frozen_side(teacher, reference)
    if not settings.pseudo_labels:
        side = max(side, frozen_side)  # one crop for all
    streams = data.streams(settings.rated_batch_size, side, frozen_side)
    if settings.images:
        streams[UNRATED], left_out = _unrated_stream(settings, side, frozen_side, data.judged, accelerator)
        model.config.provenance |= left_out
        training |= {"unrated": unrated_facts(streams[UNRATED].images, settings.images), **left_out}
    if settings.pseudo_labels:
        _store_outputs(streams, "teacher", teacher, teacher.side, settings, accelerator)
        if reference is not None:
            _store_outputs(streams, "reference", reference, max(reference.preprocessing.size), settings, accelerator)
    if from_teacher:
        start_head_from_teacher(model, preprocessing, teacher, data, streams[UNRATED])
    validation = data.validation_images(preprocessing, accelerator)
    task: RatingTask
    if settings.has_teacher or reference is not None or settings.ranking_weight or settings.degraded_weight:
        task = DistillationTask(model, preprocessing, teacher, settings, validation, reference, data)
    else:
        task = RatingTask(model, preprocessing, validation, settings.freeze_norm, data)
    start_rated_task(task, data)
    return TrainingLoop(task, streams, settings, accelerator, settings.head_learning_rate).run()


def _frozen_side(teacher: Teacher | None, reference: ReferenceEncoder | None) -> int:
    """Side in pixels of the largest crop that a frozen encoder needs; 0 without any."""
    sides = [teacher.side] if teacher is not None else []
    return max(sides + ([max(reference.preprocessing.size)] if reference is not None else []), default=0)


@torch.no_grad()
def start_head_from_teacher(
    model: CSKDForImageAesthetics,
    preprocessing: Preprocessing,
    teacher: Teacher,
    data: RatedData,
    unrated: ImageStream,
) -> None:
    """Start the head from the ridge probe of the rated images' ratings and the teacher's of unrated images together.

    The closed-form counterpart of the distillation that follows; a sample of the unrated images is enough for it.
    """
    rows, features = pooled_features(
        model, RatedImages(data.train, preprocessing, batch_size=data.settings.batch_size)
    )
    distributions = data.main.known_histograms(rows)
    model.eval()
    crops, soft = _soft_rated(unrated, teacher, max(preprocessing.size))
    extra = torch.cat(
        [model.encode(preprocessing(chunk.to(model.device)))[0].float().cpu() for chunk in crops.split(64)]
    )
    start_head_from_probe(
        model.classifier,
        torch.cat([features, extra]),
        torch.cat([data.means[rows], soft @ torch.tensor(data.score_values)]),
        data.score_values,
        torch.cat([distributions, soft]) if distributions is not None else soft,
        data.settings.probe_l2,
    )
    start_attributes(model, data.main, rows, features)


def _soft_rated(unrated: ImageStream, teacher: Teacher, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample of the unrated images as crops `(images, 3, side, side)`, and the teacher's distributions of them.

    Where these are stored, the first of the stored views is taken, so that the teacher need not run.
    """
    images = unrated.images
    if "teacher" in unrated.features:
        rows = np.linspace(0, len(images) - 1, min(_PROBED, len(images))).astype(int)
        samples = [unrated.sample(int(row), 0) for row in rows]
        soft = torch.stack([sample["features/teacher"] for sample in samples])
        return stack_crops([sample["crop"] for sample in samples]), soft[:, : teacher.bins]
    crops = plain_crops(sample_images(images, _PROBED), max(side, teacher.side))
    return crops, torch.cat([teacher(chunk).cpu()[:, : teacher.bins] for chunk in crops.split(64)])


def _unrated_stream(
    settings: StudentSettings,
    side: int,
    teacher_side: int,
    judged: datasets.Dataset | None,
    accelerator: Accelerator,
) -> tuple[ImageStream, dict[str, Any]]:
    """The unrated images, and how many were left out of them for provenance."""
    views = ViewSettings(size=side, scale=tuple(settings.crop_scale), flip=settings.flip)
    needed = replace(views, size=max(side, teacher_side)).source_side
    images = open_images(settings.images, needed, settings.cache_images)
    images, left_out = guarded(images, settings, accelerator, judged)
    order = ImageOrder(images.sizes, settings.image_weights, settings.seed + 1)
    stream = ImageStream(
        images,
        order,
        settings.batch_size - settings.rated_batch_size,
        views,
        seed=settings.seed,
        shuffle_buffer=settings.shuffle_buffer,
    )
    return stream, left_out


def _store_outputs(
    streams: dict[str, ImageStream],
    name: str,
    encoder: Teacher | ReferenceEncoder,
    side: int,
    settings: StudentSettings,
    accelerator: Accelerator,
) -> None:
    """Have a frozen encoder's outputs of fixed views read from a store in place of running it in every step."""
    for stream_name, stream in streams.items():
        stream.n_views, stream.seed = settings.n_views, STORED_VIEWS_SEED
        folder = Path(settings.pseudo_labels) / stream_name
        stream.features[name] = FeatureStore.open_or_build(
            folder if name == "teacher" else folder.with_name(f"{stream_name}-{name}"),
            encoder,
            stream.images,
            # Boxes of views are shares of the image: student and teacher see the same cut at their own size.
            views=replace(stream.views, size=side),
            n_views=settings.n_views,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            num_workers=settings.num_workers,
            quiet=settings.quiet,
        )
