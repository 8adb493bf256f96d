"""The contact sheet: one HTML file with everything in it, which asks nobody else for anything."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...evaluation.plotting import write_page
from ..outputs import printable, shown_attributes
from .looking import Photograph, Thumbnails
from .options import SHEET_LIMIT

_UNREADABLE_SHOWN = 200


def write_sheet(
    path: str | os.PathLike,
    photographs: Sequence[Photograph],
    thumbnails: Thumbnails,
    *,
    title: str,
    summary: str,
    facts: Mapping[str, str],
    limit: int = SHEET_LIMIT,
) -> int:
    """Write the sheet.

    Args:
        path: the HTML file.
        photographs: all of the folder, in the order of their names.
        thumbnails: their small pictures.
        title, summary: at its head.
        facts: how it was made, by name.
        limit: photographs that are shown at most: of more the best of each group and the highest scores.

    Returns:
        how many are shown.
    """
    scored = [(number, one) for number, one in enumerate(photographs) if one.score is not None]
    sizes = Counter(one.group for _, one in scored if one.group)
    chosen = sorted(scored, key=lambda entry: (entry[1].choice == "other", -entry[1].score))[:limit]
    common = _common_folder([one.path for one in photographs])
    folder = Path(path).resolve().parent
    entries = [
        _entry(number, one, thumbnails, common, folder, sizes[one.group]) for number, one in sorted(chosen, key=_first)
    ]
    unreadable = [one for one in photographs if one.score is None]
    write_page(
        Path(path),
        "contact_sheet.html",
        title=printable(title),
        summary=summary,
        facts={name: printable(value) for name, value in facts.items()},
        data=_script_json(entries),
        left_out=len(scored) - len(chosen),
        unreadable=[
            (printable(_shown(one.path, common)), printable(one.result["error"]))
            for one in unreadable[:_UNREADABLE_SHOWN]
        ],
        unreadable_total=len(unreadable),
    )
    return len(chosen)


def _first(entry: tuple[int, Photograph]) -> int:
    return entry[0]


def _entry(
    number: int, one: Photograph, thumbnails: Thumbnails, common: str, folder: Path, group_size: int
) -> dict[str, Any]:
    shown = printable(_shown(one.path, common))
    return {
        "number": number,
        "name": shown.rsplit("/", 1)[-1],
        "path": shown,
        "link": file_link(one.path, folder),
        "score": one.score,
        "score_std": one.result.get("score_std", 0.0),
        "percentile": one.percentile,
        "stars": one.stars,
        "group": one.group,
        "group_size": group_size,
        "choice": one.choice,
        "width": one.size[0],
        "height": one.size[1],
        "attributes": {name: value for name, (_, value) in shown_attributes(one.result).items()},
        "thumbnail": base64.b64encode(thumbnails.read(one.thumbnail)).decode(),
    }


def file_link(path: str, folder: Path) -> str:
    """The address of a file for a page in a folder, relative so that both can be moved together.

    Args:
        path: of the file.
        folder: absolute, of the page.
    """
    try:
        relative = os.path.relpath(os.path.realpath(path), folder)
    except ValueError:  # another drive of Windows
        return Path(path).resolve().as_uri()
    # `./` keeps a name with a colon from being taken for the scheme of an address.
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


def _common_folder(paths: Sequence[str]) -> str:
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # several drives of Windows
        return ""


def _shown(path: str, common: str) -> str:
    return os.path.relpath(os.path.abspath(path), common).replace(os.sep, "/") if common else path


def _script_json(value: Any) -> Any:
    """JSON that no content can end the script element of."""
    from markupsafe import Markup

    return Markup(json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"))
