"""What is known of a checkpoint, read from what its runs wrote down; nothing of it is written by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.predict import load_scorer
from ..files import public, write_json
from .measured import evaluations_of, training_of
from .model_facts import file_hashes, model_facts, show_examples
from .training_data import data_of, history_of

RESULTS = "results.json"


@dataclass
class CheckpointFacts:
    """What a card says of a checkpoint; all of it but `example_images` is what JSON has, without a path of the maker's.

    Attributes:
        name: last part of the checkpoint's folder.
        license: of the model; empty where nobody said.
        model: architecture and preprocessing, see `model_facts`.
        history: the trainings that made it, first to last; see `training.history`.
        data: every set of images that any of these trainings used, see `data_of`.
        training: how the last training went, see `training_of`.
        evaluations: one a set of images, see `evaluations_of`.
        hashes: `weights` (of the loaded weights, as an evaluation states it), and SHA-256 of the files of weights by name.
        versions: of the software of the last training.
        examples: pictures with the model's own answers, see `show_examples`.
        warnings: what does not fit, e.g. an evaluation of other weights.
        about: the makers' own words, Markdown.
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
    about: str = ""
    example_images: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def save(self, path: str | os.PathLike) -> None:
        """Write all but the pictures as JSON."""
        facts = asdict(self)
        del facts["example_images"]
        write_json(path, facts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> CheckpointFacts:
        """What `save` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def read_facts(
    checkpoint: str | os.PathLike,
    *,
    evaluations: Sequence[str | os.PathLike] = (),
    license: str = "",
    data_licenses: Mapping[str, str] | None = None,
    examples: Sequence[str | os.PathLike] = (),
    about: str = "",
) -> CheckpointFacts:
    """Read all that is known of a checkpoint.

    Args:
        checkpoint: folder of a teacher or student, or of a fine-tune (whose model/ is meant).
        evaluations: results.json files of `cskd-hf evaluate --output`, or their folders; those in folders of the
            checkpoint itself are found.
        license: of the model, a Hub id such as "apache-2.0" or any other text.
        data_licenses: licence by name of a set of images, for sets that do not say theirs.
        examples: pictures to show with the model's answers; none takes two procedural ones of this package.
        about: what the makers know beside the records, e.g. known failures: Markdown, a section of the card.

    Raises:
        ValueError: it is no trained scorer, a file of results is none, or a licence is of no set that was used.
    """
    folder = checkpoint_folder(checkpoint)
    model, preprocessing = load_scorer(str(folder))
    config = model.config
    hashes = file_hashes(folder, model)
    history = public(history_of(config))
    training = training_of(folder, history)
    measured, warnings = evaluations_of(folder, evaluations, hashes["weights"], history)
    shown, images = show_examples(model, preprocessing, examples)
    return CheckpointFacts(
        name=folder.resolve().name,
        license=license,
        model=model_facts(model, preprocessing),
        history=history,
        data=data_of(history, data_licenses or {}),
        training=public(training),
        evaluations=public(measured),
        hashes=hashes,
        versions={
            "cskd_hf": (config.provenance or {}).get("cskd_hf"),
            **(config.provenance or {}).get("versions", {}),
        },
        examples=shown,
        warnings=warnings,
        about=about.strip(),
        example_images=images,
    )


def checkpoint_folder(checkpoint: str | os.PathLike) -> Path:
    """The folder with config.json: the checkpoint itself, or model/ of a fine-tune.

    Raises:
        ValueError: there is none.
    """
    folder = Path(checkpoint)
    for place in (folder, folder / "model"):
        if (place / "config.json").is_file():
            return place
    raise ValueError(
        f"'{folder}' holds no checkpoint (no config.json); give the --output-dir of `cskd-hf teacher` or `cskd-hf student`, "
        "or the --output of `cskd-hf finetune`."
    )


def missing_facts(facts: CheckpointFacts) -> list[str]:
    """Why the card of a checkpoint would lack what its readers need; empty where it lacks nothing.

    Returns:
        one sentence a reason (no data, no licence, no metrics), each saying what to do.
    """
    reasons = []
    if not facts.license:
        reasons.append("the licence of the model is not known; give --license, e.g. --license apache-2.0.")
    if not facts.data:
        reasons.append(
            "nothing says which images it was trained on: its config.json has neither history nor provenance; train it with "
            "`cskd-hf student`, `teacher` or `finetune`."
        )
    for name in dict.fromkeys(entry["name"] for entry in facts.data if not entry["license"]):
        reasons.append(
            f"the licence of the images '{name}' is not known; give --data-license '{name}=LICENCE', whatever text says it "
            "truly."
        )
    if not any(entry["metrics"] for entry in facts.evaluations if not entry["seen"]):
        why = f" ({' '.join(facts.warnings)})" if facts.warnings else ""
        reasons.append(
            f"there are no metrics on images that it was not trained on{why}; measure it: `cskd-hf evaluate CHECKPOINT "
            "RATINGS --split test --output CHECKPOINT/evaluation`."
        )
    return reasons


def results(facts: CheckpointFacts) -> dict[str, Any]:
    """What results.json of a repository holds: every figure of the card, unrounded.

    Args:
        facts: of `read_facts`.
    """
    return {
        "model": facts.name,
        "weights": facts.hashes["weights"],
        "evaluations": facts.evaluations,
        "training": facts.training,
        "data": facts.data,
        "versions": facts.versions,
    }
