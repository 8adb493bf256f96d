"""What a student trains on: the ratings, the teacher's ratings and features, the order of pairs, the reference's features."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from ..data.views import Preprocessing
from ..evaluation.predict import RatedImages
from ..models.modeling_cskd import CSKDForImageAesthetics, squared_emd
from .arguments import StudentSettings
from .degraded_views import degradation_loss, degraded_views
from .losses import CosineLoss, feature_distance, ranking_loss, uncertainty_weights
from .rated_data import RATED, RatedData
from .rated_task import RatingTask
from .reference import ReferenceEncoder
from .schedules import schedule_factor
from .settings import SettingsError
from .strong_views import mixup, strong_views
from .task import Batch
from .teachers import EmaTeacher, MirroredTeacher, Teacher, split_row, together

UNRATED = "unrated"
SOFT, REFERENCE = "features/teacher", "features/reference"  # of a batch, where they are stored

_EVERY = 4  # images of a batch, one of which has a degraded copy

logger = logging.getLogger(__name__)


class DistillationTask(RatingTask):
    """Squared EMD to the ratings of rated images, and to the teacher's distribution of all images.

    The paper's student (arXiv 2307.15640): both terms are summed, without a filter on the teacher's confidence. The settings
    add to it; see [`DistillationSettings`] for each option and its source.

    Args:
        model, preprocessing, validation, freeze_norm, rated: see [`RatingTask`].
        teacher: frozen; None where the ratings alone teach, or the student's own average.
        settings: the terms and their weights.
        reference: that the encoder was aligned with, where the settings keep up the alignment.

    Raises:
        SettingsError: the encoder has no projector that the settings ask for.
    """

    def __init__(
        self,
        model: CSKDForImageAesthetics,
        preprocessing: Preprocessing,
        teacher: Teacher | None,
        settings: StudentSettings,
        validation: RatedImages | None = None,
        reference: ReferenceEncoder | None = None,
        rated: RatedData | None = None,
    ) -> None:
        super().__init__(model, preprocessing, validation, settings.freeze_norm, rated)
        self.settings = settings
        self.ema: tuple[EmaTeacher, ...] = ()
        teachers = [teacher] if teacher is not None else []
        if settings.ema_teacher:
            self.ema = (EmaTeacher(model, preprocessing, settings.ema_teacher),)
            teachers += [MirroredTeacher(self.ema[0])] if settings.teacher_flip else self.ema
        taught_by = together(teachers)
        self.teachers = (taught_by,) if taught_by is not None else ()
        self.references = (reference,) if reference is not None else ()
        if reference is not None:
            self._aligned = _projector_number(model, reference)
            model.projectors[self._aligned].requires_grad_(True)
        if settings.feature_weight:
            self.feature_projector = self._feature_projector(self.teachers[0].feature_size)

    def _feature_projector(self, size: int) -> nn.Module:
        model = self.model
        if self.settings.feature_start == "new":
            return nn.Linear(model.config.feature_size, size)
        sizes = [reference["dim"] for reference in model.config.reference_encoders]
        if size not in sizes:
            raise SettingsError(
                f"feature_start=projector needs a phase-1 projector to as many features as the teacher's {size}; the encoder "
                f"has projectors to {sizes or 'nothing'}. Take --feature-start new, or a teacher on the reference itself."
            )
        number = sizes.index(size)
        name = model.config.reference_encoders[number]["name"]
        logger.info("the teacher's feature is predicted by a copy of the phase-1 projector to '%s'", name)
        return copy.deepcopy(model.projectors[number]).requires_grad_(True)

    def frozen(self) -> tuple[nn.Module, ...]:
        return (*self.teachers, *self.references)

    def remembered(self) -> tuple[Any, ...]:
        return tuple(ema.averaged for ema in self.ema)

    def end_step(self) -> None:
        for ema in self.ema:
            ema.update(self.model)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        settings = self.settings
        shown = {name: self._shown(name, stream) for name, stream in batch.items()}  # to the teacher
        seen = torch.cat([self._seen(name, batch[name], crops) for name, crops in shown.items()])  # rated first
        images = len(seen)
        if settings.degraded_weight:  # in the same forward, so that norms see one batch
            rows, copies, strengths = self._copies(batch, seen)
            seen = torch.cat([seen, copies])
        output = self.model(self.pixel_values(seen))
        further, output = _rows(output, slice(images, None)), _rows(output, slice(images))
        by_name = self.rated_parts(output, batch)
        rated = {name: by_name.pop(name) for name in ("rated", "attributes") if name in by_name}
        by_set = {name: value.detach() for name, value in by_name.items() if name != "loss"}
        if settings.degraded_weight:
            rated["degraded"] = self._degraded(output.score[rows], further.score, strengths)
        if settings.ranking_weight:
            rated["ranking"] = self._ranking(output.score[: len(batch[RATED]["means"])], batch[RATED]["means"])
        taught = self._taught(output, batch, shown) if self.teachers else {}
        kept = {"align": self._alignment(output.pooler_output, batch, shown)} if self.references else {}
        return self._summed(rated, taught, kept) | by_set

    def _taught(self, output: Any, batch: Batch, shown: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the teacher has to say: its distribution of all images, its feature, and its order of pairs."""
        settings, (teacher,) = self.settings, self.teachers
        rows = torch.cat(
            [batch[name][SOFT] if SOFT in batch[name] else teacher(crops) for name, crops in shown.items()]
        )
        soft, variance, feature = split_row(rows, teacher)
        weights = uncertainty_weights(variance, settings.uncertainty_weighting)
        parts = {"distill": (weights * squared_emd(output.distribution, soft)).mean()}
        if settings.feature_weight:
            parts["feature"] = feature_distance(
                self.feature_projector(output.pooler_output),
                feature,
                settings.feature_loss,
                normalise=settings.feature_start == "projector",
            )
        if settings.ranking_weight:
            # The rated images have an order of their own; without unrated ones the teacher orders them as well.
            first = _rated_images(batch) if UNRATED in batch else 0
            targets = (soft * self._values(soft.device)).sum(-1)
            parts["soft_ranking"] = self._ranking(output.score[first:], targets[first:], weights[first:])
        return parts

    def _summed(self, rated: dict, taught: dict, kept: dict) -> dict[str, torch.Tensor]:
        """The weighted sum of all parts, and the parts as they are."""
        settings = self.settings
        factors = {
            "rated": schedule_factor(settings.rated_schedule, self.progress, settings.schedule_share),
            "taught": schedule_factor(settings.distill_schedule, self.progress, settings.schedule_share),
        }
        weights = {
            "rated": settings.rated_weight * factors["rated"],
            "attributes": settings.rated_weight * self.attribute_weight * factors["rated"],
            # Before the teacher keeps the features in place, a push at the score would tear at them.
            "degraded": settings.degraded_weight * factors["taught"],
            "ranking": settings.ranking_weight * factors["rated"],
            "distill": settings.distill_weight * factors["taught"],
            "feature": settings.feature_weight * factors["taught"],
            "soft_ranking": settings.ranking_weight * factors["taught"],
            "align": settings.align_weight,
        }
        parts = rated | taught | kept
        loss = sum(weights[name] * value for name, value in parts.items())
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def _shown(self, name: str, stream: dict[str, Any]) -> torch.Tensor:
        """The crops of a stream as the teacher sees them."""
        settings = self.settings
        if name != UNRATED or not settings.mixup:
            return stream["crops"]
        return mixup(stream["crops"], settings.seed, stream["index"].tolist(), self.step, settings.mixup)

    def _seen(self, name: str, stream: dict[str, Any], crops: torch.Tensor) -> torch.Tensor:
        """What the teacher sees -> what the student sees."""
        settings = self.settings
        if name != UNRATED or settings.student_view == "same":
            return crops
        return strong_views(crops, settings.seed, stream["index"].tolist(), self.step, settings.view_strength)

    def _values(self, device: torch.device) -> torch.Tensor:
        return torch.tensor(self.model.config.score_values, dtype=torch.float32, device=device)

    def _ranking(
        self, scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        settings, values = self.settings, self.model.config.score_values
        span = values[-1] - values[0]
        return ranking_loss(
            scores / span,
            targets / span,
            form=settings.ranking_loss,
            temperature=settings.ranking_temperature,
            weights=weights,
        )

    def _copies(self, batch: Batch, seen: torch.Tensor) -> tuple[slice, torch.Tensor, torch.Tensor]:
        """Worse copies of some images: of which rows, the crops, and their strengths."""
        indices = [index for stream in batch.values() for index in stream["index"].tolist()]
        rows = slice(self.step % min(_EVERY, len(indices)), None, _EVERY)
        return rows, *degraded_views(seen[rows], self.settings.seed, indices[rows], self.step)

    def _degraded(self, scores: torch.Tensor, copies: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
        values = self.model.config.score_values
        span = values[-1] - values[0]
        return degradation_loss(scores / span, copies / span, strengths, self.settings.degraded_margin)

    def _alignment(self, pooled: torch.Tensor, batch: Batch, shown: dict[str, torch.Tensor]) -> torch.Tensor:
        (reference,) = self.references
        embeds = torch.cat(
            [batch[name][REFERENCE] if REFERENCE in batch[name] else reference(crops) for name, crops in shown.items()]
        )
        return CosineLoss()(self.model.projectors[self._aligned](pooled), embeds)


def _rows(output: ModelOutput, rows: slice) -> ModelOutput:
    """Of some images."""
    return type(output)(**{name: value[rows] for name, value in output.items() if isinstance(value, torch.Tensor)})


def _rated_images(batch: Batch) -> int:
    """How many images of a batch are rated; they come first."""
    return sum(len(stream["crops"]) for name, stream in batch.items() if name != UNRATED)


def _projector_number(model: CSKDForImageAesthetics, reference: ReferenceEncoder) -> int:
    """Of the phase-1 projector to a reference encoder."""
    known = [(entry["name"], entry["dim"]) for entry in model.config.reference_encoders]
    if (reference.name, reference.dim) not in known:
        raise SettingsError(
            f"align_reference is '{reference.name}' with {reference.dim} features, but the encoder was aligned with "
            f"{known or 'nothing'}; give the reference of its phase 1, or an encoder that was aligned with this one."
        )
    return known.index((reference.name, reference.dim))
