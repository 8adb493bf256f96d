"""The student that the package ships: loads offline, scores at once, and reacts to spoiled pictures as it should."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image, ImageDraw
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from cskd_hf import default_student_path
from cskd_hf.cli import main
from cskd_hf.evaluation.sanity import KEPT, SPOILED, Reaction, reactions
from cskd_hf.models.pipeline_cskd import ImageAestheticsPipeline
from cskd_hf.scoring.engine import load_engine

FOLDER = default_student_path()
# It was taught on photographs, and on shapes without a meaning it minds these three little, or not at all.
PHOTOGRAPHS_ONLY = {"noise, deviation 40 of 255", "JPEG, quality 5", "overexposed twice"}
GENERATED = 200


def dead_leaves(seed: int, side: int = 256) -> Image.Image:
    """Shapes that cover each other, with sizes by a power law, shading and grain: the statistics of photographs, and edges at
    all scales (Lee, Mumford and Huang, Occlusion models for natural images, 2001)."""
    rng = np.random.default_rng(seed)
    picture, hue = Image.new("RGB", (side, side)), rng.random(3)
    draw = ImageDraw.Draw(picture)
    for _ in range(400):
        wide = min(side, 6 / np.sqrt(rng.uniform(1e-3, 1)))
        tall = wide * rng.uniform(0.5, 1.5)
        x, y = rng.uniform(0, side, 2)
        colour = np.clip(hue * rng.uniform(0.2, 1.6) + rng.normal(0, 0.15, 3), 0, 1)
        draw.ellipse((x - wide, y - tall, x + wide, y + tall), fill=tuple(int(255 * value) for value in colour))
    light = np.linspace(*rng.uniform(0.6, 1.2, 2), side)[:, None, None] * (1 + rng.normal(0, 0.09, (side, side, 1)))
    return Image.fromarray((np.asarray(picture) * light).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [dead_leaves(seed) for seed in range(GENERATED)]


def changes(pictures: Sequence[Image.Image]) -> list[Reaction]:
    engine = load_engine(str(FOLDER))

    def score(batch: Sequence[Image.Image]) -> list[float]:
        pixels = [engine.prepare(picture) for picture in batch]
        return [row["score"] for first in range(0, len(pixels), 50)
                for row in engine.score(np.stack(pixels[first : first + 50]))]  # fmt: skip

    return reactions(score, pictures, engine.scale)


@pytest.mark.parametrize("source", ["generated", "photographs"])
def test_reacts_to_spoiled_pictures_and_to_no_others(source: str, pictures: list[Image.Image], request):
    if source == "photographs":
        files = sorted((request.getfixturevalue("data_folder") / "oasis_beauty").rglob("*.jpg"))
        pictures = [Image.open(file).convert("RGB") for file in files[:: len(files) // 200][:200]]
    found = changes(pictures)
    assert [one.change for one in found] == [*SPOILED, *KEPT]
    asked = [one for one in found if source == "photographs" or one.change not in PHOTOGRAPHS_ONLY]
    assert all(one.passed for one in asked), "\n".join(map(str, asked))


def test_a_scorer_that_does_not_care_fails(pictures: list[Image.Image]):
    found = {one.change: one for one in reactions(lambda batch: [3.0] * len(batch), pictures[:5], (1, 7))}
    assert not any(found[name].passed for name in SPOILED) and all(found[name].passed for name in KEPT)
    brightness = {one.change: one for one in reactions(
        lambda batch: [float(np.asarray(picture).mean()) for picture in batch], pictures[:20], (0, 255))}  # fmt: skip
    assert brightness["underexposed to a quarter"].passed and not brightness["overexposed twice"].passed


def test_first_score_needs_no_network_and_no_name(tmp_path: Path):
    Image.new("RGB", (300, 200), "steelblue").save(tmp_path / "photo.jpg")
    code = (
        "import socket; socket.socket.connect = None\n"
        "import cskd_hf\nfrom transformers import pipeline\nprint(pipeline('image-aesthetics')('photo.jpg'))"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout.replace("'", '"').replace("None", "null"))
    assert result["scale"] == [1.0, 7.0] and 1 < result["score"] < 7 and 0 <= result["percentile"] <= 100
    assert result["provenance"]["command"] == "student"


def test_is_what_every_scoring_command_takes(tmp_path: Path, capsys: pytest.CaptureFixture, pictures):
    for number in range(3):
        pictures[number].save(tmp_path / f"{number}.png")
    expected = {str(tmp_path / f"{n}.png"): pipeline("image-aesthetics")(pictures[n])["score"] for n in range(3)}
    scores = tmp_path / "out" / "scores.csv"
    scores.parent.mkdir()
    assert main(["score", str(tmp_path), "--output", str(scores), "--quiet"]) == 0
    with open(scores, newline="") as rows:
        assert {row["path"]: float(row["score"]) for row in csv.DictReader(rows)} == pytest.approx(expected, abs=1e-4)
    one = str(tmp_path / "0.png")
    assert main(["cull", one, "--output", str(tmp_path / "out" / "cull"), "--quiet"]) == 0
    assert main(["explain", one, "--output", str(tmp_path / "out" / "why"), "--samples", "2", "--quiet"]) == 0
    assert main(["app", "--dry-run", str(tmp_path / "out" / "space")]) == 0
    assert (tmp_path / "out" / "space" / "app.py").is_file()


def test_weights_are_those_of_the_log():
    build = json.loads((FOLDER / "build.json").read_text())
    weights = (FOLDER / "model.safetensors").read_bytes()
    assert build["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert len(weights) < 2.6e6 and "--data" in build["command"] and build["seconds"]["aligned"] > 0
    with safe_open(FOLDER / "model.safetensors", "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys() if "convolution" in name} == {"F16"}
    model = AutoModel.from_pretrained(FOLDER)
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}
    assert model.config.calibration["images"] > 5000
    assert ModelCard.load(FOLDER / "README.md").data.license == "apache-2.0"


def test_a_saved_pipeline_names_no_folder_of_this_machine(tmp_path: Path):
    assert PIPELINE_REGISTRY.check_task("image-aesthetics")[1]["default"]["model"][0] == str(FOLDER)
    assert "default" not in ImageAestheticsPipeline._registered_impl["image-aesthetics"]
    pipeline("image-aesthetics").save_pretrained(tmp_path)
    assert str(FOLDER) not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path).score_values == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
