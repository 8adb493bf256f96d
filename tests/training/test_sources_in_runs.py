"""Alignment on images of every kind of place: interrupted, in two processes, with damaged files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cskd_hf.cli import main
from shard_files import write_parquet, write_tar

SCRIPT = str(Path(__file__).parents[2] / "examples" / "train_align.py")
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # as in the tests' own process


@pytest.fixture(scope="module")
def places(tmp_path_factory, photographs) -> Path:
    """The photographs as tar and as Parquet shards."""
    folder = tmp_path_factory.mktemp("places")
    files = sorted(Path(photographs).iterdir())
    for kind in ("tar", "parquet"):
        (folder / kind).mkdir()
    for shard in range(3):
        part = files[shard::3]
        write_tar(folder / "tar" / f"{shard}.tar", {path.name: path.read_bytes() for path in part})
        write_parquet(folder / "parquet" / f"{shard}.parquet", [path.read_bytes() for path in part])
    return folder


@pytest.fixture(scope="module")
def arguments(vit_encoder, clip) -> list[str]:
    return [
        "--encoder", vit_encoder, "--reference", clip, "--image-size", "32", "--holdout", "4", "--eval-every", "9",
        "--log-every", "1", "--crop-scale", "0.5", "1", "--shuffle-buffer", "5", "--cpu", "--quiet",
    ]  # fmt: skip


def run(*arguments: str) -> None:
    assert main(["align", *arguments]) == 0


def losses(folder: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if name in line]


@pytest.mark.parametrize("kind", ["shards", "streams"])
def test_killed_and_resumed_run_ends_with_the_same_weights(places, arguments, tmp_path, kind):
    images = {
        "shards": ["--images", f"{places}/tar/{{0..2}}.tar"],
        "streams": ["--images", f"{places}/tar", f"stream:{places}/parquet", "--image-weights", "1", "2"],
    }[kind]
    options = [*arguments, *images, "--batch-size", "8", "--max-steps", "30", "--save-every", "7"]
    run(*options, "--output-dir", str(tmp_path / "unbroken"))
    script = [sys.executable, SCRIPT, *options, "--output-dir", str(tmp_path / "killed"), "--num-workers", "1"]
    killed = subprocess.Popen(script, stderr=subprocess.DEVNULL, env=ONE_THREAD)
    log, step = tmp_path / "killed" / "log.jsonl", 0
    while step < 17:  # past a pass over the images and two checkpoints
        with pytest.raises(subprocess.TimeoutExpired):  # otherwise it ended by itself
            killed.wait(timeout=0.01)
        whole = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
        step = max((json.loads(line)["step"] for line in whole), default=0)
    killed.kill()
    killed.wait()
    assert step < 30 and not (tmp_path / "killed" / "model.safetensors").exists()
    run(*options, "--output-dir", str(tmp_path / "killed"), "--resume")  # the number of workers changes nothing
    unbroken, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "killed"))
    assert unbroken == resumed
    assert losses(tmp_path / "unbroken") == losses(tmp_path / "killed")


def test_two_processes_walk_the_loss_curve_of_one_over_a_stream(places, arguments, tmp_path):
    # Three shards are no multiple of two processes: these take the rows in turn, so their batches are those of one.
    options = [*arguments, "--images", f"stream:{places}/parquet", "--max-steps", "6", "--eval-every", "1"]
    run(*options, "--output-dir", str(tmp_path / "one"), "--batch-size", "8")
    script = [*TWO_PROCESSES, SCRIPT, *options, "--output-dir", str(tmp_path / "two"), "--batch-size", "4"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=180, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    one, two = (losses(tmp_path / name, "eval_loss") for name in ("one", "two"))
    assert len(one) == 7 and one[0] == two[0] and one[-1] != one[0]
    assert two == pytest.approx(one, abs=1e-5)


def test_damaged_files_of_every_place_are_listed_and_counted(places, photographs, arguments, tmp_path):
    for kind in ("tar", "cut", "folder"):
        (tmp_path / kind).mkdir()
    pictures = [path.read_bytes() for path in sorted(Path(photographs).iterdir())]
    write_tar(tmp_path / "tar" / "0.tar", {f"{i:02d}.png": data for i, data in enumerate([*pictures[:20], b"bad"])})
    starts = write_tar(tmp_path / "cut" / "0.tar", {f"{i}.png": data for i, data in enumerate(pictures[:20])})
    with open(tmp_path / "cut" / "0.tar", "r+b") as file:
        file.truncate(starts[15] + 600)
    write_parquet(tmp_path / "0.parquet", [*pictures[:20], b"bad"])
    for i, data in enumerate([*pictures[:20], b"bad"]):
        (tmp_path / "folder" / f"{i:02d}.png").write_bytes(data)
    where = [str(tmp_path / kind) for kind in ("tar", "cut", "folder")] + [f"stream:{tmp_path}/0.parquet"]
    where += [f"stream:{tmp_path}/cut"]
    options = [
        *arguments,
        "--images",
        *where,
        "--image-weights",
        *["1"] * 5,
        "--max-steps",
        "12",
        "--batch-size",
        "20",
    ]
    options += ["--max-bad-images", "0.2", "--num-workers", "1", "--output-dir", str(tmp_path / "out")]
    assert main(["align", *options]) == 0
    listed = [json.loads(line) for line in (tmp_path / "out" / "bad_images.jsonl").read_text().splitlines()]
    assert {(entry["source"], entry["key"]) for entry in listed} == {
        (where[0], "0.tar/20.png"), (where[1], "0.tar"), (where[2], "20.png"), (where[3], "0.parquet/row 20"),
        (where[4], "0.tar"),
    }  # fmt: skip
    assert len(listed) == json.loads((tmp_path / "out" / "results.json").read_text())["bad_images"] == 5
    assert [entry["reason"] for entry in listed if entry["key"] == "0.tar"][0].startswith("damaged: it ends within")
    assert all(0 <= share <= 1 for share in losses(tmp_path / "out", "data_wait"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "F"], "features stores outputs by the index of an image, and stream:"),
        (["--images", "stream:a", "b"], "give --image-weights, a share for each of the 2 --images"),
        (["--holdout", "30", "--images", "stream:PLACES/parquet/0.parquet"], "which has 14"),
        (["--images", "stream:nowhere"], "'nowhere' does not exist. Allowed"),
        (["--shuffle-buffer", "-1"], "shuffle_buffer=-1 must be at least 0"),
    ],
)
def test_what_streams_cannot_do_is_said_before_anything_starts(places, arguments, tmp_path, capsys, options, message):
    options = [option.replace("PLACES", str(places)) for option in options]
    images = ["--images", f"stream:{places}/parquet"]
    assert main(["align", *arguments, *images, *options, "--output-dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_student_on_a_stream(places, encoder, ratings, tmp_path):
    common = ["--ratings", ratings, "--max-steps", "3", "--batch-size", "8", "--image-size", "32", "--cpu", "--quiet"]
    assert main(["teacher", "--encoder", encoder, "--output-dir", str(tmp_path / "t"), *common]) == 0
    options = ["--encoder", encoder, "--teacher", str(tmp_path / "t"), "--images", f"stream:{places}/tar"]
    assert main(["student", *options, "--output-dir", str(tmp_path / "s"), *common]) == 0
    assert json.loads((tmp_path / "s" / "results.json").read_text())["step"] == 3
    assert main(["student", *options, "--pseudo-labels", "x", "--output-dir", str(tmp_path / "p"), *common]) == 2
