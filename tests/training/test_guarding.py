from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image
from transformers import AutoConfig

from cskd_hf.cli import main
from cskd_hf.data.leak_guard import LeakError
from cskd_hf.data.loading import ImageStream, build_loader
from cskd_hf.data.mixture import open_images
from cskd_hf.data.order import ImageOrder
from cskd_hf.data.ratings import load_ratings, select_split
from cskd_hf.data.views import ViewSettings
from cskd_hf.training.arguments import AlignSettings, StudentSettings
from cskd_hf.training.guarding import guarded
from cskd_hf.training.rated_data import RatedData
from cskd_hf.training.settings import SettingsError
from image_copies import COPIES

FAST = ["--cpu", "--quiet", "--batch-size", "8", "--image-size", "32", "--max-steps", "2"]

TWO_PROCESSES = """
import json, sys
from accelerate import Accelerator
from cskd_hf.training.arguments import AlignSettings
from cskd_hf.data.mixture import open_images
from cskd_hf.training.guarding import guarded
accelerator = Accelerator(cpu=True)
images, evaluation, out = sys.argv[1:]
settings = AlignSettings(
    images=[images], evaluation_images=[evaluation], output_dir=out, duplicates="perceptual", quiet=True
)
kept, counts = guarded(open_images(settings.images, 32, False), settings, accelerator)
with open(f"{out}/rank-{accelerator.process_index}.json", "w") as file:
    json.dump([[kept.key(row) for row in range(len(kept))], counts], file)
accelerator.end_training()
"""


@pytest.fixture
def planted(photographs, ratings, tmp_path) -> tuple[str, dict[str, str]]:
    """The unrated images, with copies of rated ones, duplicates and a broken file; and what is what."""
    folder, rated = tmp_path / "images", Path(ratings).parent
    shutil.copytree(photographs, folder)
    (folder / "leak-bytes.png").write_bytes((rated / "04.png").read_bytes())
    COPIES["flipped"](Image.open(rated / "08.png")).save(folder / "leak-flipped.png")
    (folder / "training.png").write_bytes((rated / "01.png").read_bytes())  # no leak: it is there to learn from
    (folder / "x-copy.png").write_bytes((folder / "07.png").read_bytes())
    COPIES["flipped"](Image.open(folder / "05.png")).save(folder / "x-flipped.png")
    (folder / "broken.png").write_bytes(b"no image")
    return str(folder), {"leak-bytes.png": "04.png", "leak-flipped.png": "08.png"}


def settings(folder: str, output: Path, **given) -> AlignSettings:
    return AlignSettings(images=[folder], output_dir=str(output), quiet=True, **given)


def keys(images) -> list[str]:
    return [images.key(row) for row in range(len(images))]


def read(output: Path, name: str) -> dict:
    return json.loads((output / name).read_text())


def test_leaks_are_left_out_and_listed(planted, ratings, tmp_path, caplog):
    folder, leaks = planted
    images = open_images([folder], 32, False)
    caplog.set_level("INFO")
    kept, counts = guarded(
        images, settings(folder, tmp_path / "out", evaluation_images=[ratings]), Accelerator(cpu=True)
    )
    assert keys(kept) == [key for key in keys(images) if key not in leaks]
    assert counts == {"evaluation_images": 12, "leaks": 2}
    report = read(tmp_path / "out", "leaks.json")
    assert {pair["key"]: pair["original"] for pair in report["pairs"]} == {
        f"{folder}/{key}": f"{ratings}/{original}" for key, original in leaks.items()
    }
    # 00.png, 04.png, ... of the unrated images are not those of the rated ones
    expected = {"action": "drop", "images": 46, "unreadable": 1, "plain": 0, "same_name_only": 10, "bytes": 1}
    assert expected.items() <= report.items() and report["perceptual"] == 1 and report["key"] == 0
    assert "2 of 46 unlabelled images are among the 12 evaluation images (bytes 1, perceptual 1, key 0)" in caplog.text
    assert not (tmp_path / "out" / "duplicates.json").exists()


