"""Which images a run scores, and in which order."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from cskd_hf.data.sources import list_images
from cskd_hf.scoring.errors import ScoringError
from cskd_hf.scoring.listing import Listing

NAMES = [
    "a.png", "a/1.jpg", "a/z/2.JPG", "a-b/1.png", "a b.png", "B.webp", "b/notes.txt", ".hidden/1.png", "c/.hidden.png",
    "c/ü.png", "A/1.tif", "a.d/1.png", "a0.png",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "album"


def test_a_folder_is_listed_as_every_other_part_of_the_package_lists_it(folder: Path):
    found = list(Listing([folder]))
    assert len(found) == 10 and found == [str(folder / name) for name in list_images(folder)]


def test_each_file_once_where_it_is_named_first(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    places = [
        "a/z/2.JPG",
        "a",
        "./a/1.jpg",
        "b/notes.txt",
        ".",
        "a/",
        "c/.hidden.png",
        "a.png",
        ".hidden",
        "b/notes.txt",
    ]
    found = list(Listing(places))
    assert found[:3] == ["a/z/2.JPG", "a/1.jpg", "b/notes.txt"]  # a file that is named is taken whatever its name
    assert len(found) == len(set(found)) == 13
    assert found[-2:] == ["c/.hidden.png", ".hidden/1.png"]  # the search of "." did not find these two


def test_links_are_followed_but_not_in_circles(folder: Path):
    (folder / "c" / "up").symlink_to(folder)
    (folder / "b" / "other").symlink_to(folder / "a")
    (folder / "b" / "dead").symlink_to(folder / "nowhere")
    (folder / "b" / "itself").symlink_to(folder / "b" / "itself")
    found = {os.path.relpath(path, folder) for path in Listing([folder])}
    assert {"b/other/1.jpg", "b/other/z/2.JPG", "a/1.jpg"} <= found and len(found) == 12
    assert not any("up" in path.split("/") for path in found)


def test_folders_deeper_than_python_may_call_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Not on disk: there, nothing written in Python could remove them again."""
    depth = 2 * sys.getrecursionlimit()

    levels = iter(range(depth))
    monkeypatch.setattr(
        Listing, "_names", lambda self, folder: iter(["d/"] if next(levels, None) is not None else ["1.png"])
    )
    monkeypatch.setattr("cskd_hf.scoring.listing._identity", len)
    (found,) = Listing([tmp_path])
    assert found == str(tmp_path) + "/d" * depth + "/1.png"


def test_folders_that_are_closed_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    scandir = os.scandir

    def refusing(path: str):
        if path.rstrip("/").endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = Listing([folder])
    assert len(list(listing)) == 8 and listing.closed == {str(folder / "a"): "Permission denied"}
    closed = Listing([folder / "a"])
    assert not list(closed) and f"Not looked into: {folder / 'a'}" in str(closed.nothing_found())


def test_a_place_that_does_not_exist(folder: Path):
    with pytest.raises(FileNotFoundError, match="nowhere' does not exist"):
        Listing([folder, folder / "nowhere"])
    with pytest.raises(FileNotFoundError, match="an empty path"):  # of an unset variable of a shell; not this folder
        Listing([""])


def test_files_of_an_extra_are_not_passed_over(tmp_path: Path):
    for name in ("a.HEIC", "b.heif", "c.mp4"):
        (tmp_path / name).touch()
    assert [Path(path).name for path in Listing([tmp_path])] == ["a.HEIC", "b.heif"]


def test_models_are_no_photographs(tmp_path: Path):
    for name, files in {
        "checkpoint": ["config.json", "model.safetensors"], "graph": ["model.onnx", "export.json"], "graph.ONNX": [],
    }.items():  # fmt: skip
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        with pytest.raises(ScoringError, match="is a model, not photographs; give it as --model"):
            Listing([tmp_path, tmp_path / name])
    assert list(Listing([tmp_path])) == []  # below a folder of photographs they are nothing


def test_a_folder_that_may_not_be_looked_into_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "closed").mkdir()

    def refuse(place, error=os.listdir):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", place)
        return error(place)

    monkeypatch.setattr("os.listdir", refuse)
    assert list(Listing([tmp_path / "a.jpg", tmp_path / "closed"])) == [str(tmp_path / "a.jpg")]
