"""A pushed checkpoint in the hands of those who have this package, and of those who have never heard of it.

Both are processes of their own that get the files from a Hub on the loopback interface; the second runs in a virtual
environment without any trace of the package (see `hub_environments`).
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cskd_hf.hub.checks import check_images, scores_of
from cskd_hf.hub.remote_code import code_files
from hub_environments import environment_without_package, run_script
from hub_server import HubServer, hub_server
from published import LICENSES, trained_and_measured

NAME, NATIVE = "somebody/tiny", "somebody/tiny-native"
CLASSES = ["CSKDConfig", "CSKDForImageAesthetics", "CSKDForImageAesthetics", "ImageAestheticsPipeline"]

_PUSH = """
import json, sys
from cskd_hf.cli import main
options = {options!r}
print(json.dumps([
    main(["push", {checkpoint!r}, {name!r}, *options]),
    main(["push", {checkpoint!r}, {native!r}, "--native", *options]),
    main(["push", {checkpoint!r}, {name!r}, "--dry-run", {dry_run!r}, *options]),
]))
"""

_LOAD = """
import builtins, json, os, sys
import numpy as np, torch

def asked(*args):
    raise AssertionError("somebody was asked whether code may run")

builtins.input = asked
{first}
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
from PIL import Image

def distributions(model, processor):
    with torch.no_grad():
        return [model.eval()(**processor(images=Image.open(path), return_tensors="pt")).distribution[0].tolist()
                for path in images]

images, answer = {images!r}, []
for trust in {trusts!r}:
    trust = {{}} if trust is None else {{"trust_remote_code": trust}}
    config = AutoConfig.from_pretrained({name!r}, **trust)
    models = [kind.from_pretrained({name!r}, **trust) for kind in (AutoModel, AutoModelForImageClassification)]
    processor = AutoImageProcessor.from_pretrained({name!r}, **trust)
    rate = pipeline("image-aesthetics", model={name!r}, **trust)
    assert all(type(part) is type(models[0]) for part in (*models, rate.model)), "one class, whatever loads it"
    saved = os.path.join({saved!r}, "saved")
    rate.save_pretrained(saved)
    again = pipeline("image-aesthetics", model=saved, **trust)
    answer.append({{
        "classes": [(type(part).__module__, type(part).__name__) for part in (config, *models, rate)],
        "by pipeline": [list(result["distribution"].values()) for result in rate(images)],
        "by model": distributions(models[0], processor),
        "saved and loaded": [list(result["distribution"].values()) for result in again(images)],
    }})
stock = AutoModelForImageClassification.from_pretrained({native!r}).eval()
processor = AutoImageProcessor.from_pretrained({native!r})
with torch.no_grad():
    native = [stock(**processor(images=Image.open(path), return_tensors="pt")).logits.softmax(-1)[0].tolist()
              for path in images]
