"""One row a vote: added up to one row an image, and split by rater; what is not clear is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from cskd_hf.data.ratings import RatingsError, attributes_of, load_ratings, score_values_of
from cskd_hf.data.ratings.faults import collect_faults
from cskd_hf.data.ratings.votes import load_votes

ROWS = [
    ("a.png", "anna", 4, "train", "sea"),
    ("b.png", "anna", 1, "test", "sea"),
    ("a.png", "bert", 5, "train", "sky"),
    ("a.png", "cleo", 4, "train", "sea"),
    ("b.png", "cleo", 2, "test", "sea"),
    ("c.png", "bert", 3, "train", "sky"),
]
SCALE = [1, 2, 3, 4, 5]


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate("abc"):
        Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder, header="image,rater,rating,split,theme", rows=ROWS, n=5):
    path = folder / "votes.csv"
    path.write_text("\n".join([header, *[",".join(map(str, row[:n])) for row in rows]]) + "\n")
    return path


def test_votes_add_up_to_histograms(folder):
    ds = load_ratings(write(folder), score_values=SCALE)
    assert score_values_of(ds) == (1, 2, 3, 4, 5)
    assert ds["key"][:] == ["a.png", "b.png", "c.png"]
    np.testing.assert_allclose(ds["distribution"][:], [[0, 0, 0, 2 / 3, 1 / 3], [0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0]])
    np.testing.assert_allclose(ds["mean"][:], [13 / 3, 1.5, 3])
    np.testing.assert_allclose(ds["std"][:], [np.sqrt(2 / 9), 0.5, 0], atol=1e-12)
    assert ds["n_votes"][:] == [3, 2, 1]
    assert ds["split"][:] == ["train", "test", "train"]
    assert "theme" not in ds.column_names  # the votes for a.png do not agree on it


def test_every_format_gives_the_same_votes(folder):
    csv_path = write(folder)
    names = ("image", "rater", "rating", "split", "theme")
    records = [dict(zip(names, row)) for row in ROWS]
    (folder / "votes.jsonl").write_text("\n".join(map(json.dumps, records)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / "votes.parquet")
    first = load_ratings(csv_path, score_values=SCALE)[:]
    for name in ("votes.jsonl", "votes.parquet"):
        assert load_ratings(folder / name, score_values=SCALE)[:] == first


def test_ratings_by_rater(folder):
    votes = load_votes(write(folder))
    assert votes.by_rater() == {
        "anna": {"a.png": 4, "b.png": 1},
        "bert": {"a.png": 5, "c.png": 3},
        "cleo": {"a.png": 4, "b.png": 2},
    }
    assert (votes.keys[2], votes.raters[2], votes.ratings[2]) == ("a.png", "bert", 5)
    assert set(load_votes(write(folder), split="test").keys) == {"b.png"}
    with pytest.raises(RatingsError, match=r"no split 'tset' \(did you mean 'test'"):
        load_votes(write(folder), split="tset")


def test_without_raters(folder):
    path = write(folder, "image,rating", [(row[0], row[2]) for row in ROWS])
    assert load_ratings(path, score_values=SCALE)["n_votes"][:] == [3, 2, 1]
    with pytest.raises(RatingsError, match="no column of raters"):
        load_votes(path).by_rater()


def test_score_is_a_vote_beside_a_rater_or_where_declared(folder):
    path = write(folder, "image,user_id,score", ROWS, 3)
    assert load_ratings(path, score_values=SCALE)["n_votes"][:] == [3, 2, 1]
    path = write(folder, "image,score", [(row[0], row[2]) for row in ROWS])
    with pytest.raises(RatingsError, match="another row has this key"):
        load_ratings(path, score_values=SCALE)
    declared = load_ratings(path, score_values=SCALE, columns={"vote": "score"})
    assert declared["n_votes"][:] == [3, 2, 1]


def test_one_rater_alone(folder):
    rows = [row for row in ROWS if row[1] == "anna"]
    assert load_ratings(write(folder, rows=rows), score_values=SCALE)["n_votes"][:] == [1, 1]
    means = load_ratings(write(folder, "image,rating", [(row[0], row[2]) for row in rows]), score_values=SCALE)
    assert (means["mean"][:], means["distribution"][:]) == ([4, 1], [None, None])


def test_a_scale_without_steps_keeps_mean_and_spread(folder):
    rows = [("a.png", "anna", 20), ("a.png", "bert", 40.5), ("b.png", "anna", 99)]
    ds = load_ratings(write(folder, "image,rater,rating", rows, 3), score_values=[0, 100])
    assert ds["distribution"][:] == [None, None]
    np.testing.assert_allclose(ds["mean"][:], [30.25, 99])
    np.testing.assert_allclose(ds["std"][:], [10.25, 0])
    assert ds["n_votes"][:] == [2, 1]


def test_votes_for_attributes_are_averaged(folder):
    rows = [("a.png", "anna", 4, 2), ("a.png", "bert", 5, 5), ("b.png", "anna", 1, "")]
    path = write(folder, "image,rater,rating,color", rows, 4)
    ds = load_ratings(path, score_values=SCALE, attributes={"color": (1, 5)})
    assert attributes_of(ds) == {"color": (1, 5)} and ds["color"][:] == [3.5, None]


def test_faults_are_listed_and_the_rest_is_kept(folder):
    rows = [*ROWS, ("a.png", "dora", "x"), ("b.png", "dora", 9), ("c.png", "", 3), ("c.png", "bert", 3)]
    with collect_faults() as found:
        ds = load_ratings(write(folder, "image,rater,rating", rows, 3), score_values=SCALE)
    assert [(fault.row, fault.kind) for fault in found.faults] == [
        ("line 10", "bad value"), ("line 8", "not a number"), ("line 11", "duplicated key"), ("line 9", "bad value"),
    ]  # fmt: skip
    assert ds["n_votes"][:] == [3, 2, 1]


@pytest.mark.parametrize(
    ("header", "rows", "options", "message"),
    [
        ("image,rater,rating", ROWS, {"score_values": None}, r"pass `score_values`.*has \[1.0, 2.0"),
        ("image,rater,rating", ROWS, {"score_values": [1, 2, 3, 4]}, r"line 4, column 'rating', value 5.0: allowed"),
        ("image,rater,rating", [("a.png", "x", 3.5)], {}, r"line 2, column 'rating', value 3.5: allowed: \[1.0"),
        ("image,rater,rating", [("a.png", "x", 7)], {"score_values": [1, 5]}, "allowed: 1 to 5"),
        ("image,rater,rating", [*ROWS, ("b.png", "anna", 3)], {}, "line 8, column 'image', value 'b.png': the rater 'anna'"),
        ("image,rater,rating", [("a.png", "", 3)], {}, "line 2, column 'rater'"),
        ("image,rater,rating", [("a.png", "x", "")], {}, "there is no vote"),
        ("image,rater,rating", [("a.png", "x", "good")], {}, "this is no number"),
        ("image,rater,rating", [("z.png", "x", 3)], {}, "line 2, column 'image', value 'z.png': there is no file"),
        ("image,rating,n_votes", [("a.png", 3, 4), ("a.png", 4, 4)], {}, "say which with"),
        ("image,rating,mean", [("a.png", 3, 4), ("a.png", 4, 4)], {}, "say which with"),
        ("image,rater,user,rating", [("a.png", "x", "y", 3)], {}, r"\['rater', 'user'\] all may be the 'rater'"),
        ("image,rater,opinion", [("a.png", "x", 3)], {"columns": {"rater": "rater"}}, "for the 'vote'"),
        ("image,rater,rating", ROWS, {"columns": {"vote": "ratings"}}, "did you mean 'rating'"),
    ],
)  # fmt: skip
def test_what_is_refused(folder, header, rows, options, message):
    path = write(folder, header, rows, header.count(",") + 1)
    with pytest.raises(RatingsError, match=message):
        load_ratings(path, **{"score_values": SCALE, **options})


def test_an_image_in_two_splits_is_refused(folder):
    rows = [("a.png", "anna", 4, "train"), ("a.png", "bert", 5, "test")]
    with pytest.raises(
        RatingsError, match="line 3, column 'split', value 'test': other votes for 'a.png' are in 'train'"
    ):
        load_ratings(write(folder, "image,rater,rating,split", rows), score_values=SCALE)


def test_repeats_can_keep_the_last_vote(folder):
    votes = load_votes(write(folder, rows=[*ROWS, ("b.png", "anna", 3, "test", "sea")]), repeats="last")
    assert len(votes) == len(ROWS) and votes.by_rater()["anna"]["b.png"] == 3
