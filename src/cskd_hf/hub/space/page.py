"""The parts of the app's page, as HTML."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
from PIL import Image

from .scoring import Scored
from .uploads import Limits, Refusal


def style() -> str:
    """The page's own CSS; colours are the theme's, light or dark."""
    return (files("cskd_hf.hub") / "templates" / "space_style.css").read_text(encoding="utf-8")


def heading(title: str, model: str, scale: Sequence[float], limits: Limits, hours: int) -> str:
    """What the app is, what it takes, and what its scores are."""
    shown = {"pictures": limits.pictures, "file_mib": f"{limits.file_bytes / 2**20:g}"}
    return _parts().heading(title, model, _scale(scale), shown, hours)


def notes(scored: Sequence[Scored], refusals: Sequence[Refusal]) -> str:
    """How many were scored, and which files were not, each with the reason."""
    return _parts().notes(len(scored), refusals, _scale(scored[0].result["scale"]) if scored else ())


def table(scored: Sequence[Scored]) -> str:
    """The ranking, with the predicted histogram of each picture; empty without one."""
    if not scored:
        return ""
    return _parts().table([_row(rank, one, {}) for rank, one in enumerate(scored, 1)])


def detail(
    rank: int, one: Scored, attribute_scales: Mapping[str, Sequence[float]], seen: Image.Image, overlay: Image.Image
) -> str:
    """One picture: its histogram, its attributes, and what the score depends on.

    Args:
        rank: from 1.
        one: the picture.
        attribute_scales: lowest and highest value by name.
        seen: the picture as the model gets it.
        overlay: the same with the saliency drawn on it.
    """
    return _parts().detail(_row(rank, one, attribute_scales), _data_uri(seen), _data_uri(overlay))


def problem(text: str) -> str:
    """A message in place of a part."""
    return _parts().problem(text)


def _row(rank: int, one: Scored, attribute_scales: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    attributes = one.result.get("attributes", {})
    return {
        "rank": rank,
        "name": one.picture.name,
        "score": f"{one.result['score']:.2f}",
        "spread": f"{one.result['score_std']:.2f}",
        "percentile": f"{one.result['percentile']:.0f}" if "percentile" in one.result else "",
        "distribution": list(one.result["distribution"].items()),
        "attributes": {name: f"{value:.2f}" for name, value in attributes.items()},
        "attribute_shares": {
            name: f"{100 * (attributes[name] - low) / (high - low):.0f}"
            for name, (low, high) in attribute_scales.items()
        },
    }


def _scale(scale: Sequence[float]) -> tuple[str, ...]:
    return tuple(f"{value:g}" for value in scale)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@functools.cache
def _parts() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cskd_hf.hub", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("space_parts.html").module
