"""Stores that several processes build, and that are killed while they do."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from unittest import mock

import numpy as np
import pytest
import torch

from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.feature_building import STORED_VIEWS_SEED, FeatureBuilder
from cskd_hf.data.feature_shards import ShardLayout
from cskd_hf.data.sources import FolderSource
from cskd_hf.data.teacher_features import FeatureStore, FeatureStoreError, describe
from cskd_hf.models.image_loading_cskd import ImageLoadError
from feature_stores import VIEWS, Colour, build, shards

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, photographs) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("unbroken") / "store"
    build(folder, photographs, shard_size=2)
    return contents(folder)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Slow(Colour):
    """Long enough for a kill to come in between."""

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        deadline = time.monotonic() + 0.04
        while time.monotonic() < deadline:
            pass
        return super().__call__(crops)


def start(folder, photographs, processes: int, encoder=None) -> list:
    options = {"shard_size": 2, "world_size": processes}
    started = [
        FORK.Process(target=build, args=(folder, photographs, encoder or Slow()), kwargs=options | {"rank": rank})
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    return started


def kill_at(folder, started: list, count: int) -> None:
    """SIGKILL all as soon as `count` shards are there."""
    while len(list(folder.glob("*.safetensors"))) < count:
        assert all(process.is_alive() for process in started)
    for process in started:
        os.kill(process.pid, signal.SIGKILL)
        process.join()


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_builds_end_with_the_same_bytes(tmp_path, photographs, unbroken, processes):
    folder = tmp_path / "store"
    rng = random.Random(processes)
    for count in sorted(rng.sample(range(1, 12), 4)):
        kill_at(folder, start(folder, photographs, processes), count)
        assert not (folder / "manifest.json").exists()
        with pytest.raises(FeatureStoreError, match="is not finished"):
            FeatureStore.open(folder, {})
    # Another number of processes may go on.
    for process in (last := start(folder, photographs, 3 - processes)):
        process.join(60)
    assert [process.exitcode for process in last] == [0] * len(last)
    assert contents(folder) == unbroken


def test_finished_shards_of_a_killed_build_are_kept(tmp_path, photographs, unbroken):
    kill_at(tmp_path / "store", start(tmp_path / "store", photographs, 1), 5)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*.safetensors")}
    build(tmp_path / "store", photographs)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*.safetensors")}
    assert kept.items() <= after.items() and len(after) == 20
    assert contents(tmp_path / "store") == unbroken


def test_killed_build_of_another_run_is_refused(tmp_path, photographs):
    kill_at(tmp_path / "store", start(tmp_path / "store", photographs, 1), 2)
    with pytest.raises(FeatureStoreError, match="encoder is 'encoder-a' in the store and 'encoder-b' in this run"):
        build(tmp_path / "store", photographs, Colour("encoder-b"))


def test_shard_that_was_torn_while_building_is_computed_again(tmp_path, photographs, unbroken, caplog):
    kill_at(tmp_path / "store", start(tmp_path / "store", photographs, 1), 4)
    torn = tmp_path / "store" / "features-00001-of-00020.safetensors"
    torn.write_bytes(torn.read_bytes()[:-3])
    build(tmp_path / "store", photographs)
    assert "features-00001-of-00020.safetensors' is damaged" in caplog.text
    assert contents(tmp_path / "store") == unbroken


def test_one_process_goes_on_where_the_other_is_killed(tmp_path, photographs, unbroken):
    first, second = start(tmp_path / "store", photographs, 2)
    kill_at(tmp_path / "store", [second], 3)
    first.join(60)
    assert first.exitcode == 0
    assert contents(tmp_path / "store") == unbroken


class Listed(Slow):
    """Writes down every view that it is asked for."""

    def __init__(self, file) -> None:
        super().__init__()
        self.file = file

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        with open(self.file, "a") as file:
            file.write(f"{len(crops)}\n")
        return super().__call__(crops)


def test_runs_that_build_at_once_share_the_work(tmp_path, photographs, unbroken):
    runs = start(tmp_path / "store", photographs, 1, Listed(tmp_path / "views"))
    runs += start(tmp_path / "store", photographs, 1, Listed(tmp_path / "views"))
    for process in runs:
        process.join(60)
    assert [process.exitcode for process in runs] == [0, 0]
    assert contents(tmp_path / "store") == unbroken
    assert sum(map(int, (tmp_path / "views").read_text().split())) == 2 + 40 * 3


@pytest.mark.parametrize("locks", [None, OSError(errno.ENOLCK, "No locks available")], ids=["none", "refused"])
def test_processes_keep_to_their_own_shards_where_there_are_no_locks(
    tmp_path, photographs, unbroken, locks, monkeypatch
):
    fcntl = mock.Mock(LOCK_EX=2, LOCK_NB=4, LOCK_UN=8, lockf=mock.Mock(side_effect=locks)) if locks else None
    monkeypatch.setattr("cskd_hf.data.feature_shards.fcntl", fcntl)
    for process in (started := start(tmp_path / "store", photographs, 2, Listed(tmp_path / "views"))):
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0]
    assert contents(tmp_path / "store") == unbroken
    assert sum(map(int, (tmp_path / "views").read_text().split())) == 2 + 40 * 3


def test_worker_processes_decode_the_same(tmp_path, photographs, unbroken):
    build(tmp_path / "store", photographs, shard_size=2, num_workers=2)
    assert contents(tmp_path / "store") == unbroken


def test_global_random_state_is_not_moved(tmp_path, photographs):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    build(tmp_path / "store", photographs)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_a_build_that_fails_keeps_what_is_whole_and_nothing_else(tmp_path, photographs):
    class Failing(Colour):
        left = 4

        def __call__(self, crops: torch.Tensor) -> torch.Tensor:
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("out of memory")
            return super().__call__(crops)

    with pytest.raises(RuntimeError, match="out of memory"):
        build(tmp_path / "store", photographs, Failing(), shard_size=2)
    assert len(shards(tmp_path / "store")) == 3
    assert not list((tmp_path / "store").glob("*.partial"))


def test_features_beyond_float16_are_refused_with_the_image(tmp_path, photographs):
    class Large(Colour):
        def __call__(self, crops: torch.Tensor) -> torch.Tensor:
            return super().__call__(crops) * 1e4

    with pytest.raises(FeatureStoreError, match="features of '00.png' are not finite in float16"):
        build(tmp_path / "store", photographs, Large())


def test_no_readable_image_at_all(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "abc":
        (tmp_path / "images" / f"{name}.png").write_text("no image")
    for _ in range(2):
        with pytest.raises(ImageLoadError, match="none of the 3 images can be read"):
            build(tmp_path / "store", tmp_path / "images")


def test_views_of_an_image_reach_the_encoder_together(tmp_path, photographs):
    sizes = []

    class Watching(Colour):
        def __call__(self, crops: torch.Tensor) -> torch.Tensor:
            sizes.append(len(crops))
            return super().__call__(crops)

    images = ImageCollection([FolderSource(photographs)])
    description = describe(images, Colour(), views=VIEWS, n_views=3)
    FeatureBuilder(
        tmp_path / "store", Watching(), images, views=VIEWS, n_views=3, description=description, batch_size=10, quiet=True
    ).run()  # fmt: skip
    assert sizes[0] == 1 and set(sizes[1:]) == {9, 3}
    assert json.loads((tmp_path / "store" / "manifest.json").read_text())["seed"] == STORED_VIEWS_SEED


@pytest.mark.parametrize(
    ("images", "dim", "size", "count"), [(40, 512, 64, 1), (484, 512, 64, 8), (200_000, 512, 2048, 98), (9999, 50_000, 157, 64)]
)  # fmt: skip
def test_shards_are_many_but_neither_tiny_nor_huge(images, dim, size, count):
    layout = ShardLayout.of(images, 4, dim)
    assert (layout.shard_size, len(layout)) == (size, count)
    assert [index for shard in range(count) for index in layout.span(shard)] == list(range(images))
    assert ShardLayout.of(images, 4, 10**7).shard_size == 1
