"""Mean ratings of attributes, each on its own scale, beside the rating of the whole."""

from __future__ import annotations

import datasets
import pytest

from cskd_hf.data.ratings import RatingsError, attributes_of, build_ratings, load_ratings, select_split
from cskd_hf.data.ratings.schema import descriptions_of

SCALES = {"color": (1.0, 5.0), "light": (-1.0, 1.0)}


def build(attributes=None, **columns):
    data = {
        "image": [b"1", b"2", b"3"],
        "key": ["a", "b", "c"],
        "mean": [1, 2, 3],
        "split": ["train", "test", "train"],
    }
    data |= {"color": [1.5, None, 5], "light": ["-0.5", "0", ""], "theme": ["sea", "sea", "sky"]}
    return build_ratings(
        data | columns, [1, 2, 3], name="own", attributes=SCALES if attributes is None else attributes
    )


def test_attributes_survive_selection_and_saving(tmp_path):
    ds = build()
    assert ds["color"][:] == [1.5, None, 5.0] and ds["light"][:] == [-0.5, 0.0, None]
    assert attributes_of(ds) == SCALES
    assert attributes_of(select_split(ds, "train")) == SCALES
    ds.save_to_disk(tmp_path / "saved")
    loaded = load_ratings(tmp_path / "saved", split="test")
    assert attributes_of(loaded) == SCALES and loaded["light"][:] == [0.0]
    assert attributes_of(ds.remove_columns("light")) == {"color": (1.0, 5.0)}


def test_a_set_without_attributes_has_none():
    assert attributes_of(build(attributes={})) == {}


def test_a_column_of_unknown_ratings_is_one_of_numbers():
    assert build(color=[None] * 3).features["color"] == datasets.Value("float64")


@pytest.mark.parametrize(
    ("attributes", "columns", "message"),
    [
        ({"colour": (1, 5)}, {}, r"`attributes` names 'colour' \(did you mean 'color'\?\)"),
        ({"mean": (1, 5)}, {}, "`attributes` names 'mean'"),
        ({"color": (5, 1)}, {}, "increasing"),
        ({"color": (1, 3, 5)}, {}, r"the scale of 'color' is \(1, 3, 5\); allowed: \(lowest, highest\)"),
        ({"color": (1, 5)}, {"color": [1, 2, 5.5]}, "row 3, column 'color', value 5.5: outside the scale 1 to 5"),
        ({"color": (1, 5)}, {"color": [1, float("nan"), 5]}, "row 2, column 'color', value nan: allowed: finite"),
    ],
)
def test_bad_attributes_are_refused(attributes, columns, message):
    with pytest.raises(RatingsError, match=message):
        build(attributes, **columns)


def test_one_attribute_on_two_scales_is_refused():
    both = datasets.concatenate_datasets([build({"color": (1, 5)}), build({"color": (0, 10)})])
    with pytest.raises(RatingsError, match="mixes the scales .* of the attribute 'color'"):
        attributes_of(both)


def test_attributes_of_a_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "own.csv").write_text("image,mean,color\na.png,2,4\n")
    ds = load_ratings(tmp_path / "own.csv", score_values=[1, 3], attributes={"color": (1, 5)})
    assert attributes_of(ds) == {"color": (1.0, 5.0)} and ds["color"][:] == [4.0]


# Listed images that are not on disk


def test_missing_images_are_dropped_with_their_number(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(b"")
    data = {"image": ["a.png", "b.png"], "mean": [1, 2]}
    ds = build_ratings(data, [1, 3], name="own", image_dir=tmp_path, images="drop", about="Mine.")
    assert ds["key"][:] == ["a.png"]
    (info,) = descriptions_of(ds)
    assert info["about"] == "Mine. 1 of 2 listed images are not on disk and were left out."
    assert "own: 1 of 2 listed images are not on disk" in caplog.text


def test_missing_images_may_be_ignored_but_not_silently_all_dropped(tmp_path):
    data = {"image": ["a.png", "b.png"], "mean": [1, 2]}
    assert len(build_ratings(data, [1, 3], name="own", image_dir=tmp_path, images="ignore")) == 2
    with pytest.raises(RatingsError, match="none of its 2 rows can be used; e.g. there is no file .*a.png"):
        build_ratings(data, [1, 3], name="own", image_dir=tmp_path, images="drop")
    with pytest.raises(RatingsError, match="`images` is 'dorp'"):
        build_ratings(data, [1, 3], name="own", image_dir=tmp_path, images="dorp")
