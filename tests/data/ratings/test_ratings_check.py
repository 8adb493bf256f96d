"""`cskd-hf data check` finds every planted fault, and names its file and row."""

from __future__ import annotations

import json
import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

import rated_layouts
from cskd_hf.cli import main
from cskd_hf.data.ratings import RatingsError, build_ratings, load_ratings
from cskd_hf.data.ratings.audit import check_ratings


def photograph(seed: int, size: int = 96) -> Image.Image:
    """A picture with enough detail for a perceptual hash, like no other."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


ROWS = {  # line of each row, and the row
    2: "0.png,train,\"[1, 2, 3]\"",
    3: "1.png,train,\"[3, 2, 1]\"",
    4: "2.png,test,\"[3, 0, 1]\"",
    5: "3.png,test,\"[0, 0, 9]\"",
    6: "4.png,validation,\"[0, 5, 9]\"",
}  # fmt: skip
FAULTS = {  # the row to add, and the kind of fault and what its advice says
    "missing image": ("nowhere.png,train,\"[1, 2, 3]\"", "there is no file .*nowhere.png"),
    "not a number": ("5.png,train,\"[1, NaN, 3]\"", "finite vote counts"),
    "negative votes": ("5.png,train,\"[1, -2, 3]\"", "finite vote counts"),
    "wrong bin count": ("5.png,train,\"[1, 2]\"", "it has 2 bins, allowed: 3"),
    "duplicated key": ("1.png,train,\"[1, 2, 3]\"", "another row has this key, line 3"),
    "shared between splits": ("1.png,test,\"[1, 2, 3]\"", "the splits 'train' and 'test' share this key, first in line 3"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for number in range(7):
        photograph(number).save(tmp_path / f"{number}.png")
    return tmp_path


def write(folder, *rows):
    path = folder / "ratings.csv"
    path.write_text("\n".join(["image,split,votes", *ROWS.values(), *rows]) + "\n")
    return path


def check(folder, *rows, **options):
    return check_ratings(write(folder, *rows), score_values=[1, 2, 3], **options)


def test_a_sound_set_has_no_faults(folder):
    report = check(folder)
    assert report["faults"] == report["warnings"] == []
    assert (report["rows"], report["splits"]) == (5, {"train": 2, "test": 2, "validation": 1})
    assert report["images"] == {"found": 5, "unreadable": 0, "copies": 0, "without_perceptual_hash": 0}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_planted_fault_is_found_with_its_row_and_file(folder, kind):
    import re

    row, advice = FAULTS[kind]
    report = check(folder, row)
    (fault,) = report["faults"]
    assert (fault["kind"], fault["file"], fault["row"]) == (kind, str(folder / "ratings.csv"), "line 7")
    assert re.search(advice, fault["advice"])
    assert report["rows"] == 5 and report["counts"] == {kind: 1}


def test_all_faults_are_found_at_once_not_the_first_five(folder):
    report = check(folder, *(row for row, _ in FAULTS.values()), *(['missing.png,train,"[1, 2, 3]"'] * 20))
    assert report["counts"]["missing image"] == 21 and report["missing_images"] == 21
    assert set(report["counts"]) == set(FAULTS)
    assert {fault["row"] for fault in report["faults"]} == {f"line {line}" for line in range(7, 33)}
    assert report["rows"] == 5  # and the sound rows are looked at all the same
    json.dumps(report, allow_nan=False)


def test_unreadable_images_are_found(folder):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:300])
    (folder / "3.png").write_text("no image")
    report = check(folder)
    assert [(fault["kind"], fault["row"]) for fault in report["faults"]] == [
        ("unreadable image", "line 3"),
        ("unreadable image", "line 5"),
    ]
    assert report["faults"][0]["value"] == str(folder / "1.png")
    assert check(folder, labels_only=True)["faults"] == []


def test_copies_are_a_fault_between_splits_and_a_warning_within_one(folder):
    shutil.copy(folder / "0.png", folder / "1.png")  # both train
    photograph(2).resize((64, 64)).save(folder / "4.png")  # a smaller copy of a test image, for validation
    report = check(folder)
    (fault,), (warning,) = report["faults"], report["warnings"]
    assert (fault["kind"], fault["row"], fault["value"]) == ("shared between splits", "line 6", "4.png")
    assert (
        "the same picture" in fault["advice"] and "'2.png' (line 4), which is in the split 'test'" in fault["advice"]
    )
    assert (warning["kind"], warning["row"]) == ("copied image", "line 3") and "the same bytes" in warning["advice"]
    assert check(folder, duplicates="exact")["faults"] == []


def test_test_images_among_the_unlabelled_are_found(folder, tmp_path_factory):
    unlabeled = tmp_path_factory.mktemp("unlabeled")
    photograph(50).save(unlabeled / "own.png")
    assert check(folder, unlabeled=[str(unlabeled)])["faults"] == []
    photograph(3).resize((80, 80)).save(unlabeled / "holiday.jpg")
    shutil.copy(folder / "0.png", unlabeled / "train.png")  # a training image may be there
    (fault,) = check(folder, unlabeled=[str(unlabeled)])["faults"]
    assert (fault["kind"], fault["row"], fault["value"]) == ("test image among the unlabelled", "line 5", "3.png")
    assert f"{unlabeled}/holiday.jpg" in fault["advice"]
    with pytest.raises(ValueError, match="labels_only"):
        check(folder, unlabeled=[str(unlabeled)], labels_only=True)


def test_a_saved_set_is_checked_for_keys_that_stand_twice(folder):
    data = {"image": ["0.png", "1.png", "2.png"], "mean": [1, 2, 3], "split": ["train", "train", "test"]}
    own = build_ratings(data, [1, 3], name="own", image_dir=folder)
    datasets.concatenate_datasets([own, own.select([1])]).save_to_disk(folder / "saved")
    report = check_ratings(folder / "saved")
    (fault,) = report["faults"]
    assert (fault["kind"], fault["row"], report["rows"]) == ("duplicated key", "row 4", 3)
    with pytest.raises(RatingsError, match="row 4, column 'key', value '1.png': another row has this key, row 2"):
        load_ratings(folder / "saved")


def test_a_set_without_a_sound_row_is_reported(folder):
    (folder / "ratings.csv").write_text('image,split,votes\nx.png,train,"[1, 2, 3]"\n')
    report = check_ratings(folder / "ratings.csv", score_values=[1, 2, 3])
    assert report["rows"] == 0 and report["counts"] == {"missing image": 1}
    with pytest.raises(RatingsError, match="there is no such file"):
        check_ratings(folder / "nowhere.csv")


# The data sets of the field


def replace_line(path, number, text):
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("name", "file", "line", "text", "kind"),
    [
        ("ava", "AVA.txt", 3, "3 1003 1 2 3 4 5 6 7 8 9 1 0 1396", "wrong bin count"),
        ("ava", "AVA.txt", 3, "3 1003 1 2 -3 4 5 6 7 8 9 10 1 0 1396", "negative votes"),
        ("ava", "AVA.txt", 3, "3 1003 1 2 nan 4 5 6 7 8 9 10 1 0 1396", "not a number"),
        ("ava", "AVA.txt", 3, "3 1001 1 2 3 4 5 6 7 8 9 10 1 0 1396", "duplicated key"),
        ("ava", "AVA.txt", 3, "3 77 1 2 3 4 5 6 7 8 9 10 1 0 1396", "missing image"),
        ("ava-tanet", "test.csv", 2, "1001,1,2,3,4,5,6,7,8,9,10,1,0,5", "shared between splits"),
        ("ava-tanet", "val.csv", 2, "1025,1,2,,4,5,6,7,8,9,10,1,0,5", "not a number"),
        ("aadb", "imgListFiles_label/imgListTrainRegression_score.txt", 4, "farm1_1004_b.jpg nan", "not a number"),
        ("aadb", "imgListFiles_label/imgListTestNewRegression_score.txt", 1, "farm1_1004_b.jpg .5", "shared between splits"),
        ("aadb", "imgListFiles_label/imgListTrainRegression_Light.txt", 4, "farm1_1004_b.jpg 7", "bad value"),
        ("eva", "data/votes_filtered.csv", 5, "1001=E9=-1=3=2=2=2=2=1=0=0=0=0", "negative votes"),
        ("eva", "data/votes_filtered.csv", 5, "1001=E9=nan=3=2=2=2=2=1=0=0=0=0", "not a number"),
    ],
)  # fmt: skip
def test_faults_in_published_layouts(tmp_path, name, file, line, text, kind):
    folder = rated_layouts.WRITERS[name](tmp_path)
    replace_line(folder / file, line, text)
    report = check_ratings(f"{name}:{folder}", labels_only=True)
    (fault,) = report["faults"]
    assert fault["kind"] == kind
    place = f"{fault['file']} {fault['row']}"
    assert place.endswith(f"line {line}") and str(folder) in place
    assert file.rpartition("/")[2] in place or name == "aadb"  # of AADB, the list of scores names an image's row


def test_an_image_in_train_and_test_of_para(tmp_path):
    folder = rated_layouts.write_para(tmp_path)
    train, test = (folder / "annotation" / f"PARA-Giaa{part}.csv" for part in ("Train", "Test"))
    replace_line(test, 5, train.read_text().splitlines()[2])
    (fault,) = check_ratings(f"para:{folder}", labels_only=True)["faults"]
    assert (fault["kind"], fault["row"]) == ("shared between splits", "PARA-GiaaTest.csv line 5")
    assert "first in PARA-GiaaTrain.csv line 3" in fault["advice"]


# The command


def test_command(folder, capsys):
    path = write(folder, FAULTS["negative votes"][0])
    arguments = ["data", "check", str(path), "--score-values", "1", "2", "3", "--quiet"]
    assert main([*arguments, "--output", str(folder / "report" / "faults.json")]) == 1
    out = capsys.readouterr().out
    assert f"{path}: line 7, column 'votes', value -2.0" in out and "1 fault:" in out
    assert json.loads((folder / "report" / "faults.json").read_text())["counts"] == {"negative votes": 1}
    write(folder)
    assert main(arguments) == 0


def test_command_on_a_data_set_of_the_field(tmp_path, capsys):
    folder = rated_layouts.write_ava_idealo(tmp_path)
    (folder / "images" / "1003.jpg").unlink()
    for arguments in (["ava-idealo", str(folder)], [f"ava-idealo:{folder}"]):
        assert main(["data", "check", *arguments, "--quiet", "--labels-only"]) == 1
        out = capsys.readouterr().out
        assert "NOT the official split" in out and "ava_labels_train.json item 3" in out
    assert main(["data", "check", "ava-idealo", str(folder), "--images", "drop", "--quiet"]) == 0
    assert "1 of 32 listed images are not on disk and were left out" in capsys.readouterr().out
    assert main(["data", "check", "ava-idealo"]) == 2
    assert "the folder of the data set 'ava-idealo' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--columns", "mean"], "--columns has 'mean'; allowed: COLUMN=NAME"),
        (["--attributes", "color=1"], "--attributes has 'color=1'; allowed: NAME=LOW:HIGH"),
    ],
)
def test_bad_options_are_refused(folder, capsys, options, message):
    assert main(["data", "check", str(write(folder)), *options]) == 2
    assert message in capsys.readouterr().err
