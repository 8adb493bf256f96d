from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from cskd_hf.cli import main
from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.evaluation_images import open_evaluation
from cskd_hf.data.fingerprints import take_fingerprints
from cskd_hf.data.leak_guard import LeakGuard, Match, find_duplicates
from cskd_hf.data.locations import open_source
from cskd_hf.data.ratings.checks import RatingsError
from cskd_hf.data.sources import FolderSource
from cskd_hf.data.synthetic import SyntheticPhotographs
from image_copies import COPIES, resize


def photographs(seed: int, n: int) -> list[Image.Image]:
    return [resize(Image.fromarray(image.numpy()), 3) for image in SyntheticPhotographs(seed).generate(n).images]


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Path:
    """Evaluation images: a list of four, one of them for training."""
    folder = tmp_path_factory.mktemp("judged")
    with open(folder / "ratings.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "mean"])
        for name, split, picture in zip("abcd", ("train", "validation", "test", "test"), photographs(3, 4)):
            picture.save(folder / f"{name}-picture.png")
            writer.writerow([f"{name}-picture.png", split, 5])
    return folder


def find(folder: Path, guard: LeakGuard) -> dict[str, tuple[str, str]]:
    matches = guard.find(take_fingerprints(FolderSource(folder))).matches.values()
    return {match.key: (match.original, match.kind) for match in matches}


def test_planted_copies_are_found_and_others_are_not(judged, tmp_path):
    original = judged / "c-picture.png"
    (tmp_path / "renamed.png").write_bytes(original.read_bytes())
    for kind, change in COPIES.items():
        change(Image.open(original).convert("RGB")).save(tmp_path / f"{kind}.png")
    for number, picture in enumerate(photographs(4, 20)):
        picture.save(tmp_path / f"{number:03d}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = find(tmp_path, LeakGuard.of([open_evaluation(str(judged / "ratings.csv"))]))
    expected = {f"{kind}.png": ("c-picture.png", "perceptual") for kind in COPIES}
    assert found == expected | {"renamed.png": ("c-picture.png", "bytes")}


def test_a_shared_name_counts_only_for_pictures_that_may_be_the_same(judged, tmp_path):
    picture = Image.open(judged / "b-picture.png").convert("RGB")
    width, height = picture.size
    picture.crop((width // 16, height // 20, width, height)).save(tmp_path / "B-Picture.jpg", quality=90)
    photographs(5, 1)[0].save(tmp_path / "d-picture.png")
    guard = LeakGuard.of([FolderSource(judged)])
    findings = guard.find(take_fingerprints(FolderSource(tmp_path)))
    assert findings.other_pictures == 1
    (match,) = findings.matches.values()
    assert (match.key, match.original, match.kind) == ("B-Picture.jpg", "b-picture.png", "key")
    assert 48 < match.distance <= 84


def test_a_list_without_pictures_is_compared_by_name(tmp_path, caplog):
    (tmp_path / "ava.csv").write_text("image_id,score2\n953619,1\n17,2\n")
    folder = tmp_path / "images"
    folder.mkdir()
    for name, picture in zip(("953619.png", "170.png"), photographs(6, 2)):
        picture.save(folder / name)
    (folder / "17.png").write_bytes(b"no image")  # left to the bad images of the training
    assert find(folder, LeakGuard.of([open_evaluation(str(tmp_path / "ava.csv"))])) == {
        "953619.png": ("953619", "key")
    }
    assert "2 of 2 evaluation images cannot be read" in caplog.text


def test_images_one_by_one(judged):
    guard = LeakGuard.of([FolderSource(judged)])
    path = judged / "a-picture.png"
    assert guard.matches(path.read_bytes(), "x") == Match("x", "a-picture.png", "bytes")
    copy = guard.matches(COPIES["flipped"](Image.open(path).convert("RGB")), "x")
    assert copy.kind == "perceptual" and copy.original == "a-picture.png" and copy.distance <= 2
    assert guard.matches(photographs(5, 1)[0], "row 1") is None
    assert guard.matches(b"no image", "a-picture") is None


def test_row_numbers_are_no_names(tmp_path):
    for seed, name in ((1, "one"), (2, "two")):
        images = datasets.Dataset.from_dict(
            {"image": photographs(seed, 3)}, features=datasets.Features({"image": datasets.Image()})
        )
        images.to_parquet(tmp_path / f"{name}.parquet")
    guard = LeakGuard.of([open_evaluation(str(tmp_path / "one.parquet"))])
    findings = guard.find(take_fingerprints(open_source(tmp_path / "two.parquet")))
    assert not findings.matches and not findings.other_pictures
    assert len(guard.find(take_fingerprints(open_source(tmp_path / "one.parquet"))).matches) == 3


def test_duplicates_keep_the_first(judged, tmp_path):
    first = (judged / "a-picture.png").read_bytes()
    (tmp_path / "1.png").write_bytes(first)
    (tmp_path / "3.png").write_bytes(first)
    COPIES["quality 60"](Image.open(tmp_path / "1.png").convert("RGB")).save(tmp_path / "2.png")
    photographs(5, 1)[0].save(tmp_path / "4.png")
    prints = take_fingerprints(FolderSource(tmp_path))
    exact = find_duplicates(prints, perceptual=False)
    assert list(exact.matches.values()) == [Match("3.png", "1.png", "bytes")]
    both = find_duplicates(prints, perceptual=True)
    assert [(match.key, match.original, match.kind) for match in both.matches.values()] == [
        ("2.png", "1.png", "perceptual"),
        ("3.png", "1.png", "bytes"),
    ]
    assert both.report()["found"] == 2 and both.report()["perceptual"] == 1


def keys(location: str) -> list[str]:
    source = open_evaluation(location)
    return [source.key(row) for row in range(len(source))]


def test_splits_of_evaluation_lists(judged, tmp_path):
    table = str(judged / "ratings.csv")
    assert keys(table) == ["b-picture.png", "c-picture.png", "d-picture.png"]
    assert keys(f"{table}#test") == ["c-picture.png", "d-picture.png"]
    assert keys(f"{table}#train, validation") == ["a-picture.png", "b-picture.png"]
    with pytest.raises(RatingsError, match=r"no split \['tset'\]; its splits: test, train, validation"):
        open_evaluation(f"{table}#tset")
    (tmp_path / "train.csv").write_text("file,set\nx.jpg,training\n")
    assert keys(str(tmp_path / "train.csv")) == ["x.jpg"]
    (tmp_path / "none.csv").write_text("photo\nx.jpg\n")
    with pytest.raises(RatingsError, match="no column image"):
        open_evaluation(str(tmp_path / "none.csv"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_evaluation(str(tmp_path / "nowhere"))
    with pytest.raises(RatingsError, match="no splits to choose"):
        open_evaluation(f"{judged}#test")


def test_splits_of_evaluation_datasets(judged, tmp_path):
    from cskd_hf.data.ratings import load_ratings

    rated = load_ratings(judged / "ratings.csv", score_values=[1, 10])
    rated.to_parquet(tmp_path / "rated.parquet")
    rated.save_to_disk(tmp_path / "rated")
    parts = {name: rated.select([row]) for row, name in enumerate(("train", "test"))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "parts")
    table = tmp_path / "paths.parquet"
    datasets.Dataset.from_dict({"image": ["a-picture.png", "b-picture.png"]}).to_parquet(table)
    for place, expected in (("rated.parquet#test", ["c", "d"]), ("rated", ["b", "c", "d"]), ("parts", ["b"])):
        assert [key[0] for key in keys(str(tmp_path / place))] == expected
    assert keys(str(table)) == ["a-picture.png", "b-picture.png"]


def test_command_reports_copies_and_leaks(judged, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("x", "y"):
        (folder / f"{name}.png").write_bytes((judged / "d-picture.png").read_bytes())
    photographs(5, 1)[0].save(folder / "z.png")
    report = tmp_path / "reports" / "check.json"
    arguments = ["check-images", str(folder), "--quiet", "--output", str(report)]
    assert main(arguments) == 0
    assert main([*arguments, "--evaluation", str(judged / "ratings.csv")]) == 1
    out = capsys.readouterr().out
    assert "3 images, 0 of them unreadable" in out and "2 copies of the 3 evaluation images (bytes 2" in out
    result = json.loads(report.read_text())
    assert result["duplicates"]["pairs"] == [
        {"key": f"{folder}/y.png", "original": f"{folder}/x.png", "kind": "bytes", "distance": None}
    ]
    assert result["leaks"]["found"] == 2
    assert main(["check-images", str(tmp_path / "nowhere")]) == 2


def test_real_photographs(data_folder, tmp_path):
    table = str(data_folder / "oasis_beauty" / "ratings.csv")
    source = open_evaluation(f"{table}#test")
    guard = LeakGuard.of([source])
    rows = range(0, len(source), 5)
    for row in rows:
        image = Image.open(source.read(row)).convert("RGB")
        for kind, change in COPIES.items():
            change(image).save(tmp_path / f"{row} {kind}.jpg", quality=95)
    findings = guard.find(take_fingerprints(FolderSource(tmp_path)))
    assert len(findings.matches) == len(rows) * len(COPIES)
    for match in findings.matches.values():
        assert match.original == source.key(int(match.key.split()[0]))
    folder = data_folder / "unlabeled" / "bsds500"
    others = ImageCollection([FolderSource(folder)])
    assert not guard.find(take_fingerprints(others.subset(np.arange(200)))).matches
