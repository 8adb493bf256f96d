"""Phase 2, teacher: fine-tune an encoder on rated images, from its own ridge probe."""

from __future__ import annotations

from dataclasses import replace

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed

from ..data.collection import ImageCollection
from ..data.loading import ImageStream
from ..data.order import ImageOrder
from ..data.ratings import rated_subset, score_values_of, select_split
from ..data.sources import DatasetSource
from ..data.views import Preprocessing, ViewSettings
from ..evaluation.predict import RatedImages, pooled_features, predict, rated_metrics
from ..models.image_loading_cskd import ImageLoadError
from ..models.modeling_cskd import CSKDForImageAesthetics
from .arguments import RatedSettings, TeacherSettings
from .build import build_model, build_preprocessing, load_rated, provenance
from .loop import TrainingLoop, TrainingResult, make_accelerator
from .output import prepare_output
from .probe import start_head_from_probe
from .settings import SettingsError
from .task import Batch, TrainingTask

RATED = "rated"


class RatingTask(TrainingTask):
    """Squared EMD to rating histograms, or squared error to mean ratings.

    Args:
        model: with a head over the bins of the ratings.
        preprocessing: of the model.
        validation: rated images to evaluate on, or none.
        freeze_norm: see [`TrainingTask`].
    """

    def __init__(
        self,
        model: CSKDForImageAesthetics,
        preprocessing: Preprocessing,
        validation: RatedImages | None = None,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__(model, preprocessing, freeze_norm)
        self._validation = validation
        # Heads of phase 1: nothing here trains them.
        model.projectors.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        rated = batch[RATED]
        loss = self.model(self.pixel_values(rated["crops"]), labels=rated["ratings"]).loss
        return {"loss": loss, "rated": loss.detach()}

    def evaluate(self) -> dict[str, float]:
        """SRCC, PLCC, EMD and their like on the validation images, gathered over all processes."""
        if self._validation is None:
            return {}
        rows, scores, distributions = predict(self.model, self._validation)
        found = gather_object(list(zip(rows, scores.tolist(), distributions.tolist())))
        if len(found) < 2:
            raise ImageLoadError(
                self._validation.images.key(0), f"only {len(found)} of the validation images can be read; 2 are needed"
            )
        rows, scores, distributions = zip(*sorted(found))
        return rated_metrics(
            self._validation, list(rows), torch.tensor(scores).numpy(), torch.tensor(distributions).numpy()
        )


class RatedData:
    """The rated images of a run: read and checked before anything is trained.

    Raises:
        RatingsError: the ratings are not fit to train on; the message names file and rows.
        SettingsError: too few rated images.
    """

    def __init__(self, settings: RatedSettings) -> None:
        ratings = load_rated(settings)
        self.settings = settings
        self.score_values = list(score_values_of(ratings))
        self.train = self._split(ratings, "train_split")
        if settings.labels > len(self.train):
            raise SettingsError(
                f"labels={settings.labels}, but the split '{settings.train_split}' of '{settings.ratings}' has "
                f"{len(self.train)} rated images; give --labels at most that, or 0 for all."
            )
        if settings.labels:
            self.train = rated_subset(self.train, settings.labels, settings.seed)
        self.validation = self._split(ratings, "validation_split") if settings.validation_split else None
        judged = [row for row, split in enumerate(ratings["split"][:]) if split != settings.train_split]
        self.judged = ratings.select(judged) if judged else None  # not to be trained on, in whatever form
        if len(self.train) < 2 or (self.validation is not None and len(self.validation) < 2):
            raise SettingsError(f"'{settings.ratings}' needs at least two rated images in each split that is used.")
        distributions = self.train["distribution"][:]
        has_histograms = not any(row is None for row in distributions)
        self.means = torch.tensor(self.train["mean"][:], dtype=torch.float32)
        self.distributions = torch.tensor(distributions, dtype=torch.float32) if has_histograms else None

    def _split(self, ratings: datasets.Dataset, setting: str) -> datasets.Dataset:
        name = getattr(self.settings, setting)
        if name not in (splits := sorted(set(ratings["split"][:]))):
            raise SettingsError(
                f"'{self.settings.ratings}' has no split '{name}'; its splits: {', '.join(splits)}. Give another "
                f"--{setting.replace('_', '-')}, "
                + ("an empty one to train without validation, " if setting == "validation_split" else "")
                + "or add a column `split`."
            )
        return select_split(ratings, name)

    def validation_images(self, preprocessing: Preprocessing, accelerator: Accelerator) -> RatedImages | None:
        """This process' share of the validation images."""
        if self.validation is None:
            return None
        return RatedImages(
            self.validation,
            preprocessing,
            batch_size=self.settings.batch_size,
            cache=self.settings.cache_images,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )

    def stream(self, batch_size: int, view_side: int, teacher_side: int = 0) -> ImageStream:
        """Training images with their `ratings`: histograms, or means where there are no histograms.

        Args:
            batch_size: images a batch.
            view_side: side of the views in pixels.
            teacher_side: side that a teacher needs the same images at.
        """
        settings = self.settings
        views = ViewSettings(size=view_side, scale=tuple(settings.rated_crop_scale), flip=settings.flip)
        needed = replace(views, size=max(view_side, teacher_side)).source_side
        images = ImageCollection([DatasetSource(self.train)], needed, settings.cache_images)
        ratings = self.means if self.distributions is None else self.distributions
        order = ImageOrder(images.sizes, seed=settings.seed)
        return ImageStream(images, order, batch_size, views, seed=settings.seed, targets={"ratings": ratings})


def start_head(model: CSKDForImageAesthetics, preprocessing: Preprocessing, data: RatedData) -> None:
    """Start the head as the settings say: from the ridge probe on the encoder's frozen features, or as it is."""
    if data.settings.head_init == "random":
        return
    rows, features = pooled_features(
        model, RatedImages(data.train, preprocessing, batch_size=data.settings.batch_size)
    )
    distributions = None if data.distributions is None else data.distributions[rows]
    start_head_from_probe(
        model.classifier, features, data.means[rows], data.score_values, distributions, data.settings.probe_l2
    )


def build_rated_model(
    settings: RatedSettings, data: RatedData, command: str, device: torch.device, start: bool = True
) -> tuple[CSKDForImageAesthetics, Preprocessing]:
    """The model of a phase-2 run on its device, with its preprocessing and provenance; its head is started from the
    probe, where the settings say so, unless `start` is False."""
    set_seed(settings.seed)
    model = build_model(CSKDForImageAesthetics, settings, score_values=data.score_values).to(device)
    preprocessing = build_preprocessing(settings, model)
    if start:
        start_head(model, preprocessing, data)
    model.config.provenance = provenance(command, settings, rated_images=len(data.train))
    return model, preprocessing


def teach(settings: TeacherSettings) -> TrainingResult:
    """Train a teacher.

    The head starts from the closed-form ridge probe, and with validation images the best weights are kept, the start
    among them: on those images the teacher never ranks below its own probe.

    Raises:
        SettingsError, RatingsError: the settings or the ratings do not fit the run.
    """
    settings.check()
    data = RatedData(settings)
    prepare_output(settings)
    accelerator = make_accelerator(settings)
    model, preprocessing = build_rated_model(settings, data, "teacher", accelerator.device)
    streams = {RATED: data.stream(settings.batch_size, max(preprocessing.size))}
    task = RatingTask(model, preprocessing, data.validation_images(preprocessing, accelerator), settings.freeze_norm)
    return TrainingLoop(task, streams, settings, accelerator, settings.head_learning_rate).run()
