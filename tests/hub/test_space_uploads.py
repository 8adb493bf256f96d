"""What the app takes from uploaded files and zip archives."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from cskd_hf.hub.space.uploads import Limits, Picture, find_pictures, shown_name
from cskd_hf.models.image_loading_cskd import ImageLoadError
from image_files import encode, gradient

IMAGE = encode(gradient())
KIB = 2**10
LIMITS = Limits(
    pictures=4, file_bytes=100 * KIB, pixels=10_000, archive_entries=20, unpacked_bytes=300 * KIB, upload_bytes=10 * 2**20
)  # fmt: skip


def pack(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            # Given as an entry of its own: ZipFile would mend some of the names.
            entry = zipfile.ZipInfo()
            entry.filename = entry.orig_filename = name
            entry.compress_type = method
            archive.writestr(entry, content)
    return path


def find(*paths: Path, limits: Limits = LIMITS) -> tuple[list[Picture], dict[str, str]]:
    pictures, refusals = find_pictures([(path.name, path) for path in paths], limits)
    return pictures, {refusal.name: refusal.reason for refusal in refusals}


def test_files_and_an_archive(tmp_path: Path):
    archive = pack(
        tmp_path / "Album.ZIP",
        {"a.jpg": IMAGE, "sub/deep/b.PNG": IMAGE + b"b", "__MACOSX/._a.jpg": b"x", "sub/.DS_Store": b"x", "sub/": b""},
    )
    single = tmp_path / "c.jpg"
    single.write_bytes(b"not looked at yet")
    pictures, refused = find(archive, single)
    assert [picture.name for picture in pictures] == ["Album.ZIP/a.jpg", "Album.ZIP/b.PNG", "c.jpg"]
    assert [picture.read(LIMITS) for picture in pictures] == [IMAGE, IMAGE + b"b", b"not looked at yet"]
    assert refused == {}


def test_what_is_no_image_is_counted(tmp_path: Path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("hidden.jpg", IMAGE)
    _, refused = find(pack(tmp_path / "a.zip", {"a.jpg": IMAGE, "notes.txt": b"x", "more.zip": inner.getvalue()}))
    assert refused == {"a.zip": "2 files in it are no images; archives in archives are not opened"}


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "sub/../../a.jpg",
        "/etc/a.jpg",
        "..\\a.jpg",
        "\\\\host\\a.jpg",
        "C:\\a.jpg",
        "C:a.jpg",
        "..",
        "a/..",
    ],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str):
    pictures, refused = find(pack(tmp_path / "a.zip", {"fine.jpg": IMAGE, name: IMAGE}))
    assert pictures == [] and "leads out of the archive" in refused["a.zip"]
    assert list(tmp_path.iterdir()) == [tmp_path / "a.zip"]


def test_names_that_only_look_like_it_are_taken(tmp_path: Path):
    pictures, _ = find(pack(tmp_path / "a.zip", {"..a.jpg": IMAGE, "a..b/c.jpg": IMAGE, "a:b/c.jpg": IMAGE}))
    assert pictures == []  # a drive, or a stream of a file
    pictures, refused = find(pack(tmp_path / "a.zip", {"a..b/c.jpg": IMAGE, "d...jpg": IMAGE}))
    assert len(pictures) == 2 and refused == {}


@pytest.mark.parametrize("name", ["a\0.jpg", "a/" * 600 + "b.jpg"])
def test_names_that_are_not_plain(tmp_path: Path, name: str):
    path = pack(tmp_path / "a.zip", {name.replace("\0", "?"): IMAGE})
    path.write_bytes(path.read_bytes().replace(b"a?.jpg", b"a\0.jpg"))
    pictures, refused = find(path)
    assert pictures == [] and "not a plain one" in refused["a.zip"]


def test_links_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("a.jpg")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
    pictures, refused = find(tmp_path / "a.zip")
    assert pictures == [] and "link or a device" in refused["a.zip"]


def test_encrypted_archives_are_refused(tmp_path: Path):
    path = pack(tmp_path / "a.zip", {"a.jpg": IMAGE}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    pictures, refused = find(path)
    assert pictures == [] and "encrypted" in refused["a.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_unusual_compression_is_refused(tmp_path: Path, method: int):
    pictures, refused = find(pack(tmp_path / "a.zip", {"a.jpg": IMAGE}, method))
    assert pictures == [] and "unusual way" in refused["a.zip"]


def test_a_bomb_of_one_image(tmp_path: Path):
    pictures, refused = find(pack(tmp_path / "a.zip", {"bomb.jpg": bytes(2**22), "fine.jpg": IMAGE}))
    assert [picture.name for picture in pictures] == ["a.zip/fine.jpg"]
    assert refused == {"a.zip/bomb.jpg": "it unpacks to more than 0.0976562 MiB, the limit for an image"}


def test_a_bomb_of_many_images(tmp_path: Path):
    pictures, refused = find(pack(tmp_path / "a.zip", {f"{i}.jpg": bytes(90 * KIB) for i in range(4)}))
    assert pictures == [] and "its images unpack to more than" in refused["a.zip"]


def test_a_bomb_of_many_archives(tmp_path: Path):
    paths = [
        pack(tmp_path / f"{i}.zip", {f"{i}{j}.jpg": bytes(90 * KIB) for j in range(2)} | {"z.jpg": IMAGE})
        for i in range(3)
    ]
    pictures, refused = find(*paths)
    assert {picture.path for picture in pictures} == {paths[0]}
    assert all("unpack to more than" in refused[path.name] for path in paths[1:])


def test_an_archive_and_more_files_than_are_looked_at(tmp_path: Path):
    archive = pack(tmp_path / "z.zip", {f"{i}.jpg": IMAGE for i in range(3)})
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(IMAGE)
    pictures, refused = find(archive, *sorted(tmp_path.glob("?.jpg")))
    assert len(pictures) == 4 and refused == {"3 further files": "at most 4 are scored at a time"}


def test_a_bomb_that_declares_to_be_small(tmp_path: Path):
    """What counts is what comes out, and it is never held in memory as a whole."""
    path = pack(tmp_path / "a.zip", {"bomb.jpg": bytes(2**26)})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, 100)
    path.write_bytes(content)
    tracemalloc.start()
    pictures, refused = find(path)
    for picture in pictures:
        with pytest.raises(ImageLoadError):
            picture.read(LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23 and ("damaged" in str(refused) or "unpacks" in str(refused))


def test_archives_of_too_many_entries_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = pack(tmp_path / "a.zip", {f"{i}.txt": b"" for i in range(21)})
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    path.write_bytes(content[: end + 8] + struct.pack("<HH", 1, 1) + content[end + 12 :])  # "one entry"
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *_: pytest.fail("the directory was read"))
    pictures, refused = find(path)
    assert pictures == [] and refused["a.zip"] == "it holds more than 20 files, the limit for an archive"


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip", b"PK\x03\x04" + bytes(60), b"PK\x05\x06" + bytes(18)])
def test_broken_archives(tmp_path: Path, content: bytes):
    (tmp_path / "a.zip").write_bytes(content)
    pictures, refused = find(tmp_path / "a.zip")
    assert pictures == [] and ("no zip archive" in refused["a.zip"] or "holds no image" in refused["a.zip"])


def test_every_cut_of_an_archive_is_survived(tmp_path: Path):
    whole = pack(tmp_path / "whole.zip", {"a.jpg": IMAGE[:300], "b.jpg": IMAGE[:300]}).read_bytes()
    path = tmp_path / "a.zip"
    for n_bytes in range(0, len(whole), 7):
        path.write_bytes(whole[:n_bytes])
        pictures, refused = find(path)
        assert pictures == [] and refused
        damaged = bytearray(whole)
        damaged[n_bytes] ^= 0xFF
        path.write_bytes(damaged)
        pictures, refused = find(path)
        for picture in pictures:
            assert picture.read(LIMITS) == IMAGE[:300]  # its bytes are not those that were hit


def test_too_many_pictures(tmp_path: Path):
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(IMAGE)
    pictures, refused = find(*sorted(tmp_path.iterdir()))
    assert [picture.name for picture in pictures] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert refused == {"2 further files": "at most 4 are scored at a time"}


def test_a_file_that_is_too_large_or_gone(tmp_path: Path):
    large, gone = tmp_path / "large.jpg", tmp_path / "gone.jpg"
    large.write_bytes(bytes(100 * KIB + 1))
    pictures, _ = find(large, gone)
    for picture, reason in zip(pictures, ("larger than", "upload it again")):
        with pytest.raises(ImageLoadError, match=reason):
            picture.read(LIMITS)


def test_shown_names():
    assert shown_name("C:\\photos\\sub/a\n<b>.jpg") == "a?<b>.jpg"
    assert shown_name("../") == ".." and shown_name("") == "?"
    assert len(shown_name("x" * 5000)) <= 120
