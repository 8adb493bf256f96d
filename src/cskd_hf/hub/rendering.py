"""The text of a card from its template."""

from __future__ import annotations

from typing import Any

import jinja2


def render(template: str, **content: Any) -> str:
    """Fill a template of this package.

    Args:
        template: its name.
        content: what it names; a name that is not given is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=False,  # Markdown, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(**content)


def _cell(value: Any) -> str:
    """Text that fits into one cell of a Markdown table, or one line of a list."""
    return " ".join(str(value).replace("|", "\\|").split())
