"""The card of a converted rated set, and its push."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard

import rated_layouts
from conftest import draw_photograph
from cskd_hf.cli import main
from cskd_hf.data.ratings.convert import convert_ratings
from cskd_hf.data.ratings.locations import open_ratings
from cskd_hf.hub import dataset_push
from cskd_hf.hub.dataset_card import dataset_card, missing_set_facts, read_rated_set
from cskd_hf.hub.dataset_push import push_ratings
from hub_environments import run_script
from hub_server import hub_server


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """PARA's layout with made-up pictures: nine bins, eight attributes."""
    place = tmp_path_factory.mktemp("sets")
    return convert_ratings(f"para:{rated_layouts.write_para(place / 'para')}", place / "converted")


@pytest.fixture(scope="module")
def means(tmp_path_factory) -> Path:
    """A set of means alone, that says neither licence nor source."""
    place = tmp_path_factory.mktemp("means")
    names, rng = [f"{number}.png" for number in range(6)], np.random.default_rng(0)
    for name in names:
        draw_photograph(rng, 0.5).save(place / name)
    rows = [f"{name},{'test' if number < 2 else 'train'},{number + 1.5}" for number, name in enumerate(names)]
    (place / "mine.csv").write_text("\n".join(["image,split,mean", *rows]))
    return convert_ratings(place / "mine.csv", place / "converted", score_values=range(1, 11))


def table_rows(text: str, first: str) -> list[list[str]]:
    lines = text[text.index(first) :].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:] if line.startswith("|")]


def test_counts_scale_and_licence_are_those_of_the_set(converted):
    card = dataset_card(converted, "org/rated", source="https://example.org/para")
    ratings = open_ratings(converted)
    splits = ratings["split"][:]
    rows = {row[0]: row[1:] for row in table_rows(card.text, "| split | images |")[: len(set(splits))]}
    assert set(rows) == set(splits)
    for split, (images, with_votes, votes, mean, std) in rows.items():
        chosen = [row for row, name in enumerate(splits) if name == split]
        means = np.array(ratings["mean"][:])[chosen]
        assert int(images) == int(with_votes) == len(chosen)
        assert (mean, std) == (f"{means.mean():.3f}", f"{means.std():.3f}")
        counts = [ratings["n_votes"][row] for row in chosen]
        assert votes == f"{min(counts)} to {max(counts)}"
    assert "scale from 1 to 5" in card.text and "1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5" in card.text
    assert "non-commercial use only" in card.text and "https://example.org/para" in card.text
    assert "The official split of PARA." in card.text and "| `color` | float64, or null |" in card.text
    assert "| `category` | string | as in the source |" in card.text
    assert (card.data.license, card.data.license_name) == ("other", "non-commercial-use-only")
    assert card.data.size_categories == ["n<1K"]


