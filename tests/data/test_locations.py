from __future__ import annotations

import tarfile

import datasets
import pytest
from PIL import Image

from cskd_hf.data import locations
from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.locations import open_source
from cskd_hf.data.shards import TarSource
from cskd_hf.data.sources import DatasetSource
from cskd_hf.data.streaming import StreamSource
from shard_files import coloured, write_parquet, write_tar


def reds(location) -> list[int]:
    images = ImageCollection([open_source(location)])
    return [images.load(i).getpixel((0, 0))[0] for i in range(len(images))]


@pytest.fixture
def shards(tmp_path):
    """Two Parquet files, two tar shards, and a dataset in two Arrow files, each with the images 0 to 3."""
    for kind in ("parquet", "tar"):
        (tmp_path / kind).mkdir()
    for i in range(2):
        images = [coloured(2 * i), coloured(2 * i + 1)]
        write_parquet(tmp_path / "parquet" / f"{i}.parquet", images)
        write_tar(tmp_path / "tar" / f"{i}.tar", {f"{2 * i + k}.png": data for k, data in enumerate(images)})
    whole = datasets.Dataset.from_dict(
        {"image": [{"bytes": coloured(i), "path": None} for i in range(4)]},
        features=datasets.Features({"image": datasets.Image()}),
    )
    whole.save_to_disk(tmp_path / "saved", num_shards=2)
    return tmp_path


@pytest.mark.parametrize(
    "place",
    ["parquet", "parquet/*.parquet", "parquet/{0..1}.parquet", "tar", "tar/{0,1}.tar", "tar/?.tar", "saved", "saved/*.arrow"],
)  # fmt: skip
def test_every_kind_of_place_by_index_and_as_a_stream(shards, place):
    assert reds(shards / place) == [0, 1, 2, 3]
    source = open_source(f"stream:{shards / place}")
    assert isinstance(source, StreamSource) and source.num_shards == 2
    rows = [row for number in range(2) for row in source.shard(number)]
    assert [row.image["bytes"] for row in rows] == [coloured(i) for i in range(4)]
    assert len({row.key for row in rows}) == 4


def test_one_file(shards):
    assert reds(shards / "parquet" / "1.parquet") == [2, 3]
    source = open_source(shards / "tar" / "1.tar")
    assert isinstance(source, TarSource) and source.key(0) == "1.tar/2.png" and source.name.endswith("1.tar")


def test_image_column_is_found_by_its_type(tmp_path):
    picture = {"bytes": coloured(7), "path": None}
    features = datasets.Features({"text": datasets.Value("string"), "photo": datasets.Image()})
    datasets.Dataset.from_dict({"text": ["a"], "photo": [picture]}, features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    # Not written by the datasets library: plain bytes.
    datasets.Dataset.from_dict({"text": ["a"], "jpeg": [coloured(8)]}).to_parquet(tmp_path / "b.parquet")
    datasets.Dataset.from_dict({"text": ["a"], "pair": [picture]}).to_parquet(tmp_path / "c.parquet")
    assert [reds(tmp_path / f"{name}.parquet") for name in "abc"] == [[7], [8], [7]]
    (row,) = open_source(f"stream:{tmp_path / 'b.parquet'}").shard(0)
    assert row.image["bytes"] == coloured(8)
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "d.parquet")
    for location in (tmp_path / "d.parquet", f"stream:{tmp_path / 'd.parquet'}"):
        with pytest.raises(ValueError, match="d.parquet' has no image column; needed: .* Its columns: text"):
            open_source(location)
    features = datasets.Features({"left": datasets.Image(), "right": datasets.Image()})
    datasets.Dataset.from_dict({"left": [picture], "right": [picture]}, features=features).to_parquet(tmp_path / "e.parquet")  # fmt: skip
    for location in (tmp_path / "e.parquet", f"stream:{tmp_path / 'e.parquet'}"):
        with pytest.raises(ValueError, match="several image columns: left, right"):
            open_source(location)


def test_names_on_the_hub_are_loaded_from_there(monkeypatch):
    asked = []
    dataset = datasets.Dataset.from_dict(
        {"image": [{"bytes": coloured(3), "path": None}]}, features=datasets.Features({"image": datasets.Image()})
    )

    def load_dataset(name, split, streaming):
        asked.append((name, split, streaming))
        return dataset.to_iterable_dataset() if streaming else dataset

    monkeypatch.setattr(locations.datasets, "load_dataset", load_dataset)
    assert isinstance(open_source("someone/photos"), DatasetSource)
    assert isinstance(open_source("stream:someone/photos:validation"), StreamSource)
    assert open_source("someone/photos:train[:10%]").name == "someone/photos:train[:10%]"
    assert asked == [
        ("someone/photos", "train", False),
        ("someone/photos", "validation", True),
        ("someone/photos", "train[:10%]", False),
    ]


def test_mistyped_folder_says_that_the_hub_was_asked_too():
    with pytest.raises(FileNotFoundError, match="'someone/photso' does not exist as a folder or file here, and .*Hub"):
        open_source("someone/photso")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "nowhere' does not exist. Allowed: a folder of images"),
        ("tar/{0..2}.tar", "2.tar' does not exist .of '.*{0..2}.tar'"),
        ("tar/{2..1}.tar", "runs backwards"),
        ("{parquet,tar}/0.*", "is none of what can be read .*0.parquet, .*0.tar"),
        ("photo.png", "is none of what can be read"),
        ("shards.tar.gz", "is compressed and cannot be read by index.*stream:"),
        ("splits", "holds several splits: test, train"),
        ("mixed", "holds both images .a.png. and shards .0.tar."),
        ("stream:images", "read by index, not as a stream"),
        ("stream:nowhere", "nowhere' does not exist"),
        ("stream:broken.parquet", "broken.parquet' cannot be streamed"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_can(shards, place, message):
    for folder in ("images", "mixed"):
        (shards / folder).mkdir()
        Image.new("RGB", (4, 4)).save(shards / folder / "a.png")
    (shards / "mixed" / "0.tar").write_bytes(b"")
    (shards / "photo.png").write_bytes(coloured(1))
    (shards / "shards.tar.gz").write_bytes(b"\x1f\x8b")
    (shards / "broken.parquet").write_bytes(b"no Parquet")
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"image": [1]}) for name in ("train", "test")}
    ).save_to_disk(shards / "splits")
    location = f"stream:{shards / place[7:]}" if place.startswith("stream:") else shards / place
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_source(location)


def test_compressed_shard_is_read_as_a_stream(shards):
    with tarfile.open(shards / "z.tar.gz", "w:gz") as archive:
        for i in range(2):
            (shards / "image.png").write_bytes(coloured(i))
            archive.add(shards / "image.png", f"{i}.png")
    rows = list(open_source(f"stream:{shards / 'z.tar.gz'}").shard(0))
    assert [row.key for row in rows] == ["z.tar.gz/0", "z.tar.gz/1"]


def test_shards_further_down_are_pointed_at(shards):
    with pytest.raises(
        FileNotFoundError, match=r"no image in '.* Or is '.*/\*\*/\*.parquet' meant, with 0.parquet in it"
    ):
        open_source(shards)
    assert reds(f"{shards}/**/*.parquet") == [0, 1, 2, 3]
