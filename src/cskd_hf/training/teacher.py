"""Phase 2, teacher: fine-tune an encoder on rated images, from its own ridge probe."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ..data.views import Preprocessing
from ..evaluation.predict import RatedImages, pooled_features
from ..models.modeling_cskd import CSKDForImageAesthetics
from .arguments import RatedSettings, TeacherSettings
from .build import build_model, build_preprocessing, provenance
from .history import add_training, machine_facts
from .loop import TrainingLoop, TrainingResult, make_accelerator
from .output import prepare_output
from .probe import start_attribute_from_probe, start_head_from_probe
from .rated_data import RatedData, RatedSet
from .rated_task import RatingTask
from .rates import freeze_layers

_PROBED = 4096  # images of a further set that its head's start is computed from


def start_head(model: CSKDForImageAesthetics, preprocessing: Preprocessing, data: RatedData) -> None:
    """Start the model's heads as the settings say: from ridge probes on the encoder's frozen features, or as they are."""
    if data.settings.head_init == "random":
        return
    rows, features = _features(model, preprocessing, data.main)
    start_head_from_probe(
        model.classifier,
        features,
        data.means[rows],
        data.score_values,
        data.main.known_histograms(rows),
        data.settings.probe_l2,
    )
    start_attributes(model, data.main, rows, features)


def start_attributes(
    model: CSKDForImageAesthetics,
    rated: RatedSet,
    rows: list[int],
    features: torch.Tensor,
    among: set[str] | None = None,
) -> None:
    """Start the attributes of the model that a set knows, or of these those `among` some, from their ridge probes.

    Args:
        model: with an attribute head, where the set has attributes.
        rated: the set.
        rows: of its images.
        features: `(rows, feature_size)`.
        among: names; none takes all.
    """
    names = list(model.config.attributes)
    for column, name in enumerate(rated.attributes):
        shares = rated.attribute_shares[rows, column]
        if (among is None or name in among) and (~shares.isnan()).sum() >= 2:
            output = names.index(name)
            start_attribute_from_probe(model.attribute_head, output, features, shares, rated.settings.probe_l2)


def start_rated_task(task: RatingTask, data: RatedData) -> None:
    """Start the heads of further sets, and attributes that the first set does not have, as `start_head` does the model's.

    A sample of a set's images is enough for it.
    """
    if data.settings.head_init == "random":
        return
    model, started = task.model, set(data.main.attributes)
    for number, rated in enumerate(data.sets[1:], start=1):
        rows, features = _features(model, task.preprocessing, rated, _PROBED)
        histograms, l2 = rated.known_histograms(rows), data.settings.probe_l2
        head = task.further_heads[number - 1]
        start_head_from_probe(head, features, rated.means[rows], rated.score_values, histograms, l2)
        new = set(rated.attributes) - started
        start_attributes(model, rated, rows, features, new)
        started |= new


def _features(
    model: CSKDForImageAesthetics, preprocessing: Preprocessing, rated: RatedSet, at_most: int | None = None
) -> tuple[list[int], torch.Tensor]:
    """Rows of a set's training images, evenly spaced where there are too many, and their pooled features."""
    count, total = min(at_most or len(rated.train), len(rated.train)), len(rated.train)
    chosen = [row * total // count for row in range(count)]
    images = RatedImages(rated.train.select(chosen), preprocessing, batch_size=rated.settings.batch_size)
    rows, features = pooled_features(model, images)
    return [chosen[row] for row in rows], features


def build_rated_model(
    settings: RatedSettings, data: RatedData, command: str, accelerator: Accelerator, start: bool = True
) -> tuple[CSKDForImageAesthetics, Preprocessing]:
    """The model of a phase-2 run on its device, with its preprocessing, provenance and history, and what the settings freeze
    frozen; its heads are started from the probe, where the settings say so, unless `start` is False."""
    set_seed(settings.seed)
    device, processes = accelerator.device, accelerator.num_processes
    heads = {"score_values": data.score_values, "attributes": data.attributes}
    model = build_model(CSKDForImageAesthetics, settings, **heads).to(device)
    preprocessing = build_preprocessing(settings, model)
    freeze_layers(model, preprocessing, settings.freeze)
    if start:
        start_head(model, preprocessing, data)
    model.config.provenance = provenance(command, settings, **data.facts())
    rated, further = data.described(), {"leaks_among_rated": data.leaks} if data.leaks else {}
    add_training(model.config, command, settings, rated=rated, **further, **machine_facts(device, processes))
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
    model, preprocessing = build_rated_model(settings, data, "teacher", accelerator)
    streams = data.streams(settings.batch_size, max(preprocessing.size))
    validation = data.validation_images(preprocessing, accelerator)
    task = RatingTask(model, preprocessing, validation, settings.freeze_norm, data)
    start_rated_task(task, data)
    return TrainingLoop(task, streams, settings, accelerator, settings.head_learning_rate).run()
