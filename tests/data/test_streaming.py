from __future__ import annotations

from collections import Counter
from itertools import islice, takewhile

import pytest

from cskd_hf.data.locations import open_source
from cskd_hf.data.streaming import ReadAhead, StreamReader, StreamSource
from cskd_hf.models.image_loading_cskd import ImageLoadError, load_image
from shard_files import coloured, write_parquet, write_tar


def parquet_shards(folder, rows: int, shards: int) -> str:
    """Rows numbered by their keys, dealt to the shards in turn."""
    for shard in range(shards):
        numbers = range(shard, rows, shards)
        write_parquet(folder / f"{shard}.parquet", [coloured(i) for i in numbers], [str(i) for i in numbers])
    return f"stream:{folder}"


def numbers(reader: StreamReader, count: int, skip: int = 0) -> list[int]:
    return [int(row.key.rpartition("/")[2]) for row in islice(reader.rows(skip), count)]


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize(("rows", "shards"), [(7, 4), (7, 2), (6, 6), (7, 1), (9, 3)])
@pytest.mark.parametrize("buffer", [0, 3])
def test_each_pass_has_every_row_once_over_all_parts(tmp_path, rows, shards, parts, buffer):
    source = open_source(parquet_shards(tmp_path, rows, shards))
    passes: list[Counter] = [Counter(), Counter(), Counter()]
    lengths = []
    for part in range(parts):
        reader = StreamReader(source, seed=1, shuffle_buffer=buffer, part=part, parts=parts)
        taken = []
        for row in reader.rows():
            if row.epoch == 3:
                break
            passes[row.epoch][row.key.rpartition("/")[2]] += 1
            taken.append(row.key)
        lengths.append(len(taken))
    assert passes == [Counter(map(str, range(rows)))] * 3
    if shards % parts:  # row by row: no part has more than one more
        assert max(lengths) - min(lengths) <= 3


def test_seven_rows_over_two_processes(tmp_path):
    source = open_source(parquet_shards(tmp_path, 7, 1))
    first, second = (StreamReader(source, 0, 0, part, 2) for part in range(2))
    assert numbers(first, 6) == [0, 2, 4, 6, 0, 2]
    assert numbers(second, 6) == [1, 3, 5, 1, 3, 5]


@pytest.mark.parametrize(("rows", "shards", "parts"), [(8, 4, 2), (7, 2, 4), (7, 1, 2), (9, 3, 2)])
def test_parts_are_as_long_as_those_of_the_datasets_library(tmp_path, rows, shards, parts):
    from datasets import load_dataset
    from datasets.distributed import split_dataset_by_node

    source = open_source(parquet_shards(tmp_path, rows, shards))
    dataset = load_dataset("parquet", data_files=f"{tmp_path}/*.parquet", split="train", streaming=True)
    for part in range(parts):
        reader = StreamReader(source, 0, 0, part, parts)
        own = sum(1 for _ in takewhile(lambda row: row.epoch == 0, reader.rows()))
        assert own == sum(1 for _ in split_dataset_by_node(dataset, part, parts))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_reading_starts_anywhere_as_if_it_had_never_stopped(tmp_path, parts):
    source = open_source(parquet_shards(tmp_path, 11, 4))
    unbroken = numbers(StreamReader(source, 3, 4, 0, parts), 40)
    for skip in (0, 1, 5, 11, 12, 39):
        assert numbers(StreamReader(source, 3, 4, 0, parts), 40 - skip, skip) == unbroken[skip:]


def test_whole_passes_that_are_known_are_skipped_without_reading(tmp_path, monkeypatch):
    source = open_source(parquet_shards(tmp_path, 6, 2))
    reader = StreamReader(source, 3, 4)
    unbroken = numbers(reader, 30)
    read = []
    shard = StreamSource.shard
    monkeypatch.setattr(StreamSource, "shard", lambda self, number: read.append(number) or shard(self, number))
    assert numbers(reader, 1, skip=29) == unbroken[29:]
    assert len(read) <= 2


def test_order_is_shuffled_by_seed_and_pass(tmp_path):
    source = open_source(parquet_shards(tmp_path, 20, 4))
    drawn = numbers(StreamReader(source, 3, 8), 40)
    assert drawn[:20] != drawn[20:] and drawn[:20] != sorted(drawn[:20])
    assert numbers(StreamReader(source, 4, 8), 40) != drawn
    in_order = numbers(StreamReader(source, 3, 0), 60)
    shards = [[number % 4 for number in in_order[i : i + 20 : 5]] for i in (0, 20, 40)]
    assert len(set(map(tuple, shards))) > 1 and all(sorted(order) == [0, 1, 2, 3] for order in shards)
    assert numbers(StreamReader(source, 3, 8), 40) == drawn


