"""Phase 1 from stored features: which store a run uses, and runs that are killed while they build it or train from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from command_processes import finish_command, kill, start_command
from cskd_hf.cli import main
from cskd_hf.data.teacher_features import stored_views
from cskd_hf.training.alignment_task import AlignmentTask
from cskd_hf.training.reference import ReferenceEncoder

FAST = ["--cpu", "--quiet", "--batch-size", "4", "--image-size", "32", "--holdout", "4"]


@pytest.fixture
def align(encoder, clip, photographs):
    """Runs alignment, or another command with the same settings; returns the exit code."""

    def run(output, *more: str, command: str = "align") -> int:
        options = ["--reference", clip, "--images", photographs, "--output-dir", str(output), *FAST, *more]
        return main([command, "--encoder", encoder, "--max-steps", "2", *options])

    return run


def settings(output: Path) -> dict:
    return yaml.safe_load((output / "settings.yaml").read_text())


def test_a_store_in_the_output_folder_is_used_unless_live_is_asked_for(align, tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, "cskd_hf")  # the demo lowers it
    output = tmp_path / "run"
    assert align(output) == 0
    assert "the reference runs in every step (no store in" in caplog.text
    assert settings(output)["features"] == "live" and not (output / "features").exists()

    assert align(output, "--n-views", "3", command="features") == 0
    assert f"{output}/features/tiny-clip: 36 images x 3 views of tiny-clip" in capsys.readouterr().out
    caplog.clear()
    assert align(output, "--overwrite") == 0  # as many views as are stored
    assert f"read from the store in '{output}/features'" in caplog.text and "checksums verified" in caplog.text
    assert settings(output)["features"] == f"{output}/features"

    caplog.clear()
    assert align(output, "--features", "live", "--overwrite") == 0
    assert "stored features" not in caplog.text


def test_a_resumed_run_keeps_to_what_it_had(align, tmp_path):
    output = tmp_path / "run"
    assert align(output, "--keep", "last") == 0
    align(output, command="features")
    (output / "results.json").unlink()  # as if it had been killed
    assert align(output, "--keep", "last", "--resume") == 0
    assert settings(output)["features"] == "live"


def test_a_store_that_does_not_fit_is_refused_with_what_differs(align, tmp_path, capsys):
    align(tmp_path / "run", "--crop-scale", "0.5", "1", command="features")
    assert align(tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "'scale': [0.5, 1.0]" in message and "'scale': [0.3, 1.0]" in message and "--crop-scale" in message
    assert align(tmp_path / "run", "--crop-scale", "0.5", "1", "--n-views", "4") == 2
    assert "views is 2 in the store and 4 in this run" in capsys.readouterr().err
    assert align(tmp_path / "run", "--crop-scale", "0.5", "1", "--holdout", "6") == 2
    assert "images is 36 in the store and 34 in this run (--images, --holdout" in capsys.readouterr().err


def test_damage_is_named_and_mended(align, tmp_path, capsys):
    align(tmp_path / "run", command="features")
    (shard,) = (tmp_path / "run" / "features" / "tiny-clip").glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:-7] + bytes([content[-7] ^ 4]) + content[-6:])
    assert align(tmp_path / "run") == 2
    assert f"'{shard}' is damaged: its checksum differs. Remove that file" in capsys.readouterr().err
    shard.unlink()
    assert align(tmp_path / "run") == 0
    assert shard.read_bytes() == content


def test_features_need_a_place_but_no_encoder(clip, photographs, tmp_path, capsys):
    command = ["features", "--reference", clip, "--images", photographs, *FAST]
    assert main([*command, "--features", str(tmp_path / "store")]) == 0
    assert stored_views(tmp_path / "store" / "tiny-clip") == 2
    assert main(command) == 2
    assert "give --features FOLDER, or --output-dir FOLDER" in capsys.readouterr().err
    assert main([*command, "--features", "live"]) == 2
    assert "features=live stores nothing" in capsys.readouterr().err
    assert main(["features", "--features", str(tmp_path / "store"), "--images", photographs]) == 2
    assert "reference is not set" in capsys.readouterr().err


def test_an_image_that_the_store_lacks_is_not_trained_on(align, photographs, tmp_path):
    """Its stored features are zeros: it must not be drawn, even when it can be read by now."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in Path(photographs).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    whole = (folder / "07.png").read_bytes()
    (folder / "07.png").write_text("not an image")
    align(tmp_path / "run", "--images", str(folder), command="features")
    (folder / "07.png").write_bytes(whole)
    assert align(tmp_path / "run", "--images", str(folder), "--max-steps", "10") == 0
    assert "07.png" in (tmp_path / "run" / "bad_images.jsonl").read_text()


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_while_building_and_while_training(vit_encoder, clip, photographs, tmp_path, processes):
    def command(name: str) -> list[str]:
        return [
            "align", "--encoder", vit_encoder, "--reference", clip, "--images", photographs, "--max-steps", "60",
            "--features", str(tmp_path / f"{name}-features"), "--output-dir", str(tmp_path / name), "--n-views", "48",
            "--save-every", "7", "--eval-every", "9", "--log-every", "1", *FAST,
        ]  # fmt: skip

    def steps(name: str) -> list[dict]:
        log = tmp_path / name / "log.jsonl"
        return [json.loads(line) for line in log.read_text().rpartition("\n")[0].splitlines()] if log.exists() else []

    finish_command(command("unbroken"), processes)
    place = tmp_path / "killed-features" / "tiny-clip"
    started = start_command(command("killed"), processes)
    while not (place / "building.json").exists():
        assert all(process.is_alive() for process in started)
    kill(started)
    assert not (place / "manifest.json").exists()

    started = start_command(command("killed"), processes)
    while max((line["step"] for line in steps("killed")), default=0) < 16:
        assert all(process.is_alive() for process in started)
    kill(started)
    assert not (tmp_path / "killed" / "model.safetensors").exists()

    finish_command([*command("killed"), "--resume"], processes)
    assert json.loads((tmp_path / "killed" / "checkpoint" / "progress.json").read_text())["world_size"] == processes
    for file in ("model.safetensors", "checkpoint/model.safetensors"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes()
    one, two = (
        [
            {key: value for key, value in line.items() if key not in ("images_per_second", "data_wait")}
            for line in steps(name)
        ]
        for name in ("unbroken", "killed")
    )
    assert one == two and one[-1]["step"] == 60
    for path in (tmp_path / "unbroken-features" / "tiny-clip").iterdir():
        assert path.read_bytes() == (place / path.name).read_bytes()


def test_mixtures_are_of_live_pictures_that_both_see(align, tmp_path, capsys, monkeypatch):
    output = tmp_path / "stored"
    align(output, command="features")
    assert align(output, "--mixup", "0.4") == 2
    assert "pictures that are new in every step" in capsys.readouterr().err

    seen, encode, pixels = {"reference": [], "encoder": []}, ReferenceEncoder.forward, AlignmentTask.pixel_values
    monkeypatch.setattr(
        ReferenceEncoder, "forward", lambda self, crops: seen["reference"].append(crops) or encode(self, crops)
    )
    monkeypatch.setattr(
        AlignmentTask, "pixel_values", lambda self, crops: seen["encoder"].append(crops) or pixels(self, crops)
    )
    drawn = []
    for mixed in ("0", "0.4"):
        assert align(tmp_path / f"mixed-{mixed}", "--mixup", mixed) == 0
        steps = seen["encoder"][-3:-1]  # the held-out images come before and behind; their references are kept
        assert all(map(torch.equal, seen["reference"][-2:], steps))
        drawn.append(steps[0])
    assert not torch.equal(*drawn)
