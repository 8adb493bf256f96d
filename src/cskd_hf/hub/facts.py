"""What is known of a checkpoint, read from what its runs wrote down; nothing of it is written by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class CheckpointFacts:
    """What a card says of a checkpoint; all of it but `example_images` is what JSON has, without a path of the maker's.

    Attributes:
        name: last part of the checkpoint's folder or Hub name.
        license: of the model; empty where nobody said.
        model: `class`, `encoder`, `encoder_class`, `parameters`, `encoder_parameters`, `score_values`, `attributes`,
            `reference_encoders`, `pooling`, `preprocessing` (`height`, `width`, `mean`, `std`), `calibration` (or null).
        history: the trainings that made it, first to last; see `training.history`.
        data: every set of images that any of these trainings used: `name`, `kind` ("rated" or "unrated"), `role`,
            `images`, `license`, `about`.
        training: of the last training: `settings` (by name), `seconds`, `peak_memory_mib`, `best_step`, `validation`
            (metrics of the images that chose the weights), `images_per_second`.
        evaluations: one a set of images: `kind` ("evaluation", "cross-validation", ...), `data` (`name`, `location`,
            `images`, `splits`, `digest`), `metrics` (by name `value`, `low`, `high`), `confidence`, `n_resamples`,
            `weights`, `speed` (`images_per_second`, `device`, ... or null).
        hashes: `weights` (of the loaded weights), and SHA-256 of the checkpoint's files by name.
        versions: of the software of the last training.
        examples: pictures with the model's own answers: `file`, `title`, `score`, `distribution` (by bin).
        warnings: what does not fit, e.g. an evaluation of other weights.
        example_images: bytes of each example's file, by `file`.
    """

    name: str
    license: str
    model: dict[str, Any]
    history: list[dict[str, Any]]
    data: list[dict[str, Any]]
    training: dict[str, Any]
    evaluations: list[dict[str, Any]]
    hashes: dict[str, str]
    versions: dict[str, Any]
    examples: list[dict[str, Any]]
    warnings: list[str] = field(default_factory=list)
    example_images: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)


def read_facts(
    checkpoint: str | os.PathLike,
    *,
    evaluations: Sequence[str | os.PathLike] = (),
    license: str = "",
    data_licenses: Mapping[str, str] | None = None,
    examples: Sequence[str | os.PathLike] = (),
) -> CheckpointFacts:
    """Read all that is known of a checkpoint.

    Args:
        checkpoint: folder of a teacher or student, or of a fine-tune (whose model/ is meant).
        evaluations: results.json files of `cskd-hf evaluate --output`, or their folders; those in folders of the
            checkpoint itself are found.
        license: of the model, a Hub id such as "apache-2.0" or any other text.
        data_licenses: licence by name of a set of images, for sets that do not say theirs.
        examples: pictures to show with the model's answers; none takes two procedural ones of this package.

    Raises:
        ValueError: it is no trained scorer, or a file of results is none.
    """
    raise NotImplementedError


def missing_facts(facts: CheckpointFacts) -> list[str]:
    """Why the card of a checkpoint would lack what its readers need; empty where it lacks nothing.

    Returns:
        one sentence a reason (no data, no licence, no metrics), each saying what to do.
    """
    raise NotImplementedError
