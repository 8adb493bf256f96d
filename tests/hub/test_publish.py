"""The folder of a published checkpoint, what is refused, and `cskd-hf push`, without any Hub."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ViTConfig

from cskd_hf.cli import main
from cskd_hf.evaluation.predict import load_scorer, weights_fingerprint
from cskd_hf.hub import folder as folder_module
from cskd_hf.hub.checks import PublishError, check_same_scores
from cskd_hf.hub.folder import WRITTEN, build_folder
from cskd_hf.hub.remote_code import AUTO_MAP, code_files
from cskd_hf.scoring.onnx_metadata import FIELDS
from onnx_files import write_graph
from published import LICENSES, trained_and_measured

WITH_CODE = {
    "README.md", "config.json", "preprocessor_config.json", "model.safetensors", "results.json", "handler.py",
    "requirements.txt", "calibration_cskd.py", "configuration_cskd.py", "encoders_cskd.py", "image_colours_cskd.py",
    "image_loading_cskd.py", "image_preparation_cskd.py", "image_shortcut_cskd.py", "image_sources_cskd.py", "modeling_cskd.py",
    "module_cskd.py", "pipeline_cskd.py", "pipeline_inputs_cskd.py", "prompts_cskd.py",
}  # fmt: skip
KNOWN = {"license": "apache-2.0", "data_licenses": {"ratings": "CC0-1.0"}, "repo_id": "org/tiny"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, encoder: str) -> Path:
    return trained_and_measured(tmp_path_factory.mktemp("run"), encoder)


@pytest.fixture
def own(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint to change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "own"))


@pytest.fixture(scope="module")
def published(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "tiny"
    assert main(["push", str(checkpoint), "org/tiny", "--dry-run", str(folder), *LICENSES]) == 0
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def plain(files: Iterable[str]) -> set[str]:
    """Without the pictures of the card."""
    return {name for name in files if not name.startswith("widget/")}


def test_files(checkpoint: Path, published: Path):
    assert plain(names(published)) == WITH_CODE
    assert len(names(published)) > len(WITH_CODE)
    assert (published / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    config = json.loads((published / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP and list(config["custom_pipelines"]) == ["image-aesthetics"]
    own = json.loads((checkpoint / "config.json").read_text())
    assert own["backbone_config"].pop("_name_or_path") == ""
    assert {**config, "auto_map": 0, "custom_pipelines": 0} == {**own, "auto_map": 0, "custom_pipelines": 0}
    assert not any(path.name.endswith(("partial", "old")) for path in published.parent.iterdir())


def test_no_place_of_the_makers_machine(checkpoint: Path, published: Path, encoder: str):
    for name in names(published):
        if not name.endswith((".safetensors", ".jpg", ".png")):
            text = (published / name).read_text()
            assert str(checkpoint.parents[1]) not in text and str(Path(encoder).parent) not in text, name


def test_all_code_of_the_models_is_shipped(published: Path):
    import cskd_hf.models

    source = Path(cskd_hf.models.__file__).parent
    assert code_files() == sorted(path.name for path in source.glob("*_cskd.py"))
    for name in code_files():
        assert (published / name).read_bytes() == (source / name).read_bytes()


def test_the_handler_needs_what_the_encoder_needs(own: Path, published: Path, tmp_path: Path, monkeypatch):
    assert "timm" not in (published / "requirements.txt").read_text()
    config = {"backbone_config": {"model_type": "timm_wrapper"}}
    folder_module._add_handler(tmp_path, config)
    assert (tmp_path / "requirements.txt").read_text().splitlines()[-1].startswith("timm>=")


def test_what_belongs_to_the_weights_goes_along_and_nothing_else(own: Path, tmp_path: Path):
    from cskd_hf import CSKDForImageAesthetics

    (own / "model.onnx").write_bytes(b"\x08\x08 a graph")
    (own / "notes.txt").write_text("mine")
    (own / "optimizer.bin").write_bytes(pickle.dumps({"a": 1}))
    CSKDForImageAesthetics.from_pretrained(own).save_pretrained(own, max_shard_size="10KB")
    folder = build_folder(own, tmp_path / "out", **KNOWN)
    further = plain(folder.files) - WITH_CODE
    shards = {name for name in further if name.startswith("model-")}
    assert further - shards == {"model.onnx", "model.safetensors.index.json"}
    assert len(shards) > 1 and plain(folder.files) >= WITH_CODE - {"model.safetensors"}
    assert plain(folder.files) <= {
        name for name in names(folder.path) if any(fnmatch(name, known) for known in WRITTEN)
    }


def test_a_graph_of_other_weights_is_not_published(own: Path, tmp_path: Path):
    model, _ = load_scorer(str(own))
    known = dict.fromkeys(FIELDS) | {"weights": weights_fingerprint(model)}
    write_graph(own / "model.onnx", known)
    assert "model.onnx" in build_folder(own, tmp_path / "out", **KNOWN).files
    write_graph(own / "model.onnx", known | {"weights": "of an earlier day"})
    with pytest.raises(PublishError, match="model.onnx' was exported from other weights"):
        build_folder(own, tmp_path / "again", **KNOWN)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--data-license", "ratings=CC0-1.0"], "licence of the model is not known; give --license"),
        (["--license", "mit"], "licence of the images 'ratings' is not known; give --data-license"),
        (["--license", "mit", "--data-license", "ratings"], "'ratings' names no licence; give NAME=LICENCE"),
    ],
)
def test_no_licence(checkpoint: Path, options: list[str], reason: str, tmp_path: Path, capsys):
    assert main(["push", str(checkpoint), "org/tiny", "--dry-run", str(tmp_path / "out"), *options]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_metrics(own: Path, tmp_path: Path):
    shutil.rmtree(own / "evaluation")
    with pytest.raises(PublishError, match="there are no metrics on images that it was not trained on"):
        build_folder(own, tmp_path / "out", **KNOWN)


def test_no_data(own: Path, tmp_path: Path):
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"history": None, "provenance": None}))
    with pytest.raises(PublishError, match="nothing says which images it was trained on"):
        build_folder(own, tmp_path / "out", license="mit", repo_id="org/tiny")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.onnx", pickle.dumps({"a": 1})), ("model.onnx.data", pickle.dumps(ViTConfig, protocol=0))],
)
def test_a_planted_pickle(own: Path, name: str, content: bytes, tmp_path: Path, capsys):
    (own / name).write_bytes(content)
    assert main(["push", str(own), "org/tiny", "--dry-run", str(tmp_path / "out"), *LICENSES]) == 2
    assert f"none is pushed: {name}: it is a pickle" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


def change_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] += 0.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_code(folder: Path) -> None:
    code = (folder / "pipeline_cskd.py").read_text()
    changed = code.replace("prepared_pixels(image, ", "prepared_pixels(image.rotate(180), ")
    assert changed != code
    (folder / "pipeline_cskd.py").write_text(changed)


def forget_code(folder: Path) -> None:
    (folder / "encoders_cskd.py").unlink()


def test_a_folder_with_other_scores_is_not_written(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder_module, "check_no_pickles", change_weights)
    with pytest.raises(
        PublishError, match=r"loaded again without cskd_hf installed, the folder gives image \d the score"
    ):
        build_folder(checkpoint, tmp_path / "out", **KNOWN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_code, r"loaded again without cskd_hf installed, the folder gives image \d the score"),
        (forget_code, "cannot be loaded by those who have not installed cskd_hf: .*encoders_cskd"),
    ],
)
def test_the_code_of_the_folder_is_what_is_checked(
    checkpoint: Path, published: Path, change: Callable, reason: str, tmp_path: Path
):
    copy = Path(shutil.copytree(published, tmp_path / "copy"))
    change(copy)
    with pytest.raises(PublishError, match=reason):
        check_same_scores(checkpoint, copy, native=False)


@pytest.fixture
def no_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what the check of scores, which takes seconds, has no part in."""
    monkeypatch.setattr(folder_module, "check_same_scores", lambda *args, **kwargs: None)


