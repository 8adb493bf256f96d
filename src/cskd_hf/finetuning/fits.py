"""The ways to fit a model to ratings: a head in closed form, layers by gradient, and a student on unrated images too.

Each takes the row numbers that it may learn from, and saves a model that `load_scorer` loads. Whatever is chosen on the
way (penalty, step) is chosen on those rows alone.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn

from ..evaluation.predict import RatedImages, load_scorer, predict
from ..files import write_json
from ..training.arguments import StudentSettings, TeacherSettings
from ..training.build import provenance
from ..training.history import add_training, machine_facts, rated_facts, replace_rated
from ..training.penalty import choose_penalty
from ..training.probe import ridge_probe, set_head
from ..training.rates import layer_depths
from ..training.student import distil
from ..training.teacher import teach
from .encoded import Encoded
from .folds import deal_rows
from .settings import CHOOSING_SHARE, FULL_FROM, PARTIAL_FROM, FinetuneSettings

TRAIN, CHOOSING, HELD_OUT = "train", "validation", "test"
_INNER_FOLDS = 10
_COPY = "finetuned-ratings"  # no other name of a set: some of the ratings as a file of their own


@dataclass
class Prediction:
    """Predicted scores `(images,)` and distributions `(images, bins)` of some rows."""

    rows: np.ndarray
    scores: np.ndarray
    distributions: np.ndarray


def mode_for(settings: FinetuneSettings, ratings: int) -> str:
    """ "probe", "partial" or "full" for a number of ratings to learn from."""
    if settings.mode != "auto":
        return settings.mode
    return "full" if ratings >= FULL_FROM else "partial" if ratings >= PARTIAL_FROM else "probe"


class Fitter:
    """Fits models to rows of the rated images.

    Args:
        settings: of the command.
        encoded: the rated images.
        groups: of `picture_groups`.
        mode: "probe", "partial" or "full".
        work: folder for intermediate runs.
    """

    def __init__(
        self, settings: FinetuneSettings, encoded: Encoded, groups: np.ndarray, mode: str, work: Path
    ) -> None:
        self.settings, self.encoded, self.groups, self.mode, self.work = settings, encoded, groups, mode, work

    def fit_probe(self, rows: np.ndarray) -> tuple[nn.Linear, dict[str, Any]]:
        """The ridge probe with the penalty chosen by cross-validation on `rows`, as a histogram head."""
        encoded, at = self.encoded, torch.from_numpy(rows)
        features, means = encoded.features[at], encoded.means[at]
        parts = deal_rows(means.numpy(), self.groups[rows], _INNER_FOLDS, self.settings.seed)
        choice = choose_penalty(features, means, parts, encoded.prior)
        prior = encoded.prior if choice.with_prior else None
        head = nn.Linear(features.shape[1], len(encoded.score_values))
        shares = None if encoded.distributions is None else encoded.distributions[at]
        set_head(head, *ridge_probe(features, means, choice.l2, prior), means, encoded.score_values, shares)
        return head, {"penalty": choice.l2, "departs_from_base": choice.with_prior}

    @torch.no_grad()
    def predict_probe(self, head: nn.Linear, rows: np.ndarray) -> Prediction:
        """What a head says of some rows."""
        distributions = head(self.encoded.features[torch.from_numpy(rows)]).softmax(-1).double()
        scores = distributions @ torch.tensor(self.encoded.score_values, dtype=torch.float64)
        return Prediction(rows, scores.numpy(), distributions.numpy())

    def save_probe(self, head: nn.Linear, rows: np.ndarray, folder: Path) -> dict[str, Any]:
        """Write encoder and head as a checkpoint."""
        model = self.encoded.model
        model.classifier.load_state_dict(head.state_dict())
        model.config.provenance = self._provenance(rows, "probe")
        before = model.config.history
        device = next(model.parameters()).device
        facts = {"mode": "probe", "rated": [self._rated(rows)], **machine_facts(device, 1)}
        add_training(model.config, "finetune", self.settings, **facts)
        model.save_pretrained(folder)
        model.config.history = before  # the next fold starts from the same base
        self.encoded.preprocessing.to_image_processor().save_pretrained(folder)
        return {}

    def fit(self, rows: np.ndarray, folder: Path) -> dict[str, Any]:
        """Fit in the command's mode and save the model in `folder`; what was chosen on the way, for the report."""
        head, facts = self.fit_probe(rows)
        if self.mode == "probe":
            return facts | self.save_probe(head, rows, folder)
        settings = self.settings
        steps = settings.max_steps or _between(10 * len(rows) // settings.batch_size, 60, 3000)
        choosing = self._choosing(rows)
        run = self.work / f"{folder.name}-run"
        result = teach(
            TeacherSettings(
                encoder=settings.model,
                ratings=str(self._write(run, {TRAIN: rows[~choosing], CHOOSING: rows[choosing]})),
                score_values=self.encoded.score_values,
                output_dir=str(run / "model"),
                probe_l2=facts["penalty"],
                learning_rate=settings.learning_rate,
                head_learning_rate=settings.head_learning_rate,
                freeze_norm=True,
                max_steps=steps,
                warmup_steps=min(20, steps // 5),
                eval_every=max(steps // 10, 1),
                patience=3,
                **self._depth(),
                **self._common(),
            )
        )
        _take_model(run / "model", folder, self._provenance(rows, self.mode), self._rated(rows))
        shutil.rmtree(run)
        return facts | {"steps": result.best_step, "chosen_on": int(choosing.sum())}

    def learn_from_unrated(
        self, rows: np.ndarray, held_out: np.ndarray, teacher: Path, penalty: float, folder: Path
    ) -> dict[str, Any]:
        """Train a student on `rows` and on the teacher's ratings of the unrated images, among which nothing of
        `held_out` remains."""
        settings = self.settings
        run = self.work / f"{folder.name}-run"
        batch = max(settings.batch_size, 8)
        images = _count_images(settings.unlabeled)
        steps = settings.student_steps or _between(3 * images // batch, 40, 2000)
        own = {} if settings.student else {"learning_rate": settings.learning_rate, "freeze_norm": True}
        own |= {} if settings.student else {"head_learning_rate": settings.head_learning_rate}
        distil(
            StudentSettings(
                encoder=settings.student or settings.model,
                teacher=[str(teacher)],
                ratings=str(self._write(run, {TRAIN: rows, HELD_OUT: held_out})),
                score_values=self.encoded.score_values,
                images=list(settings.unlabeled),
                output_dir=str(run / "model"),
                validation_split="",
                probe_l2=penalty,
                max_steps=steps,
                warmup_steps=min(20, steps // 5),
                eval_every=0,
                keep="last",
                **own,
                **self._common(),
            )
        )
        left_out = _leaks(run / "model")
        made = self._provenance(rows, "semi-supervised", unrated_images=images)
        _take_model(run / "model", folder, made, self._rated(rows))
        shutil.rmtree(run)
        return {"steps": steps, "unrated_images": images, "held_out_among_unrated": left_out}

    def predict(self, folder: Path, rows: np.ndarray) -> Prediction:
        """What a saved model says of some rows."""
        model, preprocessing = load_scorer(str(folder))
        images = RatedImages(self.encoded.ratings.select(rows), preprocessing, batch_size=self.settings.batch_size)
        within, scores, distributions = predict(model, images)
        return Prediction(rows[within], scores, distributions)

    def _choosing(self, rows: np.ndarray) -> np.ndarray:
        """bool (rows,): those on which the step is chosen; at least two, and no picture on both sides."""
        parts = deal_rows(
            self.encoded.means.numpy()[rows], self.groups[rows], round(1 / CHOOSING_SHARE), self.settings.seed + 1
        )
        return parts == 0

    def _depth(self) -> dict[str, str]:
        """Which layers a partial fine-tune leaves alone."""
        if self.mode == "full":
            return {}
        _, layers = layer_depths(self.encoded.model, self.encoded.preprocessing)
        frozen = layers - self.settings.train_layers
        return {"freeze": str(frozen)} if frozen > 0 else {}

    def _provenance(self, rows: np.ndarray, mode: str, **facts: Any) -> dict[str, Any]:
        return provenance("finetune", _Named(self.settings), rated_images=len(rows), mode=mode, **facts)

    def _rated(self, rows: np.ndarray) -> dict[str, Any]:
        return rated_facts(self.encoded.ratings, self.settings.ratings, images=len(rows))

    def _common(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "seed": settings.seed,
            "image_size": settings.image_size,
            "batch_size": settings.batch_size,
            "cpu": settings.cpu,
            "quiet": settings.quiet,
            "cache_images": True,
            "save_every": 0,
            "overwrite": True,
        }

    def _write(self, folder: Path, splits: dict[str, np.ndarray]) -> Path:
        """Some of the ratings as a file of their own, with these splits."""
        rows = np.concatenate(list(splits.values()))
        names = [name for name, part in splits.items() for _ in part]
        ratings = self.encoded.ratings.select(rows).remove_columns("split").add_column("split", names)
        folder.mkdir(parents=True, exist_ok=True)
        return write_ratings(ratings, folder / _COPY)


def write_ratings(ratings: datasets.Dataset, path: Path) -> Path:
    """Ratings as a file that names the images where they are; only images that have no file are copied.

    Args:
        ratings: rated set.
        path: of the file without its extension, or of a folder.

    Returns:
        what was written.
    """
    images = ratings.select_columns("image").with_format("arrow")[:]["image"]
    if images.combine_chunks().field("bytes").null_count < len(ratings):
        ratings.save_to_disk(str(path))
        return path
    path = path.with_suffix(".jsonl")
    columns = [ratings[name][:] for name in ("mean", "distribution", "split", "key")]
    with path.open("w", encoding="utf-8") as file:
        for image, mean, distribution, split, key in zip(images.to_pylist(), *columns, strict=True):
            label = {"mean": mean} if distribution is None else {"distribution": distribution}
            file.write(json.dumps({"image": image["path"], "split": split, "key": key, **label}) + "\n")
    return path


class _Named:
    """What a checkpoint's provenance names of the settings."""

    def __init__(self, settings: FinetuneSettings) -> None:
        self.encoder, self.ratings, self.seed = settings.model, settings.ratings, settings.seed
        self.images = settings.unlabeled


def _take_model(run: Path, folder: Path, made: dict[str, Any], rated: dict[str, Any]) -> None:
    """Take the model out of the folder of its run; its provenance is that of the command, not of the intermediate run, and
    its history names the ratings themselves, not their copy."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("preprocessor_config.json", "model.safetensors"):
        shutil.copyfile(run / name, folder / name)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    named = {key: value for key, value in rated.items() if key != "images"}
    history = replace_rated(config["history"], _COPY, named)
    history[-1] |= {"command": "finetune", "mode": made["mode"]}
    write_json(folder / "config.json", config | {"provenance": made, "history": history})


def _leaks(run: Path) -> int:
    report = run / "leaks.json"
    return json.loads(report.read_text())["leaks"] if report.is_file() else 0


def _count_images(places: list[str]) -> int:
    from ..data.mixture import open_images

    return len(open_images(places, 0, False))


def _between(value: float, low: int, high: int) -> int:
    return min(max(math.ceil(value), low), high)