def test_front_matter_is_what_load_dataset_reads(converted, tmp_path):
    push_ratings(converted, "org/rated", source="made up", dry_run=tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    (config,) = card.data["configs"]
    loaded = datasets.load_dataset(str(tmp_path / "out"))
    assert {entry["split"] for entry in config["data_files"]} == set(loaded)
    assert {name: len(part) for name, part in loaded.items()} == {
        name: facts["images"] for name, facts in read_rated_set(converted).splits.items()
    }
    again = open_ratings(tmp_path / "out")
    assert again["mean"][:] == open_ratings(converted)["mean"][:]
    assert json.loads((tmp_path / "out" / "ratings.json").read_text())["source"] == "made up"
    assert "source" not in json.loads((converted / "ratings.json").read_text())  # the set itself stays as it is


def test_what_a_card_of_means_says(means):
    text = dataset_card(means, "org/mine", license="cc-by-4.0", source="my own").text
    assert "No image has a `distribution`" in text and "not known" in text
    assert "null where only the mean is known" in text


def test_refused_without_licence_or_source(means, tmp_path, capsys):
    assert len(missing_set_facts(read_rated_set(means))) == 2
    with pytest.raises(ValueError, match="licence of its images .* give --license.*give --source"):
        push_ratings(means, "org/mine", dry_run=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="convert the set first"):
        push_ratings(tmp_path, "org/mine", license="mit", source="mine")
    assert main(["data", "push", str(means), "org/mine", "--dry-run", str(tmp_path / "out")]) == 2
    assert "--license" in capsys.readouterr().err


def test_refused_without_a_name_of_a_repository(means, tmp_path, capsys):
    assert main(["data", "push", str(means), "mine", "--license", "cc0", "--dry-run", str(tmp_path / "out")]) == 2
    assert "'mine' is no name of a repository" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_own_card_is_kept(means, tmp_path):
    (means / "README.md").rename(means / "README.old")
    try:
        (means / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
        push_ratings(means, "org/mine", dry_run=tmp_path / "out")
        assert (tmp_path / "out" / "README.md").read_text() == "---\nlicense: mit\n---\n# Mine\n"
        (means / "README.md").write_text("# Mine\n")
        with pytest.raises(ValueError, match="states no licence"):
            push_ratings(means, "org/mine", dry_run=tmp_path / "out")
    finally:
        (means / "README.old").rename(means / "README.md")


def test_a_foreign_folder_is_not_replaced(means, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no rated set"):
        push_ratings(means, "org/mine", license="mit", source="mine", dry_run=tmp_path)
    assert (tmp_path / "thesis.txt").is_file()


def test_one_upload_of_the_whole_folder(means, tmp_path, monkeypatch):
    upload = importlib.import_module("cskd_hf.hub.dataset_push")
    uploads = []

    def upload_folder(folder, repo_id, **options):
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file()
        }
        uploads.append((files, repo_id, options))
        return SimpleNamespace(url="https://hub/commit", commit="abc")

    monkeypatch.setattr(upload, "upload_folder", upload_folder)
    pushed = push_ratings(means, "org/mine", license="cc-by-4.0", source="my own", private=True, revision="v2")
    ((files, repo_id, options),) = uploads
    assert (repo_id, options["repo_type"], options["private"], options["revision"]) == (
        "org/mine",
        "dataset",
        True,
        "v2",
    )
    assert set(files) == set(pushed.files) >= {"README.md", "ratings.json", "data/test-00000-of-00001.parquet"}
    assert files["data/test-00000-of-00001.parquet"] == (means / "data" / "test-00000-of-00001.parquet").read_bytes()
    assert b"cc-by-4.0" in files["README.md"] and pushed.url == "https://hub/commit" and pushed.images == 6
    assert not list(means.parent.glob(".push-*"))


def test_command(means, tmp_path, capsys):
    arguments = ["data", "push", str(means), "org/mine", "--license", "cc-by-4.0", "--source", "my own"]
    assert main([*arguments, "--dry-run", str(tmp_path / "out")]) == 0
    assert re.search(r"org/mine: 6 rated images, 4 files; written to .*nothing was uploaded", capsys.readouterr().out)
    assert dataset_push.UNPUBLISHED not in (tmp_path / "out" / "README.md").read_text()


def test_a_pushed_set_is_downloaded_and_read_with_its_scale(means, tmp_path):
    """Through HTTP, by a process of its own, since the Hub's address is read at import."""
    script = f"""
import cskd_hf, huggingface_hub, json
from cskd_hf.hub.dataset_push import push_ratings
pushed = push_ratings({str(means)!r}, "somebody/mine", license="cc-by-4.0", source="my own")
place = huggingface_hub.snapshot_download("somebody/mine", repo_type="dataset")
rated = cskd_hf.open_ratings("hub:" + place)
found = {{"means": rated["mean"][:], "values": cskd_hf.score_values_of(rated), "info": rated.info.description}}
print(json.dumps(found | {{"url": pushed.url, "size": cskd_hf.load_image(rated[0]["image"]).size}}))
"""
    with hub_server() as server:
        home = server.environment(tmp_path / "home") | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
        found = run_script(Path(sys.executable), script, home, package=True)
        assert len(server.commits("somebody/mine", kind="datasets")) == 1
        files = server.files("somebody/mine", kind="datasets")
    assert {"README.md", "ratings.json"} < set(files) and found["url"].endswith("commit/" + found["url"][-40:])
    local = open_ratings(means)
    assert sorted(found["means"]) == sorted(local["mean"][:]) and found["values"] == list(range(1, 11))
    assert json.loads(found["info"])["license"] == "cc-by-4.0" and found["size"] == [48, 40]
