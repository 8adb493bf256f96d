"""Who rated what, of the data sets that publish it; keys are those of the rated sets."""

from __future__ import annotations

import numpy as np
import pytest

import rated_layouts
import rated_layouts_more
from cskd_hf.data.benchmarks import READERS, VOTE_READERS
from cskd_hf.data.ratings import RatingsError, score_values_of
from cskd_hf.data.ratings.locations import open_ratings, open_votes

WRITERS = rated_layouts.WRITERS | rated_layouts_more.WRITERS


def test_readers_of_votes_are_readers_of_ratings():
    assert set(VOTE_READERS) <= set(READERS)


def test_eva_votes_add_up_to_its_histograms(tmp_path):
    folder = WRITERS["eva"](tmp_path)
    ds, votes = open_ratings(f"eva:{folder}"), open_votes(f"eva:{folder}")
    assert len(votes.by_rater()) == 8 and set(votes.keys) == set(ds["key"])
    for key, mean in zip(ds["key"][:3], ds["mean"][:3]):
        assert np.mean([rating for one, rating in zip(votes.keys, votes.ratings) if one == key]) == pytest.approx(mean)


def test_para_votes_have_the_keys_of_its_images(tmp_path):
    folder = WRITERS["para"](tmp_path)
    rows = [f"session{n % 3},iaa_pub{n}_.jpg,A{n % 2},{1 + n % 9 / 2},3" for n in range(1001, 1011)]
    header = "sessionId,imageName,userId,aestheticScore,qualityScore"
    (folder / "annotation" / "PARA-Images.csv").write_text("\n".join([header, *rows, rows[0]]))
    votes, ds = open_votes(f"para:{folder}"), open_ratings(f"para:{folder}")
    assert len(votes) == 10 and set(votes.keys) <= set(ds["key"])
    assert votes.by_rater()["A1"]["session2/iaa_pub1001_.jpg"] == 2.0
    assert set(votes.ratings) <= set(score_values_of(ds))


def test_a_set_without_votes_says_which_have_them(tmp_path):
    folder = WRITERS["ava"](tmp_path)
    with pytest.raises(
        RatingsError, match="the votes of 'ava' cannot be read one by one; allowed: a file, flickr-aes"
    ):
        open_votes(f"ava:{folder}")
    with pytest.raises(RatingsError, match="leave them out"):
        open_votes(f"eva:{folder}", split="test")


def test_votes_of_a_file(tmp_path):
    (tmp_path / "votes.csv").write_text("image,rater,rating\na.png,anna,3\n")
    assert open_votes(tmp_path / "votes.csv").by_rater() == {"anna": {"a.png": 3}}
