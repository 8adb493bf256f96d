from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.sources import FolderSource
from cskd_hf.data.teacher_features import FeatureStore, FeatureStoreError, describe, stored_views
from cskd_hf.data.views import ViewSettings, cut_view, stack_crops
from feature_stores import VIEWS, Colour, build, shards


@pytest.fixture
def store(tmp_path, photographs) -> FeatureStore:
    return build(tmp_path / "store", photographs)


def test_stored_features_are_those_of_the_views(store, photographs):
    images = ImageCollection([FolderSource(photographs)])
    assert (len(store), store.n_views, store.dim) == (40, 3, 3)
    assert sorted(path.name for path in store.folder.iterdir()) == [
        *[f"features-{number:05d}-of-00006.safetensors" for number in range(6)],
        "manifest.json",
    ]
    for index, view in ((0, 0), (6, 1), (7, 1), (17, 2), (39, 1)):
        live = Colour()(stack_crops([cut_view(images.load(index), VIEWS, 0, index, view)]))[0]
        assert torch.equal(store[index, view], live.half().float())
    assert torch.equal(store[5, 4], store[5, 1])  # views repeat
    with pytest.raises(IndexError, match="image 40 of a store of 40"):
        store[40, 0]


def test_blocks_are_all_features_in_order(store):
    blocks = list(store.blocks(4))
    assert max(len(block) for block in blocks) == 4
    rows = torch.stack([torch.stack([store[index, view] for view in range(3)]) for index in range(40)])
    assert torch.equal(torch.cat(blocks), rows)


def resident(file) -> int:
    """KiB of a file that this process has mapped and resident."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if line.endswith(str(file))]
    return sum(int(next(line for line in lines[start:] if line.startswith("Rss:")).split()[1]) for start in starts)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is resident")
def test_memory_is_given_back_every_few_reads(store, monkeypatch):
    monkeypatch.setattr("cskd_hf.data.teacher_features._READS_KEPT", 4)
    first = store.folder / store.layout.file(0)
    values = [store[index, 0] for index in (0, 1, 8, 9)]
    assert resident(first) > 0
    store[15, 0]
    assert resident(first) == 0 and resident(store.folder / store.layout.file(2)) > 0
    assert [value.tolist() for value in values] == [store[index, 0].tolist() for index in (0, 1, 8, 9)]


def test_no_more_files_stay_open_than_allowed(store, monkeypatch):
    monkeypatch.setattr("cskd_hf.data.teacher_features._READS_KEPT", 2)
    monkeypatch.setattr("cskd_hf.data.teacher_features._FILES_MAPPED", 3)
    mapped = []
    for index in [*range(0, 40, 7)] * 2:
        store[index, 0]
        mapped.append(len(store._mapped))
    assert max(mapped) == 4


class Rows(torch.utils.data.Dataset):
    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.store[index, 1]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes_read_the_same(store, start):
    expected = torch.stack([store[index, 1] for index in range(40)])  # mapped here before they start
    read = torch.cat(list(DataLoader(Rows(store), 8, num_workers=1, multiprocessing_context=start)))
    assert torch.equal(read, expected)
    assert torch.equal(pickle.loads(pickle.dumps(store))[3, 0], store[3, 0])


def test_store_of_another_run_is_refused_with_what_differs(store, tmp_path, photographs):
    with pytest.raises(FeatureStoreError, match="encoder is 'encoder-a' in the store and 'encoder-b' in this run"):
        build(store.folder, photographs, Colour("encoder-b"))
    with pytest.raises(FeatureStoreError, match="views is 3 in the store and 2 in this run .--n-views"):
        build(store.folder, photographs, n_views=2)
    few = tmp_path / "few"
    few.mkdir()
    (few / "00.png").write_bytes(open(f"{photographs}/00.png", "rb").read())
    with pytest.raises(FeatureStoreError, match="images is 40 in the store and 1 in this run .--images, --holdout"):
        build(store.folder, few)
    assert stored_views(store.folder) == 3 and stored_views(tmp_path) is None


def test_store_of_an_earlier_format_is_refused(tmp_path, photographs):
    (tmp_path / "manifest.json").write_text(json.dumps({"encoder": "encoder-a", "images": 40, "views": 3}))
    with pytest.raises(FeatureStoreError, match="format is None in the store and 2 in this run"):
        build(tmp_path, photographs)


def test_folder_of_something_else_is_left_alone(tmp_path, photographs):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FeatureStoreError, match="is no feature store but holds 'thesis.txt'"):
        build(tmp_path, photographs)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def flip(path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("position", [10, -1], ids=["header", "features"])
def test_flipped_byte_is_found_and_its_shard_named(store, photographs, position):
    flip(store.folder / "features-00004-of-00006.safetensors", position)
    with pytest.raises(
        FeatureStoreError, match="features-00004-of-00006.safetensors' is damaged: its checksum differs"
    ):
        build(store.folder, photographs)


def test_truncated_shard_is_found_by_every_process(store, photographs):
    file = store.folder / "features-00002-of-00006.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    for rank in (0, 1):  # the second process leaves checksums to the first
        with pytest.raises(
            FeatureStoreError, match="features-00002-of-00006.safetensors' is damaged: it has [0-9]+ by"
        ):
            build(store.folder, photographs, rank=rank, world_size=2)


class Counting(Colour):
    def __init__(self) -> None:
        super().__init__()
        self.views = 0

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        self.views += len(crops)
        return super().__call__(crops)


def test_shard_that_is_removed_is_alone_computed_again(store, photographs):
    before, manifest = shards(store.folder), (store.folder / "manifest.json").read_bytes()
    (store.folder / "features-00002-of-00006.safetensors").unlink()
    with pytest.raises(
        FeatureStoreError, match="features-00002-of-00006.safetensors' is missing. Remove that file and"
    ):
        FeatureStore.open(store.folder, {})
    counting = Counting()
    build(store.folder, photographs, counting)
    assert counting.views == 1 + 7 * 3  # one to learn the width
    assert shards(store.folder) == before
    assert (store.folder / "manifest.json").read_bytes() == manifest
    counting = Counting()
    build(store.folder, photographs, counting)
    assert counting.views == 0


def test_damaged_shard_of_a_store_that_is_completed_is_computed_again_too(store, photographs, caplog):
    before = shards(store.folder)
    (store.folder / "features-00002-of-00006.safetensors").unlink()
    flip(store.folder / "features-00004-of-00006.safetensors", -1)
    build(store.folder, photographs)
    assert "features-00004-of-00006.safetensors' is damaged" in caplog.text
    assert shards(store.folder) == before


def test_unreadable_images_are_listed_and_left_out(tmp_path, photographs):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(open(f"{photographs}/00.png", "rb").read())
    (folder / "b.png").write_text("no image")
    store = build(tmp_path / "store", folder)
    assert list(store.unreadable) == [1]
    (shard,) = json.loads((tmp_path / "store" / "manifest.json").read_text())["shards"]
    assert [(index, key) for index, key, _ in shard["unreadable"]] == [(1, "b.png")]
    assert sum(len(block) for block in store.blocks()) == 1


def test_description_names_views_and_images(photographs):
    images = ImageCollection([FolderSource(photographs)])
    one = describe(images, Colour(), views=VIEWS, n_views=3)
    other = describe(images, Colour(), views=ViewSettings(size=16), n_views=3)
    assert {key for key in one if one[key] != other[key]} == {"cut"}