def test_refusal_names_count_and_pairs(planted, ratings, tmp_path):
    folder, _ = planted
    given = settings(folder, tmp_path / "out", evaluation_images=[ratings], leaks="refuse")
    with pytest.raises(LeakError, match="2 unlabelled images are evaluation images: .*leak-bytes.png' is '.*04.png'"):
        guarded(open_images([folder], 32, False), given, Accelerator(cpu=True))
    assert read(tmp_path / "out", "leaks.json")["found"] == 2
    guarded(open_images([folder], 32, False), settings(folder, tmp_path / "out", leaks="off"), Accelerator(cpu=True))
    assert not (tmp_path / "out" / "leaks.json").exists()
    clean = settings(folder, tmp_path / "out", evaluation_images=[f"{ratings}#train"], leaks="refuse")
    (Path(folder) / "training.png").unlink()
    kept, counts = guarded(open_images([folder], 32, False), clean, Accelerator(cpu=True))
    assert counts == {"evaluation_images": 36, "leaks": 0} and len(kept) == 45


@pytest.mark.parametrize(
    ("kind", "left_out"), [("exact", {"x-copy.png"}), ("perceptual", {"x-copy.png", "x-flipped.png"})]
)
def test_duplicates_are_left_out_and_listed(planted, tmp_path, kind, left_out):
    folder, _ = planted
    images = open_images([folder], 32, False)
    kept, counts = guarded(images, settings(folder, tmp_path, duplicates=kind), Accelerator(cpu=True))
    assert set(keys(images)) - set(keys(kept)) == left_out and counts == {"duplicates": len(left_out)}
    report = read(tmp_path, "duplicates.json")
    assert (
        report["kind"] == kind and report["images"] == 46 and report["found"] == len(report["pairs"]) == len(left_out)
    )


def test_nothing_is_read_unless_asked_for(planted, ratings, tmp_path, monkeypatch):
    folder, _ = planted
    images = open_images([folder], 32, False)
    monkeypatch.setattr(type(images.sources[0]), "read", lambda *_: pytest.fail("an image was read"))
    validation = select_split(load_ratings(ratings), "validation")
    assert guarded(images, settings(folder, tmp_path), Accelerator(cpu=True)) == (images, {})
    off = settings(folder, tmp_path, leaks="off")
    assert guarded(images, off, Accelerator(cpu=True), validation) == (images, {})


def test_a_place_without_images_left_is_named(ratings, tmp_path):
    folder = tmp_path / "copies"
    folder.mkdir()
    (folder / "1.png").write_bytes((Path(ratings).parent / "00.png").read_bytes())
    given = settings(str(folder), tmp_path / "out", evaluation_images=[ratings])
    with pytest.raises(SettingsError, match="no image of '.*copies' remains"):
        guarded(open_images([str(folder)], 32, False), given, Accelerator(cpu=True))
    with pytest.raises(SettingsError, match="leaks=off"):
        AlignSettings(
            encoder="e", reference=["r"], images=["i"], output_dir="o", evaluation_images=["x"], leaks="off"
        ).check()


@pytest.mark.parametrize("given", [[""], "", ["", "rated.csv"], "rated.csv"])
def test_an_empty_place_is_not_this_folder(given):
    required = {"encoder": "e", "images": ["i"], "output_dir": "o", "evaluation_images": given}
    for checked in (
        AlignSettings(reference=["r"], **required),
        StudentSettings(teacher=["t"], ratings=["r"], **required),
    ):
        checked.check()
        assert checked.evaluation_images == (["rated.csv"] if "rated.csv" in given else [])


