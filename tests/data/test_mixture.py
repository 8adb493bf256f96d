from __future__ import annotations

import pytest

from cskd_hf.data.mixture import open_images, sample_images, split_holdout
from shard_files import coloured, write_parquet


@pytest.fixture
def stream(tmp_path) -> str:
    for shard in range(2):
        write_parquet(tmp_path / f"{shard}.parquet", [coloured(10 * shard + i) for i in range(5)])
    return f"stream:{tmp_path}"


def keys(images) -> list[str]:
    return [images.key(i) for i in range(len(images))]


def test_held_out_images_are_evenly_spaced_and_not_trained_on(photographs):
    images, held = split_holdout(open_images([photographs], 32, False), 4)
    assert keys(held) == ["05.png", "15.png", "25.png", "35.png"]
    assert len(images) == 36 and not set(keys(held)) & set(keys(images))
    with pytest.raises(ValueError, match="holdout=20 is half or more of the 40"):
        split_holdout(open_images([photographs], 32, False), 20)


def test_every_source_keeps_an_image_to_train_on(tmp_path, photographs):
    write_parquet(tmp_path / "one.parquet", [coloured(1)])
    images, held = split_holdout(open_images([photographs, str(tmp_path / "one.parquet")], 32, False), 20)
    assert images.sizes[1] == 1 and "row 0" not in keys(held)


def test_streams_give_held_out_images_only_where_nothing_has_an_index(stream, photographs):
    images, held = split_holdout(open_images([photographs, stream], 32, False), 4)
    assert keys(held) == ["05.png", "15.png", "25.png", "35.png"] and images.sizes == [36, None]
    images, held = split_holdout(open_images([stream], 32, False), 7)
    assert keys(held) == [*(f"0.parquet/row {i}" for i in range(5)), "1.parquet/row 0", "1.parquet/row 1"]
    assert held.load(6).getpixel((0, 0))[0] == 11
    assert [row.key for shard in range(2) for row in images.streams[0].shard(shard)] == [
        f"1.parquet/row {i}" for i in (2, 3, 4)
    ]
    with pytest.raises(ValueError, match="asks for the first 11 images of 'stream:.*, which has 10"):
        split_holdout(open_images([stream], 32, False), 11)


def test_samples(stream, photographs):
    assert keys(sample_images(open_images([photographs, stream], 32, False), 2)) == ["00.png", "39.png"]
    images = open_images([stream], 32, False)
    assert keys(sample_images(images, 3)) == ["0.parquet/row 0", "0.parquet/row 1", "0.parquet/row 2"]
    assert len(list(images.streams[0].shard(0))) == 5  # it takes nothing away
    assert len(sample_images(images, 99)) == 10
    assert not images.indexed and open_images([photographs], 32, False).indexed