def test_damaged_shard_ends_itself_only_and_is_named(tmp_path):
    write_tar(tmp_path / "0.tar", {f"{i}.png": coloured(i) for i in range(4)})
    starts = write_tar(tmp_path / "1.tar", {f"{i}.png": coloured(i) for i in range(4, 8)})
    with open(tmp_path / "1.tar", "r+b") as file:
        file.truncate(starts[2] + 600)
    source = open_source(f"stream:{tmp_path}")
    rows = list(islice(StreamReader(source, 0, 2).rows(), 18))  # three passes of six rows
    assert Counter(row.key for row in rows) == {f"{i // 4}.tar/{i}": 3 for i in range(6)}
    errors = [error for row in rows for error in row.errors]
    assert 2 <= len(errors) <= 3 and {key for key, _ in errors} == {"1.tar"}
    assert "damaged after 2 rows, the rest of this shard is left out" in errors[0][1]
    for skip in range(18):  # and it is told once, whether the run was broken or not
        again = list(islice(StreamReader(source, 0, 2).rows(skip), 18 - skip))
        assert [row.errors for row in again] == [row.errors for row in rows[skip:]]


def test_part_without_rows_is_an_error_and_not_an_endless_loop(tmp_path):
    source = open_source(parquet_shards(tmp_path, 2, 1))
    with pytest.raises(ImageLoadError, match="no image for process 3 of 3"):
        next(StreamReader(source, 0, 0, 2, 3).rows())
    (tmp_path / "0.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ImageLoadError, match="no image for process 1 of 1; 0.parquet: damaged after 0 rows"):
        next(StreamReader(source, 0, 0).rows())


def test_first_rows_are_held_out_of_what_follows(tmp_path):
    source = open_source(parquet_shards(tmp_path, 9, 3))  # 0 3 6, 1 4 7, 2 5 8
    sample, held = source.first(4), source.first(4, hold_out=True)
    assert len(sample) == len(held) == 4
    assert [held.key(i) for i in range(4)] == ["0.parquet/0", "0.parquet/3", "0.parquet/6", "1.parquet/1"]
    assert held.read(3)["bytes"] == coloured(1)
    for parts in (1, 2):
        drawn = [number for part in range(parts) for number in numbers(StreamReader(source, 0, 2, part, parts), 10)]
        assert set(drawn) == {2, 4, 5, 7, 8}


def test_read_ahead_passes_rows_and_errors_on_and_ends():
    closed = []

    def rows(stop):
        try:
            yield from range(stop)
            if stop < 100:
                raise OSError("no more")
        finally:
            closed.append(stop)

    ahead = ReadAhead(rows(3), 2)
    assert list(islice(ahead, 3)) == [0, 1, 2]
    with pytest.raises(OSError, match="no more"):
        next(ahead)
    waiting = ReadAhead(rows(1000), 2)
    assert next(waiting) == 0
    waiting.close()
    ahead.close()
    assert sorted(closed) == [3, 1000] and not waiting._thread.is_alive()
    assert list(ReadAhead(rows(100), 8)) == list(range(100))


def test_row_without_an_image_is_an_unreadable_one(tmp_path):
    members = {f"{i}.png": coloured(i) for i in range(5)} | {"5.txt": b"a caption alone"}
    write_tar(tmp_path / "0.tar", members)
    rows = list(open_source(f"stream:{tmp_path}").shard(0))
    assert [row.key for row in rows] == [f"0.tar/{i}" for i in range(6)]
    with pytest.raises(ImageLoadError, match="neither 'bytes' nor 'path'"):
        load_image(rows[5].image)
    assert rows[5].identity() != rows[0].identity()


def test_tar_shards_with_masks_give_the_pictures(tmp_path):
    members = {}
    for i in range(6):
        members |= {f"{i}.jpg": coloured(i), f"{i}.seg.png": b"mask", f"{i}.txt": b"text"}
    write_tar(tmp_path / "0.tar", members)
    assert [row.image["bytes"] for row in open_source(f"stream:{tmp_path}").shard(0)] == [
        coloured(i) for i in range(6)
    ]


@pytest.mark.parametrize("first", [5, 1], ids=["late", "early"])
def test_tar_shards_of_several_kinds_of_images(tmp_path, first):
    """The second kind comes after the samples that the datasets library looks at, or among them."""
    members = {f"{i}.{'jpg' if i < first else 'png'}": coloured(i) for i in range(8)}
    write_tar(tmp_path / "0.tar", members)
    assert [row.image["bytes"] for row in open_source(f"stream:{tmp_path}").shard(0)] == list(members.values())
