"""FLICKR-AES, TAD66K, KonIQ-10k, SPAQ and BAID: exact values, and the real label files where they are."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import rated_layouts_more as layouts
from cskd_hf.data.benchmarks.xlsx import read_xlsx
from cskd_hf.data.ratings import RatingsError, attributes_of, score_values_of
from cskd_hf.data.ratings.faults import collect_faults
from cskd_hf.data.ratings.locations import open_ratings, open_votes
from cskd_hf.data.ratings.schema import descriptions_of


def row_of(ds, key):
    return ds[ds["key"][:].index(key)]


def about(ds):
    return descriptions_of(ds)[0]["about"]


def replace_line(path, number, text):
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


# FLICKR-AES


@pytest.fixture
def flickr(tmp_path):
    folder = layouts.write_flickr_aes(tmp_path)
    votes = folder / "FLICKR-AES_image_labeled_by_each_worker.csv"
    for line, rating in zip(range(2, 7), (1, 2, 2, 5, 5)):
        replace_line(votes, line, f"A{line}, farm1_1001_b.jpg, {rating}")
    replace_line(folder / "FLICKR-AES_image_score.txt", 1, "farm1_1001_b.jpg 0.625")
    return folder


def test_flickr_scores_and_votes(flickr):
    scores = row_of(open_ratings(f"flickr-aes:{flickr}"), "farm1_1001_b.jpg")
    assert (scores["mean"], scores["distribution"], scores["n_votes"]) == (0.625, None, None)
    ds = open_ratings(f"flickr-aes-votes:{flickr}")
    row = row_of(ds, "farm1_1001_b.jpg")
    np.testing.assert_allclose(row["distribution"], [0.2, 0.4, 0, 0, 0.4])
    assert (row["mean"], row["n_votes"], row["score"]) == (3.0, 5, 0.625)
    assert score_values_of(ds) == (1, 2, 3, 4, 5)


def test_flickr_split_of_a_list_of_images(flickr):
    ds = open_ratings(f"flickr-aes:{flickr}?validation_share=0")
    assert Counter(ds["split"]) == {"train": 24, "test": 8} and "8 images of test.json" in about(ds)
    listed = json.loads((flickr / "test.json").read_text())
    (flickr / "test.json").write_text(json.dumps([*listed, {"image": "FLICKR/farm9.jpg"}]))
    with pytest.raises(RatingsError, match="1 of its 9 names are not in the data set, e.g. 'farm9.jpg'"):
        open_ratings(f"flickr-aes:{flickr}")


def test_flickr_split_by_workers(flickr):
    (flickr / "test.json").unlink()
    (flickr / "workers.txt").write_text("A9\nA10\n")
    ds = open_ratings(f"flickr-aes:{flickr}?test_workers=workers.txt&validation_share=0")
    votes = open_votes(f"flickr-aes:{flickr}").by_rater()
    assert {key for key, split in zip(ds["key"], ds["split"]) if split == "test"} == {*votes["A9"], *votes["A10"]}
    assert "2 workers of workers.txt" in about(ds)
    (flickr / "workers.txt").write_text("A9\nB1\n")
    with pytest.raises(RatingsError, match="1 of its 2 workers rated nothing, e.g. 'B1'"):
        open_ratings(f"flickr-aes:{flickr}?test_workers=workers.txt")
    with pytest.raises(RatingsError, match="there is no such list"):
        open_ratings(f"flickr-aes:{flickr}?test_workers=others.txt")


def test_flickr_without_a_list_splits_by_drawn_workers_and_says_so(flickr):
    (flickr / "test.json").unlink()
    ds = open_ratings(f"flickr-aes:{flickr}?validation_share=0")
    votes = open_votes(f"flickr-aes:{flickr}").by_rater()
    test = {key for key, split in zip(ds["key"], ds["split"]) if split == "test"}
    drawn = [worker for worker, rated in votes.items() if set(rated) <= test]
    assert test == {key for worker in drawn for key in votes[worker]} and "2 of 13 workers drawn" in about(ds)


def test_flickr_votes(flickr):
    votes = open_votes(f"flickr-aes:{flickr}")
    assert len(votes) == 5 * 32 and votes.by_rater()["A5"]["farm1_1001_b.jpg"] == 5
    path = flickr / "FLICKR-AES_image_labeled_by_each_worker.csv"
    with path.open("a") as file:
        file.write("A5, farm1_1001_b.jpg, 4\n")
    assert open_votes(f"flickr-aes:{flickr}").by_rater()["A5"]["farm1_1001_b.jpg"] == 4
    replace_line(path, 3, "A1, farm1_1001_b.jpg, 7")
    with pytest.raises(RatingsError, match="line 3, column 'score', value 7.0: allowed: whole numbers from 1 to 5"):
        open_ratings(f"flickr-aes-votes:{flickr}")


def test_flickr_images_without_votes_are_left_out_of_the_histograms(flickr):
    with (flickr / "FLICKR-AES_image_score.txt").open("a") as file:
        file.write("farm1_9999_b.jpg 0.5\n")
    ds = open_ratings(f"flickr-aes-votes:{flickr}")
    assert len(ds) == 32 and "1 images without votes are left out" in about(ds)
    assert len(open_ratings(f"flickr-aes:{flickr}?images=ignore")) == 33


# TAD66K


def test_tad66k_themes(tmp_path):
    folder = layouts.write_tad66k(tmp_path)
    with (folder / "unmerge" / "train" / "beach.csv").open("a") as file:
        file.write("someone1001.jpg,3.0\n")
    ds = open_ratings(f"tad66k:{folder}?validation_share=0")
    assert row_of(ds, "someone1001.jpg")["theme"] == "animal|beach"
    assert row_of(ds, "someone1002.jpg")["theme"] == "beach"
    assert Counter(ds["split"]) == {"train": 24, "test": 8} and score_values_of(ds) == tuple(range(1, 11))
    assert "theme" not in open_ratings(f"tad66k:{folder / 'merge' / 'test.csv'}?images=ignore").column_names


def test_tad66k_with_an_image_in_both_splits_is_refused(tmp_path):
    folder = layouts.write_tad66k(tmp_path)
    replace_line(folder / "merge" / "test.csv", 3, "someone1001.jpg,3.0")
    with pytest.raises(RatingsError, match="test.csv line 3, .*'someone1001.jpg': the splits"):
        open_ratings(f"tad66k:{folder}?validation_share=0")


# KonIQ-10k


def test_koniq_histograms_and_mos_are_two_labels(tmp_path):
    folder = layouts.write_koniq10k(tmp_path)
    path = folder / "koniq10k_distributions_sets.csv"
    replace_line(
        path, 2, "1001.jpg,0.0,0.0,0.238095238095,0.695238095238,0.0666666666667,105,77.3836206897,0.527,training"
    )
    ds = open_ratings(f"koniq10k:{folder}")
    row = row_of(ds, "1001.jpg")
    assert row["mean"] == pytest.approx((3 * 25 + 4 * 73 + 5 * 7) / 105) and row["n_votes"] == 105
    assert row["mos"] == 77.3836206897 and score_values_of(ds) == (1, 2, 3, 4, 5)
    mos = open_ratings(f"koniq10k-mos:{folder}")
    assert row_of(mos, "1001.jpg")["mean"] == 77.3836206897 and score_values_of(mos)[::10] == (0, 100)
    assert Counter(ds["split"]) == {"train": 24, "validation": 8, "test": 8} and "official" in about(ds)
    replace_line(path, 3, "1002.jpg,0,0,0,1,0,105,77,0.5,tset")
    with pytest.raises(RatingsError, match="line 3, column 'set', value 'tset'"):
        open_ratings(f"koniq10k:{folder}")


def test_koniq_without_sets_has_its_own_split_or_that_of_a_list(tmp_path):
    folder = layouts.write_koniq10k_scores(tmp_path)
    ds = open_ratings(f"koniq10k:{folder}")
    assert "compare with no paper's" in about(ds) and set(ds["split"]) >= {"train", "test"}
    assert open_ratings(f"koniq10k-mos:{folder}")["mean"][:] == ds["mos"][:]
    (folder / "qalign.json").write_text(json.dumps([{"image": "koniq/1001.jpg"}, {"image": "koniq/1005.jpg"}]))
    listed = open_ratings(f"koniq10k:{folder}?test_list=qalign.json")
    assert [key for key, split in zip(listed["key"], listed["split"]) if split == "test"] == ["1001.jpg", "1005.jpg"]


# SPAQ


def test_spaq(tmp_path):
    folder = layouts.write_spaq(tmp_path)
    path = folder / "Annotations" / "MOS and Image attribute scores.xlsx"
    table, _ = read_xlsx(path)
    rows = [list(table), *map(list, zip(*table.values()))]
    rows[1] = ["00756.jpg", 61.25, 10, 20, 30, 40, 50.5]
    layouts.write_xlsx(path, rows)
    ds = open_ratings(f"spaq:{folder}")
    row = row_of(ds, "00756.jpg")
    assert (row["mean"], row["brightness"], row["noisiness"], row["sharpness"]) == (61.25, 10, 40, 50.5)
    assert attributes_of(ds)["contrast"] == (0, 100)
    assert row["category"] == "Human|Plant"  # the columns 2 and 6 of its row are 1
    (folder / "test.json").unlink()
    assert "compare with no paper's" in about(open_ratings(f"spaq:{folder}"))
    rows[2][1] = 130
    layouts.write_xlsx(path, rows)
    with pytest.raises(RatingsError, match="row 3, column 'MOS', value 130.0: outside the scale"):
        open_ratings(f"spaq:{folder}")


def test_xlsx_of_both_kinds_of_text(tmp_path):
    rows = [["name", "x & y", "z"], ["a<b", 1.5, None], [None, None, None], ["c", None, "7"]]
    for shared in (True, False):
        if not shared:
            rows = [["name", "x & y", "z"], ["a<b", 1.5], [], ["c"]]
        layouts.write_xlsx(tmp_path / "t.xlsx", rows, shared=shared)
        table, places = read_xlsx(tmp_path / "t.xlsx")
        assert table == {"name": ["a<b", "c"], "x & y": ["1.5", None], "z": [None, "7" if shared else None]}
        assert places == ["row 2", "row 4"]
    (tmp_path / "t.xlsx").write_bytes(b"no zip")
    with pytest.raises(RatingsError, match="t.xlsx: it cannot be read as .xlsx"):
        read_xlsx(tmp_path / "t.xlsx")
    layouts.write_xlsx(tmp_path / "t.xlsx", [["a", "a"], ["1", "2"]])
    with pytest.raises(RatingsError, match="must name the columns, each once"):
        read_xlsx(tmp_path / "t.xlsx")


# Real label files


def test_real_tad66k(data_folder):
    train = open_ratings(f"tad66k:{data_folder}/labels/tad66k_merge_train.csv?images=ignore&validation_share=0")
    test = open_ratings(f"tad66k:{data_folder}/labels/tad66k_merge_test.csv?images=ignore")
    assert (len(train), len(test)) == (52248, 14079)
    assert not set(train["key"]) & set(test["key"])
    assert (min(train["mean"]), max(train["mean"])) == (1.13, 9.46)
    assert row_of(test, "hs_yin152947873.jpg")["mean"] == 1.9


def test_real_koniq10k(data_folder):
    location = f"koniq10k:{data_folder}/labels/koniq10k_distributions_sets.csv?images=ignore"
    ds = open_ratings(location)
    assert len(ds) == 10073 and Counter(ds["split"]) == {"train": 7058, "validation": 1000, "test": 2015}
    assert np.corrcoef(ds["mean"], ds["mos"])[0, 1] > 0.995
    row = row_of(ds, "10004473376.jpg")
    assert row["n_votes"] == 105 and row["mos"] == 77.3836206897
    np.testing.assert_allclose(row["distribution"], np.array([0, 0, 25, 73, 7]) / 105, atol=1e-6)


def test_real_baid(data_folder):
    ds = open_ratings(f"baid:{data_folder}/labels/baid_test_set.csv?images=ignore")
    assert len(ds) == 6400 and set(ds["split"]) == {"test"}
    assert (min(ds["mean"]), max(ds["mean"])) == (3.4577, 9.9999)


# Faults


@pytest.mark.parametrize(
    ("name", "label_file", "line", "column", "kind"),
    [
        ("flickr-aes", "FLICKR-AES_image_score.txt", "farm1_1002_b.jpg nan", "score", "not a number"),
        ("tad66k", "merge/train.csv", "someone1002.jpg,12", "score", "bad value"),
        ("koniq10k", "koniq10k_distributions_sets.csv", "1002.jpg,0,0,-0.5,1.5,0,105,77,0.5,training", "c3", "negative votes"),
        ("baid", "dataset/train_set.csv", "1002.jpg,bad", "score", "not a number"),
    ],
)  # fmt: skip
def test_faults_are_listed_with_their_line_and_the_rest_is_kept(tmp_path, name, label_file, line, column, kind):
    folder = layouts.WRITERS[name](tmp_path)
    at = 2 if label_file.endswith(".txt") else 3
    replace_line(folder / label_file, at, line)
    next(folder.rglob("*1005*.jpg")).unlink()
    whole = 32 if name in ("flickr-aes", "tad66k") else 40
    with collect_faults() as found:
        ds = open_ratings(f"{name}:{folder}")
    assert len(ds) == whole - 2
    kinds = {fault.kind: fault for fault in found.faults}
    assert kinds.keys() == {kind, "missing image"}
    assert kinds[kind].column == column and kinds[kind].row.endswith(f"line {at}")
    assert "1005" in str(kinds["missing image"])
