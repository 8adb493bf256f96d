"""Phase 2, student: rated images, and the teacher's soft ratings of rated and unrated images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from ..data.collection import ImageCollection
from ..data.loading import ImageStream, plain_crops
from ..data.mixture import open_images, sample_images
from ..data.order import ImageOrder
from ..data.teacher_features import STORED_VIEWS_SEED, FeatureStore
from ..data.views import Preprocessing, ViewSettings
from ..evaluation.predict import RatedImages, load_scorer, pooled_features
from ..models.modeling_cskd import CSKDForImageAesthetics, rating_loss, squared_emd
from .arguments import StudentSettings
from .guarding import guarded
from .laion_heads import LAION_PREFIX, LaionTeacher, load_laion_teacher
from .loop import TrainingLoop, TrainingResult, make_accelerator
from .output import prepare_output
from .probe import start_head_from_probe
from .reference import weights_fingerprint
from .settings import SettingsError
from .task import Batch
from .teacher import RATED, RatedData, RatingTask, build_rated_model

UNRATED = "unrated"
_SOFT = "features/teacher"
_PROBED = 2048  # unrated images that the head's start is computed from


class FrozenTeacher(nn.Module):
    """The teacher as the student needs it: crops in, one row of distribution and pooled feature out.

    Args:
        model: a trained teacher.
        preprocessing: its own.
    """

    def __init__(self, model: CSKDForImageAesthetics, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.score_values = list(model.config.score_values)
        self.bins, self.feature_size = len(self.score_values), model.config.feature_size

    @classmethod
    def from_pretrained(cls, name_or_path: str) -> FrozenTeacher:
        """Load a teacher checkpoint and its image processor."""
        return cls(*load_scorer(name_or_path))

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stays in evaluation mode whatever its owner does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops `(batch, 3, side, side)` -> `(batch, bins + feature_size)`."""
        output = self.model(self.preprocessing(crops.to(self.model.device)))
        return torch.cat([output.distribution, output.pooler_output.float()], dim=-1)

    def fingerprint(self) -> str:
        """What stored outputs depend on."""
        return f"teacher {self.preprocessing} weights={weights_fingerprint(self.model)}"


class DistillationTask(RatingTask):
    """Squared EMD to the ratings of rated images, and to the teacher's distribution of all images.

    The paper's student (arXiv 2307.15640): both terms are summed, without a filter on the teacher's confidence.

    Args:
        model, preprocessing, validation, freeze_norm: see [`RatingTask`].
        teacher: frozen.
        settings: the weights of the terms.
    """

    def __init__(
        self,
        model: CSKDForImageAesthetics,
        preprocessing: Preprocessing,
        teacher: FrozenTeacher | LaionTeacher,
        settings: StudentSettings,
        validation: RatedImages | None = None,
    ) -> None:
        super().__init__(model, preprocessing, validation, settings.freeze_norm)
        self.teachers = (teacher,)
        self.settings = settings
        if settings.feature_weight:
            self.feature_projector = nn.Linear(model.config.feature_size, teacher.feature_size)

    def frozen(self) -> tuple[nn.Module, ...]:
        return self.teachers

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        (teacher,) = self.teachers
        settings, ratings = self.settings, batch[RATED]["ratings"]
        crops = torch.cat([stream["crops"] for stream in batch.values()])  # rated first
        soft = [stream[_SOFT] if _SOFT in stream else teacher(stream["crops"]) for stream in batch.values()]
        soft_distribution, soft_feature = torch.cat(soft).split([teacher.bins, soft[0].shape[1] - teacher.bins], dim=1)
        output = self.model(self.pixel_values(crops))
        values = torch.tensor(self.model.config.score_values, device=crops.device)
        parts = {
            "rated": rating_loss(output.distribution[: len(ratings)], ratings, values),
            "distill": squared_emd(output.distribution, soft_distribution).mean(),
        }
        loss = settings.rated_weight * parts["rated"] + settings.distill_weight * parts["distill"]
        if settings.feature_weight:
            target = F.layer_norm(soft_feature, soft_feature.shape[-1:])
            parts["feature"] = F.smooth_l1_loss(self.feature_projector(output.pooler_output).float(), target)
            loss = loss + settings.feature_weight * parts["feature"]
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}


