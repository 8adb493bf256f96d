from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.loading import ImageStream, build_loader
from cskd_hf.data.mixture import open_images
from cskd_hf.data.order import ImageOrder
from cskd_hf.data.sources import FolderSource
from cskd_hf.data.views import ViewSettings
from cskd_hf.models.image_loading_cskd import ImageLoadError
from shard_files import coloured, write_parquet, write_tar


def stream(folder, batch_size: int, **changes) -> ImageStream:
    images = ImageCollection([FolderSource(folder)])
    targets = {"ratings": torch.arange(len(images)) * 10}
    views = ViewSettings(size=8, scale=(0.5, 1.0))
    return ImageStream(images, ImageOrder(images.sizes, seed=3), batch_size, views, targets=targets, **changes)


def batches(folder, batch_size: int, start: int = 0, stop: int = 6, **options) -> list[dict]:
    return list(build_loader({"rated": stream(folder, batch_size)}, start, stop, **options))


def test_batches_hold_crops_and_their_own_targets(photographs):
    (batch, *_) = batches(photographs, 4)
    assert batch["rated"]["crops"].shape == (4, 3, 8, 8) and batch["rated"]["crops"].dtype == torch.uint8
    assert torch.equal(batch["rated"]["ratings"], batch["rated"]["index"] * 10)
    assert batch["rated"]["errors"] == []


def test_processes_share_the_batches_of_one(photographs):
    whole = batches(photographs, 6)
    halves = [batches(photographs, 3, rank=rank, world_size=2) for rank in (0, 1)]
    for one, first, second in zip(whole, *halves):
        for key in ("crops", "index", "view"):
            assert torch.equal(one["rated"][key], torch.cat([first["rated"][key], second["rated"][key]]))


def test_a_loader_started_later_goes_on_where_the_other_was(photographs):
    whole, rest = batches(photographs, 16), batches(photographs, 16, start=2)
    assert len(rest) == 4
    for one, other in zip(whole[2:], rest):
        assert torch.equal(one["rated"]["crops"], other["rated"]["crops"])
    assert whole[5]["rated"]["view"].max() == 2  # 96 draws of 40 images


def test_starting_a_loader_does_not_move_the_random_state(photographs):
    state = torch.get_rng_state()
    batches(photographs, 4, stop=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_give_the_same_batches(photographs):
    for one, other in zip(batches(photographs, 4, stop=3), batches(photographs, 4, stop=3, num_workers=1)):
        assert torch.equal(one["rated"]["crops"], other["rated"]["crops"])


def test_views_repeat_where_their_number_is_given(photographs):
    loader = build_loader({"rated": stream(photographs, 40, n_views=2)}, 0, 4)
    assert [batch["rated"]["view"].unique().tolist() for batch in loader] == [[0], [1], [0], [1]]


def test_unreadable_image_is_replaced_by_the_next_and_reported(tmp_path, photographs):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(open(f"{photographs}/0{number}.png", "rb").read())
    (tmp_path / "1.png").write_bytes(b"\x89PNG but no more")
    sample = stream(tmp_path, 2).sample(1, view=0)
    assert sample["index"] == 2 and sample["ratings"] == 20
    assert [error[:2] for error in sample["errors"]] == [(str(tmp_path), "1.png")]


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageLoadError, match="a.png"):
        stream(tmp_path, 2).sample(0, view=0)


