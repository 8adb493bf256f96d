"""Every command of the README and of the pages in examples/, run as it stands there, on tiny stand-ins."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModelWithProjection,
    ViTImageProcessor,
)

from cskd_hf.data.synthetic import tiny_clip_path
from rated_layouts import write_aadb

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PHASE_1 = (ROOT / "examples" / "README.md").read_text()
PHASE_2 = (ROOT / "examples" / "phase2.md").read_text()
HUB = (ROOT / "examples" / "hub.md").read_text()
SCORING = (ROOT / "examples" / "scoring.md").read_text()
# What a reader's own run would spend hours on.
SHORTER = "--max-steps 2 --batch-size 4 --image-size 32 --cpu --quiet"


@pytest.fixture(scope="module")
def place(tmp_path_factory, encoder, clip, photographs, ratings) -> Path:
    """A folder with what the README's commands name; a local folder goes before a Hub name."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(encoder, folder / "microsoft" / "resnet-18")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "microsoft" / "resnet-18")
    shutil.copytree(clip, folder / "openai" / "clip-vit-base-patch32")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder / "openai" / "clip-vit-base-patch32"
    )
    shutil.copytree(photographs, folder / "photos")
    shutil.copytree(Path(ratings).parent, folder, dirs_exist_ok=True)
    table = (folder / "ratings.csv").read_text().splitlines()
    # The last images neither train nor choose weights: the model card wants figures on such.
    table[-7:] = [line.replace("train", "test") for line in table[-7:]]
    (folder / "ratings.csv").write_text("\n".join(table))
    shutil.copyfile(folder / "photos" / "00.png", folder / "photo.jpg")
    shutil.copytree(ROOT / "hub_configs", folder / "hub_configs")
    write_aadb(folder / "datasets" / "AADB")
    write_own_ratings(folder)
    return folder