def distil(settings: StudentSettings) -> TrainingResult:
    """Train a student; without a teacher, on the rated images alone.

    Raises:
        SettingsError, RatingsError: the settings, the ratings or the teacher do not fit the run.
    """
    settings.check()
    data = RatedData(settings)
    prepare_output(settings)
    accelerator = make_accelerator(settings)
    if not settings.teacher:
        return _train_on_ratings_alone(settings, data, accelerator)
    teacher = _load_teacher(settings, data).to(accelerator.device)
    from_teacher = settings.head_init == "probe" and bool(settings.images)
    model, preprocessing = build_rated_model(settings, data, "student", accelerator.device, start=not from_teacher)
    side = max(preprocessing.size)
    if not settings.pseudo_labels:
        side = max(side, *teacher.preprocessing.size)  # one crop for both
    streams = {RATED: data.stream(settings.rated_batch_size, side, max(teacher.preprocessing.size))}
    if settings.images:
        streams[UNRATED], left_out = _unrated_stream(
            settings, side, max(teacher.preprocessing.size), data.judged, accelerator
        )
        model.config.provenance |= left_out
        if from_teacher:
            start_head_from_teacher(model, preprocessing, teacher, data, streams[UNRATED].images)
    if settings.pseudo_labels:
        _attach_pseudo_labels(streams, teacher, settings, accelerator)
    validation = data.validation_images(preprocessing, accelerator)
    task = DistillationTask(model, preprocessing, teacher, settings, validation)
    return TrainingLoop(task, streams, settings, accelerator, settings.head_learning_rate).run()


def _train_on_ratings_alone(settings: StudentSettings, data: RatedData, accelerator: Accelerator) -> TrainingResult:
    model, preprocessing = build_rated_model(settings, data, "student", accelerator.device)
    streams = {RATED: data.stream(settings.batch_size, max(preprocessing.size))}
    task = RatingTask(model, preprocessing, data.validation_images(preprocessing, accelerator), settings.freeze_norm)
    return TrainingLoop(task, streams, settings, accelerator, settings.head_learning_rate).run()


@torch.no_grad()
def start_head_from_teacher(
    model: CSKDForImageAesthetics,
    preprocessing: Preprocessing,
    teacher: FrozenTeacher | LaionTeacher,
    data: RatedData,
    unrated: ImageCollection,
) -> None:
    """Start the head from the ridge probe of the rated images' ratings and the teacher's of unrated images together.

    The closed-form counterpart of the distillation that follows; a sample of the unrated images is enough for it.
    """
    rows, features = pooled_features(
        model, RatedImages(data.train, preprocessing, batch_size=data.settings.batch_size)
    )
    distributions = data.distributions[rows] if data.distributions is not None else None
    sample = sample_images(unrated, _PROBED)
    crops = plain_crops(sample, max(*preprocessing.size, *teacher.preprocessing.size))
    model.eval()
    soft = torch.cat([teacher(chunk).cpu()[:, : teacher.bins] for chunk in crops.split(64)])
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


def _load_teacher(settings: StudentSettings, data: RatedData) -> FrozenTeacher | LaionTeacher:
    if settings.teacher.startswith(LAION_PREFIX):
        return load_laion_teacher(
            settings.teacher, settings.teacher_clip, data.score_values, settings.laion_spread, settings.laion_scale
        )
    teacher = FrozenTeacher.from_pretrained(settings.teacher)
    if teacher.score_values != data.score_values:
        raise SettingsError(
            f"the teacher '{settings.teacher}' rates on {teacher.score_values}, but the ratings are on "
            f"{data.score_values}; both need the same score_values."
        )
    return teacher


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


def _attach_pseudo_labels(
    streams: dict[str, ImageStream],
    teacher: FrozenTeacher | LaionTeacher,
    settings: StudentSettings,
    accelerator: Accelerator,
) -> None:
    """Have the teacher's outputs of fixed views read from a store in place of running it in every step."""
    for name, stream in streams.items():
        stream.n_views, stream.seed = settings.n_views, STORED_VIEWS_SEED
        stream.features["teacher"] = FeatureStore.open_or_build(
            Path(settings.pseudo_labels) / name,
            teacher,
            stream.images,
            # Boxes of views are shares of the image: student and teacher see the same cut at their own size.
            views=replace(stream.views, size=max(teacher.preprocessing.size)),
            n_views=settings.n_views,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            num_workers=settings.num_workers,
            quiet=settings.quiet,
        )
