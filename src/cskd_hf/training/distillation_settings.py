"""Settings of semi-supervised distillation beyond the paper's plain sum, each with its source. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import SettingsError, at_least, setting, within

SCHEDULES = ("constant", "ramp-up", "ramp-down", "cosine")  # of training.schedules
LAION = "laion:"


@dataclass
class DistillationSettings:
    """What the teacher is, what of it is taught, and how much it counts.

    The defaults are the paper's plain sum (arXiv 2307.15640).
    """

    teacher: list[str] = setting(
        [],
        "teacher checkpoints: Hub names or folders, or laion:HEAD.pth with --teacher-clip; several teach by the mean of "
        "their distributions; none trains on the rated images alone, or with --ema-teacher",
    )
    teacher_flip: bool = setting(
        False, "teachers rate the mean of an image and its mirror image (test-time augmentation)"
    )
    ema_teacher: float = setting(
        0.0,
        "decay of a moving average of the student's weights that teaches beside --teacher, or alone (Mean Teacher, arXiv "
        "1703.01780), e.g. 0.999; 0 for none",
    )
    distill_schedule: str = setting(
        "ramp-up",
        "course of all that the teacher teaches: ramp-up and ramp-down as arXiv 1610.02242, cosine falls to 0",
        choices=SCHEDULES,
    )
    rated_schedule: str = setting("constant", "course of what the ratings teach", choices=SCHEDULES)
    schedule_share: float = setting(0.3, "share of the steps that a ramp takes")
    uncertainty_weighting: str = setting(
        "none",
        "weigh the teacher's ratings by their variance v against the batch's mean m: exp is exp(-v/m), inverse is 1/(v + "
        "m/10), at mean 1; v is that between several teachers, else that of the teacher's distribution (cf. arXiv "
        "2510.15266)",
        choices=("none", "exp", "inverse"),
    )
    student_view: str = setting(
        "same",
        "what the student sees of an unrated image: what the teacher sees, or strong: the same cut with colours changed, "
        "blurred and partly covered (FixMatch, arXiv 2001.07685; UDA, 1904.12848); such changes change aesthetics too",
        choices=("same", "strong"),
    )
    view_strength: float = setting(1.0, "strength of strong views, 0 to 1")
    mixup: float = setting(
        0.0,
        "alpha of mixtures of two unrated images, which teacher and student both see (mixup, arXiv 1710.09412; as 'a good "
        "teacher is patient and consistent', 2106.05237); 0 for none",
    )
    degraded_weight: float = setting(
        0.0,
        "weight of a hinge loss by which a blurred, noisy, compressed, under- or overexposed copy of every fourth image "
        "scores below it (RankIQA, arXiv 1707.08347); follows distill_schedule, with or without a teacher",
    )
    degraded_margin: float = setting(0.1, "by how much, as a share of the scale, where the copy is as bad as they get")
    ranking_weight: float = setting(
        0.0,
        "weight of the loss to the order of pairs of images, by the ratings and by the teacher (RankNet; cf. RankUp, arXiv "
        "2410.22124)",
    )
    ranking_loss: str = setting(
        "logistic",
        "of a pair's difference in score: logistic is RankNet's with soft targets, margin a hinge at the true difference",
        choices=("logistic", "margin"),
    )
    ranking_temperature: float = setting(
        0.1, "difference in score, as a share of the scale, at which an order is fairly sure (logistic)"
    )
    feature_weight: float = setting(
        0.0, "weight of the loss to the (first) teacher's pooled feature, through a layer of its own"
    )
    feature_loss: str = setting(
        "smooth_l1",
        "to the teacher's feature: smooth_l1 to it whitened by a LayerNorm (arXiv 2205.14141), or 1 - cosine",
        choices=("smooth_l1", "cosine"),
    )
    feature_start: str = setting(
        "new",
        "layer that predicts the teacher's feature: new, or a copy of the encoder's phase-1 projector, where the teacher's "
        "feature is the reference's",
        choices=("new", "projector"),
    )
    align_weight: float = setting(
        0.0, "weight of phase 1's loss, 1 - cosine to the features of --align-reference, kept up in phase 2"
    )
    align_reference: str = setting(
        "", "reference encoder that --encoder was aligned with: Hub name, folder or module:function"
    )
    rounds: int = setting(
        1,
        "rounds, each with the last one's student as teacher (Noisy Student, arXiv 1911.04252; Born-Again Networks, "
        "1805.04770); the last student is the result",
    )
    round_teacher: str = setting(
        "student",
        "teacher of later rounds: the last round's student, or both: it and --teacher",
        choices=("student", "both"),
    )
    round_start: str = setting(
        "encoder",
        "start of later rounds: --encoder again, or the last round's student",
        choices=("encoder", "student"),
    )

    @property
    def has_teacher(self) -> bool:
        """Whether anything but the ratings teaches."""
        return bool(self.teacher or self.ema_teacher)


def check_distillation(settings: DistillationSettings) -> None:
    """Raises:
    SettingsError: values out of range, or that do not go together.
    """
    settings.teacher = [name for name in as_list(settings.teacher) if name]
    for name in ("view_strength", "ema_teacher"):
        within(settings, name, 0, 1)
    within(settings, "degraded_margin", 0, 1)
    for name in ("mixup", "degraded_weight", "ranking_weight", "feature_weight", "align_weight"):
        at_least(settings, name, 0)
    at_least(settings, "rounds", 1)
    if settings.ema_teacher == 1:
        raise SettingsError("ema_teacher=1 would never move from its start; give less, e.g. 0.999.")
    for name in ("schedule_share", "ranking_temperature"):
        if not 0 < getattr(settings, name) <= 1:
            raise SettingsError(f"{name}={getattr(settings, name)} must be above 0, at most 1.")
    _check_needs_teacher(settings)
    _check_needs_images(settings)
    _check_needs_live_teacher(settings)
    if bool(settings.align_weight) != bool(settings.align_reference):
        raise SettingsError(
            f"align_weight={settings.align_weight} and align_reference={settings.align_reference!r} go together; give both "
            "or none."
        )
    if settings.feature_start == "projector" and not settings.feature_weight:
        raise SettingsError("feature_start=projector starts a layer that feature_weight=0 leaves out; give a weight.")


def as_list(value: str | list[str]) -> list[str]:
    """One value needs no list."""
    return [value] if isinstance(value, str) else list(value)


def _check_needs_teacher(settings: DistillationSettings) -> None:
    if settings.has_teacher:
        return
    given = {
        "pseudo_labels": settings.pseudo_labels,
        "teacher_flip": settings.teacher_flip,
        "uncertainty_weighting": settings.uncertainty_weighting != "none",
        "feature_weight": settings.feature_weight,
        "rounds": settings.rounds > 1,
    }
    for name, value in given.items():
        if value:
            raise SettingsError(
                f"{name} is set, but there is no teacher; give --teacher or --ema-teacher, or leave it out."
            )


def _check_needs_images(settings: DistillationSettings) -> None:
    if settings.images:
        return
    for name, value in {"mixup": settings.mixup, "student_view": settings.student_view == "strong"}.items():
        if value:
            raise SettingsError(f"{name} is for unrated images, and there are none; give --images, or leave it out.")


def _check_needs_live_teacher(settings: DistillationSettings) -> None:
    if not settings.pseudo_labels:
        return
    if settings.mixup:
        raise SettingsError(
            "mixup shows the teacher pictures that are new in every step, but pseudo_labels are stored; leave one of them "
            "out."
        )
    if settings.ema_teacher:
        raise SettingsError("ema_teacher changes in every step, but pseudo_labels are stored; leave one of them out.")
