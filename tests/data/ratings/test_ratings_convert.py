"""`cskd-hf data convert`: Parquet with the images inside, read back by `load_dataset` and by this package."""

from __future__ import annotations

import json

import datasets
import pyarrow.parquet as pq
import pytest

import rated_layouts
from cskd_hf.cli import main
from cskd_hf.data.ratings import RatingsError, attributes_of, build_ratings, load_ratings, score_values_of
from cskd_hf.data.ratings.convert import convert_ratings
from cskd_hf.data.ratings.locations import open_ratings
from cskd_hf.data.ratings.schema import descriptions_of
from cskd_hf.models.image_loading_cskd import load_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def para(tmp_path_factory):
    return rated_layouts.write_para(tmp_path_factory.mktemp("para"))


@pytest.fixture
def converted(para, tmp_path):
    return convert_ratings(f"para:{para}", tmp_path / "converted")


def by_key(ds):
    return {row["key"]: {name: value for name, value in row.items() if name != "image"} for row in ds}


def test_read_back_as_rated_images(para, converted):
    before, after = open_ratings(f"para:{para}"), open_ratings(converted)
    assert by_key(after) == by_key(before)
    assert score_values_of(after) == score_values_of(before)
    assert attributes_of(after) == attributes_of(before) and attributes_of(after)
    assert descriptions_of(after) == descriptions_of(before)
    assert after.features == before.features
    first = {row["key"]: row["image"] for row in before}
    for row in after:
        assert row["image"]["bytes"] == open(first[row["key"]]["path"], "rb").read()
        assert load_image(row["image"]).size == rated_layouts.SIZE
    assert len(load_ratings(converted, split="test")) == 8


def test_read_by_load_dataset(para, converted):
    loaded = datasets.load_dataset(str(converted))
    assert {split: len(part) for split, part in loaded.items()} == {
        "train": loaded["train"].num_rows,
        "validation": 24 - loaded["train"].num_rows,
        "test": 8,
    }
    assert loaded["test"][0]["image"].size == rated_layouts.SIZE  # a picture, decoded
    assert set(loaded["test"]["split"]) == {"test"}
    row = loaded["test"][0]
    assert row["distribution"] == pytest.approx(by_key(open_ratings(f"para:{para}"))[row["key"]]["distribution"])


def test_one_file_alone_is_a_rated_set(converted):
    ds = load_ratings(converted / "data" / "test-00000-of-00001.parquet")
    assert len(ds) == 8 and len(score_values_of(ds)) == 9 and len(attributes_of(ds)) == 8
    assert not ds.features["image"].decode


def test_the_files_stand_without_the_originals(tmp_path):
    import shutil

    folder = rated_layouts.write_eva(tmp_path / "eva")
    output = convert_ratings(f"eva:{folder}", tmp_path / "converted")
    shutil.rmtree(folder)
    assert load_image(open_ratings(output)[0]["image"]).size == rated_layouts.SIZE


def test_large_splits_are_written_in_several_files(para, tmp_path, monkeypatch):
    monkeypatch.setattr("cskd_hf.data.ratings.convert._BATCH", 4)
    output = convert_ratings(f"para:{para}?validation_share=0", tmp_path / "out", shard_mb=0.005)
    names = sorted(path.name for path in (output / "data").glob("train-*"))
    assert len(names) > 1 and names[0] == f"train-00000-of-{len(names):05d}.parquet"
    assert all(pq.read_metadata(output / "data" / name).num_row_groups >= 1 for name in names)
    assert by_key(open_ratings(output)) == by_key(open_ratings(f"para:{para}?validation_share=0"))
    assert datasets.load_dataset(str(output), split="train").num_rows == 24


def test_data_card(converted):
    text = (converted / "README.md").read_text()
    import yaml

    front = yaml.safe_load(text.split("---")[1])
    assert front["configs"][0]["data_files"][-1] == {"split": "test", "path": "data/test-*.parquet"}
    assert front["size_categories"] == ["n<1K"] and "The official split of PARA." in text
    assert json.loads((converted / "ratings.json").read_text())["score_values"][:2] == [1, 1.5]


def test_mean_only_sets_and_nulls(tmp_path):
    folder = rated_layouts.write_aadb(tmp_path / "aadb")
    labels = folder / "imgListFiles_label" / "imgListTrainRegression_Light.txt"
    labels.write_text("\n".join(labels.read_text().splitlines()[1:]))
    before = open_ratings(f"aadb:{folder}")
    after = open_ratings(convert_ratings(f"aadb:{folder}", tmp_path / "out"))
    assert by_key(after) == by_key(before) and None in after["light"][:] and after["distribution"][0] is None


def test_an_unreadable_image_leaves_nothing_behind(tmp_path):
    folder = rated_layouts.write_ava(tmp_path / "ava")
    (folder / "images" / "1004.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(RatingsError, match="1004, column 'image', value '.*1004.jpg': the image cannot be read"):
        convert_ratings(f"ava:{folder}", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    output = convert_ratings(f"ava:{folder}", tmp_path / "out", images="drop")
    assert len(open_ratings(output)) == 31
    assert "1 unreadable images were left out." in (output / "README.md").read_text()


def test_a_broken_run_leaves_what_was_there(converted, para, monkeypatch):
    before = sorted(path.name for path in (converted / "data").iterdir())

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("cskd_hf.data.ratings.convert.data_card", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_ratings(f"para:{para}", converted, overwrite=True)
    assert sorted(path.name for path in (converted / "data").iterdir()) == before
    assert [path.name for path in converted.parent.iterdir()] == [converted.name]


def test_refusals(converted, para, tmp_path):
    with pytest.raises(ValueError, match="exists; give another output, or --overwrite"):
        convert_ratings(f"para:{para}", converted)
    with pytest.raises(ValueError, match="shard_mb is 0"):
        convert_ratings(f"para:{para}", tmp_path / "a", shard_mb=0)
    own = build_ratings({"image": [b"x"], "key": ["x"], "mean": [1], "split": ["a split"]}, [1, 3], name="own")
    own.save_to_disk(tmp_path / "own")
    with pytest.raises(RatingsError, match="'a split' has a name that the Hub does not allow"):
        convert_ratings(tmp_path / "own", tmp_path / "b")


def test_command_on_ones_own_ratings(tmp_path, capsys, ratings):
    output = tmp_path / "out"
    assert main(["data", "convert", ratings, "--output", str(output), "--quiet"]) == 0
    assert "3 file" not in capsys.readouterr().out
    ds = open_ratings(output)
    assert len(ds) == 48 and score_values_of(ds) == (1, 2, 3, 4, 5)
    assert main(["data", "check", str(output), "--quiet", "--labels-only"]) == 0
    assert main(["data", "convert", ratings, "--output", str(output), "--quiet"]) == 2
