"""What the pages share: figures outside pyplot, as SVG in a page's own colours or as PNG, and pages from templates."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replaced_file

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

# Seen well on white and on black.
BLUE, ORANGE = "#3b82c4", "#d9822b"
COLOURS = (BLUE, ORANGE, "#3a9d6e", "#a15bb5", "#c2504d", "#8a8a2f", "#4aa5b5", "#8c6d5a")
# Stands for the page's own text colour, which differs between light and dark mode.
INK = "#0a0b0c"
MANY_POINTS = 2000  # more are drawn as a picture: as vectors they make a page slow
_STYLE = {
    "font.family": "sans-serif", "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "cskd",
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
}  # fmt: skip


@contextmanager
def open_figure(width: float, height: float, ink: str = INK) -> Iterator[Figure]:
    """A figure of inches (width, height) outside pyplot, which would keep it open and choose a screen to draw on."""
    import matplotlib
    from matplotlib.figure import Figure

    colours = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink)
    with matplotlib.rc_context(_STYLE | colours):
        yield Figure(figsize=(width, height))


def to_svg(figure: Figure) -> Markup:
    """The figure as an SVG element that takes the page's colours and width."""
    from markupsafe import Markup

    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.05, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # Groups repeat their ids in every figure of the page, and nothing refers to them.
    return Markup(re.sub(r'<g id="[^"]*"', "<g", svg))


def save_png(figure: Figure, path: Path, **options: Any) -> None:
    """The figure on white, 100 dots an inch; a broken run leaves no half of it."""
    with replaced_file(path) as partial:
        figure.savefig(partial, format="png", dpi=100, facecolor="white", **options)


def write_page(path: Path, template: str, **content: Any) -> None:
    """Fill a template of this package and write the page whole or not at all."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template).render(**content)
    with replaced_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
