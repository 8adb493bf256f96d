"""What a folder must pass before it is pushed: no pickle, and the scores of its checkpoint when it is loaded again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..evaluation.predict import load_scorer
from .pickles import find_pickles

TOLERANCE = 1e-5
"""Largest allowed difference of a score, in shares of its scale; two loads of the same weights differ by rounding only."""

_SIZES = ((320, 240), (200, 300), (97, 64), (32, 32))
_SEED = 20230728


class PublishError(ValueError):
    """A folder that is not pushed, or a push that failed; the message says why and what to do."""


def relative_files(folder: Path) -> list[str]:
    """All files of a folder at any depth, relative, with forward slashes, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def check_no_pickles(folder: Path) -> None:
    """Refuse a folder with a pickle in it, at any depth.

    Raises:
        PublishError: there is one; the message names each file.
    """
    if found := find_pickles(folder):
        listed = "; ".join(f"{name}: {reason}" for name, reason in found.items())
        raise PublishError(
            f"a pickle runs the code that it names when it is loaded, so none is pushed: {listed}. Take the file out, or "
            "store weights as safetensors, arrays of numbers as .npy."
        )


def check_images() -> list[Image.Image]:
    """The generated pictures that loads are compared on: the same at every call, of several sizes, unlike each other."""
    rng = np.random.default_rng(_SEED)
    images = []
    for width, height in _SIZES:
        corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.uint8)
        slope = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
        noise = rng.normal(0, 25, (height, width, 3))
        images.append(Image.fromarray((np.asarray(slope) + noise).clip(0, 255).astype(np.uint8)))
    return images


@torch.no_grad()
def scores_of(checkpoint: Path) -> tuple[np.ndarray, list[float]]:
    """Predicted distributions `(images, bins)` of the check images by this package, and the value of each bin."""
    model, preprocessing = load_scorer(str(checkpoint))
    model.eval()
    processor = preprocessing.to_image_processor()
    rows = [model(**processor(images=image, return_tensors="pt")).distribution[0] for image in check_images()]
    return torch.stack(rows).double().numpy(), list(model.config.score_values)


def check_same_scores(checkpoint: Path, folder: Path, *, native: bool) -> None:
    """Load a folder as its users will, and compare its scores with those of its checkpoint.

    A process in which this package cannot be imported loads it with transformers alone, running the folder's own code
    where it has any; unless it is native, this process loads it with the package as well.

    Args:
        checkpoint: what the folder was made of.
        folder: to be pushed.
        native: whether it holds a stock image classifier.

    Raises:
        PublishError: it cannot be loaded, or a score differs by more than `TOLERANCE`.
    """
    expected, values = scores_of(checkpoint)
    found = {"without cskd_hf installed": np.asarray(_by_a_stranger(folder, native)["distributions"])}
    if not native:
        found["with cskd_hf"] = scores_of(folder)[0]
    for way, distributions in found.items():
        if distributions.shape != expected.shape:
            raise PublishError(
                f"loaded again {way}, the folder predicts {distributions.shape[-1]} bins, the checkpoint "
                f"{expected.shape[-1]}; the two do not belong together."
            )
        scores, own = distributions @ np.asarray(values), expected @ np.asarray(values)
        worst = int(np.abs(scores - own).argmax())
        limit = TOLERANCE * (values[-1] - values[0])
        # `not <=`: a score that is no number must not pass.
        if not (np.abs(scores - own).max() <= limit and np.abs(distributions - expected).max() <= TOLERANCE):
            raise PublishError(
                f"loaded again {way}, the folder gives image {worst} the score {scores[worst]:.6f}, the checkpoint "
                f"{own[worst]:.6f} (allowed difference {limit:.0e}); it is not what the checkpoint is."
            )


def _by_a_stranger(folder: Path, native: bool) -> dict:
    """What `stranger.py` finds in a process of its own."""
    script = Path(__file__).with_name("stranger.py")
    with tempfile.TemporaryDirectory(prefix="cskd-hf-") as work:
        np.savez(Path(work) / "images.npz", *[np.asarray(image) for image in check_images()])
        arguments = [
            folder.resolve(),
            Path(work) / "images.npz",
            Path(work) / "answer.json",
            "native" if native else "code",
        ]
        done = subprocess.run(
            [sys.executable, "-P", script, *arguments],
            env=os.environ
            | {
                "HF_HUB_OFFLINE": "1",
                "HF_MODULES_CACHE": f"{work}/modules",
                "OMP_NUM_THREADS": str(torch.get_num_threads()),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no message"]
            raise PublishError(
                f"the folder cannot be loaded by those who have not installed cskd_hf: {lines[-1].strip()}"
            )
        return json.loads((Path(work) / "answer.json").read_text(encoding="utf-8"))