@pytest.fixture
def mixed(tmp_path, photographs) -> ImageStream:
    """A folder, a tar shard and two streams in shares 1 : 1 : 2 : 1, with one unreadable image in each place."""
    for name in ("folder", "tars", "parquet"):
        (tmp_path / name).mkdir()
    for path in sorted(Path(photographs).iterdir())[:6]:
        (tmp_path / "folder" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "folder" / "bad.png").write_bytes(b"bad")
    images = [coloured(i) for i in range(11)]
    write_tar(tmp_path / "tars" / "0.tar", {f"{i:02d}.png": data for i, data in enumerate([*images[:4], b"bad"])})
    write_tar(
        tmp_path / "tars" / "1.tar", {f"{i:02d}.png": data for i, data in enumerate([*images[:6], b"bad", *images])}
    )
    for shard in range(3):
        part = images[shard::3]
        write_parquet(
            tmp_path / "parquet" / f"{shard}.parquet", [*part[:2], *([b"bad"] if shard == 1 else []), *part[2:]]
        )
    places = [
        tmp_path / "folder",
        tmp_path / "tars" / "0.tar",
        f"stream:{tmp_path}/parquet",
        f"stream:{tmp_path}/tars/1.tar",
    ]
    collection = open_images([str(place) for place in places], target_side=8, cache=False)
    order = ImageOrder(collection.sizes, [1, 1, 2, 1], seed=3)
    return ImageStream(collection, order, 10, ViewSettings(size=8, scale=(0.5, 1.0)), seed=5, shuffle_buffer=4)


def assert_same(ones: list[dict], others: list[dict]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others):
        for key in ("crops", "index", "view"):
            assert torch.equal(one["u"][key], other["u"][key])
        assert one["u"]["errors"] == other["u"]["errors"]


def test_streams_are_resumed_at_any_batch_with_any_number_of_workers(mixed):
    for rank, world_size in ((0, 1), (1, 2)):
        unbroken = list(build_loader({"u": mixed}, 0, 12, rank=rank, world_size=world_size))
        for start, workers in ((0, 2), (3, 0), (7, 1), (11, 0)):
            loader = build_loader({"u": mixed}, start, 12, rank=rank, world_size=world_size, num_workers=workers)
            assert_same(unbroken[start:], list(loader))


def test_unreadable_images_of_every_place_are_replaced_and_named(mixed):
    batches = list(build_loader({"u": mixed}, 0, 20, num_workers=1))
    assert all(batch["u"]["crops"].shape == (10, 3, 8, 8) for batch in batches)
    named = {
        (Path(source.removeprefix("stream:")).name, key)
        for batch in batches
        for source, key, _ in batch["u"]["errors"]
    }
    assert named == {
        ("folder", "bad.png"),
        ("0.tar", "0.tar/04.png"),
        ("parquet", "1.parquet/row 2"),
        ("1.tar", "1.tar/06"),
    }


def test_an_image_of_a_stream_has_the_same_views_wherever_it_stands(mixed):
    mixed.n_views = 1
    crops: dict[int, torch.Tensor] = {}
    for batch in build_loader({"u": mixed}, 0, 12):
        for index, crop in zip(batch["u"]["index"].tolist(), batch["u"]["crops"]):
            assert torch.equal(crops.setdefault(index, crop), crop)
    assert len(crops) == 6 + 4 + 11  # the streams hold the same pictures


def test_loader_that_is_given_up_leaves_no_thread(mixed):
    before = threading.active_count()
    batches = iter(build_loader({"u": mixed}, 0, 1000))
    next(batches)
    assert threading.active_count() == before + 2
    del batches
    assert threading.active_count() == before


def test_values_by_index_need_images_with_an_index(mixed):
    with pytest.raises(ValueError, match="need images that can be read by index; streamed: stream:.*parquet"):
        ImageStream(mixed.images, mixed.order, 4, mixed.views, targets={"ratings": torch.zeros(10)})


def test_stream_without_a_readable_image_is_an_error(tmp_path):
    write_parquet(tmp_path / "0.parquet", [b"bad"] * 9)
    images = open_images([f"stream:{tmp_path}"], 8, False)
    stream = ImageStream(images, ImageOrder(images.sizes), 2, ViewSettings(size=8))
    with pytest.raises(ImageLoadError, match="0.parquet/row .*unreadable.*so are the 7 images that could replace it"):
        next(iter(build_loader({"u": stream}, 0, 1)))
