"""Low-label settings: draws by seed, shares, and lists of keys; the published lists are what the code draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rated_layouts
from cskd_hf.cli import main
from cskd_hf.data.ratings import RatingsError, build_ratings, rated_subset, select_split
from cskd_hf.data.ratings.label_lists import (
    few_rated,
    list_digest,
    number_of,
    read_label_list,
    select_keys,
    write_label_list,
)
from cskd_hf.data.ratings.locations import open_ratings

LISTS = Path(__file__).parents[3] / "hub_configs" / "label_lists"


@pytest.fixture(scope="module")
def ratings():
    rows = [
        {"image": f"https://a/{n}.png", "key": f"k{n}", "mean": 3.0, "split": "test" if n % 5 == 0 else "train"}
        for n in range(50)
    ]
    return build_ratings(rows, [1, 5], name="set")


@pytest.fixture(scope="module")
def train(ratings):
    return select_split(ratings, "train")


def test_shares_round_to_the_nearest_number():
    assert [number_of(share, 8458) for share in (0.01, 0.05, 0.1, 1)] == [85, 423, 846, 8458]
    assert number_of(0.001, 40) == 1


def test_a_share_is_the_draw_of_that_number(ratings, train):
    assert few_rated(train, ratings, label_share=0.1, seed=3)["key"][:] == rated_subset(train, 4, 3)["key"][:]
    assert few_rated(train, ratings) is train


def test_a_list_fixes_the_images_whatever_the_seed(ratings, train, tmp_path):
    drawn = rated_subset(train, 6, 1)["key"][:]
    path = tmp_path / "ids.txt"
    write_label_list(path, drawn, name="set", split="train", total=len(train), seed=1)
    assert read_label_list(path) == drawn and path.read_text().startswith("# 6 of the 40 images in the split 'train'")
    assert few_rated(train, ratings, label_ids=str(path), seed=9)["key"][:] == drawn
    for few in ({"labels": 4}, {"label_share": 0.1}):
        assert few_rated(train, ratings, label_ids=str(path), **few)["key"][:] == drawn[:4]
    with pytest.raises(RatingsError, match="it has 6 keys, and 7 are wanted"):
        few_rated(train, ratings, label_ids=str(path), labels=7)


def test_unknown_keys_are_named_with_where_they_are(ratings, train):
    message = r"'ids.txt': 3 of its 4 keys .*: 'k5' \(in the split 'test'\), 'kk1' \(did you mean 'k1'\?\), 'x'; give"
    with pytest.raises(RatingsError, match=message):
        select_keys(train, ["k1", "k5", "kk1", "x"], "ids.txt", ratings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no key"),
        ("# a\n", "there is no key"),
        ("k1\nk2\nk1\n", "line 3 has the key 'k1' of line 1 again"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(RatingsError, match=message):
        read_label_list(tmp_path / "ids.txt")
    with pytest.raises(RatingsError, match="cannot be read"):
        read_label_list(tmp_path / "none.txt")


def test_a_key_may_begin_as_comments_do(tmp_path):
    write_label_list(tmp_path / "ids.txt", ["a", "# b"], name="set", split="train", total=9, seed=0)
    assert read_label_list(tmp_path / "ids.txt") == ["a", "# b"]


def test_the_command_writes_the_list_that_the_settings_draw(tmp_path, monkeypatch, capsys):
    folder = rated_layouts.write_aadb(tmp_path / "AADB")
    command = ["data", "subset", "aadb", str(folder), "--label-share", "0.25", "--seed", "4", "--output", "ids.txt"]
    monkeypatch.chdir(tmp_path)
    assert main(command) == 0 and "6 of the 24 images in the split 'train' of AADB" in capsys.readouterr().out
    train = open_ratings(f"aadb:{folder}", split="train")
    assert read_label_list("ids.txt") == rated_subset(train, 6, 4)["key"][:]
    for extra, message in [
        ([], "ids.txt' exists"),
        (["--labels", "3"], "one of them"),
        (["--split", "tain"], "'train'"),
    ]:
        assert main([*command, *extra, *(["--overwrite"] if extra else [])]) == 2
        assert message in capsys.readouterr().err


# The published lists

PUBLISHED = {
    "aadb": ("aadb:{}/labels/AADBinfo.mat?images=ignore&validation_share=0", "10pct", 846, 8458),
    "tad66k": ("tad66k:{}/labels/tad66k_merge_train.csv?images=ignore", "1pct", 496, 49621),
}
DIGESTS = json.loads((LISTS / "digests.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lists_have_the_published_digests(name):
    _, text, total, _ = PUBLISHED[name]
    for seed in range(5):
        keys = read_label_list(LISTS / f"{name}-{text}-seed{seed}.txt")
        assert len(keys) == total
        for draw in DIGESTS[name].values():
            if draw["images"] <= total:
                assert list_digest(keys[: draw["images"]]) == draw["sha256"][seed]
    assert sum(path.stat().st_size for path in LISTS.iterdir()) < 300_000


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_lists_are_what_is_drawn(name, data_folder):
    location, text, _, images = PUBLISHED[name]
    ratings = open_ratings(location.format(data_folder))
    train = select_split(ratings, "train")
    assert len(train) == images
    for seed in range(5):
        drawn = few_rated(train, ratings, label_share=0.1, seed=seed)["key"][:]
        published = LISTS / f"{name}-{text}-seed{seed}.txt"
        keys = read_label_list(published)
        assert drawn[: len(keys)] == keys
        assert few_rated(train, ratings, label_ids=str(published), labels=100)["key"][:] == drawn[:100]
        for label, draw in DIGESTS[name].items():
            share = float(label.rstrip("%")) / 100
            assert draw["images"] == (number_of(share, images) if "%" in label else int(label))
            assert list_digest(drawn[: draw["images"]]) == draw["sha256"][seed]
