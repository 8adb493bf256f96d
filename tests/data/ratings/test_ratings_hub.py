"""Datasets of the Hub with named columns, here as folders that `load_dataset` reads."""

from __future__ import annotations

import io
from collections import Counter

import datasets
import numpy as np
import pytest
from PIL import Image

import rated_layouts
from cskd_hf.data.ratings import RatingsError, attributes_of, score_values_of
from cskd_hf.data.ratings.convert import convert_ratings
from cskd_hf.data.ratings.locations import open_ratings
from cskd_hf.models.image_loading_cskd import load_image


def picture(value):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(folder, parts, features=None):
    """`{split: columns}` as folder/data/SPLIT-00000.parquet."""
    (folder / "data").mkdir(parents=True)
    for split, columns in parts.items():
        ds = datasets.Dataset.from_dict(columns)
        for name, feature in (features or {"image": datasets.Image()}).items():
            ds = ds.cast_column(name, feature)
        ds.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def images(*values, names=None):
    return [{"bytes": picture(value), "path": names and names[at]} for at, value in enumerate(values)]


def test_columns_by_name(tmp_path):
    folder = write(
        tmp_path / "set",
        {
            "train": {"image": images(10, 20), "votes": [[1, 2, 1], [0, 0, 4]], "theme": ["sea", "sky"]},
            "test": {"image": images(30), "votes": [[2, 0, 0]], "theme": ["sea"]},
        },
    )
    ds = open_ratings(f"hub:{folder}", score_values=[1, 2, 3])
    rows = {row["key"]: row for row in ds}
    assert sorted(rows) == ["test-000000", "train-000000", "train-000001"]
    assert (rows["train-000001"]["mean"], rows["test-000000"]["mean"], rows["test-000000"]["theme"]) == (3, 1, "sea")
    assert {key: load_image(row["image"]).getpixel((0, 0))[0] for key, row in rows.items()} == {
        "train-000000": 10, "train-000001": 20, "test-000000": 30,
    }  # fmt: skip
    assert score_values_of(ds) == (1, 2, 3)
    assert open_ratings(f"hub:{folder}", score_values=[1, 2, 3], split="test")["key"][:] == ["test-000000"]


def test_columns_given_a_picture_column_of_its_own_name_and_class_labels(tmp_path):
    columns = {"photo": images(10, 20, names=["a.png", "b.png"]), "beauty": [3.5, 1.0], "colour": [2.0, None], "kind": [1, 0]}  # fmt: skip
    labels = datasets.ClassLabel(names=["portrait", "landscape"])
    folder = write(tmp_path / "set", {"train": columns}, {"photo": datasets.Image(), "kind": labels})
    given = {"columns": {"mean": "beauty"}, "score_values": [1, 5], "attributes": {"colour": (1, 5)}}
    ds = open_ratings(f"hub:{folder}", **given)
    assert ds["key"][:] == ["a.png", "b.png"] and ds["mean"][:] == [3.5, 1] and ds["split"][:] == ["train"] * 2
    assert ds["kind"][:] == ["landscape", "portrait"] and attributes_of(ds) == {"colour": (1, 5)}
    assert load_image(ds[1]["image"]).getpixel((0, 0)) == (20, 0, 0)
    with pytest.raises(RatingsError, match="no column mean"):
        open_ratings(f"hub:{folder}", score_values=[1, 5])


def test_one_row_a_vote(tmp_path):
    columns = {
        "image": images(10, 10, 20, names=["a.png", "a.png", "b.png"]),
        "image_id": ["a", "a", "b"],
        "user": ["anna", "bert", "anna"],
        "rating": [1, 3, 2],
    }
    folder = write(tmp_path / "set", {"train": columns})
    ds = open_ratings(f"hub:{folder}", score_values=[1, 2, 3], columns={"key": "image_id"})
    assert ds["key"][:] == ["a", "b"] and ds["n_votes"][:] == [2, 1]
    np.testing.assert_allclose(ds["mean"][:], [2, 2])
    assert load_image(ds[1]["image"]).getpixel((0, 0)) == (20, 0, 0)


def test_paths_and_a_column_of_splits(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    columns = {"file_name": ["a.png", "a.png"], "key": ["x", "y"], "mos": [1.0, 2.0], "split": ["train", "test"]}
    folder = write(tmp_path / "set", {"train": columns}, {"mos": datasets.Value("float32")})
    ds = open_ratings(f"hub:{folder}", score_values=[1, 5], image_dir=tmp_path)
    assert ds["split"][:] == ["train", "test"] and load_image(ds[0]["image"]).size == (4, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:a b", "names no dataset; allowed: hub:organisation/name"),
        ("hub:nobody/nothing", "'hub:nobody/nothing' cannot be loaded"),
    ],
)
def test_what_cannot_be_loaded(name, message):
    with pytest.raises(RatingsError, match=message):
        open_ratings(name)


def test_bad_rows_are_named(tmp_path):
    folder = write(tmp_path / "set", {"train": {"image": images(10, 20), "votes": [[1, 2, 1], [0, -1, 4]]}})
    with pytest.raises(RatingsError, match="train row 2, column 'votes', value -1.0: allowed"):
        open_ratings(f"hub:{folder}", score_values=[1, 2, 3])


def test_what_data_convert_wrote_keeps_its_scales(tmp_path):
    location = f"aadb:{rated_layouts.write_aadb(tmp_path / 'AADB')}"
    ds = open_ratings(f"hub:{convert_ratings(location, tmp_path / 'converted')}")
    original = open_ratings(location)
    assert (score_values_of(ds), attributes_of(ds)) == (score_values_of(original), attributes_of(original))
    means = dict(zip(original["key"], original["mean"]))
    assert dict(zip(ds["key"], ds["mean"])) == means and Counter(ds["split"]) == Counter(original["split"])
    with pytest.raises(RatingsError, match="those of the set are"):
        open_ratings(f"hub:{tmp_path / 'converted'}", score_values=[1, 5])
