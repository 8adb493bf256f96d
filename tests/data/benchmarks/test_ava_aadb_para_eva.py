"""AVA in four layouts, AADB, PARA and EVA: exact values, and the real label files where they are."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import rated_layouts
from cskd_hf.data.ratings import RatingsError, attributes_of, score_values_of
from cskd_hf.data.ratings.locations import open_ratings
from cskd_hf.data.ratings.schema import descriptions_of


def row_of(ds, key):
    return ds[ds["key"][:].index(key)]


# AVA


def test_ava_official(tmp_path):
    folder = rated_layouts.write_ava(tmp_path)
    lines = (folder / "AVA.txt").read_text().splitlines()
    lines[0] = "1 1001 0 1 5 17 38 36 15 6 5 1 1 22 1396"
    (folder / "AVA.txt").write_text("\n".join(lines))
    ds = open_ratings(f"ava:{folder}")
    row = row_of(ds, "1001")
    votes = np.array([0, 1, 5, 17, 38, 36, 15, 6, 5, 1])
    np.testing.assert_allclose(row["distribution"], votes / 124, rtol=1e-6)
    assert row["mean"] == pytest.approx((votes * range(1, 11)).sum() / 124) and row["n_votes"] == 124
    assert (row["category"], row["second_category"], row["theme"]) == ("Abstract", "tag 22", "100 Meters")
    assert row["image"]["path"].endswith("images/1001.jpg")
    assert [key for key, split in zip(ds["key"], ds["split"]) if split == "test"] == [
        str(n) for n in range(1025, 1033)
    ]
    assert row_of(ds, "1003")["category"] is None  # tag 0


def test_ava_says_which_listed_ids_have_no_votes(tmp_path):
    folder = rated_layouts.write_ava(tmp_path)
    with (folder / "aesthetics_image_lists" / "generic_test.jpgl").open("a") as file:
        file.write("999999\n")
    about = descriptions_of(open_ratings(f"ava:{folder}"))[0]["about"]
    assert "9 test ids" in about and "1 of the test ids have no votes" in about


def test_ava_without_its_official_list_is_refused(tmp_path):
    folder = rated_layouts.write_ava(tmp_path)
    (folder / "aesthetics_image_lists" / "generic_test.jpgl").unlink()
    with pytest.raises(RatingsError, match="official test list is missing; looked for .*generic_test.jpgl"):
        open_ratings(f"ava:{folder}")


def test_ava_with_a_short_row_is_refused_with_its_line(tmp_path):
    folder = rated_layouts.write_ava(tmp_path)
    lines = (folder / "AVA.txt").read_text().splitlines()
    lines[2] = " ".join(lines[2].split()[:-1])
    (folder / "AVA.txt").write_text("\n".join(lines))
    with pytest.raises(RatingsError, match="AVA.txt: 1 problem:\n  line 3, .*has 14 cells, allowed: 15"):
        open_ratings(f"ava:{folder}")


@pytest.mark.parametrize("name", ["ava-tanet", "ava-idealo"])
def test_other_splits_of_ava_say_so(tmp_path, name):
    ds = open_ratings(f"{name}:{rated_layouts.WRITERS[name](tmp_path)}")
    (info,) = descriptions_of(ds)
    assert "NOT the official split" in info["about"] and info["name"] != "AVA"
    (info,) = descriptions_of(open_ratings(f"ava:{rated_layouts.write_ava(tmp_path / 'ava')}"))
    assert "NOT" not in info["about"]


def test_ava_tanet_counts_score2_as_votes_for_1(tmp_path):
    folder = rated_layouts.write_ava_tanet(tmp_path)
    lines = (folder / "test.csv").read_text().splitlines()
    lines[1] = "1033,30,0,0,0,0,0,0,0,0,10,1,0,1396"
    (folder / "test.csv").write_text("\n".join(lines))
    row = row_of(open_ratings(f"ava-tanet:{folder}"), "1033")
    assert row["mean"] == pytest.approx((30 * 1 + 10 * 10) / 40) and row["split"] == "test"


def test_ava_idealo_with_a_wrong_item_is_refused(tmp_path):
    folder = rated_layouts.write_ava_idealo(tmp_path)
    path = folder / "ava_labels_test.json"
    items = json.loads(path.read_text())
    items[1]["label"].append(3)
    path.write_text(json.dumps(items))
    with pytest.raises(RatingsError, match="ava_labels_test.json item 2, .*it has 11 bins, allowed: 10"):
        open_ratings(f"ava-idealo:{folder}")
    path.write_text('[{"id": 1}]')
    with pytest.raises(RatingsError, match=r"item 1 is \{'id': 1\}; allowed: "):
        open_ratings(f"ava-idealo:{folder}")


def test_ava_pyiqa_has_two_splits(tmp_path):
    folder = rated_layouts.write_ava_pyiqa(tmp_path)
    official, other = (open_ratings(f"ava-pyiqa:{folder}{options}") for options in ("", "?split_column=ilgnet"))
    assert [key for key, split in zip(official["key"], official["split"]) if split == "test"][0] == "1025"
    assert Counter(other["split"]) == {"train": 16, "validation": 8, "test": 8}
    assert "NOT the official" in descriptions_of(other)[0]["about"]
    assert "official split" in descriptions_of(official)[0]["name"]
    with pytest.raises(RatingsError, match="`split_column` is 'ilg'"):
        open_ratings(f"ava-pyiqa:{folder}?split_column=ilg")


# AADB


def test_aadb_from_its_texts(tmp_path):
    folder = rated_layouts.write_aadb(tmp_path)
    ds = open_ratings(f"aadb:{folder}")
    assert Counter(ds["split"]) == {"train": 24, "validation": 8, "test": 8}
    scales = attributes_of(ds)
    assert len(scales) == 11 and scales["symmetry"] == (0, 1) and scales["balancing_elements"] == (-1, 1)
    labels = folder / "imgListFiles_label"
    name, score = (labels / "imgListTestNewRegression_score.txt").read_text().splitlines()[2].split()
    row = row_of(ds, name)
    assert row["mean"] == float(score) and row["distribution"] is None
    lines = (labels / "imgListTestNewRegression_ColorHarmony.txt").read_text().splitlines()
    assert f"{name} {row['color_harmony']}" in lines
    assert "AADB_newtest_originalSize/0.500_" in row["image"]["path"]


def test_aadb_aligns_attributes_by_name(tmp_path):
    folder = rated_layouts.write_aadb(tmp_path)
    before = open_ratings(f"aadb:{folder}")["light"][:]
    path = folder / "imgListFiles_label" / "imgListTrainRegression_Light.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert open_ratings(f"aadb:{folder}")["light"][:] == before


def test_aadb_from_its_mat_file(tmp_path):
    folder = rated_layouts.write_aadb_mat(tmp_path)
    ds = open_ratings(f"aadb:{folder}?validation_share=0")
    assert Counter(ds["split"]) == {"train": 24, "test": 8} and attributes_of(ds) == {}
    assert "datasetImages_warp256" in ds[0]["image"]["path"]
    (folder / "AADBinfo.mat").write_bytes(b"no such thing" * 20)
    with pytest.raises(RatingsError, match="cannot be read as AADBinfo.mat"):
        open_ratings(f"aadb:{folder}")


# PARA


def test_para(tmp_path):
    folder = rated_layouts.write_para(tmp_path)
    path = folder / "annotation" / "PARA-GiaaTrain.csv"
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[3:14] = ["0", "3", "2", "1", "7", "8", "4", "2", "0", "3.148", "0.8"]
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]))
    ds = open_ratings(f"para:{folder}")
    row = row_of(ds, f"{cells[1]}/{cells[0]}")
    assert score_values_of(ds) == (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)
    assert row["mean"] == pytest.approx(85 / 27) and row["n_votes"] == 27 and row["category"] == cells[2]
    assert row["quality"] == float(cells[14]) and attributes_of(ds)["willingness_to_share"] == (1, 5)
    assert len(attributes_of(ds)) == 8 and (row["difficulty"], row["object_emphasis"]) == (0.1, 0.8)


def test_para_with_a_mean_that_is_not_that_of_its_votes_is_refused(tmp_path):
    folder = rated_layouts.write_para(tmp_path)
    path = folder / "annotation" / "PARA-GiaaTest.csv"
    lines = path.read_text().splitlines()
    cells = lines[3].split(",")
    cells[12] = "1.0"
    path.write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]))
    with pytest.raises(
        RatingsError, match="PARA-GiaaTest.csv line 4, column 'aestheticScore_mean', value 1.0: the votes"
    ):
        open_ratings(f"para:{folder}")


# EVA


def test_eva_adds_up_its_votes(tmp_path):
    folder = rated_layouts.write_eva(tmp_path, images=40)
    header = "image_id=user_id=score=difficulty=visual=composition=quality=semantic=vote_time=1=2=3=4"
    path = folder / "data" / "votes_filtered.csv"
    rest = [line for line in path.read_text().splitlines()[1:] if not line.startswith("1001=")]
    own = ["1001=E1=0=1=1=2=3==5.1=0=0=0=0", "1001=E2=10=1=2=2=4==5.1=0=0=0=0", "1001=E3=10=1=4=2=4==5.1=0=0=0=0"]
    path.write_text("\n".join([header, *own, *rest]))
    ds = open_ratings(f"eva:{folder}")
    row = row_of(ds, "1001")
    assert row["mean"] == pytest.approx(20 / 3) and row["n_votes"] == 3
    np.testing.assert_allclose(np.array(row["distribution"]) * 3, [1, *[0] * 9, 2], atol=1e-6)
    assert (row["visual"], row["composition"], row["quality"]) == pytest.approx((7 / 3, 2, 11 / 3))
    assert row["semantic"] is None and row["category"] == "other"  # 1001 % 6 == 5
    assert attributes_of(ds) == dict.fromkeys(("visual", "composition", "quality", "semantic"), (1, 4))
    assert "no official split" in descriptions_of(ds)[0]["about"] and "AVA" in descriptions_of(ds)[0]["about"]


def test_eva_splits_do_not_depend_on_the_order_of_its_votes(tmp_path):
    folder = rated_layouts.write_eva(tmp_path)
    before = open_ratings(f"eva:{folder}")
    path = folder / "data" / "votes_filtered.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(lines)]))
    after = open_ratings(f"eva:{folder}")
    assert dict(zip(before["key"], before["split"])) == dict(zip(after["key"], after["split"]))
    assert dict(zip(before["key"], before["mean"])) == pytest.approx(dict(zip(after["key"], after["mean"])))


def test_eva_images_by_category(tmp_path):
    folder = rated_layouts.write_eva(tmp_path)
    for path in sorted((folder / "images" / "EVA_together").iterdir()):
        place = folder / "images" / "EVA_category" / "EVA_category" / str(1 + int(path.stem) % 6)
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    (folder / "images" / "EVA_together").rmdir()
    assert len(open_ratings(f"eva:{folder}")) == 40


def test_eva_with_a_bad_vote_is_refused_with_its_line(tmp_path):
    folder = rated_layouts.write_eva(tmp_path)
    path = folder / "data" / "votes_filtered.csv"
    lines = path.read_text().splitlines()
    cells = lines[6].split("=")
    cells[2] = "11"
    path.write_text("\n".join([*lines[:6], "=".join(cells), *lines[7:]]))
    with pytest.raises(RatingsError, match="line 7, column 'score', value '11': allowed: whole numbers from 0 to 10"):
        open_ratings(f"eva:{folder}")


# The real label files


def test_real_ava_of_idealo(data_folder):
    ds = open_ratings(f"ava-idealo:{data_folder}/labels/ava_idealo_test_histograms.json?images=ignore")
    assert len(ds) == 25_551 and set(ds["split"][:]) == {"test"}
    assert row_of(ds, "231893")["n_votes"] == 223


def test_real_ava_of_tanet(data_folder):
    ds = open_ratings(f"ava-tanet:{data_folder}/labels/ava_tanet_test.csv?images=ignore")
    assert len(ds) == 12_776 and set(ds["split"][:]) == {"test"}
    means = np.array(ds["mean"][:])
    assert means.mean() == pytest.approx(5.378, abs=5e-4) and (means > 5).mean() == pytest.approx(0.704, abs=5e-4)


def test_real_aadb(data_folder):
    location = f"aadb:{data_folder}/labels/AADBinfo.mat?images=ignore"
    assert Counter(open_ratings(f"{location}&validation_share=0")["split"]) == {"train": 8_458, "test": 1_000}
    ds = open_ratings(location)
    assert Counter(ds["split"])["test"] == 1_000 and 0.04 < Counter(ds["split"])["validation"] / 8_458 < 0.06
    assert row_of(ds, "farm1_286_20013434330_d99ab6b9a0_b.jpg")["mean"] == 0.65
