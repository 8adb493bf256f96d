from __future__ import annotations

import gzip

import pytest

from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.shards import TarSource
from cskd_hf.models.image_loading_cskd import ImageLoadError
from shard_files import coloured, write_tar


def reds(source: TarSource) -> list[int]:
    images = ImageCollection([source])
    return [images.load(i).getpixel((0, 0))[0] for i in range(len(images))]


def shard(path, numbers) -> list[int]:
    return write_tar(path, {f"{number:04d}.png": coloured(number) for number in numbers})


def test_images_of_all_shards_by_index_and_key(tmp_path):
    shard(tmp_path / "a.tar", range(3))
    shard(tmp_path / "b.tar", range(3, 5))
    source = TarSource([tmp_path / "a.tar", tmp_path / "b.tar"])
    assert reds(source) == [0, 1, 2, 3, 4] and source.damage == []
    assert [source.key(i) for i in (0, 4)] == ["a.tar/0000.png", "b.tar/0004.png"]


def test_only_images_count_and_one_of_each_sample(tmp_path):
    members = {"x/a.seg.png": b"", "x/a.jpg": coloured(1), "x/a.json": b"{}", "x/.b.png": b"", "c.2020.1.png": b"", "c.2020.2.png": b""}  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    source = TarSource([tmp_path / "a.tar"])
    # The dots of c belong to its names: no c.png is there that they would accompany.
    assert [source.key(i) for i in range(len(source))] == ["a.tar/x/a.jpg", "a.tar/c.2020.1.png", "a.tar/c.2020.2.png"]


def test_long_names_and_two_archives_in_one_file(tmp_path):
    long = "folder/" * 40 + "ü.png"
    write_tar(tmp_path / "a.tar", {long: coloured(1)})
    shard(tmp_path / "b.tar", [2])
    with open(tmp_path / "a.tar", "ab") as file:
        file.write((tmp_path / "b.tar").read_bytes())
    source = TarSource([tmp_path / "a.tar"])
    assert reds(source) == [1, 2] and source.key(0) == f"a.tar/{long}" and source.damage == []


def test_shards_of_one_name_are_told_apart(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        shard(tmp_path / folder / "a.tar", [1])
    source = TarSource([tmp_path / "x" / "a.tar", tmp_path / "y" / "a.tar"])
    assert source.key(0) != source.key(1) and source.key(1).endswith("y/a.tar/0001.png")


def test_truncated_shard_gives_what_is_before_the_cut(tmp_path):
    starts = shard(tmp_path / "a.tar", range(5))
    with open(tmp_path / "a.tar", "r+b") as file:
        file.truncate(starts[3] + 512 + 20)  # within the fourth image
    source = TarSource([tmp_path / "a.tar"])
    assert reds(source) == [0, 1, 2]
    ((label, reason),) = source.damage
    assert label == "a.tar" and "3 whole images are used" in reason


def test_cut_between_members_is_noticed(tmp_path):
    starts = shard(tmp_path / "a.tar", range(5))
    with open(tmp_path / "a.tar", "r+b") as file:
        file.truncate(starts[3])
    source = TarSource([tmp_path / "a.tar"])
    assert reds(source) == [0, 1, 2] and "no end mark" in source.damage[0][1]


def test_members_after_a_damaged_header_are_found(tmp_path):
    starts = shard(tmp_path / "a.tar", range(5))
    with open(tmp_path / "a.tar", "r+b") as file:
        file.seek(starts[1])
        file.write(b"\xff" * 300)
    source = TarSource([tmp_path / "a.tar"])
    assert reds(source) == [0, 2, 3, 4]
    assert f"bytes {starts[1]} to {starts[2]} are no tar members; 4 whole images are used" in source.damage[0][1]


def test_shard_that_shrinks_later_is_an_unreadable_image(tmp_path):
    starts = shard(tmp_path / "a.tar", range(2))
    source = TarSource([tmp_path / "a.tar"])
    with open(tmp_path / "a.tar", "r+b") as file:
        file.truncate(starts[1] + 512 + 5)
    with pytest.raises(ImageLoadError, match="a.tar/0001.png.*ends within it"):
        ImageCollection([source]).load(1)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ImageLoadError, match="its shard cannot be read"):
        ImageCollection([source]).load(0)


def test_what_is_no_plain_tar_is_refused_by_name(tmp_path):
    shard(tmp_path / "a.tar", range(2))
    (tmp_path / "zipped.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(ValueError, match=r"zipped.tar' is compressed \(gzip\).*stream:"):
        TarSource([tmp_path / "zipped.tar"])
    (tmp_path / "text.tar").write_text("hello " * 400)
    with pytest.raises(FileNotFoundError, match="no image in.*text.tar.*it is not a tar file"):
        TarSource([tmp_path / "text.tar"])
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="it is empty"):
        TarSource([tmp_path / "empty.tar"])
    with pytest.raises(FileNotFoundError, match="missing.tar' does not exist"):
        TarSource([tmp_path / "a.tar", tmp_path / "missing.tar"])
    # One bad shard among good ones costs itself only.
    source = TarSource([tmp_path / "a.tar", tmp_path / "text.tar"])
    assert len(source) == 2 and source.damage[0][0] == "text.tar"
