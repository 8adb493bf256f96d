"""The contact sheet in a browser, opened from disk: headless Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which comes with the extra `dev`")

from cskd_hf.scoring.cull.looking import Photograph, Thumbnails  # noqa: E402
from cskd_hf.scoring.cull.sheet import write_sheet  # noqa: E402

CHROMIUM = os.environ.get("CSKD_HF_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
# The second line keeps Chromium from asking its maker's servers, which tests must not need.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
]  # fmt: skip
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TOTAL = 2000


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 photographs; the first ten are two groups of five, and one file could not be read."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    thumbnails = Thumbnails(folder)
    stored = [
        thumbnails.add(Image.fromarray(rng.integers(0, 255, (30 + n, 40, 3), dtype=np.uint8))) for n in range(20)
    ]
    photographs = []
    for number in range(TOTAL):
        group = 1 + number // 5 if number < 10 else 0
        choice = ("best" if number % 5 == 0 else "other") if group else "single"
        result = {"score": 5 - number / 1000, "score_std": 1.0, "attributes": {"sharp": 0.5}}
        photographs.append(
            Photograph(f"{folder}/{number:04d}.jpg", result, (40, 30), None, None, stored[number % 20],
                       100 - number / 20, 5 - number * 5 // TOTAL, group, choice)
        )  # fmt: skip
    photographs.append(Photograph(f"{folder}/bad.jpg", {"error": "it is empty"}))
    write_sheet(folder / "sheet.html", photographs, thumbnails, title="T", summary="S", facts={"model": "m"})
    thumbnails.close()
    return folder / "sheet.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, chromium: Any, sheet: Path) -> Iterator[Any]:
    """The sheet; it may ask nobody for anything, and nothing in it may fail."""
    page = chromium.new_page(viewport=getattr(request, "param", DESKTOP), color_scheme="dark")
    page.set_default_timeout(60_000)
    asked, failures = [], []
    page.on("request", lambda sent: asked.append(sent.url) if not sent.url.startswith("data:") else None)
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda said: failures.append(said.text) if said.type == "error" else None)
    page.goto(sheet.as_uri())
    page.locator(".tile img[src]").first.wait_for()
    yield page
    page.close()
    assert asked == [sheet.as_uri()] and failures == []


def names(page: Any) -> list[str]:
    return page.locator(".tile .file").all_text_contents()


@pytest.mark.parametrize("page", [DESKTOP, PHONE], ids=["desktop", "phone"], indirect=True)
def test_many_photographs_are_drawn_when_they_come_near(page: Any):
    assert page.locator(".tile").count() == TOTAL
    assert page.locator(".tile img[src]").count() < 150
    page.locator(".tile").last.scroll_into_view_if_needed()
    page.locator(".tile").last.locator("img[src]").wait_for()
    page.locator(".tile").first.locator("img:not([src])").wait_for(state="attached")
    assert page.locator(".tile img[src]").count() < 150
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_sorting_groups_and_filters(page: Any):
    assert names(page)[:2] == ["0000.jpg", "0001.jpg"]
    page.select_option("#sort", "worst")
    assert names(page)[:2] == ["1999.jpg", "1998.jpg"]
    page.select_option("#show", "picks")
    assert page.inner_text("#count") == "1992 of 2000 photographs"
    page.select_option("#show", "groups")
    page.select_option("#sort", "groups")
    assert page.locator("#tiles h2").all_text_contents() == ["Group 1: 5 alike", "Group 2: 5 alike"]
    page.select_option("#show", "all")
    page.select_option("#stars", "5")
    assert page.inner_text("#count") == "400 of 2000 photographs"
    page.fill("#name", "0007")
    assert names(page) == ["0007.jpg"]
    page.fill("#name", "no such")
    assert page.locator("#nothing").is_visible() and page.locator(".unreadable").count() == 1


def test_with_the_keyboard_alone(page: Any):
    page.locator("#name").focus()
    page.keyboard.press("Tab")
    for key, expected in (("ArrowRight", "0001.jpg"), ("ArrowDown", None), ("ArrowUp", "0001.jpg")):
        page.keyboard.press(key)
        found = page.evaluate("document.activeElement.querySelector('.file').textContent")
        assert found == expected or (expected is None and int(found[:4]) > 3)
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible() and page.inner_text("#viewer-name") == "0001.jpg"
    assert page.locator("#viewer-group img").count() == 5 and "sharp" in page.inner_text("#viewer-facts")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-name") == "0002.jpg"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement.querySelector('.file').textContent") == "0002.jpg"
