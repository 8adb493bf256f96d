"""Every command of the README, run as it stands there, on tiny stand-ins of the same names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPImageProcessor, ViTImageProcessor

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line
]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
    shutil.copyfile(folder / "photos" / "00.png", folder / "photo.jpg")
    return folder


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


def test_commands_and_snippets_in_their_order(place):
    assert len(COMMANDS) >= 6 and len(SNIPPETS) >= 3
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program == "python":
            assert "srcc" in run([sys.executable, str(ROOT / arguments[0]), *arguments[1:]], place)
            continue
        assert program == "cskd-hf"
        if arguments[0] in ("align", "teacher", "student"):
            arguments += [*SHORTER.split(), *(["--holdout", "4"] if arguments[0] == "align" else [])]
        output = run([sys.executable, "-m", "cskd_hf.cli", *arguments], place)
        if arguments[0] == "score":
            assert ".png" in output
    assert (place / "scores.csv").read_text().count("\n") == 1 + 40
    for snippet in SNIPPETS:
        called = snippet + "\nprint(build().dim)" if "def build" in snippet else snippet
        assert run([sys.executable, "-c", called], place).strip()


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
