"""Labelled data: every layout ends in the one schema, and everything unusable is refused with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cskd_hf.data.ratings import (
    RatingsError,
    build_ratings,
    load_ratings,
    rated_subset,
    score_values_of,
    select_split,
)
from cskd_hf.models.image_loading_cskd import load_image

SCHEMA = ["image", "distribution", "mean", "std", "n_votes", "split", "key"]


@pytest.fixture
def folder(tmp_path):
    """A folder with six tiny pictures, a.png to f.png, in images/."""
    from PIL import Image

    (tmp_path / "images").mkdir()
    for i, name in enumerate("abcdef"):
        Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def write(folder: Path, text: str, name: str = "ratings.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def histograms_csv(*rows: str) -> str:
    return "\n".join(["image,split,votes_1,votes_2,votes_3", *rows]) + "\n"


GOOD = histograms_csv("images/a.png,train,1,2,1", "images/b.png,train,0,0,5", "images/c.png,test,3,0,1")


# Layouts


def test_numbered_votes(folder):
    ds = load_ratings(write(folder, GOOD))
    assert ds.column_names == SCHEMA
    assert score_values_of(ds) == (1, 2, 3)
    assert isinstance(ds.features["image"], datasets.Image) and not ds.features["image"].decode
    np.testing.assert_allclose(ds["distribution"][:], [[0.25, 0.5, 0.25], [0, 0, 1], [0.75, 0, 0.25]])
    np.testing.assert_allclose(ds["mean"][:], [2, 3, 1.5])
    np.testing.assert_allclose(ds["std"][:], [np.sqrt(0.5), 0, np.sqrt(0.75)])
    assert ds["n_votes"][:] == [4, 5, 4]
    assert ds["split"][:] == ["train", "train", "test"]
    assert ds["key"][:] == ["images/a.png", "images/b.png", "images/c.png"]
    assert load_image(ds[1]["image"]).getpixel((0, 0)) == (40, 0, 0)


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        (["votes_1", "votes_1.5", "votes_2"], (1, 1.5, 2)),
        (["c1", "c2", "c3"], (1, 2, 3)),
        (["score_10", "score_2", "score_1"], (1, 2, 10)),
        (["Votes_-1", "Votes_0", "Votes_1"], (-1, 0, 1)),
    ],
)
def test_bin_values_come_from_the_suffix(folder, columns, values):
    ds = load_ratings(write(folder, f"image,{','.join(columns)}\nimages/a.png,1,2,5\n"))
    assert score_values_of(ds) == values
    counts = {float(name.lower().lstrip("votescr_")): count for name, count in zip(columns, (1, 2, 5))}
    np.testing.assert_allclose(ds["distribution"][0], [counts[value] / 8 for value in values])


def test_every_format_gives_the_same_set(folder):
    rows = [
        {"image": "images/a.png", "distribution": [1, 2, 1], "split": "train", "theme": "sea"},
        {"image": "images/b.png", "distribution": [0, 0, 5], "split": "test", "theme": "sky"},
    ]
    csv_rows = [f'{r["image"]},"{json.dumps(r["distribution"])}",{r["split"]},{r["theme"]}' for r in rows]
    csv_path = write(folder, "image,distribution,split,theme\n" + "\n".join(csv_rows))
    tsv_rows = [f"{r['image']}\t{' '.join(map(str, r['distribution']))}\t{r['split']}\t{r['theme']}" for r in rows]
    tsv_path = write(folder, "image\tdistribution\tsplit\ttheme\n" + "\n".join(tsv_rows), "r.tsv")
    jsonl_path = write(folder, "\n".join(json.dumps(r) for r in rows) + "\n\n", "r.jsonl")
    parquet_path = folder / "r.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet_path)
    sets = [load_ratings(path, score_values=[1, 2, 3]) for path in (csv_path, tsv_path, jsonl_path, parquet_path)]
    built = build_ratings(rows, [1, 2, 3], name="built", image_dir=folder)
    for ds in sets:
        assert ds.column_names == [*SCHEMA, "theme"]
        assert ds[:] == built[:]


def test_saved_folder_is_read_back(folder):
    ds = load_ratings(write(folder, GOOD))
    ds.save_to_disk(folder / "saved")
    (folder / "images" / "a.png").unlink()  # a saved set holds its images
    back = load_ratings(folder / "saved")
    assert score_values_of(back) == (1, 2, 3)
    assert back.remove_columns("image")[:] == ds.remove_columns("image")[:]
    assert load_image(back[1]["image"]).getpixel((0, 0)) == (40, 0, 0)
    assert load_ratings(folder / "saved", split="test")["key"][:] == ["images/c.png"]
    with pytest.raises(RatingsError, match=r"saved with \[1.0, 2.0, 3.0\]"):
        load_ratings(folder / "saved", score_values=[1, 2])


def test_saved_folder_of_foreign_columns_and_splits(folder):
    parts = {
        name: datasets.Dataset.from_dict({"file_name": [str(folder / "images" / f"{file}.png")], "mos": [3.0]})
        for name, file in (("train", "a"), ("test", "b"))
    }
    datasets.DatasetDict(parts).save_to_disk(folder / "saved")
    ds = load_ratings(folder / "saved", score_values=[1, 5])
    assert ds["split"][:] == ["train", "test"] and ds["mean"][:] == [3, 3]


def test_mean_only(folder):
    path = write(folder, "path,MOS,std,n_votes\nimages/a.png,3.5,0.7,12\nimages/b.png,1,,\n")
    ds = load_ratings(path, score_values=[1, 5])
    assert ds["distribution"][:] == [None, None]
    assert (ds["mean"][:], ds["std"][:], ds["n_votes"][:]) == ([3.5, 1.0], [0.7, None], [12, None])
    assert ds["split"][:] == ["train", "train"]
    with pytest.raises(RatingsError, match="pass `score_values`"):
        load_ratings(path)


def test_rows_with_and_without_votes_mix(folder):
    ds = load_ratings(write(folder, "image,mean,votes_1,votes_2\nimages/a.png,1.5,2,2\nimages/b.png,1.2,,\n"))
    assert ds["distribution"][:] == [[0.5, 0.5], None]
    assert (ds["mean"][:], ds["n_votes"][:]) == ([1.5, 1.2], [4, None])


def test_shares_keep_the_stated_number_of_votes(folder):
    path = write(folder, "image,n_votes,c1,c2,c3\nimages/a.png,40,0.25,0.5,0.249\nimages/b.png,,0.0,0.0,1.0\n")
    ds = load_ratings(path)
    assert ds["n_votes"][:] == [40, None]
    np.testing.assert_allclose(np.sum(ds["distribution"][:], axis=1), 1, atol=1e-6)


def test_columns_can_be_mapped(folder):
    path = write(folder, "Image,my_score,aes_1.0,aes_1.5,aes_2.0,id\nimages/a.png,70,1,2,1,x\n")
    ds = load_ratings(path, columns={"distribution": "aes_*", "key": "id"})
    assert score_values_of(ds) == (1, 1.5, 2) and ds["mean"][0] == 1.5 and ds["key"][0] == "x"
    assert ds["my_score"][0] == 70  # kept as an extra column
    listed = {"distribution": ["aes_1.0", "aes_1.5", "aes_2.0"]}
    assert load_ratings(path, columns=listed, score_values=[4, 5, 6])["mean"][0] == 5
    assert load_ratings(path, columns={"mean": "my_score"}, score_values=[0, 100])["mean"][0] == 70
    with pytest.raises(RatingsError, match="pass `score_values` with 3 ratings"):
        load_ratings(path, columns=listed)


def test_a_column_can_be_left_out(folder):
    path = write(folder, "image,mos,c1,c2\nimages/a.png,77.4,1,1\n")  # a mean on another scale than the votes
    with pytest.raises(RatingsError, match="have mean 1.5000"):
        load_ratings(path)
    assert load_ratings(path, columns={"mean": None})["mean"][0] == 1.5


def test_extra_columns_become_numbers_only_when_they_are(folder):
    rows = "images/a.png,2,7,0.5,007,\nimages/b.png,2,8,1,010,x\n"
    ds = load_ratings(write(folder, "image,mean,tag,sharp,code,note\n" + rows), score_values=[1, 3])
    assert ds["tag"][:] == [7, 8] and ds["sharp"][:] == [0.5, 1.0]
    assert ds["code"][:] == ["007", "010"] and ds["note"][:] == [None, "x"]


def test_image_dir_and_absolute_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "lists").mkdir()
    path = write(folder / "lists", f"image,mean\na.png,2\n{folder}/images/b.png,2\n")
    for image_dir in (folder / "images", "images"):
        ds = load_ratings(path, image_dir=image_dir, score_values=[1, 3])
        assert [cell["path"] for cell in ds["image"][:]] == [f"{folder}/images/{n}.png" for n in "ab"]
        assert ds["key"][0] == "a.png"


def test_bytes_and_urls(folder):
    data = (folder / "images" / "b.png").read_bytes()
    rows = {
        "image": [data, {"path": None, "bytes": data}, "https://host/c.png"],
        "key": ["a", "b", "c"],
        "mean": [1, 2, 1],
    }
    ds = build_ratings(rows, [1, 2], name="x")
    assert [load_image(cell).getpixel((0, 0)) for cell in ds["image"][:2]] == [(40, 0, 0)] * 2
    assert ds[2]["image"]["path"] == "https://host/c.png"
    with pytest.raises(RatingsError, match="row 1, column 'key'"):
        build_ratings({"image": [data], "mean": [1]}, [1, 2], name="x")


# Carrying score_values, splits, draws


def test_score_values_survive(folder):
    ds = load_ratings(write(folder, GOOD))
    for changed in (
        ds.select([0, 2]),
        ds.filter(lambda row: row["mean"] > 1),
        ds.map(lambda row: {"new": 1}),
        ds.shuffle(seed=0),
        datasets.concatenate_datasets([ds, ds]),
    ):
        assert score_values_of(changed) == (1, 2, 3)


def test_score_values_of_other_sets():
    plain = datasets.Dataset.from_dict({"mean": [1.0]})
    with pytest.raises(RatingsError, match="carries no score_values"):
        score_values_of(plain)
    sets = [build_ratings({"image": ["http://h/a"], "mean": [1]}, v, name="x") for v in ([1, 2], [1, 3])]
    with pytest.raises(RatingsError, match="mixes the scales"):
        score_values_of(datasets.concatenate_datasets(sets))


def test_select_split(folder):
    ds = load_ratings(write(folder, GOOD))
    assert select_split(ds, "train")["key"][:] == ["images/a.png", "images/b.png"]
    with pytest.raises(RatingsError, match=r"'tets' \(did you mean 'test'\?\); allowed: \['test', 'train'\]"):
        select_split(ds, "tets")


def test_rated_subset_depends_on_seed_and_keys_only():
    n = 200
    rows = [{"image": f"http://h/{i}.png", "mean": 1} for i in range(n)]
    forward, backward = (build_ratings(r, [1, 2], name="x") for r in (rows, rows[::-1]))
    draw = rated_subset(forward, 50, seed=1)["key"][:]
    assert len(set(draw)) == 50
    assert rated_subset(backward, 50, seed=1)["key"][:] == draw
    assert rated_subset(forward, 20, seed=1)["key"][:] == draw[:20]
    assert rated_subset(forward, 50, seed=2)["key"][:] != draw
    assert draw[0] == "http://h/40.png"  # the draw is part of published results: it may never change
    for bad in (0, n + 1):
        with pytest.raises(RatingsError, match="allowed: 1 to 200"):
            rated_subset(forward, bad, seed=0)


# Refusals


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/x.png,train,1,2,3", r"line 3, column 'image', value 'images/x.png': there is no file .*images/x.png"),
        (",train,1,2,3", "line 3, column 'image', value None: there is no image"),
        ("images/b.png,train,1,-2,3", r"line 3, column 'votes_2', value -2.0: allowed: finite vote counts"),
        ("images/b.png,train,1,nan,3", "line 3, column 'votes_2', value 'nan': allowed: finite numbers"),
        ("images/b.png,train,1,inf,3", "line 3, column 'votes_2', value 'inf': allowed: finite numbers"),
        ("images/b.png,train,1,two,3", "line 3, column 'votes_2', value 'two': this is no number"),
        ("images/b.png,train,1,,3", "line 3, column 'votes_2', value None: the cell is empty; write 0"),
        ("images/b.png,train,0,0,0", r"line 3, column 'votes_1..votes_3', .*there are no votes"),
        ("images/a.png,train,1,2,3", "line 3, column 'image', value 'images/a.png': another row has this key"),
        ("images/a.png,test,1,2,3", "line 3, .* the splits 'train' and 'test' share this key"),
        ("images/b.png,,1,2,3", "line 3, column 'split', value None: it is empty"),
        ("images/b.png,train,,,", "line 3, column 'mean', value None: neither a mean nor votes"),
        (
            "images/b.png,train,0.5,0.2,0",
            r"line 3, .*it sums to 0.7; allowed: whole vote counts in all rows, or shares",
        ),
        ("images/b.png,train,1,2", "line 3, .*the row has 4 cells, allowed: 5"),
    ],
)
def test_bad_row_is_refused_with_its_place(folder, row, message):
    path = write(folder, histograms_csv("images/a.png,train,1,2,1", row, "images/c.png,train,1,2,1"))
    with pytest.raises(RatingsError, match=message) as error:
        load_ratings(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"mean": 5.2}, "column 'mean', value 5.2: outside the scale 1 to 5"),
        ({"mean": 0.9}, "column 'mean', value 0.9: outside the scale 1 to 5"),
        ({"mean": float("nan")}, "column 'mean', value nan: allowed: finite"),
        ({"mean": "3,5"}, "column 'mean', value '3,5': this is no number"),
        ({"mean": 3, "std": -1}, "column 'std', value -1.0: allowed: numbers from 0"),
        ({"mean": 3, "n_votes": 2.5}, "column 'n_votes', value 2.5: allowed: whole numbers from 1"),
        ({"mean": 3, "n_votes": 0}, "column 'n_votes', value 0.0: allowed: whole numbers from 1"),
        ({"distribution": [1, 2]}, r"column 'distribution', value \[1, 2\]: it has 2 bins, allowed: 5"),
        ({"distribution": [1, 2, 3, 4, None]}, "column 'distribution'.*finite vote counts"),
        ({"distribution": "a b c"}, "column 'distribution', value 'a b c': allowed: a list of numbers"),
        (
            {"distribution": [1, 0, 0, 0, 1], "mean": 3.2},
            "column 'mean', value 3.2: the votes of this row have mean 3.0",
        ),
        ({"distribution": [1, 0, 0, 0, 1], "n_votes": 3}, "column 'n_votes', value 3.0: the votes sum to 2"),
    ],
)
def test_bad_values_of_lists_and_means(folder, row, message):
    path = write(folder, json.dumps({"image": "images/a.png", **row}) + "\n", "r.jsonl")
    with pytest.raises(RatingsError, match="line 1, " + message):
        load_ratings(path, score_values=[1, 2, 3, 4, 5])


def test_stated_mean_within_rounding_passes(folder):
    for mean, passes in ((3.079, True), (3.081, False)):  # 0.02 of the scale's width of 4
        row = {"image": "images/a.png", "distribution": [1, 0, 0, 0, 1], "mean": mean}
        path = write(folder, json.dumps(row), "r.jsonl")
        if passes:
            assert load_ratings(path, score_values=[1, 2, 3, 4, 5])["mean"][0] == 3
        else:
            with pytest.raises(RatingsError):
                load_ratings(path, score_values=[1, 2, 3, 4, 5])


def test_five_problems_and_the_total(folder):
    rows = [f"images/missing{i}.png,train,1,2,3" for i in range(8)]
    with pytest.raises(RatingsError, match="8 problems, the first 5 are") as error:
        load_ratings(write(folder, histograms_csv(*rows)))
    assert str(error.value).count("\n") == 5
    assert "line 2, " in str(error.value) and "line 6, " in str(error.value) and "line 7, " not in str(error.value)


def test_line_numbers_count_lines_not_rows(folder):
    text = 'image,mean,note\nimages/a.png,2,"two\nlines"\n\nimages/b.png,9,x\n'
    with pytest.raises(RatingsError, match="line 5, column 'mean'"):
        load_ratings(write(folder, text), score_values=[1, 3])


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("img,mean\n", {}, r"no column image \| path .*for the 'image'; the file has \['img', 'mean'\]"),
        ("image,maen\n", {}, r"did you mean 'maen'\?.* for the 'mean'"),
        ("image,mean\n", {"columns": {"mean": "meen"}}, r"no column meen \(did you mean 'mean'\?\)"),
        ("image,mean\n", {"columns": {"men": "mean"}}, r"`columns` names 'men' \(did you mean 'mean'\?\)"),
        ("image,mean\n", {"columns": {"distribution": "aes_*"}}, r"no column aes_\*"),
        ("image,mean,score\n", {}, r"\['mean', 'score'\] all may be the 'mean'; choose one with columns="),
        ("image,c1,c2,votes_1,votes_2\n", {}, r"\['c\*', 'votes_\*'\] all may be votes; choose"),
        ("image,votes,votes_1,votes_2\n", {}, "all may be votes; choose"),
        ("image,mean,mean\n", {}, r"\['mean'\] appear more than once"),
        ("image,votes_1,votes_2\n", {"score_values": [1, 3]}, r"stand for \[1.0, 2.0\]; leave it out"),
        ("image,mean\n", {"score_values": [3, 1]}, "in increasing order"),
        ("image,mean\n", {"score_values": [1, 3]}, "there are no rows"),
        ("", {}, "it is empty"),
    ],
)
def test_unusable_headers_and_settings(folder, text, settings, message):
    with pytest.raises(RatingsError, match=message):
        load_ratings(write(folder, text), **settings)


def test_unreadable_files(folder):
    with pytest.raises(RatingsError, match="no such file"):
        load_ratings(folder / "gone.csv")
    with pytest.raises(RatingsError, match="unknown kind of file '.xlsx'"):
        load_ratings(write(folder, "", "r.xlsx"))
    with pytest.raises(RatingsError, match="not written by save_to_disk"):
        load_ratings(folder / "images")
    with pytest.raises(RatingsError, match="line 2 is not JSON"):
        load_ratings(write(folder, "{}\n{oops\n", "r.jsonl"))
    with pytest.raises(RatingsError, match="line 1 is a list"):
        load_ratings(write(folder, "[1]\n", "r.jsonl"))
    with pytest.raises(RatingsError, match="cannot be read as .parquet"):
        load_ratings(write(folder, "text", "r.parquet"))
    (folder / "r.csv").write_bytes("image,mean\nbücher.png,2\n".encode("latin-1"))
    with pytest.raises(RatingsError, match="not UTF-8"):
        load_ratings(folder / "r.csv")


def test_byte_order_mark_is_no_part_of_the_header(folder):
    ds = load_ratings(write(folder, "\ufeffimage,mean\nimages/a.png,2\n"), score_values=[1, 3])
    assert ds["key"][:] == ["images/a.png"]


# Real ratings


def test_oasis():
    root = os.environ.get("CSKD_HF_DATA")
    path = Path(root or "") / "oasis_beauty" / "ratings.csv"
    if not root or not path.is_file():
        pytest.skip("CSKD_HF_DATA does not name a folder with oasis_beauty/ratings.csv")
    ds = load_ratings(path)
    assert score_values_of(ds) == (1, 2, 3, 4, 5, 6, 7)
    assert {name: len(select_split(ds, name)) for name in ("train", "validation", "test")} == {
        "train": 339,
        "validation": 57,
        "test": 200,
    }
    first = ds[0]
    assert (first["key"], first["n_votes"], first["theme"]) == ("images/oasis_0000.jpg", 140, "Acorns1")
    assert first["mean"] == pytest.approx(4.8643, abs=5e-5)  # as stated in the file
    assert first["distribution"] == pytest.approx([n / 140 for n in (4, 10, 9, 20, 48, 33, 16)])
    assert load_image(first["image"]).size[1] > 0