def test_places(published: Path, own: Path, tmp_path: Path, no_reload: None, capsys: pytest.CaptureFixture):
    push = ["push", str(own), "org/tiny", *LICENSES, "--dry-run"]
    assert main([*push, str(published)]) == 2
    assert "exists; give another folder, or --overwrite" in capsys.readouterr().err
    assert main([*push, str(own), "--overwrite"]) == 2
    assert "it is or holds the checkpoint" in capsys.readouterr().err
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.jpg").write_text("precious")
    assert main([*push, str(tmp_path / "photographs"), "--overwrite"]) == 2
    assert "is not a folder that was published, so it is not replaced" in capsys.readouterr().err
    copy = Path(shutil.copytree(published, tmp_path / "copy"))
    (copy / "stale.onnx").write_text("stale")
    assert main([*push, str(copy), "--overwrite"]) == 0
    assert names(copy) == names(published)


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "org/ti ny", ""])
def test_names_of_repositories(checkpoint: Path, name: str, tmp_path: Path, capsys):
    assert main(["push", str(checkpoint), name, "--dry-run", str(tmp_path / "out"), *LICENSES]) == 2
    assert "is no name of a repository" in capsys.readouterr().err


def test_checkpoints_that_nobody_else_could_load(own: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="holds no checkpoint"):
        build_folder(tmp_path, tmp_path / "out", **KNOWN)
    config = json.loads((own / "config.json").read_text())
    config["backbone_config"] = {"model_type": "cskd_module", "factory": "mine"}
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(PublishError, match="the module 'mine' of your own, whose code is in no repository"):
        build_folder(own, tmp_path / "out", **KNOWN)


def test_native(checkpoint: Path, tmp_path: Path):
    """The stock classifier of the encoder: no code at all."""
    from transformers import AutoModelForImageClassification

    folder = tmp_path / "out"
    assert main(["push", str(checkpoint), "org/tiny-native", "--native", "--dry-run", str(folder), *LICENSES]) == 0
    assert plain(names(folder)) == {
        "README.md",
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "results.json",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == ResNetConfig.model_type and "auto_map" not in config
    assert type(AutoModelForImageClassification.from_pretrained(folder)).__module__.startswith("transformers.models.")
    assert "trust_remote_code" not in (folder / "README.md").read_text()


def test_offline(checkpoint: Path, no_reload: None, capsys: pytest.CaptureFixture):
    """The tests are: nothing leaves this machine, and it is said."""
    assert main(["push", str(checkpoint), "org/tiny", *LICENSES]) == 2
    assert "nothing can be pushed offline: unset HF_HUB_OFFLINE, or write a dry run" in capsys.readouterr().err
