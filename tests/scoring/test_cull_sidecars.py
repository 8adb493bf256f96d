"""Sidecars: their names, what is kept, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cskd_hf.scoring.cull.sidecars import embedded_fields, write_sidecars
from cskd_hf.scoring.cull.xmp import change_fields, new_packet, read_fields


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def write(photograph: Path, stars: int = 4, naming: str = "darktable", **options) -> str:
    outcomes = write_sidecars([(str(photograph), {"Rating": str(stars)})], naming, **options)
    return outcomes[0].what


@pytest.mark.parametrize(
    ("naming", "names"),
    [("darktable", ["photo.jpg.xmp"]), ("lightroom", ["photo.xmp"]), ("both", ["photo.jpg.xmp", "photo.xmp"])],
)
def test_names(photograph: Path, naming: str, names: list[str]):
    before = photograph.read_bytes(), photograph.stat().st_mtime_ns
    assert write(photograph, naming=naming) == "written"
    assert sorted(path.name for path in photograph.parent.iterdir()) == sorted(["photo.jpg", *names])
    for name in names:
        assert read_fields((photograph.parent / name).read_bytes()) == {"Rating": "4"}
    assert (photograph.read_bytes(), photograph.stat().st_mtime_ns) == before


def test_ratings_of_the_user_are_kept_unless_told(photograph: Path):
    sidecar = photograph.with_name("photo.jpg.xmp")
    mine = new_packet({"Rating": "2", "Label": "Blue"}).replace(b"/>", b" xmp:Nickname='mine'/>")
    sidecar.write_bytes(mine)
    sidecar.chmod(0o640)
    assert write(photograph) == "kept" and sidecar.read_bytes() == mine
    assert write(photograph, overwrite=True) == "changed"
    assert sidecar.read_bytes() == mine.replace(b'"2"', b'"4"') and sidecar.stat().st_mode & 0o777 == 0o640
    assert write(photograph, overwrite=True) == "same"


@pytest.mark.parametrize(("there", "what"), [("0", "changed"), ("-1", "kept"), ("1", "kept")])
def test_zero_is_no_rating_and_minus_one_is_a_rejection(photograph: Path, there: str, what: str):
    photograph.with_name("photo.jpg.xmp").write_bytes(new_packet({"Rating": there}))
    assert write(photograph) == what


def test_a_label_of_the_user_is_kept(photograph: Path):
    sidecar = photograph.with_name("photo.jpg.xmp")
    sidecar.write_bytes(new_packet({"Label": "Blue"}))
    write_sidecars([(str(photograph), {"Rating": "4", "Label": "Red"})], "darktable")
    assert read_fields(sidecar.read_bytes()) == {"Rating": "4", "Label": "Blue"}


def test_a_rating_inside_the_photograph_is_kept(tmp_path: Path):
    path = tmp_path / "rated.jpg"
    Image.new("RGB", (8, 6)).save(path, xmp=new_packet({"Rating": "3"}))
    assert embedded_fields(str(path)) == {"Rating": "3"}
    assert write(path) == "kept" and not path.with_name("rated.jpg.xmp").exists()
    assert write(path, overwrite=True) == "written"


def test_a_rating_behind_the_pixels_is_kept(tmp_path: Path):
    path = tmp_path / "rated.webp"
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, lossless=True, xmp=new_packet({"Rating": "5"}))
    assert path.read_bytes().index(b"x:xmpmeta") > 2**20
    assert write(path) == "kept"


def test_capital_letters_and_links(photograph: Path, tmp_path: Path):
    capital = photograph.with_name("photo.XMP")
    capital.write_bytes(new_packet({"Rating": "0"}))
    assert write(photograph, naming="lightroom") == "changed" and not photograph.with_suffix(".xmp").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real.xmp").write_bytes(new_packet({}))
    photograph.with_name("photo.jpg.xmp").symlink_to(elsewhere / "real.xmp")
    assert write(photograph) == "changed"
    assert photograph.with_name("photo.jpg.xmp").is_symlink()
    assert read_fields((elsewhere / "real.xmp").read_bytes()) == {"Rating": "4"}


def test_one_failure_costs_the_others_nothing(tmp_path: Path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "a.jpg.xmp").write_bytes(b"<not xmp")
    (tmp_path / "b.jpg.xmp").mkdir()
    outcomes = write_sidecars([(str(tmp_path / f"{name}.jpg"), {"Rating": "1"}) for name in "abc"], "darktable")
    assert [outcome.what for outcome in outcomes] == ["failed", "failed", "written"]
    assert "well-formed" in outcomes[0].reason and (tmp_path / "a.jpg.xmp").read_bytes() == b"<not xmp"
    assert not list(tmp_path.glob("*.partial"))


def test_a_sidecar_of_two_photographs_belongs_to_neither(photograph: Path):
    other = photograph.with_suffix(".png")
    Image.new("RGB", (8, 6)).save(other)
    wanted = [(str(photograph), {"Rating": "1"}), (str(other), {"Rating": "5"})]
    assert {outcome.what for outcome in write_sidecars(wanted, "lightroom")} == {"failed"}
    assert {outcome.what for outcome in write_sidecars(wanted, "darktable")} == {"written"}


def test_exiv2_reads_and_writes_them(photograph: Path):
    """The library that darktable and digiKam read sidecars with."""
    pyexiv2 = pytest.importorskip("pyexiv2", reason="needs pyexiv2, which bundles exiv2")
    write_sidecars([(str(photograph), {"Rating": "4", "Label": "Green"})], "darktable")
    sidecar = photograph.with_name("photo.jpg.xmp")
    with pyexiv2.Image(str(sidecar)) as opened:
        assert opened.read_xmp() == {"Xmp.xmp.Rating": "4", "Xmp.xmp.Label": "Green"}
        opened.modify_xmp({"Xmp.dc.subject": ["sea", "sky & sand"], "Xmp.xmp.Rating": "1"})
    written = sidecar.read_bytes()
    assert write(photograph, 5, overwrite=True) == "changed"
    assert sidecar.read_bytes() == change_fields(written, {"Rating": "5"})
    with pyexiv2.Image(str(sidecar)) as opened:
        found = opened.read_xmp()
    assert found["Xmp.xmp.Rating"] == "5" and found["Xmp.dc.subject"] == ["sea", "sky & sand"]