def write_own_ratings(folder: Path) -> None:
    """mine.csv: one row an image with a mean; votes.csv: five raters of the same images."""
    rng = np.random.default_rng(2)
    names = [f"{number:02d}.png" for number in range(30)]
    quality = rng.uniform(1.5, 4.5, len(names))
    with open(folder / "mine.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "rating"], *zip(names, quality.round(2))])
    with open(folder / "votes.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "rater", "rating"])
        for rater in range(5):
            votes = (quality + rng.normal(0, 0.7, len(names))).round().clip(1, 5).astype(int)
            writer.writerows((name, f"rater{rater}", vote) for name, vote in zip(names, votes))


def run(arguments: list[str], place: Path) -> str:
    done = subprocess.run(
        arguments,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commands_of(text: str) -> list[str]:
    return [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines() if line]


def snippets_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_command(command: str, place: Path) -> str:
    program, *arguments = shlex.split(command)
    if program == "python":
        if arguments[0].endswith("build_default_student.py"):
            arguments += ["--quick", "--seeds", "0"]
        return run([sys.executable, str(ROOT / arguments[0]), *arguments[1:]], place)
    assert program == "cskd-hf"
    if arguments[0] in ("align", "features", "teacher", "student"):
        arguments += [*SHORTER.split(), *(["--holdout", "4"] if arguments[0] in ("align", "features") else [])]
    return run([sys.executable, "-m", "cskd_hf.cli", *arguments], place)


def test_readme(place):
    assert len(commands_of(README)) >= 6 and len(snippets_of(README)) >= 2
    outputs = {command: run_command(command, place) for command in commands_of(README)}
    for command, output in outputs.items():
        if " evaluate " in command:
            assert "srcc" in output.lower()
        if " score " in command:
            assert ".png" in output
        if " encoders " in command:
            assert "3 supported" in output
    assert (place / "scores.csv").read_text().count("\n") == 1 + 40
    assert (place / "runs" / "mine" / "report.html").is_file()
    for snippet in snippets_of(README):
        assert run([sys.executable, "-c", snippet], place).strip()


def test_details_of_phase_1(place):
    assert len(commands_of(PHASE_1)) >= 4 and len(snippets_of(PHASE_1)) >= 2
    if not (place / "runs" / "aligned").exists():  # README's first command
        run_command(commands_of(README)[0], place)
    for command in commands_of(PHASE_1):
        output = run_command(command, place)
        if "check-images" in command:
            assert "0 copies of the 18 evaluation images" in output
    assert (place / "check.json").is_file() and (place / "runs" / "analysis" / "analysis.html").is_file()
    assert len(list((place / "features").glob("*/features-*.safetensors"))) == 1
    for snippet in snippets_of(PHASE_1):
        called = snippet if "print" in snippet else snippet + "\nprint(build().dim)"
        assert run([sys.executable, "-c", called], place).strip()


def test_details_of_phase_2(place):
    for command in commands_of(README)[:3]:  # from alignment to student
        if not (place / command.split()[-1]).exists():
            run_command(command, place)
    for command in commands_of(PHASE_2):
        output = run_command(command, place)
        if " evaluate " in command:
            assert "srcc" in output.lower()
    assert (place / "aadb-parquet" / "README.md").is_file() and (place / "ids.txt").is_file()
    assert (place / "runs" / "aadb-student" / "evaluation" / "report.html").is_file()
    assert (place / "runs" / "me" / "model.safetensors").is_file()


def test_details_of_the_hub(place):
    for command in commands_of(README)[:3]:  # from alignment to student
        if not (place / command.split()[-1]).exists():
            run_command(command, place)
    for command in commands_of(HUB):
        run_command(command, place)
    for name in ("README.md", "modeling_cskd.py", "handler.py", "results.json"):
        assert (place / "published" / name).is_file()
    assert (place / "space" / "app.py").is_file() and (place / "rated-repository" / "README.md").is_file()
    for snippet in snippets_of(HUB):
        assert run([sys.executable, "-c", snippet], place).strip()


def test_details_of_scoring(place, clip):
    for command in commands_of(README)[:3]:  # from alignment to student
        if not (place / command.split()[-1]).exists():
            run_command(command, place)
    give_text_tower(clip, place / "openai" / "clip-vit-base-patch32")
    (place / "notes.txt").write_text("no photograph")
    for command in commands_of(SCORING):
        run_command(command, place)
    for name in ("scores.parquet", "shoot/contact_sheet.html", "photos/00.png.xmp", "why/explanation.html",
                 "runs/native/model.safetensors", "runs/onnx/pipeline.onnx", "runs/int8/export.json"):  # fmt: skip
        assert (place / name).is_file(), name
    for snippet in snippets_of(SCORING):
        assert run([sys.executable, "-c", snippet], place).strip()


def give_text_tower(vision: str, folder: Path) -> None:
    """Make a whole CLIP, with a random text tower and the tokenizer of the embedded one, of an image tower."""
    tower = CLIPVisionModelWithProjection.from_pretrained(vision)
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 200,
    }
    whole = CLIPModel(CLIPConfig(vision_config=tower.config.to_dict(), text_config=text, projection_dim=12))
    whole.load_state_dict(tower.state_dict(), strict=False)
    whole.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_clip_path() / name, folder / name)


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert named == {"demo", "test"} and named <= targets


@pytest.mark.parametrize(
    ("launcher", "command"),
    [(["-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"], "align"), ([], "align"), ([], "teacher")],
    ids=["accelerate-align", "python-align", "python-teacher"],
)
def test_example_scripts(place, launcher, command, tmp_path):
    inputs = {
        "align": "--encoder microsoft/resnet-18 --reference openai/clip-vit-base-patch32 --images photos/ --holdout 4",
        "teacher": "--encoder microsoft/resnet-18 --ratings ratings.csv",
    }[command]
    script = [str(ROOT / "examples" / f"train_{command}.py"), *inputs.split(), "--output-dir", str(tmp_path / "run")]
    assert "step 2" in run([sys.executable, *launcher, *script, *SHORTER.split()], place)
    assert (tmp_path / "run" / "model.safetensors").is_file()
