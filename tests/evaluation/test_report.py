"""The HTML report and the overview picture: complete, self-contained, escaped."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cskd_hf.evaluation.report import save_overview_png, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
NAMES = {"scratch": "from scratch", "cskd": "full <b>CSKD</b>"}


def contents(seeds: int = 2, examples: int = 14) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = [
        {
            "name": name,
            "labels": labels,
            "seed": seed,
            "srcc": base + 0.01 * seed,
            "plcc": base,
            "emd": 0.2 - base / 10,
        }
        for labels in (100, 300)
        for name, base in (("scratch", 0.6), ("cskd", 0.7))
        for seed in range(seeds)
    ]
    true = rng.uniform(2, 8, 40)
    pictures = [
        {
            "image": Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)),
            "key": f"photo-{i:02d}&",
            "predicted": 1.0 + i / 2,
            "true": 5.0,
        }
        for i in range(examples)
    ]
    log = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(10, 60, 10)]
    return {
        "title": "A <title>",
        "summary": "What was compared.",
        "rows": rows,
        "names": NAMES,
        "pairs": [("cskd", "scratch")],
        "caveats": ["Only <synthetic> images."],
        "curves": {"align": log, "teach": [*log, {"step": 50, "eval_srcc": 0.6, "eval_emd": 0.1}], "nothing": []},
        "scatter": (true, true + rng.normal(0, 0.1, 40), (1.0, 10.0)),
        "examples": pictures,
        "facts": {"seeds": "0, 1"},
    }


class Page(HTMLParser):
    """Checks that tags are balanced, and collects text and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.addresses: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    write_report(path, **contents())
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_holds_everything(html: str):
    text = Page(html).text
    for expected in (
        "A <title>",
        "What was compared.",
        "0.705 \u00b1 0.007",
        "full <b>CSKD</b> - from scratch (300 labels): +0.100 \u00b1 0.000, higher in 2 of 2 seeds",
        "Only <synthetic> images.",
        "on 40 images, scale 1 to 10",
        "0, 1",
    ):
        assert expected in text


def test_needs_nothing_from_elsewhere(html: str):
    page = Page(html)
    assert page.addresses and all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.seen)
    assert not re.search(r"@import|url\((?!#)", html)


def test_is_escaped(html: str):
    assert "<synthetic>" not in html and "<b>CSKD</b>" not in html and "photo-13&<" not in html
    assert "&lt;synthetic&gt;" in html


def test_has_both_colour_schemes_and_a_viewport(html: str):
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html
    assert "currentColor" in html and "#0a0b0c" not in html  # text of the plots takes the page's colour


def test_one_plot_for_each_figure(html: str):
    # Bars, scatter, and the two runs that have a log.
    assert Page(html).seen.count("svg") == 4
    assert "held out: srcc" in html and "held out: emd" not in html


def test_shows_the_highest_and_the_lowest(html: str):
    keys = re.findall(r'alt="photo-(\d\d)', html)
    assert keys == ["13", "12", "11", "10", "09", "08", "00", "01", "02", "03", "04", "05"]
    picture = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', html)[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), np.asarray(contents()["examples"][13]["image"]))


def test_marks_the_best_of_each_column(html: str):
    best = re.findall(r'<td class="number best">([^<]+)<', html)
    assert (
        best == ["0.705 \u00b1 0.007", "0.700 \u00b1 0.000", "0.130 \u00b1 0.000"] * 2
    )  # a low EMD is the better one


def test_one_seed_and_few_examples(tmp_path: Path):
    write_report(tmp_path / "report.html", **contents(seeds=1, examples=3))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "\u00b1" not in html
    assert re.findall(r'alt="photo-(\d\d)', html) == ["02", "00"]


def test_overview_is_a_picture_of_the_right_size(tmp_path: Path):
    given = contents()
    for examples in (given["examples"], []):
        path = tmp_path / "new" / "overview.png"
        save_overview_png(path, given["rows"], NAMES, given["scatter"], examples)
        with Image.open(path) as picture:
            assert picture.size == (1200, 600)
            pixels = np.asarray(picture.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
        photographs = pixels[80:210, 790:]
        assert (photographs.std() > 30) == bool(examples)


def test_the_pyplot_state_of_the_caller_is_left_alone(tmp_path: Path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(tmp_path / "report.html", **contents())
    assert dict(matplotlib.rcParams) == before
