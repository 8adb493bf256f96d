from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image

from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.locations import open_source
from cskd_hf.data.sources import DatasetSource, FolderSource


def test_folder_lists_images_at_any_depth_sorted_and_without_hidden_ones(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/y.webp", ".hidden/c.png", "a/.d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("")
    assert FolderSource(tmp_path).paths == ["a/y.webp", "a/z.png", "b.JPG"]


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no image in"):
        open_source(tmp_path)


def test_saved_dataset_and_parquet(tmp_path):
    images = [Image.new("RGB", (5, 4), (i * 20, 0, 0)) for i in range(6)]
    dataset = datasets.Dataset.from_dict(
        {"image": images, "key": [f"k{i}" for i in range(6)]},
        features=datasets.Features({"image": datasets.Image(), "key": datasets.Value("string")}),
    )
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "images.parquet")
    for location in (tmp_path / "saved", tmp_path / "images.parquet"):
        source = open_source(location)
        assert isinstance(source, DatasetSource) and len(source) == 6 and source.key(3) == "k3"
        assert ImageCollection([source]).load(3).getpixel((0, 0)) == (60, 0, 0)
    with pytest.raises(ValueError, match="no column 'photo'; its columns: image, key"):
        DatasetSource(dataset, column="photo")


def test_collection_is_one_list_over_all_sources(tmp_path, photographs):
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "last.png")
    images = ImageCollection([FolderSource(photographs), FolderSource(tmp_path)])
    assert images.sizes == [40, 1] and len(images) == 41
    assert images.key(39) == "39.png" and images.key(40) == "last.png"
    assert images.load(40).getpixel((0, 0)) == (1, 2, 3)


def test_cache_keeps_reduced_images(tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(np.full((300, 400, 3), 77, np.uint8)).save(path)
    images = ImageCollection([FolderSource(tmp_path)], target_side=60, cache=True)
    first = images.load(0)
    assert first.size == (80, 60)
    path.unlink()
    assert images.load(0) is first


def test_subset_keeps_the_sources_apart_and_reads_what_is_stored(tmp_path, photographs):
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "last.png")
    images = ImageCollection([FolderSource(photographs), FolderSource(tmp_path)], target_side=4)
    some = images.subset([40, 3, 5])
    assert [some.key(i) for i in range(3)] == ["03.png", "05.png", "last.png"]
    assert some.sizes == [2, 1] and some.target_side == 4
    assert some.read(2) == tmp_path / "last.png" == images.read(40)
    assert some.subset([2]).sizes == [0, 1] and some.subset([2]).key(0) == "last.png"
    with pytest.raises(ValueError, match="among the 3 images"):
        some.subset([3])
