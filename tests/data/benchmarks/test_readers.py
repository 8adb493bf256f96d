"""What every reader of a published data set must do."""

from __future__ import annotations

from collections import Counter

import pytest

import rated_layouts
import rated_layouts_more
from cskd_hf.data.benchmarks import READERS, find_reader
from cskd_hf.data.ratings import RatingsError, attributes_of, score_values_of, select_split
from cskd_hf.data.ratings.locations import open_ratings, split_location
from cskd_hf.data.ratings.schema import SCHEMA_COLUMNS, descriptions_of
from cskd_hf.models.image_loading_cskd import load_image

WRITERS = rated_layouts.WRITERS | rated_layouts_more.WRITERS
NAMES = list(READERS)
OWN_VALIDATION = ("ava-tanet", "aadb", "eva", "koniq10k", "koniq10k-mos", "baid")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One small data set for each reader."""
    return {name: WRITERS[name](tmp_path_factory.mktemp(name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_reader_gives_the_one_schema(folders, name):
    ds = open_ratings(f"{name}:{folders[name]}")
    assert ds.column_names[: len(SCHEMA_COLUMNS)] == list(SCHEMA_COLUMNS)
    assert set(ds["split"][:]) == {"train", "validation", "test"}
    low, *_, high = score_values_of(ds)
    assert all(low <= mean <= high for mean in ds["mean"][:]) and len(set(ds["mean"][:])) > 10
    for row in (0, len(ds) - 1):
        assert load_image(ds[row]["image"]).size == rated_layouts.SIZE
    for attribute, (lowest, highest) in attributes_of(ds).items():
        assert all(lowest <= value <= highest for value in ds[attribute][:])
    assert descriptions_of(ds)[0]["about"]


@pytest.mark.parametrize("name", NAMES)
def test_brighter_images_are_rated_better(folders, name):
    """Votes are counted from the right end, and every image has its own."""
    import numpy as np
    from scipy.stats import spearmanr

    ds = open_ratings(f"{name}:{folders[name]}")
    brightness = [np.asarray(load_image(row["image"])).mean() for row in ds]
    assert spearmanr(brightness, ds["mean"][:])[0] > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_read_without_images(folders, name, tmp_path):
    ds = open_ratings(f"{name}:{folders[name]}?images=ignore", image_dir=tmp_path)
    assert len(ds) == len(open_ratings(f"{name}:{folders[name]}"))
    with pytest.raises(RatingsError, match="there is no file(.|\n)*images='drop'"):
        open_ratings(f"{name}:{folders[name]}", image_dir=tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_missing_images_are_dropped_on_request_with_their_number(folders, name):
    whole = open_ratings(f"{name}:{folders[name]}")
    hidden = whole[3]["image"]["path"]
    with open(hidden, "rb") as file:
        content = file.read()
    try:
        import os

        os.remove(hidden)
        ds = open_ratings(f"{name}:{folders[name]}?images=drop")
        assert ds["key"][:] == [key for key in whole["key"] if key != whole[3]["key"]]
        assert f"1 of {len(whole)} listed images are not on disk" in descriptions_of(ds)[0]["about"]
        # Which images are for validation does not depend on which others are there.
        assert dict(zip(ds["key"], ds["split"])).items() <= dict(zip(whole["key"], whole["split"])).items()
    finally:
        with open(hidden, "wb") as file:
            file.write(content)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OWN_VALIDATION])
def test_validation_is_carved_out_of_train_alone(folders, name):
    whole = open_ratings(f"{name}:{folders[name]}?validation_share=0")
    official = dict(zip(whole["key"], whole["split"]))
    assert Counter(official.values()) == {"train": 24, "test": 8}
    small, large = (
        {key for key, split in zip(ds["key"], ds["split"]) if split == "validation"}
        for ds in (open_ratings(f"{name}:{folders[name]}?validation_share={share}") for share in (0.2, 0.6))
    )
    assert small < large and all(official[key] == "train" for key in large)
    with pytest.raises(RatingsError, match="`validation_share` is 1; allowed: 0 to below 1"):
        open_ratings(f"{name}:{folders[name]}?validation_share=1")


# Locations


def test_location_options_and_split(folders):
    test = open_ratings(f"ava:{folders['ava']}", split="test")
    assert set(test["split"][:]) == {"test"} and len(test) == len(
        select_split(open_ratings(f"AVA:{folders['ava']}"), "test")
    )
    with pytest.raises(RatingsError, match=r"'ava' has no option 'image' \(did you mean 'images'\?\)"):
        open_ratings(f"ava:{folders['ava']}?image=drop")
    with pytest.raises(RatingsError, match="'images' is not OPTION=VALUE"):
        open_ratings(f"ava:{folders['ava']}?images")
    with pytest.raises(RatingsError, match="leave out `columns`"):
        open_ratings(f"ava:{folders['ava']}", columns={"mean": "x"})
    with pytest.raises(RatingsError, match=r"`score_values` is \[1, 2\], those of 'ava' are"):
        open_ratings(f"ava:{folders['ava']}", score_values=[1, 2])
    assert len(open_ratings(f"ava:{folders['ava']}", score_values=range(1, 11))) == 32


def test_location_of_an_unknown_data_set():
    with pytest.raises(RatingsError, match=r"no data set 'avva' \(did you mean 'ava'\?\)"):
        open_ratings("avva:somewhere")
    with pytest.raises(RatingsError, match=r"no data set 'avva'"):
        find_reader("avva")
    with pytest.raises(RatingsError, match="'nowhere' is not a folder"):
        open_ratings("ava:nowhere")


def test_locations_of_files_stay_files(tmp_path, monkeypatch):
    assert split_location("C:\\ratings.csv") == ("", "C:\\ratings.csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ava:1.csv").write_text("image,votes_1,votes_2\nhttp://a/b.png,1,2\n")
    assert len(open_ratings("ava:1.csv")) == 1


def test_readers_are_imported_when_they_are_asked_for():
    import subprocess
    import sys

    code = "import sys, cskd_hf.data.benchmarks as b; assert not [m for m in sys.modules if m.startswith(b.__name__ + '.')]"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", READERS)
def test_every_registered_reader_exists(name):
    assert callable(find_reader(name)) and "images" in find_reader(name).__kwdefaults__
