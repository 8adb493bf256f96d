"""Frozen teachers: crops in, rows of distribution and feature out. One, several, mirrored, or the student's own average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..data.views import Preprocessing
from ..evaluation.predict import load_scorer
from ..models.modeling_cskd import CSKDForImageAesthetics
from .distillation_settings import LAION
from .history import encoder_facts
from .laion_heads import LaionTeacher, load_laion_teacher
from .reference import weights_fingerprint
from .result_weights import moving_average
from .settings import SettingsError


class FrozenTeacher(nn.Module):
    """The teacher as the student needs it: crops in, one row of distribution and pooled feature out.

    Args:
        model: a trained teacher.
        preprocessing: its own.

    Attributes:
        bins, extras, feature_size: parts of a row; the one extra, of several teachers, is the variance between them.
        side: in pixels, of the crops that it needs.
    """

    extras = 0

    def __init__(self, model: CSKDForImageAesthetics, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.score_values = list(model.config.score_values)
        self.bins, self.feature_size = len(self.score_values), model.config.feature_size
        self.side = max(preprocessing.size)

    @classmethod
    def from_pretrained(cls, name_or_path: str) -> FrozenTeacher:
        """Load a teacher checkpoint and its image processor."""
        return cls(*load_scorer(name_or_path))

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stays in evaluation mode whatever its owner does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops `(batch, 3, side, side)` -> `(batch, bins + extras + feature_size)`."""
        output = self.model(self.preprocessing(crops.to(self.model.device)))
        return torch.cat([output.distribution, output.pooler_output.float()], dim=-1)

    def fingerprint(self) -> str:
        """What stored outputs depend on."""
        return f"teacher {self.preprocessing} weights={weights_fingerprint(self.model)}"


class EmaTeacher(FrozenTeacher):
    """The moving average of the student's weights as its teacher (Mean Teacher, Tarvainen & Valpola, arXiv 1703.01780).

    Args:
        student: in its first state.
        preprocessing: the student's.
        decay: see `ema_decay_at`.
    """

    def __init__(self, student: CSKDForImageAesthetics, preprocessing: Preprocessing, decay: float) -> None:
        averaged = moving_average(student, student.device, decay)
        super().__init__(averaged.module, preprocessing)
        self.averaged = averaged

    @torch.no_grad()
    def update(self, student: CSKDForImageAesthetics) -> None:
        """Take in the student's weights; its running statistics from the first of several processes."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in student.buffers():
                torch.distributed.broadcast(buffer, 0)
        self.averaged.update_parameters(student)

    def fingerprint(self) -> str:
        raise NotImplementedError("the outputs of a teacher that changes cannot be stored")


class MirroredTeacher(nn.Module):
    """A teacher that gives the mean of its outputs for an image and its mirror image (test-time augmentation).

    Args:
        teacher: whose outputs are averaged.
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.score_values, self.bins, self.extras = teacher.score_values, teacher.bins, teacher.extras
        self.feature_size, self.side = teacher.feature_size, teacher.side

    def train(self, mode: bool = True) -> MirroredTeacher:
        return super().train(False)

    @torch.no_grad()
    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """See [`FrozenTeacher`]."""
        return (self.teacher(crops) + self.teacher(crops.flip(-1))) / 2

    def fingerprint(self) -> str:
        return f"{self.teacher.fingerprint()} averaged over the mirror image"


class Ensemble(nn.Module):
    """Several teachers as one: the mean of their distributions, the variance of their scores, the feature of the first.

    Args:
        members: at least two, over the same bins; each prepares the crops in its own way.
    """

    extras = 1

    def __init__(self, members: Sequence[Teacher]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        first = members[0]
        self.score_values, self.bins, self.feature_size = first.score_values, first.bins, first.feature_size
        self.side = max(member.side for member in members)

    def train(self, mode: bool = True) -> Ensemble:
        return super().train(False)

    @torch.no_grad()
    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """See [`FrozenTeacher`]; the variance is in squared points of the scale."""
        rows = [member(crops) for member in self.members]
        distributions = torch.stack([row[:, : self.bins] for row in rows])  # (members, batch, bins)
        scores = _mean(distributions, self.score_values)
        variance = scores.var(0, correction=0)[:, None]
        return torch.cat([distributions.mean(0), variance, rows[0][:, -self.feature_size :]], dim=-1)

    def fingerprint(self) -> str:
        return "mean of " + " | ".join(member.fingerprint() for member in self.members)


Teacher = FrozenTeacher | LaionTeacher | MirroredTeacher | Ensemble


def split_row(rows: torch.Tensor, teacher: Teacher) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A teacher's rows -> distributions `(batch, bins)`, variances of the score `(batch,)`, features.

    The variance is that between several teachers; of one, that of its distribution.
    """
    distribution, extra, feature = rows.split([teacher.bins, teacher.extras, teacher.feature_size], dim=1)
    if teacher.extras:
        return distribution, extra[:, 0], feature
    squares = _mean(distribution, [value**2 for value in teacher.score_values])
    return distribution, (squares - _mean(distribution, teacher.score_values).square()).clamp_min(0), feature


def _mean(distribution: torch.Tensor, values: Sequence[float]) -> torch.Tensor:
    # No matrix product: autocast would round it.
    return (distribution * torch.tensor(values, device=distribution.device, dtype=torch.float32)).sum(-1)


def together(teachers: Sequence[Teacher]) -> Teacher | None:
    """One teacher of several; None of none."""
    if len(teachers) < 2:
        return teachers[0] if teachers else None
    return Ensemble(teachers)


def load_teachers(settings: Any, score_values: Sequence[float]) -> Teacher | None:
    """The frozen teachers of a student's settings as one; None where there is none.

    Args:
        settings: `StudentSettings`.
        score_values: bins of the ratings.

    Raises:
        SettingsError: one of them does not fit the ratings.
    """
    teachers = [_load_teacher(name, settings, list(score_values)) for name in settings.teacher]
    return together([MirroredTeacher(teacher) for teacher in teachers] if settings.teacher_flip else teachers)


def teacher_facts(teacher: Teacher, names: Sequence[str]) -> list[dict[str, Any]]:
    """Name, weights and history of each frozen teacher, for a student's own history.

    Args:
        teacher: of `load_teachers`.
        names: its settings' `teacher`.
    """
    members = list(teacher.members) if isinstance(teacher, Ensemble) else [teacher]
    members = [member.teacher if isinstance(member, MirroredTeacher) else member for member in members]
    trained = [member.model if isinstance(member, FrozenTeacher) else member for member in members]
    return [
        encoder_facts(name, model, getattr(model, "config", None)) for name, model in zip(names, trained, strict=True)
    ]


def _load_teacher(name: str, settings: Any, score_values: list[float]) -> FrozenTeacher | LaionTeacher:
    if name.startswith(LAION):
        return load_laion_teacher(
            name, settings.teacher_clip, score_values, settings.laion_spread, settings.laion_scale
        )
    teacher = FrozenTeacher.from_pretrained(name)
    if teacher.score_values != score_values:
        raise SettingsError(
            f"the teacher '{name}' rates on {teacher.score_values}, but the ratings are on {score_values}; both need the "
            "same score_values."
        )
    return teacher
