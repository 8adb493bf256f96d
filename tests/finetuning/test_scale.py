from __future__ import annotations

import pytest

from cskd_hf.data.ratings import RatingsError, score_values_of
from cskd_hf.finetuning.scale import assumed_scale, bins_of_scale, read_ratings
from cskd_hf.finetuning.settings import FinetuneSettings
from cskd_hf.training.settings import SettingsError


def test_bins():
    assert bins_of_scale(1, 5) == [1, 2, 3, 4, 5]
    assert bins_of_scale(1.0, 10.0) == list(range(1, 11))
    assert bins_of_scale(0, 100) == [10.0 * step for step in range(11)]
    assert bins_of_scale(0, 1)[:3] == [0, 0.1, 0.2] and bins_of_scale(0, 1)[-1] == 1
    assert bins_of_scale(-1.5, 2)[-1] == 2


def test_a_scale_is_assumed_only_where_both_ends_occur():
    assert assumed_scale(1, 5, "x") == (1, 5)
    with pytest.raises(RatingsError, match=r"x: the ratings lie between 1 and 4.8.* add --scale 1 5"):
        assumed_scale(1, 4.8, "x")
    with pytest.raises(RatingsError, match="--scale 0 10"):
        assumed_scale(0.5, 9, "x")
    with pytest.raises(RatingsError, match="--scale -8 900"):
        assumed_scale(-7.5, 900, "x")


def write(tmp_path, photographs, header, cells):
    file = tmp_path / "mine.csv"
    lines = [f"{photographs}/{number:02d}.png,{cell}" for number, cell in enumerate(cells)]
    file.write_text("\n".join([f"image,{header}", *lines]))
    return file


def test_means(tmp_path, photographs, caplog):
    file = write(tmp_path, photographs, "mean", [1, 2.5, 5])
    ratings, note = read_ratings(FinetuneSettings(ratings=str(file)))
    assert score_values_of(ratings) == (1, 2, 3, 4, 5) and "assumed to be 1 to 5" in note
    assert "give --scale" in caplog.text  # never silently
    ratings, note = read_ratings(FinetuneSettings(ratings=str(file), scale=[0, 10]))
    assert score_values_of(ratings)[-1] == 10 and note == "given"
    with pytest.raises(RatingsError, match="outside the scale 1 to 4"):
        read_ratings(FinetuneSettings(ratings=str(file), scale=[1, 4]))


def test_a_row_a_vote(tmp_path, photographs):
    file = tmp_path / "votes.csv"
    image = f"{photographs}/00.png"
    file.write_text(f"image,rater,rating\n{image},a,1\n{image},b,5\n{photographs}/01.png,a,3\n")
    ratings, _ = read_ratings(FinetuneSettings(ratings=str(file)))
    assert ratings["distribution"][0] == [0.5, 0, 0, 0, 0.5]
    assert ratings["mean"][:] == [3, 3]


def test_votes_in_unnamed_bins_name_the_setting(tmp_path, photographs):
    file = write(tmp_path, photographs, "votes", ["1 2 3", "3 2 1"])
    with pytest.raises(RatingsError, match="score_values"):
        read_ratings(FinetuneSettings(ratings=str(file)))
    ratings, _ = read_ratings(FinetuneSettings(ratings=str(file), score_values=[1, 2, 3]))
    assert len(ratings) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": [5, 1]}, "two rising numbers"),
        ({"scale": [1, 5], "score_values": [1, 5]}, "give one of them"),
        ({"holdout": 0.9}, "holdout"),
        ({"student": "x"}, "--unlabeled"),
        ({"ship": "semi"}, "--unlabeled"),
        ({"ratings": ""}, "ratings is not set"),
    ],
)
def test_settings(given, message):
    with pytest.raises(SettingsError, match=message):
        FinetuneSettings(**({"ratings": "x.csv"} | given)).check()
