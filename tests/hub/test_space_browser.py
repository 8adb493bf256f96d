"""The app in a browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import csv
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tiny_scorers import save_scorer

pytest.importorskip("gradio", reason="the app needs gradio, the extra `app`")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which comes with the extra `dev`")

from cskd_hf.data.synthetic import SyntheticPhotographs  # noqa: E402
from cskd_hf.hub.space.app import ScoringApp  # noqa: E402
from cskd_hf.hub.space.examples import write_examples  # noqa: E402
from cskd_hf.hub.space.uploads import Limits  # noqa: E402
from cskd_hf.scoring.folder import load_pipeline  # noqa: E402

CHROMIUM = os.environ.get("CSKD_HF_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

# The second line keeps Chromium from asking its maker's servers, which tests must not need.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
]  # fmt: skip
MIB = 2**20
WAIT = 60_000
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
on_both = pytest.mark.parametrize("page", [DESKTOP, PHONE], ids=["desktop", "phone"], indirect=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_scorer(tmp_path_factory.mktemp("model"), attributes={"color": [1, 5]})


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, checkpoint: str) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        examples = write_examples(tmp_path_factory.mktemp("examples"), 2)
        limits = Limits(file_bytes=2 * MIB, unpacked_bytes=8 * MIB)
        app = ScoringApp(load_pipeline(checkpoint), "tiny", examples, limits)
        _, url, _ = app.launch("127.0.0.1", None, prevent_thread_lock=True, quiet=True)
        yield url
        app.blocks.close(verbose=False)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, chromium: Any, address: str) -> Iterator[Any]:
    """The app's page; it may ask nobody else, and every answer must be one."""
    page = chromium.new_page(viewport=getattr(request, "param", DESKTOP))
    page.set_default_timeout(WAIT)
    hosts, failures = set(), []
    page.on("request", lambda sent: hosts.add(urlsplit(sent.url).hostname))
    page.on("response", lambda got: failures.append((got.status, got.url)) if got.status >= 400 else None)
    page.goto(address)
    yield page
    page.close()
    assert hosts <= {"127.0.0.1", None}  # None: data and blob addresses
    assert failures == []


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for number, pixels in enumerate(SyntheticPhotographs(3).generate(3).images.numpy()):
        paths.append(folder / f"photo-{number}.{'jpg' if number else 'png'}")
        Image.fromarray(pixels).resize((96, 80 + number)).save(paths[-1])
    return paths


def upload(page: Any, *files: Path) -> None:
    """Drop files, in place of those that are there."""
    clear = page.locator("#uploaded button[aria-label='Clear']")
    if clear.count():
        clear.click()
        page.get_by_text("Nothing uploaded yet.").wait_for()
    page.locator("#uploaded input[type=file]").first.set_input_files([str(file) for file in files])


def wait_for_notes(page: Any, text: str) -> str:
    page.locator("#notes").get_by_text(text).first.wait_for()
    return page.inner_text("#notes")


def downloaded(page: Any) -> list[dict[str, str]]:
    page.locator("#download:not([disabled])").wait_for()
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "scores.csv"
    return list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))


def assert_no_sideways_scrolling(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@on_both
def test_photographs_are_ranked(page: Any, photographs: list[Path], checkpoint: str):
    rate = load_pipeline(checkpoint)
    expected = sorted(((rate(str(path))["score"], path.name) for path in photographs), reverse=True)
    upload(page, *photographs)
    assert "from 1 to 5" in wait_for_notes(page, "3 images scored")
    captions = [f"{score:.2f} {name}" for score, name in expected]
    assert [
        text.replace("\xa0", " ").split() for text in page.locator("#ranking .caption-label").all_inner_texts()
    ] == [caption.split() for caption in captions]
    shown = page.locator("#table tbody tr").all_inner_texts()
    assert [row.split()[:3] for row in shown] == [
        [str(rank), name, f"{score:.2f}"] for rank, (score, name) in enumerate(expected, 1)
    ]
    assert page.locator("#table tbody tr").first.locator("rect").count() == 5
    rows = downloaded(page)
    assert [row["file"] for row in rows] == [name for _, name in expected]
    assert [float(row["score"]) for row in rows] == pytest.approx([score for score, _ in expected], abs=1e-4)
    assert_no_sideways_scrolling(page)


@on_both
def test_a_choice_shows_what_its_score_is_made_of(page: Any, photographs: list[Path]):
    upload(page, *photographs)
    wait_for_notes(page, "3 images scored")
    best = page.locator("#table tbody tr").first.inner_text().split()[1]
    page.locator("#ranking button.thumbnail-item").first.click()
    page.locator("#detail .detail").wait_for()
    text = page.inner_text("#detail")
    assert f"1. {best}" in text and "color" in text and "Orange" in text
    for image in page.locator("#detail img").all():
        assert image.evaluate("one => one.complete && one.naturalWidth") == 32
    assert page.locator("#detail svg text").all_text_contents() == ["1", "2", "3", "4", "5"]
    assert_no_sideways_scrolling(page)


def test_the_examples(page: Any):
    page.click("#examples")
    wait_for_notes(page, "2 images scored")
    assert len(downloaded(page)) == 2


def test_what_is_refused_leaves_the_app_alive(page: Any, photographs: list[Path], tmp_path: Path):
    text = tmp_path / "text.jpg"
    text.write_text("a shopping list")
    bomb, many, outside = tmp_path / "bomb.zip", tmp_path / "many.zip", tmp_path / "outside.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("huge.jpg", bytes(64 * MIB))
    with zipfile.ZipFile(many, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"{number}.jpg", bytes(MIB))
    with zipfile.ZipFile(outside, "w") as archive:
        archive.write(photographs[0], "../evil.png")
    for file, reason in (
        (text, "it is not an image of a format"),
        (bomb, "unpacks to more than 2 MiB, the limit for an image"),
        (many, "unpack to more than 8 MiB, the limit for an upload"),
        (outside, "leads out of the archive"),
    ):
        upload(page, file)
        notes = wait_for_notes(page, reason)
        assert file.name in notes and "scored" not in notes.replace("Not scored", "")
        assert page.locator("#ranking .caption-label").count() == 0
        assert [row["file"].split("/")[0] for row in downloaded(page)] == [file.name]
    upload(page, text, *photographs)
    assert "text.jpg" in wait_for_notes(page, "3 images scored")
    assert_no_sideways_scrolling(page)


def test_an_archive_of_photographs(page: Any, photographs: list[Path], tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        for path in photographs:
            archive.write(path, f"holiday/{path.name}")
    upload(page, tmp_path / "album.zip")
    wait_for_notes(page, "3 images scored")
    assert {row["file"] for row in downloaded(page)} == {f"album.zip/{path.name}" for path in photographs}