def test_alignment_and_student_keep_leaks_out(encoder, clip, ratings, planted, tmp_path, capsys):
    folder, _ = planted
    align = [
        "align", "--encoder", encoder, "--reference", clip, "--images", folder, "--holdout", "4",
        "--evaluation-images", ratings, "--output-dir", str(tmp_path / "aligned"), *FAST,
    ]  # fmt: skip
    assert main([*align, "--leaks", "refuse"]) == 2
    assert "2 unlabelled images are evaluation images" in capsys.readouterr().err
    assert not (tmp_path / "aligned" / "settings.yaml").exists()
    assert main([*align, "--max-bad-images", "0.5"]) == 0
    provenance = AutoConfig.from_pretrained(tmp_path / "aligned").provenance
    assert provenance["leaks"] == 2 and provenance["images_used"] == 46 - 2 - 4
    rated = ["--ratings", ratings, "--encoder", str(tmp_path / "aligned"), *FAST]
    assert main(["teacher", "--output-dir", str(tmp_path / "teacher"), *rated]) == 0
    student = [
        "student",
        "--teacher",
        str(tmp_path / "teacher"),
        "--images",
        folder,
        "--max-bad-images",
        "0.5",
        *rated,
    ]
    assert main([*student, "--output-dir", str(tmp_path / "student"), "--duplicates", "exact"]) == 0
    provenance = AutoConfig.from_pretrained(tmp_path / "student").provenance
    assert (provenance["leaks"], provenance["evaluation_images"], provenance["duplicates"]) == (2, 12, 1)
    assert read(tmp_path / "student", "leaks.json")["pairs"][0]["original"] == "ratings/04.png"


def test_all_rated_images_outside_the_training_split_are_judged_by(ratings, tmp_path):
    table = tmp_path / "ratings.csv"
    table.write_text(Path(ratings).read_text().replace(",validation,", ",test,", 4))
    data = RatedData(StudentSettings(ratings=str(table), image_dir=str(Path(ratings).parent)))
    assert sorted(data.judged["split"][:]) == ["test"] * 4 + ["validation"] * 8 and len(data.validation) == 8


def test_two_processes_come_to_the_answer_of_one(planted, ratings, tmp_path):
    folder, _ = planted
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, str(tmp_path / "script.py"), folder, ratings, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = read(tmp_path, "leaks.json")
    given = settings(folder, tmp_path / "one", evaluation_images=[ratings], duplicates="perceptual")
    kept, counts = guarded(open_images([folder], 32, False), given, Accelerator(cpu=True))
    expected = [keys(kept), counts]
    assert read(tmp_path, "rank-0.json") == read(tmp_path, "rank-1.json") == expected
    assert report == read(tmp_path / "one", "leaks.json") and report["unreadable"] == 1
    assert counts == {"evaluation_images": 12, "leaks": 2, "duplicates": 2}


def test_holdout_stays_evenly_spaced_over_the_sources(photographs, tmp_path):
    from cskd_hf.data.mixture import split_holdout

    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "only.png")
    images = open_images([photographs, str(tmp_path)], 32, False)
    training, held = split_holdout(images, 10)
    assert training.sizes == [30, 1] and keys(held) == [f"{row:02d}.png" for row in range(2, 40, 4)]


def test_leaks_of_a_stream_are_left_out_as_they_come(planted, ratings, tmp_path):
    folder, leaks = planted
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for path in sorted(Path(folder).glob("*.png")):
            tar.add(path, path.name)
    locations = [f"stream:{shard}"]
    given = AlignSettings(images=locations, output_dir=str(tmp_path), quiet=True, evaluation_images=[ratings])
    images, counts = guarded(open_images(locations, 32, False), given, Accelerator(cpu=True))
    assert counts == {"evaluation_images": 12, "leaks": 0}  # none among images with an index: there are none
    stream = ImageStream(images, ImageOrder(images.sizes), 46, ViewSettings(32))
    (batch,) = build_loader({"u": stream}, 0, 1)
    reasons = {key: reason for _, key, reason in batch["u"]["errors"]}
    assert {Path(key).stem: reason.split("'")[1].rpartition("/")[2] for key, reason in reasons.items() if "copy of" in reason} == {
        Path(key).stem: original for key, original in leaks.items()
    }  # fmt: skip
