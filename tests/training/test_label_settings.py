"""How many of the rated images a run learns from: a number, a share, or a list."""

from __future__ import annotations

import pytest

from cskd_hf.data.ratings import RatingsError, load_ratings, rated_subset, select_split
from cskd_hf.training.arguments import TeacherSettings
from cskd_hf.training.build import provenance
from cskd_hf.training.rated_data import RatedData
from cskd_hf.training.settings import SettingsError


def trained_on(ratings, **settings):
    settings = TeacherSettings(ratings=ratings, encoder="e", output_dir="o", seed=2, **settings)
    settings.check()
    return RatedData(settings).train["key"][:]


def test_number_share_and_list(ratings, tmp_path):
    drawn = rated_subset(select_split(load_ratings(ratings), "train"), 9, 2)["key"][:]
    assert trained_on(ratings, labels=9) == trained_on(ratings, label_share=0.25) == drawn
    path = tmp_path / "ids.txt"
    path.write_text("# head\n" + "\n".join(drawn[::-1]))
    assert trained_on(ratings, label_ids=str(path)) == drawn[::-1]
    assert trained_on(ratings, label_ids=str(path), labels=3) == drawn[:-4:-1]
    path.write_text("00.png\n01.png\n02.png")  # 00.png is in the split validation
    with pytest.raises(RatingsError, match=r"'00.png' \(in the split 'validation'\)"):
        trained_on(ratings, label_ids=str(path))


@pytest.mark.parametrize("settings", [{"label_share": 1.5}, {"label_share": -0.1}, {"labels": 3, "label_share": 0.1}])
def test_what_is_refused(ratings, settings):
    with pytest.raises(SettingsError, match="label_share"):
        trained_on(ratings, **settings)


def test_a_checkpoint_says_which_labels_it_had(tmp_path):
    (tmp_path / "ids.txt").write_text("a\n")
    settings = TeacherSettings(label_share=0.01, label_ids=str(tmp_path / "ids.txt"))
    made = provenance("teacher", settings)
    assert (made["label_share"], made["label_ids"]) == (0.01, "ids.txt")