print(json.dumps({{
    "loads": answer,
    "native": native,
    "native class": type(stock).__module__,
    "native pipeline": sum(float(entry["label"]) * entry["score"]
                           for entry in pipeline("image-classification", model={native!r}, top_k=5)(images[0])),
    "packages": sorted(name for name in sys.modules if name.partition(".")[0] in ("cskd_hf", "transformers_modules")),
}}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, encoder: str) -> Path:
    return trained_and_measured(tmp_path_factory.mktemp("run"), encoder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(len(check_images()))]
    for path, image in zip(paths, check_images()):
        image.save(path)
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dry-run") / "folder"


@pytest.fixture(scope="module")
def hub(checkpoint: Path, dry_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """The Hub after `cskd-hf push`, with code and natively; and after a dry run, which it heard nothing of."""
    with hub_server() as server:
        places = {"checkpoint": str(checkpoint), "dry_run": str(dry_run), "name": NAME, "native": NATIVE}
        environment = server.environment(tmp_path_factory.mktemp("home"))
        code = _PUSH.format(**places, options=LICENSES)
        assert run_script(Path(sys.executable), code, environment, package=True) == [0, 0, 0]
        yield server


def load(
    hub: HubServer, python: Path, images: list[str], folder: Path, first: str, trusts: list[bool | None], **more: Any
) -> tuple[dict[str, Any], list[str]]:
    """What a process finds, and the files of code that it asked the Hub for."""
    hub.requests.clear()
    code = _LOAD.format(images=images, first=first, trusts=trusts, name=NAME, native=NATIVE, saved=str(folder))
    found = run_script(python, code, hub.environment(folder / "home"), **more)
    asked = [path for method, path in hub.requests if method == "GET" and path.endswith(".py")]
    return found, sorted({path.rpartition("/")[2] for path in asked})


def same(found: list[list[float]], checkpoint: Path, tolerance: float = 1e-6) -> bool:
    expected, values = scores_of(checkpoint)
    assert np.ptp(expected @ values) > 1e-3
    return np.abs((np.asarray(found) - expected) @ values).max() <= tolerance


def test_what_is_on_the_hub(hub: HubServer, dry_run: Path):
    assert [path for _, path in hub.requests].count("/api/repos/create") == 2
    written = {
        path.relative_to(dry_run).as_posix(): path.read_bytes() for path in dry_run.rglob("*") if path.is_file()
    }
    assert hub.files(NAME) == written
    assert len(hub.commits(NAME)) == len(hub.commits(NATIVE)) == 1
    assert set(code_files()) < set(hub.files(NAME)) and not any(name.endswith(".py") for name in hub.files(NATIVE))
    card = hub.files(NAME)["README.md"].decode()
    assert f'pipeline("image-aesthetics", model="{NAME}"' in card


@pytest.mark.parametrize("torchvision", [False, True], ids=["without torchvision", "with torchvision"])
def test_without_the_package(hub: HubServer, checkpoint: Path, images: list[str], torchvision: bool, tmp_path: Path):
    here = importlib.util.find_spec("torchvision") is not None
    if torchvision and not here:
        pytest.skip("torchvision is not installed")
    python = environment_without_package(tmp_path / "environment", torchvision=torchvision)
    found, code = load(hub, python, images, tmp_path, "", [True])
    for module, name in found["loads"][0]["classes"]:
        assert re.match(r"transformers_modules\.somebody\.tiny\.\w+\.\w+_cskd$", module), (module, name)
    assert [name for _, name in found["loads"][0]["classes"]] == CLASSES
    assert code == code_files()
    assert not any(name.startswith("cskd_hf") for name in found["packages"])
    # torchvision resizes a little differently, by up to one grey level; the expected scores are of this environment.
    tolerance = 1e-6 if torchvision == here else 0.02
    for way in ("by pipeline", "by model", "saved and loaded"):
        assert same(found["loads"][0][way], checkpoint, tolerance), way
    check_native(found, checkpoint, tolerance)


def test_with_the_package_no_code_of_the_repository_runs(
    hub: HubServer, checkpoint: Path, images: list[str], tmp_path: Path
):
    """Whatever is said of trust: nobody is asked, no code is fetched, none is imported, and nothing is put in the cache."""
    found, code = load(
        hub, Path(sys.executable), images, tmp_path, "import cskd_hf", [None, False, True], package=True
    )
    assert code == []
    assert not any(name.startswith("transformers_modules") for name in found["packages"])
    assert list((tmp_path / "home").rglob("*_cskd.py")) == []
    for loaded in found["loads"]:
        assert [name for _, name in loaded["classes"]] == CLASSES
        assert all(module.startswith("cskd_hf.models.") for module, _ in loaded["classes"])
        for way in ("by pipeline", "by model", "saved and loaded"):
            assert same(loaded[way], checkpoint), way
    check_native(found, checkpoint, 1e-6)


def check_native(found: dict[str, Any], checkpoint: Path, tolerance: float) -> None:
    assert found["native class"].startswith("transformers.models.")
    assert same(found["native"], checkpoint, max(tolerance, 1e-5))
    expected, values = scores_of(checkpoint)
    assert found["native pipeline"] == pytest.approx(float(expected[0] @ values), abs=max(tolerance, 1e-5))


def test_code_and_config_fit(hub: HubServer):
    """Every name that config.json gives for a class is that of a class in a file of the repository."""
    files = hub.files(NAME)
    config = json.loads(files["config.json"])
    named = [*config["auto_map"].values(), *(entry["impl"] for entry in config["custom_pipelines"].values())]
    for reference in named:
        module, _, name = reference.partition(".")
        assert f"\nclass {name}(" in files[f"{module}.py"].decode()
